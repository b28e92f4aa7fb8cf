#include "dataplane/parse.h"

#include <cstring>

#include "src/wire.h"

namespace sluice {
namespace {

// Ports, flags and header length of the transport header at `offset`; `l4_bytes` is what IP says is there.
inline bool parse_transport(Packet& packet, uint32_t offset, uint32_t l4_bytes) {
  const uint8_t* l4 = packet.data + offset;
  if (packet.protocol == wire::kProtoTcp) {
    if (l4_bytes < sizeof(wire::Tcp)) return refuse(packet, Reason::bad_l4_header);
    if (packet.contiguous_bytes < offset + sizeof(wire::Tcp)) return refuse(packet, Reason::truncated);
    const auto& tcp = *reinterpret_cast<const wire::Tcp*>(l4);
    const uint32_t header_bytes = (tcp.data_offset >> 4) * 4u;
    if (header_bytes < sizeof(wire::Tcp) || header_bytes > l4_bytes)
      return refuse(packet, Reason::bad_l4_header);
    packet.source_port = tcp.source_port;
    packet.destination_port = tcp.destination_port;
    packet.tcp_flags = tcp.flags;
    return true;
  }
  if (l4_bytes < sizeof(wire::Udp)) return refuse(packet, Reason::bad_l4_header);
  if (packet.contiguous_bytes < offset + sizeof(wire::Udp)) return refuse(packet, Reason::truncated);
  const auto& udp = *reinterpret_cast<const wire::Udp*>(l4);
  const uint32_t udp_bytes = net16(udp.length);
  if (udp_bytes < sizeof(wire::Udp) || udp_bytes > l4_bytes) return refuse(packet, Reason::bad_l4_header);
  packet.source_port = udp.source_port;
  packet.destination_port = udp.destination_port;
  packet.tcp_flags = 0;
  return true;
}

inline bool parse_ipv4(Packet& packet) {
  constexpr uint32_t start = sizeof(wire::Ethernet);
  if (packet.contiguous_bytes < start + sizeof(wire::Ipv4)) return refuse(packet, Reason::truncated);
  const auto& ip = *reinterpret_cast<const wire::Ipv4*>(packet.data + start);
  if (ip.version_ihl >> 4 != 4) return refuse(packet, Reason::bad_ip_version);
  const uint32_t header_bytes = (ip.version_ihl & 15) * 4u;
  if (header_bytes < sizeof(wire::Ipv4)) return refuse(packet, Reason::bad_ip_header);
  const uint32_t ip_bytes = net16(ip.total_length);
  if (ip_bytes < header_bytes) return refuse(packet, Reason::bad_ip_length);
  if (packet.bytes < start + ip_bytes) return refuse(packet, Reason::truncated);
  if (ip.protocol != wire::kProtoTcp && ip.protocol != wire::kProtoUdp)
    return refuse(packet, Reason::not_tcp_udp);
  packet.family = Family::v4;
  if (header_bytes != sizeof(wire::Ipv4)) return refuse(packet, Reason::ip_options);
  if ((ip.flags_fragment & net16(wire::kIpv4Mf | wire::kIpv4OffsetMask)) != 0) {
    return refuse(packet, Reason::fragment);
  }
  if (ip.ttl == 0) return refuse(packet, Reason::ttl_expired);
  packet.protocol = ip.protocol;
  packet.ip_bytes = ip_bytes;
  return parse_transport(packet, start + header_bytes, ip_bytes - header_bytes);
}

// The extension headers of RFC 8200 4.1, RFC 4302, RFC 6275 and RFC 7401; not the fragment header.
bool is_extension_header(uint8_t next_header) {
  return next_header == 0 || next_header == 43 || next_header == 51 || next_header == 60 ||
         next_header == 135 || next_header == 139;
}

inline bool parse_ipv6(Packet& packet) {
  constexpr uint32_t start = sizeof(wire::Ethernet);
  if (packet.contiguous_bytes < start + sizeof(wire::Ipv6)) return refuse(packet, Reason::truncated);
  const auto& ip = *reinterpret_cast<const wire::Ipv6*>(packet.data + start);
  if ((ip.version_class_flow & 0xf0) != 0x60) return refuse(packet, Reason::bad_ip_version);
  const uint32_t payload_bytes = net16(ip.payload_length);
  if (packet.bytes < start + sizeof(wire::Ipv6) + payload_bytes) return refuse(packet, Reason::truncated);
  packet.family = Family::v6;
  if (ip.next_header != wire::kProtoTcp && ip.next_header != wire::kProtoUdp) {
    if (ip.next_header == wire::kProtoFragment) return refuse(packet, Reason::fragment);
    return refuse(packet, is_extension_header(ip.next_header) ? Reason::ip_options : Reason::not_tcp_udp);
  }
  if (ip.hop_limit == 0) return refuse(packet, Reason::ttl_expired);
  packet.protocol = ip.next_header;
  packet.ip_bytes = sizeof(wire::Ipv6) + payload_bytes;
  return parse_transport(packet, start + sizeof(wire::Ipv6), payload_bytes);
}

}  // namespace

bool parse_packet(Packet& packet) {
  if (packet.contiguous_bytes < sizeof(wire::Ethernet)) return refuse(packet, Reason::truncated);
  switch (reinterpret_cast<const wire::Ethernet*>(packet.data)->ether_type) {
    case net16(wire::kEtherIpv4):
      return parse_ipv4(packet);
    case net16(wire::kEtherIpv6):
      return parse_ipv6(packet);
    case net16(wire::kEtherVlan):
    case net16(wire::kEtherQinq):
      return refuse(packet, Reason::vlan_tagged);
    default:
      return refuse(packet, Reason::not_ip);
  }
}

// To this station, or to many (broadcast, multicast)?
static bool is_for(const MacAddress& station, const Packet& packet) {
  return packet.contiguous_bytes < sizeof(wire::Ethernet) || (packet.data[0] & 1) != 0 ||
         std::memcmp(packet.data, station.bytes.data(), 6) == 0;
}

// Nearly every packet: IPv4 without options, whole, TCP or UDP, with nothing wrong. Says what parse_packet()
// would, with few branches; false: ask that one.
static inline bool parse_plain(Packet& packet) {
  constexpr uint32_t l4_at = sizeof(wire::Ethernet) + sizeof(wire::Ipv4);
  if (packet.contiguous_bytes < l4_at + sizeof(wire::Tcp)) return false;
  const auto& ethernet = *reinterpret_cast<const wire::Ethernet*>(packet.data);
  const auto& ip = *reinterpret_cast<const wire::Ipv4*>(packet.data + sizeof ethernet);
  const uint32_t ip_bytes = net16(ip.total_length);
  const uint16_t fragment = ip.flags_fragment & net16(wire::kIpv4Mf | wire::kIpv4OffsetMask);
  const bool plain = (ethernet.ether_type == net16(wire::kEtherIpv4)) & (ip.version_ihl == 0x45) &
                     (fragment == 0) & (ip.ttl != 0) & (packet.bytes >= sizeof ethernet + ip_bytes);
  const auto& tcp = *reinterpret_cast<const wire::Tcp*>(packet.data + l4_at);
  uint32_t l4_bytes;  // what the transport header needs
  bool whole;
  if (ip.protocol == wire::kProtoTcp) [[likely]] {
    l4_bytes = (tcp.data_offset >> 4) * 4u;
    whole = l4_bytes >= sizeof(wire::Tcp);
    packet.tcp_flags = tcp.flags;
  } else if (ip.protocol == wire::kProtoUdp) {
    l4_bytes = net16(reinterpret_cast<const wire::Udp*>(packet.data + l4_at)->length);
    whole = l4_bytes >= sizeof(wire::Udp);
    packet.tcp_flags = 0;
  } else {
    return false;
  }
  packet.family = Family::v4;
  packet.protocol = ip.protocol;
  packet.ip_bytes = ip_bytes;
  std::memcpy(&packet.source_port, &tcp.source_port, sizeof(uint32_t));  // both ports, of either protocol
  return plain & whole & (ip_bytes >= sizeof ip + l4_bytes);
}

void parse(Batch& batch) {
  for (uint32_t i = 0; i < batch.count; i++) {
    __builtin_prefetch(batch.packets[i].data, 1);
    __builtin_prefetch(batch.packets[i].data - 1, 1);  // where an outer header goes
  }
  batch.portless_count = 0;
  for (uint32_t i = 0; i < batch.count; i++) {
    Packet& packet = batch.packets[i];
    if (batch.station != nullptr && !is_for(*batch.station, packet)) {
      refuse(packet, Reason::other_station);
    } else if (!parse_plain(packet) && !parse_packet(packet)) [[unlikely]] {
      batch.portless_count += is_portless(packet) ? 1 : 0;
    }
  }
}

}  // namespace sluice
