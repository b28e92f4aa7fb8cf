// What becomes of a service when backends fail: the values of its min_healthy, quorum, on_failure, flap and
// slow_start. docs/availability.md says how they play together.
#pragma once

#include <chrono>
#include <cstdint>

#include "controlplane/health_config.h"

namespace sluice {

// `3`, or `"30%"` of something, rounded up.
struct Amount {
  uint32_t value = 0;  // 0: not set
  bool percent = false;

  bool is_set() const { return value != 0; }
  uint64_t of(uint64_t all) const { return percent ? (all * value + 99) / 100 : value; }
  bool operator==(const Amount&) const = default;
};

// `quorum = 2`, `"50%"`, `{ backends = 2, hysteresis = 1 }` or `{ weight = 300, hysteresis = 50 }`.
struct QuorumConfig {
  Amount needed{1};  // of backends, or of weight
  bool is_set = false;
  bool by_weight = false;
  uint32_t hysteresis = 0;  // lost below needed - hysteresis, had again from needed + hysteresis on

  bool operator==(const QuorumConfig&) const = default;
};

// `flap = { count = 3, within = "1m", hold = "10s", hold_max = "5m" }`; without it nothing is damped.
struct FlapConfig {
  uint32_t count = 0;  // failures within `within` that make it flapping; 0: off
  Milliseconds within{60'000};
  Milliseconds hold{10'000};  // how long it is kept down the first time; each time in a row twice as long
  Milliseconds hold_max{300'000};

  bool operator==(const FlapConfig&) const = default;
};

// What happens to the flows of a backend that fails: they are selected afresh; they stay with it; or their
// clients are told by a TCP reset (other protocols: selected afresh). Its sessions go to another backend and
// stay there; they wait for it; or, with `comes_back` (written "return"), are only lent to another.
enum class OnFailure : uint8_t { rehash, keep, reset, comes_back };

struct PolicyConfig {
  Amount min_healthy;  // of the backends that are ready; not set: no panic
  QuorumConfig quorum;
  OnFailure on_failure = OnFailure::rehash;
  FlapConfig flap;
  Milliseconds slow_start{0};  // over which a backend's weight ramps up; 0: at once

  bool operator==(const PolicyConfig&) const = default;
};

}  // namespace sluice
