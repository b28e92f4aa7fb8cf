// The lookup table of a service by its `method`: which member owns each slot.
//
// As maglev_build (maglev.h, the default): a function of the set of (key, weight) and of the number of slots,
// whatever the order of the input and whatever the table was before. A member of weight 0 is as none.
//
//   maglev      shares exact to one slot.
//   minimal     shares as exact, and fewer slots move when members or weights change. Members throw darts at
//               the slots, as often as they have weight; a free slot goes to the first who hits it, until
//               that member has its share. That is weighted rendezvous hashing bounded by capacity: each slot
//               and each member has the earliest that it can get (a stable matching, so there is but one). A
//               slot that becomes free is passed on, each time to a member that fills up later: some ln k
//               times for k of them.
//   rendezvous  weighted highest random weight (Thaler and Ravishankar 1998): the same darts without a
//               capacity. When a member first hits a slot is distributed exponentially with its weight as
//               rate, as -ln(u) / weight is. Nothing moves but to or from the members that change. Shares
//               differ like those of a draw, a little less.
//   ring        virtual nodes (Karger et al. 1997, libketama): 2 points on a circle for each unit of weight,
//               200 at the default weight, so that shares differ by 7 % (standard deviation; 160, ketama's,
//               by 8 %). A slot goes to the first point from its own place on. Points are doubled until there
//               are 100 a member on average, and halved beyond kRingPointsMax.
//   modulo      slot i to member i modulo their number, in key order; with weights, to their schedule.
//   round_robin, weighted_round_robin
//               that schedule, to walk through, around after whole_rounds(): after any number of slots from
//               the first, each member has had its share of them, to less than one. Where the shortest
//               schedule of these weights is longer than the table, its share is that of the slots.
//   the others  as maglev: for the packets whose choice must be the same on every balancer.
//
// Integers only, so every balancer builds the same bytes. Cost: perf/method_bench.cc, docs/affinity.md.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string_view>
#include <utility>

#include "src/maglev.h"

namespace sluice {

enum class Method : uint8_t {
  maglev,
  ring,
  rendezvous,
  minimal,
  modulo,
  source_hash,
  round_robin,
  weighted_round_robin,
  random,
  least_connections,
  weighted_least_connections,
  power_of_two,
};
inline constexpr std::array<std::pair<std::string_view, Method>, 12> kMethods = {{
    {"maglev", Method::maglev},
    {"ring", Method::ring},
    {"rendezvous", Method::rendezvous},
    {"minimal", Method::minimal},
    {"modulo", Method::modulo},
    {"source-hash", Method::source_hash},
    {"round-robin", Method::round_robin},
    {"weighted-round-robin", Method::weighted_round_robin},
    {"random", Method::random},
    {"least-connections", Method::least_connections},
    {"weighted-least-connections", Method::weighted_least_connections},
    {"power-of-two", Method::power_of_two},
}};
constexpr std::string_view name_of(Method method) {
  return kMethods[static_cast<size_t>(method)].first;
}
static_assert([] {
  for (const auto& [name, method] : kMethods) {
    if (name_of(method) != name) return false;
  }
  return true;
}());

// The same flow may get another backend each time: without a flow table its packets would part.
constexpr bool needs_flow_table(Method method) {
  return method >= Method::round_robin;
}
// Members count alike whatever weight they were given (but for a share of it while they start slowly).
constexpr bool ignores_weight(Method method) {
  return method == Method::round_robin || method == Method::least_connections;
}

// As maglev_build.
[[nodiscard]] bool lookup_build(Method method, std::span<const MaglevMember> members,
                                std::span<uint16_t> table);

// Of `slots`, how many from the first are whole rounds of the schedule, for who walks through them over and
// over: there the last turn is followed by the first. All of them where the schedule is as long as the table,
// or where there is none.
[[nodiscard]] uint32_t whole_rounds(Method method, std::span<const MaglevMember> members, uint32_t slots);

// Points of a ring, of all members together: what it costs to build is bounded.
inline constexpr uint64_t kRingPointsMax = 1 << 22;

}  // namespace sluice
