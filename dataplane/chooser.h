// The backend of a new flow where more than the packet decides: whose turn it is, chance, or how many flows
// each backend has.
//
// One per worker. For flows that begin here and have a place in the flow table only (track.cc): everything
// else goes by the lookup table, as every balancer would do it.
//
//   round_robin, weighted_round_robin
//       The next slot of the service's table, which is a schedule (src/lookup_table.h); around after its last
//       whole round. Each worker goes its own; they begin side by side.
//   random
//       Any slot.
//   power_of_two
//       Of two slots drawn, the member with fewer active flows for its weight.
//   least_connections, weighted_least_connections
//       Of all members, the one with the fewest active flows for its weight; among equals the first from a
//       place drawn. Where members times workers exceeds kCountersMax, only the first from there are looked
//       at: the least of dozens, which is nearly as even.
//
// "For its weight": (active flows + 1) / weight, so that of two without any the heavier one comes first.
// Active flows are those of all workers, read where they count them: never older than a cache line's way from
// core to core. Weights are the table's: alike for round_robin and least_connections, but for slow start.
//
// Cost: a line or two; power_of_two 2 * workers lines more; least_connections a counter for each member and
// worker, kCountersMax at most.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include "src/lookup_table.h"
#include "src/stats.h"
#include "src/tables.h"

namespace sluice {

class Chooser {
 public:
  // Flow counters looked at for one choice, some 3 ns each: a flood of SYNs pays for them as well. Of as many
  // members as that makes, but of kMembersMin at least.
  static constexpr uint32_t kCountersMax = 256;
  static constexpr uint32_t kMembersMin = 8;

  // `workers`: all that run, this one included; `number`: which of them this one is.
  Chooser(std::span<const WorkerStats> workers, uint32_t number);

  static bool decides(const ServiceRecord& service) {
    return needs_flow_table(static_cast<Method>(service.method));
  }
  // Only for a service that it decides for, and that has a lookup table.
  BackendId choose(ServiceId id, const ServiceRecord& service, const TablesView& tables);

  // Of how many backends one packet may look at the counters of all workers, if so many of one would do.
  uint32_t looks(uint32_t counters) const {
    return std::max(counters / static_cast<uint32_t>(workers_.size()), kMembersMin);
  }
  // Over all workers, as they count at this moment.
  uint64_t active_flows(BackendId id) const;
  uint64_t active_sessions(BackendId id) const;

 private:
  uint64_t draw();
  uint32_t draw(uint32_t below);
  uint32_t next_turn(ServiceId id, const ServiceRecord& service);
  uint32_t less_loaded(uint32_t one, uint32_t other, const ServiceRecord& service,
                       const TablesView& tables) const;
  uint32_t least_loaded(const ServiceRecord& service, const TablesView& tables);

  std::span<const WorkerStats> workers_;
  const uint32_t number_;
  uint64_t random_;
  std::vector<uint32_t> next_;  // by ServiceId: the slot whose turn it is
};

}  // namespace sluice
