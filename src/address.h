// IP and MAC addresses, their text forms, and byte order.
//
// An IpAddress is 16 bytes in network order; IPv4 is kept IPv4-mapped (::ffff:a.b.c.d, RFC 4291 2.5.5.2), so
// that one table and one compare serve both families. Plain values: copy them freely.
#pragma once

#include <array>
#include <bit>
#include <compare>
#include <cstdint>
#include <cstring>
#include <optional>
#include <string>
#include <string_view>

namespace sluice {

static_assert(std::endian::native == std::endian::little,
              "the wire code below is written for little-endian hosts");

// Network order only lives in wire structs (src/wire.h); these two convert at their edge, in both directions.
constexpr uint16_t net16(uint16_t v) {
  return __builtin_bswap16(v);
}
constexpr uint32_t net32(uint32_t v) {
  return __builtin_bswap32(v);
}

enum class Family : uint8_t { v4 = 4, v6 = 6 };

struct IpAddress {
  std::array<uint8_t, 16> bytes{};  // network order; all zero is "::", the unset address

  static IpAddress v4(uint32_t network_order) {
    const std::array<uint64_t, 2> words = {0, uint64_t{network_order} << 32 | 0xffff0000};
    IpAddress a;
    std::memcpy(a.bytes.data(), words.data(), sizeof words);
    return a;
  }
  static IpAddress v6(const void* sixteen_bytes) {
    IpAddress a;
    std::memcpy(a.bytes.data(), sixteen_bytes, 16);
    return a;
  }
  // "192.0.2.1" or "2001:db8::1"; nothing else (no port, no prefix, no zone). An IPv4-mapped text becomes
  // IPv4.
  static std::optional<IpAddress> parse(std::string_view text);

  bool is_v4() const {
    static constexpr uint8_t prefix[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};
    return std::memcmp(bytes.data(), prefix, 12) == 0;
  }
  Family family() const { return is_v4() ? Family::v4 : Family::v6; }
  bool is_set() const { return *this != IpAddress{}; }
  bool is_unicast() const {
    if (is_v4()) return bytes[12] != 0 && bytes[12] < 224;  // RFC 1122 3.2.1.3, RFC 5771
    return is_set() && bytes[0] != 0xff;                    // RFC 4291 2.7
  }
  uint32_t v4_network_order() const {
    uint32_t v;
    std::memcpy(&v, &bytes[12], 4);
    return v;
  }
  std::string text() const;

  // By words: the default becomes a call of memcmp, which the packet path would pay in every service lookup.
  bool operator==(const IpAddress& other) const {
    std::array<uint64_t, 2> a, b;
    std::memcpy(a.data(), bytes.data(), sizeof a);
    std::memcpy(b.data(), other.bytes.data(), sizeof b);
    return ((a[0] ^ b[0]) | (a[1] ^ b[1])) == 0;
  }
  auto operator<=>(const IpAddress&) const = default;
};
static_assert(sizeof(IpAddress) == 16);

struct MacAddress {
  std::array<uint8_t, 6> bytes{};

  // "02:00:00:00:00:01"
  static std::optional<MacAddress> parse(std::string_view text);
  bool is_set() const { return *this != MacAddress{}; }
  std::string text() const;

  auto operator<=>(const MacAddress&) const = default;
};
static_assert(sizeof(MacAddress) == 6);

}  // namespace sluice
