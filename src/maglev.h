// Weighted Maglev: builds a lookup table that spreads hash space over backends by weight and moves little of
// it when they change (Maglev paper, NSDI'16, 3.4).
//
// Weights: a backend gets its exact share of the slots, rounded up or down. In every round each takes one
// turn, until it has its share; the heavier ones go on. So another weight changes the last turns only, when
// few others are still to come and be upset: of 1,000 backends one from 100 to 90 moves 7 times the ideal,
// one from 100 to 110 the ideal itself. (A turn whenever the accumulated weight reaches the largest one, as
// Katran V2 and Envoy do, spreads the turns, and moved 10 times the ideal either way.)
//
// Deterministic: the table is a function of the set of (key, weight) and of `slots`; the order of the input
// does not matter. Members are ordered by key; equal keys are a programming error.
//
// Cost: O(slots * log slots) expected probes into a bitmap that stays in L1 (8 KiB for 65,537 slots),
// whatever the weights; memory for one turn of 16 bits a slot. About 1 ms for 65,537 slots and
// 1,000 members, of equal or mixed weights, on a 2.6 GHz core (perf/maglev_bench.cc).
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "src/size_limits.h"

namespace sluice {

struct MaglevMember {
  std::string_view key;  // stable and unique, the same on every balancer: the backend's name
  uint32_t weight = 0;   // 0 .. limits::kWeightMax; 0 gets no slot
};

// Fills `table` (its size is the number of slots: limits::kLookupSlotsDefault or kLookupSlotsLarge, or any
// prime) with positions in `members`. Returns false, and fills nothing, when no member has weight.
[[nodiscard]] bool maglev_build(std::span<const MaglevMember> members, std::span<uint16_t> table);

// Fingerprint of what the table does, equal on every balancer that was given the same members: of the keys
// that own the slots, in slot order, however `members` was ordered.
uint64_t maglev_checksum(std::span<const MaglevMember> members, std::span<const uint16_t> table);

// What other tables share with it. Positions in `members` by key:
std::vector<uint16_t> order_by_key(std::span<const MaglevMember> members);
// How many slots each of these weights gets (their sum is not 0): its exact share rounded down, and what is
// left over to the largest fractions, the first in order among equals.
std::vector<uint32_t> exact_shares(std::span<const uint32_t> weights, uint32_t slots);

}  // namespace sluice
