#include "controlplane/scale_watch.h"

#include <algorithm>

#include "controlplane/totals.h"

namespace sluice {

std::optional<double> fill_percent(const Service& service, const StatsSegment& stats) {
  uint64_t flows = 0, flows_max = 0, sessions = 0, sessions_max = 0;
  // Without sessions max_sessions limits nothing.
  const bool counts_sessions = has_sessions(service.config.affinity);
  for (const Backend& backend : service.backends) {
    if (!service.takes_new(backend)) continue;
    if (backend.config.max_flows != 0) {
      flows += flows_active(stats, backend.id);
      flows_max += backend.config.max_flows;
    }
    if (counts_sessions && backend.config.max_sessions != 0) {
      sessions += sessions_active(stats, backend.id);
      sessions_max += backend.config.max_sessions;
    }
  }
  if (flows_max + sessions_max == 0) return std::nullopt;
  const auto percent = [](uint64_t used, uint64_t most) {
    return most == 0 ? 0.0 : 100.0 * static_cast<double>(used) / static_cast<double>(most);
  };
  return std::max(percent(flows, flows_max), percent(sessions, sessions_max));
}

std::vector<ScaleChange> watch_scale(Model& model, const StatsSegment& stats) {
  std::vector<ScaleChange> changes;
  for (uint32_t i = 0; i < model.services().size(); i++) {
    const Service& service = model.services()[i];
    const ServiceConfig& config = service.config;
    const Scale before = service.scale;
    if (config.scale_up_percent == 0 && config.scale_down_percent == 0) {
      if (before != Scale::ok) model.set_scale(i, Scale::ok);
      continue;
    }
    const std::optional<double> percent = fill_percent(service, stats);
    // All of them drain, or are down: nothing says that what was told is over.
    if (!percent) continue;
    // Of a small threshold half: it must be possible to get below.
    const double up_hysteresis = std::min<double>(kScaleHysteresisPercent, config.scale_up_percent / 2.0);
    const double up_at = config.scale_up_percent - (before == Scale::up ? up_hysteresis : 0);
    const double down_at = config.scale_down_percent + (before == Scale::down ? kScaleHysteresisPercent : 0);
    const Scale now = config.scale_up_percent != 0 && *percent >= up_at       ? Scale::up
                      : config.scale_down_percent != 0 && *percent <= down_at ? Scale::down
                                                                              : Scale::ok;
    if (now == before) continue;
    model.set_scale(i, now);
    changes.push_back({i, now, *percent});
  }
  return changes;
}

}  // namespace sluice
