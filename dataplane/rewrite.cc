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

// What the outer header takes from the inner one.
struct Inner {
  uint8_t traffic_class;
  bool dont_fragment;
};

// One hop less; false when none is left. The inner IPv4 checksum is kept right incrementally.
inline bool take_hop(uint8_t* ip, bool is_v4) {
  if (!is_v4) {
    auto& header = *reinterpret_cast<wire::Ipv6*>(ip);
    if (header.hop_limit <= 1) return false;
    header.hop_limit--;
    return true;
  }
  auto& header = *reinterpret_cast<wire::Ipv4*>(ip);
  if (header.ttl <= 1) return false;
  header.ttl--;
  // The TTL is the low byte of its checksum word: one less there is one more here, carried around (RFC 1624
  // eqn. 3 with m' = m - 1; 0xfffe becomes 0, 0xffff becomes 1).
  const uint32_t sum = uint32_t{header.checksum} + 1;
  header.checksum = static_cast<uint16_t>(sum + (sum >= 0xffff ? 1 : 0));
  return true;
}

inline Inner inner_of(const uint8_t* ip, bool is_v4) {
  if (!is_v4) {
    const uint32_t word = net32(reinterpret_cast<const wire::Ipv6*>(ip)->version_class_flow);
    return {static_cast<uint8_t>(word >> 20), true};
  }
  const auto& header = *reinterpret_cast<const wire::Ipv4*>(ip);
  return {header.tos, (header.flags_fragment & net16(wire::kIpv4Df)) != 0};
}

// Ethernet and outer IPv4: the backend's, then the fields that differ from packet to packet. `id`: of the
// outer header, network order; 0 with DF.
inline void write_outer_ipv4(uint8_t* at, const BackendRecord& backend, const Inner& inner,
                             uint32_t inner_bytes, uint16_t id) {
  std::memcpy(at, backend.header, kEthernetBytes + sizeof(wire::Ipv4));
  auto& outer = *reinterpret_cast<wire::Ipv4*>(at + kEthernetBytes);
  const auto& constant = *reinterpret_cast<const wire::Ipv4*>(backend.header + kEthernetBytes);
  const uint32_t tos = inner.traffic_class;
  const uint32_t total_length = net16(static_cast<uint16_t>(sizeof(wire::Ipv4) + inner_bytes));
  const uint32_t flags = inner.dont_fragment ? net16(wire::kIpv4Df) : 0;
  // Two words at a time.
  const uint32_t first = constant.version_ihl | tos << 8 | total_length << 16;
  const uint32_t second = id | flags << 16;
  std::memcpy(&outer.version_ihl, &first, sizeof first);
  std::memcpy(&outer.id, &second, sizeof second);
  // The record's sum is that of the constant fields: only the others are added.
  outer.checksum = checksum_finish_short(constant.checksum + (tos << 8) + total_length + id + flags);
}

// Ethernet and outer IPv6.
inline void write_outer_ipv6(uint8_t* at, const BackendRecord& backend, const Inner& inner,
                             uint32_t inner_bytes, uint64_t hash) {
  std::memcpy(at, backend.header, kEthernetBytes + sizeof(wire::Ipv6));
  auto& outer = *reinterpret_cast<wire::Ipv6*>(at + kEthernetBytes);
  const uint32_t label = static_cast<uint32_t>(hash >> 20) & 0xfffff;
  outer.version_class_flow = net32(6u << 28 | uint32_t{inner.traffic_class} << 20 | (label == 0 ? 1 : label));
  outer.payload_length = net16(static_cast<uint16_t>(inner_bytes));
}

}  // namespace

inline bool Rewriter::encapsulate(Packet& packet, const BackendRecord& backend) {
  if (packet.headroom_bytes < backend.outer_bytes) [[unlikely]]
    return refuse(packet, Reason::no_headroom);
  const bool is_v4 = packet.family == Family::v4;
  uint8_t* ip = packet.data + kEthernetBytes;
  const Inner inner = inner_of(ip, is_v4);
  if (!take_hop(ip, is_v4)) [[unlikely]]
    return refuse(packet, Reason::ttl_expired);

  const uint32_t outer_bytes = backend.outer_bytes;
  packet.data -= outer_bytes;
  packet.bytes = kEthernetBytes + outer_bytes + packet.ip_bytes;
  if (outer_bytes == sizeof(wire::Ipv4)) {
    const uint16_t id = inner.dont_fragment ? uint16_t{0} : net16(next_id_++);
    write_outer_ipv4(packet.data, backend, inner, packet.ip_bytes, id);
  } else {
    write_outer_ipv6(packet.data, backend, inner, packet.ip_bytes, packet.hash);
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

inline bool Rewriter::rewrite_one(Packet& packet, uint32_t now_s) {
  const BackendRecord& backend = *packet.record;
  if ((backend.flags & BackendRecord::kResolved) == 0) [[unlikely]]
    return refuse(packet, Reason::next_hop_unresolved);
  if (packet.ip_bytes + backend.outer_bytes > backend.mtu_bytes) [[unlikely]]
    return too_big(packet, backend.mtu_bytes - backend.outer_bytes, now_s);
  if (backend.outer_bytes == 0) {
    std::memcpy(packet.data, backend.header, BackendRecord::kMacsBytes);
  } else if (!encapsulate(packet, backend)) {
    return false;
  }
  packet.out_port = backend.port;
  return true;
}

void Rewriter::rewrite(Batch& batch, uint32_t now_s) {
  batch.each_live([&](Packet& packet) { return rewrite_one(packet, now_s); });
}

}  // namespace sluice
