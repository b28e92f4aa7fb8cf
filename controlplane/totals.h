// A service's or backend's counters over all workers, as they stand in the stats segment.
//
// Counters only grow, whoever an id belongs to: subtract the base_* values of the cold record (src/tables.h)
// to get what the present owner of the id did. Workers that once ran and no longer do count too, so a total
// never shrinks when a data plane restarts with fewer of them. Cost: one line per worker that ever ran.
#pragma once

#include <cstdint>

#include "src/stats.h"
#include "src/tables.h"

namespace sluice {

struct Totals {
  uint64_t packets = 0;
  uint64_t bytes = 0;
  uint64_t flows = 0;
};

namespace detail {

template <typename CountersOf>
Totals sum_workers(const StatsSegment& stats, const CountersOf& counters_of) {
  Totals sum;
  for (const WorkerStats& worker : stats.workers) {
    // A worker that never ran has no memory behind its counters yet; do not make the kernel provide it.
    if (worker.active.get() == 0 && worker.loops.get() == 0) continue;
    const auto& counters = counters_of(worker);
    sum.packets += counters.packets.get();
    sum.bytes += counters.bytes.get();
    sum.flows += counters.flows.get();
  }
  return sum;
}

template <typename GaugeOf>
uint64_t sum_gauge(const StatsSegment& stats, const GaugeOf& gauge_of) {
  uint64_t sum = 0;
  for (const WorkerStats& worker : stats.workers) {
    if (worker.active.get() != 0 || worker.loops.get() != 0) sum += gauge_of(worker).get();
  }
  return not_below_0(sum);
}

}  // namespace detail

inline Totals totals(const StatsSegment& stats, ServiceId id) {
  return detail::sum_workers(
      stats, [id](const WorkerStats& w) -> const auto& { return w.services[index(id)]; });
}

inline Totals totals(const StatsSegment& stats, BackendId id) {
  return detail::sum_workers(
      stats, [id](const WorkerStats& w) -> const auto& { return w.backends[index(id)]; });
}

// Gauges: nothing to subtract. Flows that live now.
inline uint64_t flows_active(const StatsSegment& stats, BackendId id) {
  return detail::sum_gauge(
      stats, [id](const WorkerStats& w) -> const auto& { return w.backends[index(id)].flows_active; });
}

// Sessions that name it now.
inline uint64_t sessions_active(const StatsSegment& stats, BackendId id) {
  return detail::sum_gauge(
      stats, [id](const WorkerStats& w) -> const auto& { return w.sessions_active[index(id)]; });
}

}  // namespace sluice
