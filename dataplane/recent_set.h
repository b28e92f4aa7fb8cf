// A set of hashes that were put in lately, for a question that may be answered with yes too often: 65,536
// bits, and as many of the period before. What is put in stays for a period at least, and two at most. 16
// KiB; O(1), but for clearing half of it once a period.
//
// One thread puts in. Others may ask: who misses what is put in at that instant finds it next time.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>

namespace sluice {

template <uint32_t kPeriodS>
class RecentSet {
 public:
  void put(uint64_t hash, uint32_t now_s) {
    if (const uint32_t period = now_s / kPeriodS; period != period_) [[unlikely]] {
      clear(period % 2);
      if (period != period_ + 1) clear((period + 1) % 2);
      period_ = period;
      puts_ = 0;
    }
    puts_++;
    // Relaxed, as all here: one writer.
    Word& word = bits_[period_ % 2][word_of(hash)];
    word.store(word.load(std::memory_order_relaxed) | bit_of(hash), std::memory_order_relaxed);
  }
  bool may_have(uint64_t hash) const {
    const uint32_t at = word_of(hash);
    const uint64_t either =
        bits_[0][at].load(std::memory_order_relaxed) | bits_[1][at].load(std::memory_order_relaxed);
    return (either & bit_of(hash)) != 0;
  }

  // For the thread that puts in: also after two periods in which nothing was put in.
  bool may_have(uint64_t hash, uint32_t now_s) const {
    const uint32_t since = now_s / kPeriodS - period_;
    if (since == 0) return may_have(hash);
    return since == 1 &&
           (bits_[period_ % 2][word_of(hash)].load(std::memory_order_relaxed) & bit_of(hash)) != 0;
  }
  // By the same thread, in this period.
  uint32_t puts(uint32_t now_s) const { return now_s / kPeriodS == period_ ? puts_ : 0; }

 private:
  using Word = std::atomic<uint64_t>;
  static constexpr uint32_t kWords = 1024;
  static uint32_t word_of(uint64_t hash) { return static_cast<uint32_t>(hash >> 6) % kWords; }
  static uint64_t bit_of(uint64_t hash) { return uint64_t{1} << (hash & 63); }
  void clear(uint32_t half) {
    for (Word& word : bits_[half])
      word.store(0, std::memory_order_relaxed);
  }

  std::array<std::array<Word, kWords>, 2> bits_{};
  uint32_t period_ = 0;
  uint32_t puts_ = 0;  // in this period
};

}  // namespace sluice
