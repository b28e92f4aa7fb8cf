// When a service should get more backends, and when it needs fewer: its `scale_up_at` and `scale_down_at`,
// for whoever scales it (hooks on the events scale_up, scale_down and scale_ok).
//
// How full: the flows, or if that is more, the sessions (where the service has some), of the backends that
// may serve, as a share of what they may have. A state is left only kScaleHysteresisPercent beyond where it
// began, so that nobody is told each second; while no backend with a limit may serve, it stays as it is.
//
// The states are the model's, and go into the tables with the next generation: a successor tells nothing
// twice. Once a second; costs a counter or two a backend of services that ask for it.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "controlplane/model.h"
#include "src/stats.h"

namespace sluice {

inline constexpr double kScaleHysteresisPercent = 5;

struct ScaleChange {
  uint32_t service;  // its position in Model::services()
  Scale state;
  double percent;  // how full it is
};
// What differs from what the model says was told; then it says so. To be published soon.
std::vector<ScaleChange> watch_scale(Model& model, const StatsSegment& stats);

// How full a service is; nothing when none of its backends that may serve has a limit.
std::optional<double> fill_percent(const Service& service, const StatsSegment& stats);

}  // namespace sluice
