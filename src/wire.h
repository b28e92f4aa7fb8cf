// Wire headers as they lie in a packet, in network order, and nothing else: no parsing, no options.
//
// All structs are packed (alignment 1), so a pointer into a packet may be cast to them at any offset. Fields
// are read and written through net16/net32 of src/address.h. Sources: IEEE 802.3, RFC 791, RFC 8200, RFC
// 9293, RFC 768, RFC 792, RFC 4443.
#pragma once

#include <cstdint>

namespace sluice::wire {

inline constexpr uint16_t kEtherIpv4 = 0x0800;
inline constexpr uint16_t kEtherIpv6 = 0x86dd;
inline constexpr uint16_t kEtherVlan = 0x8100;  // 802.1Q
inline constexpr uint16_t kEtherQinq = 0x88a8;  // 802.1ad

inline constexpr uint8_t kProtoIcmp = 1;
inline constexpr uint8_t kProtoIpip = 4;  // IPv4 in IPv4 or IPv6, RFC 2003 and RFC 2473
inline constexpr uint8_t kProtoTcp = 6;
inline constexpr uint8_t kProtoUdp = 17;
inline constexpr uint8_t kProtoIpv6 = 41;  // IPv6 in IPv4 or IPv6, RFC 4213 and RFC 2473
inline constexpr uint8_t kProtoFragment = 44;
inline constexpr uint8_t kProtoIcmpv6 = 58;

struct [[gnu::packed]] Ethernet {
  uint8_t destination[6];
  uint8_t source[6];
  uint16_t ether_type;
};
static_assert(sizeof(Ethernet) == 14);

struct [[gnu::packed]] Ipv4 {
  uint8_t version_ihl;  // version in the high nibble, header length in 32-bit words in the low one
  uint8_t tos;          // DSCP in the high six bits, ECN in the low two
  uint16_t total_length;
  uint16_t id;
  uint16_t flags_fragment;  // kIpv4Reserved | kIpv4Df | kIpv4Mf | offset in 8-byte units
  uint8_t ttl;
  uint8_t protocol;
  uint16_t checksum;
  uint32_t source;
  uint32_t destination;
};
static_assert(sizeof(Ipv4) == 20);
inline constexpr uint16_t kIpv4Df = 0x4000;
inline constexpr uint16_t kIpv4Mf = 0x2000;
inline constexpr uint16_t kIpv4OffsetMask = 0x1fff;

struct [[gnu::packed]] Ipv6 {
  uint32_t version_class_flow;  // 4 bits version, 8 traffic class, 20 flow label
  uint16_t payload_length;      // bytes after this header
  uint8_t next_header;
  uint8_t hop_limit;
  uint8_t source[16];
  uint8_t destination[16];
};
static_assert(sizeof(Ipv6) == 40);

struct [[gnu::packed]] Tcp {
  uint16_t source_port;
  uint16_t destination_port;
  uint32_t sequence;
  uint32_t acknowledgement;
  uint8_t data_offset;  // header length in 32-bit words in the high nibble
  uint8_t flags;
  uint16_t window;
  uint16_t checksum;
  uint16_t urgent;
};
static_assert(sizeof(Tcp) == 20);
inline constexpr uint8_t kTcpFin = 0x01;
inline constexpr uint8_t kTcpSyn = 0x02;
inline constexpr uint8_t kTcpRst = 0x04;
inline constexpr uint8_t kTcpAck = 0x10;

struct [[gnu::packed]] Udp {
  uint16_t source_port;
  uint16_t destination_port;
  uint16_t length;
  uint16_t checksum;
};
static_assert(sizeof(Udp) == 8);

// ICMP and ICMPv6 "destination unreachable" and "packet too big": eight bytes, then the start of the
// offending packet.
struct [[gnu::packed]] Icmp {
  uint8_t type;
  uint8_t code;
  uint16_t checksum;
  uint16_t unused;
  uint16_t mtu;  // RFC 1191; ICMPv6 uses unused and mtu together as 32 bits (RFC 4443 3.2)
};
static_assert(sizeof(Icmp) == 8);
inline constexpr uint8_t kIcmpUnreachable = 3;
inline constexpr uint8_t kIcmpFragmentationNeeded = 4;
inline constexpr uint8_t kIcmpv6TooBig = 2;

}  // namespace sluice::wire
