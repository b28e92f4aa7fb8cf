// A set of hashes that were put in lately, for a question that may be answered with yes too often: 65,536
// bits, and as many of the period before. What is put in stays for a period at least, and two at most. 16
// KiB; O(1), but for clearing half of it once a period.
#pragma once

#include <array>
#include <cstdint>

namespace sluice {

class RecentSet {
 public:
  static constexpr uint32_t kPeriodS = 64;

  void put(uint64_t hash, uint32_t now_s) {
    if (const uint32_t period = now_s / kPeriodS; period != period_) [[unlikely]] {
      bits_[period % 2].fill(0);
      if (period != period_ + 1) bits_[(period + 1) % 2].fill(0);
      period_ = period;
    }
    bits_[period_ % 2][word_of(hash)] |= bit_of(hash);
  }
  bool may_have(uint64_t hash) const {
    return ((bits_[0][word_of(hash)] | bits_[1][word_of(hash)]) & bit_of(hash)) != 0;
  }

 private:
  static constexpr uint32_t kWords = 1024;
  static uint32_t word_of(uint64_t hash) { return static_cast<uint32_t>(hash >> 6) % kWords; }
  static uint64_t bit_of(uint64_t hash) { return uint64_t{1} << (hash & 63); }

  std::array<std::array<uint64_t, kWords>, 2> bits_{};
  uint32_t period_ = 0;
};

}  // namespace sluice
