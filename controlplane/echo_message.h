// ICMP echo requests and what comes back (RFC 792, RFC 4443): bytes only, no socket.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "src/address.h"

namespace sluice {

// What a raw ICMP socket gave. IPv4 packets come with their IP header, IPv6 ones without.
struct EchoAnswer {
  enum class Kind : uint8_t { other, reply, unreachable };
  Kind kind = Kind::other;
  uint16_t identifier = 0;
  uint16_t sequence = 0;
  std::optional<uint64_t> cookie;  // of a reply; an error may quote less than that of a request
  std::string reason;              // unreachable: "host unreachable"
};
EchoAnswer parse_echo_answer(Family family, std::string_view packet);
// With the checksum where the kernel does not set it (IPv4).
std::string echo_request(Family family, uint16_t identifier, uint16_t sequence, uint64_t cookie);

}  // namespace sluice
