// What the failures of a service's backends come to: who serves, how long a flapping backend is kept down,
// how a returning one's weight ramps. Pure functions of the model; no clock, no memory of their own.
//
// Who takes new flows, the first that holds:
//   1. sorry     quorum is lost, or nobody below can take any, and the sorry backend can
//   2. panic     fewer healthy than min_healthy: all backends count as healthy
//   3. normal    the healthy ones; held ones not among them
//   4. held      nobody else can: those that are only kept down for flapping
// What is known to answer (a checked sorry backend) comes before what is hoped to (backends whose checks
// fail). A backend in drain or maintenance takes none in any of them. When none of the four can, new flows
// are dropped (no_backend).
//
// The bases differ on purpose. Panic doubts the checks, so it looks at the ready backends only: an operator
// who takes backends out does not make the failed ones count. Quorum is about capacity, so percentages are of
// all that are configured. A backend without a verdict yet (no check since it was added) is neither healthy
// nor failed: neither panic nor loss of quorum begins while its verdict could prevent it, and neither ends by
// it.
//
// Panic has no further hysteresis: to stay in it sends clients to backends that fail. Quorum's is its own.
#pragma once

#include <cstdint>
#include <vector>

#include "controlplane/policy_config.h"

namespace sluice {

struct Service;

struct Standing {
  bool panic = false;
  bool quorum_lost = false;
  bool sorry_serves = false;
  bool holds_ignored = false;

  bool operator==(const Standing&) const = default;
};

// From the backends' states and `service.standing` (its hysteresis). The same again for what it returns.
Standing judge(const Service& service);

// What a change of admin state, weight or membership would leave. Usable: ready, healthy by its checks (panic
// does not count), not held, with weight; the sorry backend never.
struct Usable {
  uint32_t now = 0;
  uint32_t after = 0;
  uint32_t floor = 0;  // min_healthy of all configured backends; 0: not set

  // The change takes something away, and what is left is below the floor.
  bool crosses_min_healthy() const { return after < now && after < floor; }
};
// As if `leaving`, positions in service.backends, took no new flows any more.
Usable usable_without(const Service& service, const std::vector<uint32_t>& leaving);

// ---- Flap damping

// One backend's failures. Times are CLOCK_MONOTONIC.
struct Flaps {
  std::vector<uint64_t> downs_ns;  // the latest failures, oldest first; at most FlapConfig::count
  uint32_t holds_in_a_row = 0;
  uint64_t held_until_ns = 0;  // 0: not held
  uint64_t hold_ended_ns = 0;  // the last one
  bool settling = false;       // it was held, and has not been up unheld since

  bool held() const { return held_until_ns != 0; }
  bool operator==(const Flaps&) const = default;
};

// A backend that counted as up went down. True: from now on it is held. A hold follows another one in a row
// when the failure comes within hold_max of its end.
bool note_down(Flaps& flaps, const FlapConfig& config, uint64_t now_ns);

// ---- Slow start

inline constexpr uint32_t kRampSteps = 10;    // at most so many table builds a ramp
inline constexpr uint32_t kRampWhole = 1000;  // permille: no ramp

// Thousandths of its weight that a backend has, whose ramp began at `since_ns`: a tenth at once, kRampWhole
// when slow_start is over.
uint32_t ramp_permille(uint64_t since_ns, Milliseconds slow_start, uint64_t now_ns);

// All ramps of a service move at once, when this number changes: every slow_start / kRampSteps. Services are
// spread over that time by their ids.
uint64_t ramp_beat(uint32_t service_id, Milliseconds slow_start, uint64_t now_ns);

}  // namespace sluice
