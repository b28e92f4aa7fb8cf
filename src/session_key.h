// What a session is named by: its client's address, or bytes of the packet, together with its service or
// group. The hash of that is all that is kept of it, and chooses its first backend: it depends on the key,
// the names in the configuration and the secret alone, so every balancer of a cluster chooses alike.
#pragma once

#include <array>
#include <bit>
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>

#include "src/address.h"
#include "src/flow_key.h"
#include "src/tables.h"
#include "src/wire.h"

namespace sluice {

// As with flows, IPv4 pays for 16 bytes only.
struct SessionKey4 {
  uint32_t client = 0;  // network order
  uint32_t reserved = 0;
  uint64_t salt = 0;
};
static_assert(sizeof(SessionKey4) == 16);

struct SessionKey {
  std::array<uint8_t, 16> bytes{};  // an IPv6 address; or of the payload, the rest 0
  uint64_t salt = 0;
  uint32_t length = 0;  // of a payload's key; 0: an address
  uint32_t reserved = 0;
};
static_assert(sizeof(SessionKey) == 32);

inline uint64_t session_hash(const SessionKey4& key, const HashSecret& secret) {
  return XXH3_64bits_withSecret(&key, sizeof key, secret.bytes.data(), secret.bytes.size());
}
inline uint64_t session_hash(const SessionKey& key, const HashSecret& secret) {
  return XXH3_64bits_withSecret(&key, sizeof key, secret.bytes.data(), secret.bytes.size());
}

// Where a session goes whose backend is down. Not by the hash that chose that one: where its slots went in
// the new table is no fair sample of the weights of the others (Maglev gives those slots to the heavy ones
// first).
constexpr uint64_t next_choice(uint64_t hash) {
  return (hash ^ hash >> 29) * 0xbf58476d1ce4e5b9ULL;  // SplitMix64's
}
// The same for each backend that it loses: a session that moved there by one hash goes on by another. By the
// backend's address, which is alike on every balancer.
inline uint64_t next_choice(uint64_t hash, const BackendRecord& lost) {
  uint64_t address[2];
  std::memcpy(address, lost.outer_destination().bytes.data(), sizeof address);
  return next_choice(hash ^ (address[0] ^ std::rotl(address[1], 32)) * 0x9e3779b97f4a7c15ULL);
}

// ServiceRecord::session_salt of this group, or of a service without one.
inline uint64_t session_salt(std::string_view name) {
  return XXH3_64bits(name.data(), name.size());
}

// The first `bits` of 64 in network order.
inline uint64_t first_bits(uint64_t network_order, uint32_t bits) {
  const uint64_t mask = bits == 0 ? 0 : ~uint64_t{0} << (64 - std::min(bits, 64u));
  static_assert(std::endian::native == std::endian::little);
  return network_order & __builtin_bswap64(mask);
}

// The session of a client: of as much of its address as the service counts. `client`: network order.
inline uint64_t client_session(uint32_t client, const ServiceRecord& service, const HashSecret& secret) {
  const auto counted = static_cast<uint32_t>(first_bits(client, service.client_bits[0]));
  return session_hash(SessionKey4{counted, 0, service.session_salt}, secret);
}
inline uint64_t client_session(const IpAddress& client, const ServiceRecord& service,
                               const HashSecret& secret) {
  if (client.is_v4()) return client_session(client.v4_network_order(), service, secret);
  uint64_t high, low;
  std::memcpy(&high, client.bytes.data(), 8);
  std::memcpy(&low, client.bytes.data() + 8, 8);
  const uint32_t bits = service.client_bits[1];
  high = first_bits(high, bits);
  low = first_bits(low, bits > 64 ? bits - 64 : 0);
  SessionKey key;
  std::memcpy(key.bytes.data(), &high, 8);
  std::memcpy(key.bytes.data() + 8, &low, 8);
  key.salt = service.session_salt;
  return session_hash(key, secret);
}

// What a key's flow is found by, added to its session's hash: services of a group share the session, and each
// has its own flow of it.
constexpr uint64_t flow_mark(ServiceId id) {
  return index(id) * 0x9e3779b97f4a7c15ULL;
}

// `bytes`: limits::kKeyBytesMax at most.
inline SessionKey payload_key(std::span<const uint8_t> bytes, const ServiceRecord& service) {
  SessionKey key;
  std::memcpy(key.bytes.data(), bytes.data(), bytes.size());
  key.salt = service.session_salt;
  key.length = static_cast<uint32_t>(bytes.size());
  return key;
}

}  // namespace sluice
