// The Internet checksum (RFC 1071) and its incremental update (RFC 1624).
//
// A `sum` is a ones' complement accumulator over 16-bit words read in memory order (RFC 1071 2(B): byte order
// does not matter as long as it is the same throughout), so nothing is swapped. finish() folds and
// complements; its result is stored into a header as it is.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace sluice {

// Adds `bytes` bytes; an odd last byte counts as padded with zero. Chains: pass the last result as `sum`; all
// parts but the last must have an even length.
inline uint64_t checksum_add(uint64_t sum, const void* data, size_t bytes) {
  const auto* p = static_cast<const uint8_t*>(data);
  for (; bytes >= 4; bytes -= 4, p += 4) {
    uint32_t word;
    std::memcpy(&word, p, 4);
    sum += word;
  }
  if (bytes >= 2) {
    uint16_t word;
    std::memcpy(&word, p, 2);
    sum += word;
    p += 2;
    bytes -= 2;
  }
  if (bytes == 1) sum += *p;
  return sum;
}

constexpr uint16_t checksum_fold(uint64_t sum) {
  sum = (sum & 0xffffffff) + (sum >> 32);
  sum = (sum & 0xffffffff) + (sum >> 32);
  sum = (sum & 0xffff) + (sum >> 16);
  sum = (sum & 0xffff) + (sum >> 16);
  return static_cast<uint16_t>(sum);
}

constexpr uint16_t checksum_finish(uint64_t sum) {
  return static_cast<uint16_t>(~checksum_fold(sum));
}

// checksum_finish of a sum of few 16-bit words (below 2^31), in fewer steps: for the packet path.
constexpr uint16_t checksum_finish_short(uint32_t sum) {
  sum = (sum & 0xffff) + (sum >> 16);
  sum += sum >> 16;
  return static_cast<uint16_t>(~sum);
}

// The checksum of a header in which the 16-bit word `from` became `to` (both as they lie in memory): RFC 1624
// eqn. 3, HC' = ~(~HC + ~m + m').
constexpr uint16_t checksum_update(uint16_t checksum, uint16_t from, uint16_t to) {
  return checksum_finish(static_cast<uint64_t>(static_cast<uint16_t>(~checksum)) +
                         static_cast<uint16_t>(~from) + to);
}

}  // namespace sluice
