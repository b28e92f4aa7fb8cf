// The data plane's counters of a service or a backend, summed over all workers ever, less what their id had
// counted for a predecessor of the same id (ServiceCold / BackendCold base_*).
//
// Cost: a cache line or two a worker.
#pragma once

#include <algorithm>
#include <cstdint>

#include "controlplane/daemon.h"
#include "src/stats.h"

namespace sluice {

// Calls visit(WorkerStats) for every worker that ever ran: counters of earlier runs stay. The others have no
// memory behind their counters, and reading must not make the kernel provide it.
template <typename Visit>
void for_each_worker(const StatsSegment* stats, const Visit& visit) {
  if (stats == nullptr) return;
  for (const WorkerStats& worker : stats->workers) {
    if (worker.active.get() != 0 || worker.loops.get() != 0) visit(worker);
  }
}

// A counter never counts backwards for the reader, not even where id and segment do not belong together.
inline uint64_t less_base(uint64_t sum, uint64_t base) {
  return sum - std::min(sum, base);
}

struct ServiceSums {
  uint64_t packets = 0, bytes = 0, flows = 0;
};
inline ServiceSums sums_of(const Daemon& daemon, const Service& service) {
  ServiceSums sums;
  for_each_worker(daemon.dataplane().stats(), [&](const WorkerStats& worker) {
    const ServiceCounters& counters = worker.services[index(service.id)];
    sums.packets += counters.packets.get();
    sums.bytes += counters.bytes.get();
    sums.flows += counters.flows.get();
  });
  const ServiceCold& cold = daemon.publisher().current().service_cold(service.id);
  return {less_base(sums.packets, cold.base_packets), less_base(sums.bytes, cold.base_bytes),
          less_base(sums.flows, cold.base_flows)};
}

struct BackendSums {
  uint64_t packets = 0, bytes = 0, flows = 0;
  uint64_t flows_active = 0;  // gauges
  uint64_t sessions_active = 0;
};
inline BackendSums sums_of(const Daemon& daemon, const Backend& backend) {
  BackendSums sums;
  for_each_worker(daemon.dataplane().stats(), [&](const WorkerStats& worker) {
    const BackendCounters& counters = worker.backends[index(backend.id)];
    sums.packets += counters.packets.get();
    sums.bytes += counters.bytes.get();
    sums.flows += counters.flows.get();
    sums.flows_active += counters.flows_active.get();
    sums.sessions_active += worker.sessions_active[index(backend.id)].get();
  });
  const BackendCold& cold = daemon.publisher().current().backend_cold(backend.id);
  return {less_base(sums.packets, cold.base_packets), less_base(sums.bytes, cold.base_bytes),
          less_base(sums.flows, cold.base_flows), sums.flows_active, not_below_0(sums.sessions_active)};
}

// How many sessions more it may have (max_sessions); UINT64_MAX: as many as come. What others make at this
// instant is not in it.
inline uint64_t session_room(const Daemon& daemon, const Backend& backend) {
  const uint64_t most = backend.config.max_sessions;
  return most == 0 ? UINT64_MAX : most - std::min(most, sums_of(daemon, backend).sessions_active);
}

// Over all workers.
struct SessionSums {
  uint64_t active = 0, made = 0, moved = 0, ended = 0, full = 0, keyless = 0;
};
inline SessionSums session_sums(const StatsSegment* stats) {
  SessionSums sums;
  for_each_worker(stats, [&](const WorkerStats& worker) {
    sums.active += worker.sessions.active.get();
    sums.made += worker.sessions.made.get();
    sums.moved += worker.sessions.moved.get();
    sums.ended += worker.sessions.ended.get();
    sums.full += worker.sessions.full.get();
    sums.keyless += worker.sessions.keyless.get();
  });
  sums.active = not_below_0(sums.active);
  return sums;
}

}  // namespace sluice
