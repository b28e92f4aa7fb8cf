#include "controlplane/compile.h"

#include <algorithm>
#include <cassert>
#include <cstring>
#include <set>
#include <tuple>
#include <type_traits>
#include <vector>

#include "controlplane/published.h"
#include "controlplane/totals.h"
#include "src/checksum.h"
#include "src/maglev.h"
#include "src/wire.h"

namespace sluice {
namespace {

template <typename Record>
bool same(const Record& a, const Record& b) {
  static_assert(std::has_unique_object_representations_v<Record>, "padding would be compared as well");
  return std::memcmp(&a, &b, sizeof(Record)) == 0;
}

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

BackendRecord backend_record(const Service& service, const Backend& backend) {
  const NextHop& hop = backend.next_hop;
  const IpAddress& address = backend.config.address;
  BackendRecord record{};
  record.flags = BackendRecord::kConfigured;
  if (service.keeps_flows(backend)) record.flags |= BackendRecord::kAlive;
  if (hop.resolved) record.flags |= BackendRecord::kResolved;
  if (service.takes_new(backend)) record.flags |= BackendRecord::kTakesNew;
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

// One compilation: what the model wants against what is staged.
class Compilation {
 public:
  Compilation(const Model& model, Publisher& publisher, const StatsSegment* stats)
      : model_(model), publisher_(publisher), stats_(stats), now_ns_(monotonic_ns()) {}

  void run() {
    remove_services();
    remove_backends();
    for (const Service& service : model_.services) {
      stage_service(service);
      for (const Backend& backend : service.backends)
        stage_backend(service, backend);
    }
    if (vips_changed_) stage_vips();
    stage_root();
  }

  bool changed() const { return changed_; }
  uint32_t tables_built() const { return tables_built_; }
  uint64_t build_ns() const { return build_ns_; }

 private:
  void remove_services();
  void remove_backends();
  void stage_service(const Service& service);
  void stage_service_cold(const Service& service);
  void stage_lookup(const Service& service);
  bool lookup_is_current(const Service& service, const std::vector<const Backend*>& takers) const;
  void stage_backend(const Service& service, const Backend& backend);
  void stage_backend_cold(const Service& service, const Backend& backend);
  void stage_vips();
  void stage_root();

  const Model& model_;
  Publisher& publisher_;
  const StatsSegment* stats_;
  const uint64_t now_ns_;
  bool changed_ = false;
  bool vips_changed_ = false;
  uint32_t tables_built_ = 0;
  uint64_t build_ns_ = 0;
};

void Compilation::remove_services() {
  std::vector<bool> wanted(limits::kServicesMax, false);
  for (const Service& service : model_.services)
    wanted.at(index(service.id)) = true;
  for_each_service_cold(publisher_.current(), [&](ServiceId id, const ServiceCold& cold) {
    if (cold.name[0] == '\0' || wanted[index(id)]) return;
    publisher_.set_lookup(id, {}, 0);
    publisher_.set_members(id, {});
    publisher_.edit_service(id) = ServiceRecord{};
    publisher_.edit_service_cold(id) = ServiceCold{};
    changed_ = vips_changed_ = true;
  });
}

void Compilation::remove_backends() {
  std::vector<bool> wanted(limits::kBackendsMax, false);
  for (const Service& service : model_.services) {
    for (const Backend& backend : service.backends)
      wanted.at(index(backend.id)) = true;
  }
  for_each_backend_cold(publisher_.current(), [&](BackendId id, const BackendCold& cold) {
    if (cold.name[0] == '\0' || wanted[index(id)]) return;
    publisher_.edit_backend(id) = BackendRecord{};
    BackendCold& quarantined = publisher_.edit_backend_cold(id);
    quarantined = BackendCold{};
    quarantined.removed_ns = now_ns_;
    changed_ = true;
  });
}

void Compilation::stage_service(const Service& service) {
  // The table is compared with the cold records of its members, so it goes before stage_backend changes
  // those.
  stage_lookup(service);
  stage_service_cold(service);

  const ServiceRecord& published = publisher_.staged().service(service.id);
  ServiceRecord record = published;  // for what set_lookup and set_members wrote
  const ServiceConfig& config = service.config;
  record.forward = config.forward;
  record.protocol = config.protocol;
  record.port = config.port;
  record.idle_s[ServiceRecord::kSyn] = config.idle_syn_s;
  record.idle_s[ServiceRecord::kEstablished] = config.idle_established_s;
  record.idle_s[ServiceRecord::kClosing] = config.idle_closing_s;
  record.idle_s[ServiceRecord::kUdp] = config.idle_udp_s;
  record.vip = config.vip;
  if (same(record, published)) return;
  const auto key = [](const ServiceRecord& r) {
    return std::tuple(r.forward != Forward::none, r.vip, r.port, r.protocol);
  };
  if (key(record) != key(published)) vips_changed_ = true;
  publisher_.edit_service(service.id) = record;
  changed_ = true;
}

void Compilation::stage_service_cold(const Service& service) {
  const ServiceCold& published = publisher_.staged().service_cold(service.id);
  if (service.config.name == published.name) return;
  ServiceCold cold{};
  set_name(cold.name, service.config.name);
  if (stats_ != nullptr) {
    const Totals before = totals(*stats_, service.id);
    cold.base_packets = before.packets;
    cold.base_bytes = before.bytes;
    cold.base_flows = before.flows;
  }
  publisher_.edit_service_cold(service.id) = cold;
  changed_ = true;
}

// A table is a function of its members' names and weights, and of its size. The current generation has them
// all: the weight in the cold record is the one that the table of the same generation was built with.
bool Compilation::lookup_is_current(const Service& service, const std::vector<const Backend*>& takers) const {
  const TablesView current = publisher_.current();
  if (!current) return takers.empty();
  const ServiceRecord& record = current.service(service.id);
  const bool same_service = service.config.name == current.service_cold(service.id).name;
  if (!same_service) return takers.empty();
  if (!takers.empty() && record.lookup_slots != service.config.lookup_slots) return false;
  const auto members = current.members(record);
  return std::equal(
      takers.begin(), takers.end(), members.begin(), members.end(), [&](const Backend* taker, BackendId id) {
        const BackendCold& cold = current.backend_cold(id);
        return taker->id == id && taker->config.name == cold.name && taker->weight() == cold.weight;
      });
}

void Compilation::stage_lookup(const Service& service) {
  std::vector<const Backend*> takers;
  for (const Backend& backend : service.backends) {
    if (service.takes_new(backend)) takers.push_back(&backend);
  }
  std::sort(takers.begin(), takers.end(),
            [](const Backend* a, const Backend* b) { return a->config.name < b->config.name; });
  if (lookup_is_current(service, takers)) return;
  changed_ = true;

  const uint64_t start_ns = monotonic_ns();
  std::vector<BackendId> ids;
  std::vector<MaglevMember> members;
  for (const Backend* taker : takers) {
    ids.push_back(taker->id);
    members.push_back({taker->config.name, taker->weight()});
  }
  std::vector<uint16_t> table(takers.empty() ? 0 : service.config.lookup_slots);
  // False: nobody has weight, and takers all have some.
  if (!table.empty()) {
    [[maybe_unused]] const bool built = maglev_build(members, table);
    assert(built);
    tables_built_++;
  }
  publisher_.set_members(service.id, ids);
  publisher_.set_lookup(service.id, table, maglev_checksum(members, table));
  build_ns_ += monotonic_ns() - start_ns;
}

void Compilation::stage_backend(const Service& service, const Backend& backend) {
  stage_backend_cold(service, backend);
  const BackendRecord record = backend_record(service, backend);
  if (same(record, publisher_.staged().backend(backend.id))) return;
  publisher_.edit_backend(backend.id) = record;
  changed_ = true;
}

void Compilation::stage_backend_cold(const Service& service, const Backend& backend) {
  const BackendCold& published = publisher_.staged().backend_cold(backend.id);
  BackendCold cold = published;  // for its base, if the id has this owner already
  if (published.name != backend.config.name) {
    cold = BackendCold{};
    set_name(cold.name, backend.config.name);
    if (stats_ != nullptr) {
      const Totals before = totals(*stats_, backend.id);
      cold.base_packets = before.packets;
      cold.base_bytes = before.bytes;
      cold.base_flows = before.flows;
    }
  }
  cold.service = service.id;
  cold.weight = backend.weight();
  cold.weight_override = backend.weight_override.value_or(kNoOverride);
  cold.weight_configured = backend.config.weight;
  cold.admin = backend.admin;
  cold.health = backend.health;
  if (same(cold, published)) return;
  publisher_.edit_backend_cold(backend.id) = cold;
  changed_ = true;
}

void Compilation::stage_vips() {
  std::vector<Publisher::Vip> vips;
  std::set<IpAddress> addresses;
  for (const Service& service : model_.services) {
    const ServiceConfig& config = service.config;
    vips.push_back({config.vip, config.port, config.protocol, service.id});
    if (addresses.insert(config.vip).second) vips.push_back({config.vip, 0, 0, service.id});
  }
  publisher_.set_vips(vips);
}

void Compilation::stage_root() {
  const HashSecret secret = HashSecret::from_text(model_.secret);
  const auto services_count = static_cast<uint32_t>(model_.services.size());
  uint32_t backends_count = 0;
  for (const Service& service : model_.services)
    backends_count += static_cast<uint32_t>(service.backends.size());

  Generation& root = publisher_.generation();
  // The first generation is published even when it is empty: workers wait for one.
  const bool same_root = publisher_.current() && same(root.secret, secret) &&
                         root.services_count == services_count && root.backends_count == backends_count;
  if (same_root) return;
  root.secret = secret;
  root.services_count = services_count;
  root.backends_count = backends_count;
  changed_ = true;
}

}  // namespace

Result<Compiled> compile(const Model& model, Publisher& publisher, const StatsSegment* stats) {
  if (Result<Done> begun = publisher.begin(); !begun) return begun.error();
  Compilation compilation(model, publisher, stats);
  compilation.run();
  if (!compilation.changed()) {
    publisher.abort();
    return Compiled{publisher.current().generation().number, 0, 0};
  }
  const Result<uint64_t> number = publisher.commit();
  if (!number) return number.error();
  return Compiled{*number, compilation.tables_built(), compilation.build_ns()};
}

}  // namespace sluice
