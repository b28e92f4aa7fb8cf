// Backends that seem to be gone before a check says so: their clients repeat SYNs
// (WorkerStats::syns_repeated) while those of the service's other backends do not.
//
// A hint, no verdict: it changes nobody's health. Clients repeat a SYN after a second (RFC 6298 2.1), so a
// dead backend that gets new connections is seen two or three seconds after it died. A flood of SYNs, or a
// loss before the balancer, makes repeats at all backends alike: no hint. A service of one backend has nobody
// to be compared with: its repeats count as they are.
//
// Owner: sluiced's one thread. look() once a second. Cost: two counters a backend and worker, in the order of
// their ids.
#pragma once

#include <cstdint>
#include <vector>

#include "controlplane/model.h"
#include "src/stats.h"

namespace sluice {

class SynWatch {
 public:
  // Sums over the last seconds, each second half as heavy as the one after it.
  struct Seen {
    double repeated = 0;  // SYNs
    double flows = 0;     // new ones
  };
  struct Change {
    BackendPlace place;
    bool suspect;
    Seen seen;
  };
  static constexpr double kRepeatedLeast = 4;  // fewer are chance
  static constexpr double kShareLeast = 0.25;  // repeats for each new flow
  static constexpr double kTimesOthers = 4;    // the share of the service's other backends

  // What differs from the model's Backend::suspect since the last look. The first one only takes the counters
  // down.
  std::vector<Change> look(const Model& model, const StatsSegment& stats);

 private:
  struct Watched {
    uint64_t repeated = 0;  // as the counters stood
    uint64_t flows = 0;
    Seen seen;
  };
  void take_down(const StatsSegment& stats, uint32_t count);

  std::vector<Watched> watched_;  // by BackendId
  bool has_looked_ = false;
};

}  // namespace sluice
