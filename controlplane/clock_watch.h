// Tells when the wall clock was set. Only the times of events go by it, which people read, and a confirmation
// that outlived a restart; all else goes by the steady clock, so a jump is told and changes nothing.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <optional>

namespace sluice {

class ClockWatch {
 public:
  // Slewing makes less than a millisecond in the tenth of a second between two looks.
  static constexpr int64_t kJumpMs = 1000;

  // By how much the wall clock went beyond the steady one since the last look; nothing for less than kJumpMs.
  std::optional<int64_t> look(uint64_t steady_ns, int64_t wall_unix_ms) {
    const int64_t ahead_ms = wall_unix_ms - static_cast<int64_t>(steady_ns / 1'000'000);
    const int64_t jump_ms = ahead_ms - ahead_ms_.value_or(ahead_ms);
    ahead_ms_ = ahead_ms;
    if (std::abs(jump_ms) < kJumpMs) return std::nullopt;
    return jump_ms;
  }

 private:
  std::optional<int64_t> ahead_ms_;  // of the wall clock
};

}  // namespace sluice
