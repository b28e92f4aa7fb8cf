#include "controlplane/records.h"

#include <algorithm>
#include <cassert>
#include <cstring>
#include <string>

#include "controlplane/totals.h"
#include "src/checksum.h"
#include "src/session_key.h"
#include "src/wire.h"

namespace sluice {
namespace {

template <size_t N>
void set_name(char (&field)[N], const std::string& name) {
  assert(name.size() < N);
  std::memset(field, 0, N);
  std::memcpy(field, name.data(), name.size());
}

// The outer header towards a backend, every field that does not differ from packet to packet.
void write_outer(uint8_t* at, const IpAddress& source, const IpAddress& destination, bool vip_is_v4) {
  const uint8_t protocol = vip_is_v4 ? wire::kProtoIpip : wire::kProtoIpv6;
  if (destination.is_v4()) {
    wire::Ipv4 header{};
    header.version_ihl = 0x45;
    header.ttl = kOuterTtl;
    header.protocol = protocol;
    header.source = source.v4_network_order();
    header.destination = destination.v4_network_order();
    header.checksum = checksum_fold(checksum_add(0, &header, sizeof header));
    std::memcpy(at, &header, sizeof header);
    return;
  }
  wire::Ipv6 header{};
  header.version_class_flow = net32(6u << 28);
  header.next_header = protocol;
  header.hop_limit = kOuterTtl;
  std::copy(source.bytes.begin(), source.bytes.end(), header.source);
  std::copy(destination.bytes.begin(), destination.bytes.end(), header.destination);
  std::memcpy(at, &header, sizeof header);
}

void write_session(ServiceRecord& record, const ServiceConfig& config) {
  const SessionConfig& session = config.session;
  const bool by_key = config.affinity == Affinity::key;
  const bool is_on = has_sessions(config.affinity);
  if (is_on) record.flags |= ServiceRecord::kSessions;
  if (by_key) record.flags |= ServiceRecord::kByKey;
  // A group and a service of the same name are two things.
  record.session_salt = !is_on                  ? 0
                        : session.group.empty() ? session_salt("service " + config.name)
                                                : session_salt("group " + session.group);
  record.session_idle_s = is_on ? session.idle_s : 0;
  record.session_life_s = is_on ? session.life_s : 0;
  record.key_offset = by_key ? session.key_offset : 0;
  record.key_bytes = by_key ? session.key_bytes : 0;
  const bool by_prefix = config.affinity == Affinity::prefix;
  record.client_bits[0] = !is_on || by_key ? 0 : by_prefix ? session.prefix_v4 : 32;
  record.client_bits[1] = !is_on || by_key ? 0 : by_prefix ? session.prefix_v6 : 128;
  switch (config.policy.on_failure) {
    case OnFailure::rehash:
    case OnFailure::reset:
      record.on_failure = SessionFailure::rehash;
      break;
    case OnFailure::keep:
      record.on_failure = SessionFailure::keep;
      break;
    case OnFailure::comes_back:
      record.on_failure = SessionFailure::comes_back;
      break;
  }
}

template <typename Cold, typename Id>
void set_base(Cold& cold, Id id, const StatsSegment* stats) {
  if (stats == nullptr) return;
  const Totals before = totals(*stats, id);
  cold.base_packets = before.packets;
  cold.base_bytes = before.bytes;
  cold.base_flows = before.flows;
}

}  // namespace

BackendRecord backend_record(const Service& service, const Backend& backend) {
  const NextHop& hop = backend.next_hop;
  const IpAddress& address = backend.config.address;
  BackendRecord record{};
  record.flags = BackendRecord::kConfigured;
  if (service.keeps_flows(backend)) record.flags |= BackendRecord::kAlive;
  if (hop.resolved) record.flags |= BackendRecord::kResolved;
  if (service.takes_new(backend)) record.flags |= BackendRecord::kTakesNew;
  if (!service.counts_as_up(backend)) record.flags |= BackendRecord::kFailed;
  if (backend.admin == Admin::migrate) record.flags |= BackendRecord::kMigrates;
  if (backend.admin == Admin::reset) record.flags |= BackendRecord::kResets;
  if (backend.config.sorry) record.flags |= BackendRecord::kSorry;
  if (service.config.forward == Forward::ipip) {
    record.outer_bytes = address.is_v4() ? sizeof(wire::Ipv4) : sizeof(wire::Ipv6);
  }
  record.mtu_bytes = static_cast<uint16_t>(std::min<uint32_t>(hop.mtu_bytes, UINT16_MAX));
  record.service = service.id;
  record.port = hop.port;
  auto& ethernet = *reinterpret_cast<wire::Ethernet*>(record.header);
  std::copy(hop.mac.bytes.begin(), hop.mac.bytes.end(), ethernet.destination);
  std::copy(hop.source_mac.bytes.begin(), hop.source_mac.bytes.end(), ethernet.source);
  ethernet.ether_type = net16(address.is_v4() ? wire::kEtherIpv4 : wire::kEtherIpv6);
  write_outer(record.header + sizeof ethernet, hop.source, address, service.config.vip.is_v4());
  return record;
}

BackendCold backend_cold(const Service& service, const Backend& backend, const BackendCold& published,
                         const StatsSegment* stats) {
  BackendCold cold = published;
  if (backend.config.name != published.name) {
    cold = BackendCold{};
    set_name(cold.name, backend.config.name);
    set_base(cold, backend.id, stats);
  }
  cold.service = service.id;
  cold.weight = backend.weight_in_force();
  cold.weight_override = backend.weight_override.value_or(kNoOverride);
  cold.weight_configured = backend.config.weight;
  cold.max_flows = backend.config.max_flows;
  cold.max_sessions = backend.config.max_sessions;
  cold.admin = backend.admin;
  cold.admin_configured = backend.config.admin;
  // Whoever takes over knows nothing of a hold.
  cold.health = backend.flaps.held() && !service.counts_as_up(backend) ? Health::down : backend.health;
  return cold;
}

ServiceCold service_cold(const Service& service, const ServiceCold& published, const StatsSegment* stats) {
  ServiceCold cold = published;
  if (service.config.name != published.name) {
    cold = ServiceCold{};
    set_name(cold.name, service.config.name);
    set_base(cold, service.id, stats);
  }
  cold.panic = service.standing.panic;
  cold.quorum_lost = service.standing.quorum_lost;
  cold.scale = service.scale;
  return cold;
}

ServiceRecord service_record(const Service& service, const ServiceRecord& published) {
  const ServiceConfig& config = service.config;
  ServiceRecord record = published;
  record.forward = config.forward;
  record.protocol = config.protocol;
  record.port = config.port;
  record.method = static_cast<uint8_t>(config.method);
  record.flags = 0;
  if (config.enabled) record.flags |= ServiceRecord::kServed;
  if (config.affinity == Affinity::none) record.flags |= ServiceRecord::kStateless;
  if (config.policy.on_failure == OnFailure::reset) record.flags |= ServiceRecord::kResets;
  if (std::any_of(service.backends.begin(), service.backends.end(), [](const Backend& backend) {
        return backend.config.max_flows != 0 || backend.config.max_sessions != 0;
      })) {
    record.flags |= ServiceRecord::kCapped;
  }
  write_session(record, config);
  record.idle_s[ServiceRecord::kSyn] = config.idle_syn_s;
  record.idle_s[ServiceRecord::kEstablished] = config.idle_established_s;
  record.idle_s[ServiceRecord::kClosing] = config.idle_closing_s;
  record.idle_s[ServiceRecord::kUdp] = config.idle_udp_s;
  record.vip = config.vip;
  return record;
}

}  // namespace sluice
