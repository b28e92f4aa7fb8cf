#include "dataplane/rewrite.h"

#include <algorithm>
#include <cstring>

#include "dataplane/too_big.h"
#include "src/checksum.h"
#include "src/wire.h"

namespace sluice {
namespace {

constexpr uint32_t kEthernetBytes = sizeof(wire::Ethernet);
constexpr uint32_t kIpv6MtuMin = 1280;  // RFC 8200 5

void write_ethernet(uint8_t* at, const BackendRecord& backend, uint16_t ether_type) {
  auto& ethernet = *reinterpret_cast<wire::Ethernet*>(at);
  std::memcpy(ethernet.destination, backend.destination_mac, 6);
  std::memcpy(ethernet.source, backend.source_mac, 6);
  ethernet.ether_type = net16(ether_type);
}

// What the outer header takes from the inner one.
struct Inner {
  uint8_t traffic_class;
  bool dont_fragment;
  uint8_t protocol;  // of the tunnel: what the outer header says follows
};

// One hop less; false when none is left. The inner IPv4 checksum is kept right incrementally.
bool take_hop(Packet& packet) {
  uint8_t* ip = packet.data + kEthernetBytes;
  if (packet.family == Family::v6) {
    auto& header = *reinterpret_cast<wire::Ipv6*>(ip);
    if (header.hop_limit <= 1) return false;
    header.hop_limit--;
    return true;
  }
  auto& header = *reinterpret_cast<wire::Ipv4*>(ip);
  if (header.ttl <= 1) return false;
  // TTL and protocol are one checksum word, the TTL its low byte. Read and written as one: reading two bytes
  // of which one was just written would stall.
  uint16_t before;
  std::memcpy(&before, &header.ttl, 2);
  const auto after = static_cast<uint16_t>(before - 1);
  std::memcpy(&header.ttl, &after, 2);
  header.checksum = checksum_update(header.checksum, before, after);
  return true;
}

Inner inner_of(const Packet& packet) {
  const uint8_t* ip = packet.data + kEthernetBytes;
  if (packet.family == Family::v6) {
    const uint32_t word = net32(reinterpret_cast<const wire::Ipv6*>(ip)->version_class_flow);
    return {static_cast<uint8_t>(word >> 20), true, wire::kProtoIpv6};
  }
  const auto& header = *reinterpret_cast<const wire::Ipv4*>(ip);
  return {header.tos, (header.flags_fragment & net16(wire::kIpv4Df)) != 0, wire::kProtoIpip};
}

void write_outer_ipv4(uint8_t* at, const BackendRecord& backend, const Inner& inner, uint32_t inner_bytes,
                      uint16_t id) {
  auto& outer = *reinterpret_cast<wire::Ipv4*>(at);
  outer.version_ihl = 0x45;
  outer.tos = inner.traffic_class;
  outer.total_length = net16(static_cast<uint16_t>(sizeof(wire::Ipv4) + inner_bytes));
  outer.id = inner.dont_fragment ? 0 : net16(id);
  outer.flags_fragment = inner.dont_fragment ? net16(wire::kIpv4Df) : 0;
  outer.ttl = kOuterTtl;
  outer.protocol = inner.protocol;
  outer.source = backend.outer_source.v4_network_order();
  outer.destination = backend.outer_destination.v4_network_order();
  // backend.outer_sum holds version, TTL and addresses; what differs from packet to packet is added here.
  uint64_t sum = backend.outer_sum;
  sum += static_cast<uint64_t>(outer.tos) << 8;
  sum += outer.total_length;
  sum += outer.id;
  sum += outer.flags_fragment;
  sum += static_cast<uint64_t>(outer.protocol) << 8;
  outer.checksum = checksum_finish(sum);
}

void write_outer_ipv6(uint8_t* at, const BackendRecord& backend, const Inner& inner, uint32_t inner_bytes,
                      uint64_t hash) {
  auto& outer = *reinterpret_cast<wire::Ipv6*>(at);
  const uint32_t label = static_cast<uint32_t>(hash >> 20) & 0xfffff;
  outer.version_class_flow = net32(6u << 28 | uint32_t{inner.traffic_class} << 20 | (label == 0 ? 1 : label));
  outer.payload_length = net16(static_cast<uint16_t>(inner_bytes));
  outer.next_header = inner.protocol;
  outer.hop_limit = kOuterTtl;
  std::memcpy(outer.source, backend.outer_source.bytes.data(), 16);
  std::memcpy(outer.destination, backend.outer_destination.bytes.data(), 16);
}

}  // namespace

bool Rewriter::encapsulate(Packet& packet, const BackendRecord& backend) {
  const bool over_v4 = backend.outer_family == Family::v4;
  const uint32_t outer_bytes = over_v4 ? sizeof(wire::Ipv4) : sizeof(wire::Ipv6);
  if (packet.headroom_bytes < outer_bytes) return refuse(packet, Reason::no_headroom);
  if (!take_hop(packet)) return refuse(packet, Reason::ttl_expired);
  const Inner inner = inner_of(packet);

  packet.data -= outer_bytes;
  packet.headroom_bytes = static_cast<uint16_t>(packet.headroom_bytes - outer_bytes);
  packet.bytes = kEthernetBytes + outer_bytes + packet.ip_bytes;
  packet.contiguous_bytes += outer_bytes;
  if (over_v4) {
    write_outer_ipv4(packet.data + kEthernetBytes, backend, inner, packet.ip_bytes, next_id_);
    next_id_ = static_cast<uint16_t>(next_id_ + (inner.dont_fragment ? 0 : 1));
    write_ethernet(packet.data, backend, wire::kEtherIpv4);
  } else {
    write_outer_ipv6(packet.data + kEthernetBytes, backend, inner, packet.ip_bytes, packet.hash);
    write_ethernet(packet.data, backend, wire::kEtherIpv6);
  }
  return true;
}

bool Rewriter::too_big(Packet& packet, uint32_t fits_bytes, uint32_t now_s) {
  // No IPv6 sender goes below 1,280 bytes (RFC 8201 4), so it is not asked to.
  if (packet.family == Family::v6) fits_bytes = std::max(fits_bytes, kIpv6MtuMin);
  if (packet.ip_bytes <= fits_bytes || !may_answer_too_big(packet))
    return refuse(packet, Reason::mtu_exceeded);
  if (!answers_.take(now_s)) return refuse(packet, Reason::icmp_rate_limited);
  answer_too_big(packet, fits_bytes);
  packet.verdict = Verdict::answer;
  packet.out_port = packet.in_port;
  return true;
}

bool Rewriter::rewrite_one(Packet& packet, const TablesView& tables, uint32_t now_s) {
  const BackendRecord& backend = tables.backend(packet.backend);
  if ((backend.flags & BackendRecord::kResolved) == 0) return refuse(packet, Reason::next_hop_unresolved);
  const bool tunnel = tables.service(packet.service).forward == Forward::ipip;
  const uint32_t overhead_bytes = !tunnel                              ? 0
                                  : backend.outer_family == Family::v4 ? sizeof(wire::Ipv4)
                                                                       : sizeof(wire::Ipv6);
  if (packet.ip_bytes + overhead_bytes > backend.mtu_bytes) [[unlikely]] {
    return too_big(packet, backend.mtu_bytes - overhead_bytes, now_s);
  }

  if (tunnel) {
    if (!encapsulate(packet, backend)) return false;
  } else {
    write_ethernet(packet.data, backend, packet.family == Family::v4 ? wire::kEtherIpv4 : wire::kEtherIpv6);
  }
  packet.verdict = Verdict::forward;
  packet.out_port = backend.port;
  return true;
}

void Rewriter::rewrite(Batch& batch, const TablesView& tables, uint32_t now_s) {
  batch.each_live([&](Packet& packet) { return rewrite_one(packet, tables, now_s); });
}

}  // namespace sluice
