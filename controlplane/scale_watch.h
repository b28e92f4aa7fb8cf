// When a service should get more backends, and when it needs fewer: its `scale_up_at` and `scale_down_at`,
// for whoever scales it (hooks on the events scale_up, scale_down and scale_ok).
//
// How full: the flows, or if that is more, the sessions, of the backends that may serve, as a share of what
// they may have. A state is left only kHysteresisPercent beyond where it began, so that nobody is told each
// second; while no backend with a limit may serve, it stays as it is.
//
// Owner: sluiced's one thread. look() once a second; costs a counter or two a backend of services that ask
// for it.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "controlplane/model.h"
#include "src/stats.h"

namespace sluice {

class ScaleWatch {
 public:
  enum class State : uint8_t { ok, up, down };
  struct Change {
    std::string service;
    State state;
    double percent;  // how full it is
  };
  static constexpr double kHysteresisPercent = 5;

  // What differs from the last look.
  std::vector<Change> look(const Model& model, const StatsSegment& stats);

 private:
  std::map<std::string, State> states_;  // of services that ask for it and are not ok
};

// How full a service is; nothing when none of its backends that may serve has a limit.
std::optional<double> fill_percent(const Service& service, const StatsSegment& stats);

}  // namespace sluice
