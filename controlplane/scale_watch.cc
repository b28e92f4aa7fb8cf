#include "controlplane/scale_watch.h"

#include <algorithm>

#include "controlplane/totals.h"

namespace sluice {

std::optional<double> fill_percent(const Service& service, const StatsSegment& stats) {
  uint64_t flows = 0, flows_max = 0, sessions = 0, sessions_max = 0;
  for (const Backend& backend : service.backends) {
    if (!service.takes_new(backend)) continue;
    if (backend.config.max_flows != 0) {
      flows += flows_active(stats, backend.id);
      flows_max += backend.config.max_flows;
    }
    if (backend.config.max_sessions != 0) {
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

std::vector<ScaleWatch::Change> ScaleWatch::look(const Model& model, const StatsSegment& stats) {
  std::vector<Change> changes;
  std::map<std::string, State> states;
  for (const Service& service : model.services()) {
    const ServiceConfig& config = service.config;
    if (config.scale_up_percent == 0 && config.scale_down_percent == 0) continue;
    const std::optional<double> percent = fill_percent(service, stats);
    const auto known = states_.find(config.name);
    if (!percent) {
      // All of them drain, or are down: nothing says that what was told is over.
      if (known != states_.end()) states.insert(*known);
      continue;
    }
    const State before = known == states_.end() ? State::ok : known->second;
    // Of a small threshold half: it must be possible to get below.
    const double up_hysteresis = std::min<double>(kHysteresisPercent, config.scale_up_percent / 2.0);
    const double up_at = config.scale_up_percent - (before == State::up ? up_hysteresis : 0);
    const double down_at = config.scale_down_percent + (before == State::down ? kHysteresisPercent : 0);
    const State now = config.scale_up_percent != 0 && *percent >= up_at       ? State::up
                      : config.scale_down_percent != 0 && *percent <= down_at ? State::down
                                                                              : State::ok;
    if (now != State::ok) states.emplace(config.name, now);
    if (now != before) changes.push_back({config.name, now, *percent});
  }
  states_ = std::move(states);
  return changes;
}

}  // namespace sluice
