// What ties packets to a backend: the values of a service's affinity, group, max_lifetime, prefix and key.
// docs/affinity.md says how to choose.
#pragma once

#include <cstdint>
#include <string>

#include "src/size_limits.h"

namespace sluice {

// none: nothing but the lookup table, for every packet anew. connection: the flow table, which keeps a
// connection's packets with its backend whatever changes. The others, besides, a session that is remembered:
// of the client's address, of its first bits, or of bytes in the payload.
enum class Affinity : uint8_t { none, connection, client, prefix, key };

constexpr bool has_sessions(Affinity affinity) {
  return affinity >= Affinity::client;
}

struct SessionConfig {
  // `idle_timeout = { session = "1h" }`: how long it is remembered after the last sign of a connection
  uint32_t idle_s = limits::kSessionIdleDefault;
  uint32_t life_s = 0;     // `max_lifetime = "24h"`, since its first connection; 0: no limit
  std::string group;       // services of one group share their sessions; empty: its own
  uint8_t prefix_v4 = 24;  // `prefix = { v4 = 24, v6 = 56 }`: bits of the client's address
  uint8_t prefix_v6 = 56;
  uint16_t key_offset = 0;  // `key = { offset = 4, bytes = 8 }`: in the UDP payload
  uint8_t key_bytes = 0;

  bool operator==(const SessionConfig&) const = default;
};

}  // namespace sluice
