// Which sessions were moved by `sluice rebalance`, or unpinned, lately: for as long as a flow may go on
// without asking for its session by itself. A hint: too often yes.
//
// Writer: the one worker that runs commands. Readers: all workers.
#pragma once

#include <atomic>
#include <cstdint>

#include "dataplane/recent_set.h"

namespace sluice {

class MovedSessions {
 public:
  // The longest refresh_s (src/session_layout.h), and as far as workers' clocks may be apart.
  static constexpr uint32_t kFollowS = 128 + 4;

  // Before the session changes: a packet that finds it as it was is not the last one that asks.
  void note(uint64_t hash, uint32_t now_s) {
    hashes_.put(hash, now_s);
    // Release: who sees this time sees the hash.
    until_s_.store(now_s + kFollowS, std::memory_order_release);
  }
  bool any(uint32_t now_s) const {
    return static_cast<int32_t>(until_s_.load(std::memory_order_acquire) - now_s) > 0;
  }
  bool may_have(uint64_t hash) const { return hashes_.may_have(hash); }

 private:
  RecentSet<kFollowS> hashes_;
  std::atomic<uint32_t> until_s_{0};  // seconds of CLOCK_MONOTONIC
};

}  // namespace sluice
