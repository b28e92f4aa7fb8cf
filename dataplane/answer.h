// What the answers that we make from a packet share (too_big.h, reset.h): which packets may be answered.
#pragma once

#include <cstdint>
#include <cstring>

#include "dataplane/batch.h"
#include "src/wire.h"

namespace sluice {

inline constexpr uint8_t kAnswerTtl = 64;

inline bool is_one_host(const wire::Ipv4& ip) {
  const uint32_t source = net32(ip.source);
  return source >> 24 != 0 && source >> 24 != 127 && source < 0xe0000000;
}

inline bool is_one_host(const wire::Ipv6& ip) {
  static constexpr uint8_t unspecified_or_loopback[15] = {};
  return ip.source[0] != 0xff &&
         (std::memcmp(ip.source, unspecified_or_loopback, 15) != 0 || ip.source[15] > 1);
}

// Is the packet one host's, in a frame from one station to one (RFC 1122 3.2.2, RFC 4443 2.4 e)?
inline bool is_from_one_to_one(const Packet& packet) {
  if ((packet.data[6] & 1) != 0) return false;  // nobody's source MAC
  if ((packet.data[0] & 1) != 0) return false;  // to many stations, each of which would answer
  const uint8_t* ip = packet.data + sizeof(wire::Ethernet);
  return packet.family == Family::v4 ? is_one_host(*reinterpret_cast<const wire::Ipv4*>(ip))
                                     : is_one_host(*reinterpret_cast<const wire::Ipv6*>(ip));
}

}  // namespace sluice
