// Which sessions `sluice rebalance` moved lately, for a question that may be answered with yes too often:
// 65,536 bits (8 KiB) of their hashes, for as long as a flow may go on without asking for its session by
// itself.
//
// Writer: the one worker that runs commands. Readers: all workers.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>

namespace sluice {

class MovedSessions {
 public:
  // The longest refresh_s (src/session_layout.h), and as far as workers' clocks may be apart.
  static constexpr uint32_t kFollowS = 128 + 4;

  // Before the session changes: a packet that finds it as it was is not the last one that asks.
  void note(uint64_t hash, uint32_t now_s) {
    if (!any(now_s)) {
      for (std::atomic<uint64_t>& word : words_)
        word.store(0, std::memory_order_relaxed);
    }
    // Relaxed: one writer, and who misses a bit asks again with the next packet.
    std::atomic<uint64_t>& word = words_[word_of(hash)];
    word.store(word.load(std::memory_order_relaxed) | bit_of(hash), std::memory_order_relaxed);
    until_s_.store(now_s + kFollowS, std::memory_order_release);
  }
  bool any(uint32_t now_s) const {
    return static_cast<int32_t>(until_s_.load(std::memory_order_acquire) - now_s) > 0;
  }
  bool may_have(uint64_t hash) const {
    return (words_[word_of(hash)].load(std::memory_order_relaxed) & bit_of(hash)) != 0;
  }

 private:
  static constexpr uint32_t kWords = 1024;
  static uint32_t word_of(uint64_t hash) { return static_cast<uint32_t>(hash >> 6) % kWords; }
  static uint64_t bit_of(uint64_t hash) { return uint64_t{1} << (hash & 63); }

  std::array<std::atomic<uint64_t>, kWords> words_{};
  std::atomic<uint32_t> until_s_{0};  // seconds of CLOCK_MONOTONIC
};

}  // namespace sluice
