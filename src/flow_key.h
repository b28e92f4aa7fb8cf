// The flow key and its hash. The 64-bit hash is the flow's identity everywhere behind the parser: tables keep
// the hash, never the 5-tuple (docs/architecture.md says what a collision can do, and cannot).
//
// Two widths, so that IPv4 pays for 16 bytes only. All bytes of a key count, padding included, so keys are
// built by the functions below. The hash depends on the key and the secret alone: every balancer with one
// secret picks alike. Cost: 6-7 cycles a hash, independent ones overlapping (XXH3-64; its 9..16 and 17..128
// byte paths).
#pragma once

#include <array>
#include <cstdint>
#include <cstring>
#include <string_view>

#include "src/address.h"

namespace sluice {

struct FlowKey4 {
  uint32_t source = 0;  // network order, as are the ports
  uint32_t destination = 0;
  uint16_t source_port = 0;
  uint16_t destination_port = 0;
  uint32_t protocol = 0;
};
static_assert(sizeof(FlowKey4) == 16);

struct FlowKey6 {
  std::array<uint8_t, 16> source{};
  std::array<uint8_t, 16> destination{};
  uint16_t source_port = 0;
  uint16_t destination_port = 0;
  uint32_t protocol = 0;
};
static_assert(sizeof(FlowKey6) == 40);

// XXH3 takes a secret of at least 136 bytes; 192 is what XXH3_generateSecret fills. Kept in each generation.
struct HashSecret {
  std::array<uint8_t, 192> bytes{};
  // Expands an operator's text (the cluster's `secret`, any length) to a secret.
  static HashSecret from_text(std::string_view text);
};
// What `from_text` gets when the configuration names no secret. Public, so a client can compute collisions:
// an operator who cares sets his own.
inline constexpr std::string_view kDefaultSecretText = "sluice";

uint64_t flow_hash(const FlowKey4& key, const HashSecret& secret);
uint64_t flow_hash(const FlowKey6& key, const HashSecret& secret);

// Of the client's address alone: `source-hash`.
inline uint64_t client_hash(const IpAddress& client, const HashSecret& secret);

// The slot of a lookup table of `slots` entries: the high bits of the hash scaled to the table, no division.
// The flow table takes the low bits.
constexpr uint32_t lookup_slot(uint64_t hash, uint32_t slots) {
  __extension__ using Wide = unsigned __int128;
  return static_cast<uint32_t>((static_cast<Wide>(hash) * slots) >> 64);
}

}  // namespace sluice

#include "src/flow_key_inl.h"
