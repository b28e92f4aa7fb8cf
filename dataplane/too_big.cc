#include "dataplane/too_big.h"

#include <algorithm>
#include <cstring>

#include "dataplane/answer.h"
#include "src/checksum.h"
#include "src/wire.h"

namespace sluice {
namespace {

constexpr uint32_t kEthernetBytes = sizeof(wire::Ethernet);
constexpr uint32_t kAnswerBytesMax4 = 576;
constexpr uint32_t kAnswerBytesMax6 = 1280;

// Moves the start of the packet to make room for `header_bytes` in front of the quoted IP packet, and writes
// the Ethernet header back to where the packet came from.
void open_front(Packet& packet, uint32_t header_bytes, uint32_t quoted_bytes) {
  wire::Ethernet back = *reinterpret_cast<const wire::Ethernet*>(packet.data);
  std::swap_ranges(back.destination, back.destination + 6, back.source);
  packet.data -= header_bytes;
  std::memcpy(packet.data, &back, sizeof back);
  packet.bytes = kEthernetBytes + header_bytes + quoted_bytes;
}

void answer4(Packet& packet, uint32_t fits_bytes) {
  const wire::Ipv4 offender = *reinterpret_cast<const wire::Ipv4*>(packet.data + kEthernetBytes);
  constexpr uint32_t header_bytes = sizeof(wire::Ipv4) + sizeof(wire::Icmp);
  const uint32_t quoted_bytes = std::min(packet.ip_bytes, kAnswerBytesMax4 - header_bytes);
  open_front(packet, header_bytes, quoted_bytes);

  auto& ip = *reinterpret_cast<wire::Ipv4*>(packet.data + kEthernetBytes);
  ip = {};
  ip.version_ihl = 0x45;
  ip.tos = 0xc0;  // internetwork control, RFC 1812 4.3.2.5
  ip.total_length = net16(static_cast<uint16_t>(header_bytes + quoted_bytes));
  ip.flags_fragment = net16(wire::kIpv4Df);
  ip.ttl = kAnswerTtl;
  ip.protocol = wire::kProtoIcmp;
  ip.source = offender.destination;
  ip.destination = offender.source;
  ip.checksum = checksum_finish(checksum_add(0, &ip, sizeof ip));

  auto& icmp = *reinterpret_cast<wire::Icmp*>(&ip + 1);
  icmp = {};
  icmp.type = wire::kIcmpUnreachable;
  icmp.code = wire::kIcmpFragmentationNeeded;
  icmp.mtu = net16(static_cast<uint16_t>(fits_bytes));
  icmp.checksum = checksum_finish(checksum_add(0, &icmp, sizeof icmp + quoted_bytes));
}

void answer6(Packet& packet, uint32_t fits_bytes) {
  const wire::Ipv6 offender = *reinterpret_cast<const wire::Ipv6*>(packet.data + kEthernetBytes);
  constexpr uint32_t header_bytes = sizeof(wire::Ipv6) + sizeof(wire::Icmp);
  const uint32_t quoted_bytes = std::min(packet.ip_bytes, kAnswerBytesMax6 - header_bytes);
  open_front(packet, header_bytes, quoted_bytes);

  auto& ip = *reinterpret_cast<wire::Ipv6*>(packet.data + kEthernetBytes);
  ip = {};
  ip.version_class_flow = net32(6u << 28);
  ip.payload_length = net16(static_cast<uint16_t>(sizeof(wire::Icmp) + quoted_bytes));
  ip.next_header = wire::kProtoIcmpv6;
  ip.hop_limit = kAnswerTtl;
  std::memcpy(ip.source, offender.destination, 16);
  std::memcpy(ip.destination, offender.source, 16);

  auto& icmp = *reinterpret_cast<wire::Icmp*>(&ip + 1);
  icmp = {};
  icmp.type = wire::kIcmpv6TooBig;
  icmp.mtu = net16(static_cast<uint16_t>(fits_bytes));  // the low half of a 32-bit field
  // The pseudo-header (RFC 8200 8.1): addresses, upper-layer length, next header.
  uint64_t sum = checksum_add(0, ip.source, 32);
  sum += ip.payload_length;
  sum += net16(wire::kProtoIcmpv6);
  icmp.checksum = checksum_finish(checksum_add(sum, &icmp, sizeof icmp + quoted_bytes));
}

}  // namespace

bool may_answer_too_big(const Packet& packet) {
  if (!is_from_one_to_one(packet)) return false;
  const uint8_t* ip = packet.data + kEthernetBytes;
  // An answer quotes at most the first kAnswerBytesMax6 bytes; all of them must be in one piece.
  if (packet.contiguous_bytes < kEthernetBytes + std::min(packet.ip_bytes, kAnswerBytesMax6)) return false;
  if (packet.family == Family::v6) {
    return packet.headroom_bytes >= sizeof(wire::Ipv6) + sizeof(wire::Icmp);
  }
  const auto& header = *reinterpret_cast<const wire::Ipv4*>(ip);
  return (header.flags_fragment & net16(wire::kIpv4Df)) != 0 &&
         packet.headroom_bytes >= sizeof(wire::Ipv4) + sizeof(wire::Icmp);
}

void answer_too_big(Packet& packet, uint32_t fits_bytes) {
  if (packet.family == Family::v4) {
    answer4(packet, fits_bytes);
  } else {
    answer6(packet, fits_bytes);
  }
}

}  // namespace sluice
