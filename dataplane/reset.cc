#include "dataplane/reset.h"

#include <algorithm>
#include <cstring>

#include "dataplane/answer.h"
#include "src/checksum.h"

namespace sluice {
namespace {

constexpr uint32_t kEthernetBytes = sizeof(wire::Ethernet);

// SEG.LEN of RFC 9293: data, and one each for SYN and FIN.
uint32_t segment_length(const wire::Tcp& tcp, uint32_t tcp_bytes) {
  const uint32_t header_bytes = (tcp.data_offset >> 4) * 4u;
  const uint32_t data_bytes = tcp_bytes - std::min(tcp_bytes, header_bytes);
  return data_bytes + ((tcp.flags & wire::kTcpSyn) != 0 ? 1 : 0) + ((tcp.flags & wire::kTcpFin) != 0 ? 1 : 0);
}

// Its checksum is still 0.
wire::Tcp reset_to(const wire::Tcp& segment, uint32_t tcp_bytes) {
  wire::Tcp reset = {};
  reset.source_port = segment.destination_port;
  reset.destination_port = segment.source_port;
  reset.data_offset = sizeof(wire::Tcp) / 4 << 4;
  reset.flags = wire::kTcpRst;
  if ((segment.flags & wire::kTcpAck) != 0) {
    reset.sequence = segment.acknowledgement;
  } else {
    reset.flags |= wire::kTcpAck;
    reset.acknowledgement = net32(net32(segment.sequence) + segment_length(segment, tcp_bytes));
  }
  return reset;
}

// The pseudo-header is `addresses` (both), length and protocol (RFC 9293 3.1).
void put_tcp(uint8_t* at, wire::Tcp tcp, const uint8_t* addresses, uint32_t addresses_bytes) {
  uint64_t sum = checksum_add(0, addresses, addresses_bytes);
  sum += net16(sizeof tcp);
  sum += net16(wire::kProtoTcp);
  tcp.checksum = checksum_finish(checksum_add(sum, &tcp, sizeof tcp));
  std::memcpy(at, &tcp, sizeof tcp);
}

void reset4(uint8_t* at, uint32_t ip_bytes) {
  auto& ip = *reinterpret_cast<wire::Ipv4*>(at);
  const wire::Ipv4 offender = ip;
  const wire::Tcp segment = *reinterpret_cast<const wire::Tcp*>(at + sizeof ip);
  ip = {};
  ip.version_ihl = 0x45;
  ip.total_length = net16(sizeof(wire::Ipv4) + sizeof(wire::Tcp));
  ip.flags_fragment = net16(wire::kIpv4Df);
  ip.ttl = kAnswerTtl;
  ip.protocol = wire::kProtoTcp;
  ip.source = offender.destination;
  ip.destination = offender.source;
  ip.checksum = checksum_finish(checksum_add(0, &ip, sizeof ip));
  put_tcp(at + sizeof ip, reset_to(segment, ip_bytes - sizeof ip), at + offsetof(wire::Ipv4, source), 8);
}

void reset6(uint8_t* at, uint32_t ip_bytes) {
  auto& ip = *reinterpret_cast<wire::Ipv6*>(at);
  const wire::Ipv6 offender = ip;
  const wire::Tcp segment = *reinterpret_cast<const wire::Tcp*>(at + sizeof ip);
  ip = {};
  ip.version_class_flow = net32(6u << 28);
  ip.payload_length = net16(sizeof(wire::Tcp));
  ip.next_header = wire::kProtoTcp;
  ip.hop_limit = kAnswerTtl;
  std::memcpy(ip.source, offender.destination, 16);
  std::memcpy(ip.destination, offender.source, 16);
  put_tcp(at + sizeof ip, reset_to(segment, ip_bytes - sizeof ip), ip.source, 32);
}

}  // namespace

bool may_answer_reset(const Packet& packet) {
  if (packet.protocol != wire::kProtoTcp || (packet.tcp_flags & wire::kTcpRst) != 0) return false;
  const bool opens = (packet.tcp_flags & (wire::kTcpSyn | wire::kTcpAck)) == wire::kTcpSyn;
  return !opens && is_from_one_to_one(packet);
}

void answer_reset(Packet& packet) {
  auto& ethernet = *reinterpret_cast<wire::Ethernet*>(packet.data);
  std::swap_ranges(ethernet.destination, ethernet.destination + 6, ethernet.source);
  const bool is_v4 = packet.family == Family::v4;
  uint8_t* ip = packet.data + kEthernetBytes;
  if (is_v4) {
    reset4(ip, packet.ip_bytes);
  } else {
    reset6(ip, packet.ip_bytes);
  }
  const uint32_t ip_header_bytes = is_v4 ? sizeof(wire::Ipv4) : sizeof(wire::Ipv6);
  packet.bytes = kEthernetBytes + ip_header_bytes + static_cast<uint32_t>(sizeof(wire::Tcp));
}

}  // namespace sluice
