// What time and failures come to (policy.h), in the daemon: holds that end, weights that ramp, suspects; and
// the events that tell of it.
#include <algorithm>

#include <fmt/format.h>

#include "controlplane/daemon.h"
#include "controlplane/scale_watch.h"

namespace sluice {
namespace {

// Table builds of a tick that are for ramps: at 1 ms each a fifth of the loop's time at most.
constexpr uint32_t kRampsATick = 20;
constexpr uint64_t kSynWatchNs = 1'000'000'000;
constexpr uint64_t kResetRetryNs = 1'000'000'000;

struct Count {
  size_t ready = 0;
  size_t healthy = 0;
};

Count count(const Service& service) {
  Count count;
  for (const Backend& backend : service.backends) {
    if (backend.config.sorry || backend.admin != Admin::ready) continue;
    count.ready++;
    count.healthy += service.is_healthy(backend) ? 1 : 0;
  }
  return count;
}

std::string sorry_name(const Service& service) {
  const auto sorry = std::find_if(service.backends.begin(), service.backends.end(),
                                  [](const Backend& backend) { return backend.config.sorry; });
  return sorry == service.backends.end() ? "" : sorry->config.name;
}

// As things are now: a moment later than what the news are of.
Event event_of(const News& news, const Service& service) {
  using Kind = News::Kind;
  using Level = Event::Level;
  const std::string& name = news.service;
  const Count counted = count(service);
  const size_t ready = counted.ready, healthy = counted.healthy;
  const auto event = [&](Level level, const char* kind, std::string text) {
    Event made;
    made.level = level;
    made.kind = kind;
    made.service = name;
    made.backend = news.backend;
    made.text = std::move(text);
    made.details = {{"ready", ready}, {"healthy", healthy}};
    return made;
  };
  const std::string health = fmt::format("{} of {} ready backends are healthy", healthy, ready);
  switch (news.kind) {
    case Kind::panic:
      return event(
          Level::error, "service_panic",
          fmt::format("{}: panic, {}, fewer than min_healthy: all of them count as healthy", name, health));
    case Kind::panic_over:
      return event(Level::info, "service_panic_over", fmt::format("{}: panic is over, {}", name, health));
    case Kind::quorum_down:
      return event(Level::error, "quorum_down", fmt::format("{}: quorum lost, {}", name, health));
    case Kind::quorum_up:
      return event(Level::info, "quorum_up", fmt::format("{}: quorum is back, {}", name, health));
    case Kind::sorry:
      return event(
          Level::warning, "service_sorry",
          fmt::format("{}: new flows go to the sorry backend {}, {}", name, sorry_name(service), health));
    case Kind::sorry_over:
      return event(Level::info, "service_sorry_over",
                   fmt::format("{}: new flows go to the backends again, {}", name, health));
    case Kind::flapping: {
      const double hold_s = static_cast<double>(news.hold_ns) / 1e9;
      const FlapConfig& flap = service.config.policy.flap;
      Event made =
          event(Level::warning, "backend_flapping",
                fmt::format("{}/{} failed {} times within {:g} s: kept down for {:g} s", name, news.backend,
                            flap.count, static_cast<double>(flap.within.count()) / 1e3, hold_s));
      made.details["hold_s"] = hold_s;
      return made;
    }
    case Kind::stable:
      return event(Level::info, "backend_stable",
                   fmt::format("{}/{} is no longer kept down for flapping", name, news.backend));
  }
  return {};
}

}  // namespace

void Daemon::announce() {
  for (const News& news : model_.take_news()) {
    if (const Service* service = model_.find_service(news.service)) events_.add(event_of(news, *service));
  }
}

void Daemon::advance_policy(uint64_t now_ns) {
  if (model_.advance(now_ns, kRampsATick)) rollout_->publish_soon();
  announce();
  if (now_ns - syn_watched_ns_ < kSynWatchNs) return;
  syn_watched_ns_ = now_ns;
  watch_syns();
  tell_scale();
}

// Those whose time to drain is up.
void Daemon::reset_drained(uint64_t now_ns) {
  if (reset_failed_ns_ != 0 && now_ns - reset_failed_ns_ < kResetRetryNs) return;
  const Overrides& overrides = configuration_->overrides();
  std::vector<BackendEdit> edits;
  std::vector<Event> events;
  for (const OverrideKey& key : overrides.to_reset()) {
    const ResetDeadline reset = *overrides.find(key)->reset;
    const auto at = find_backend(key.first, key.second);
    if (reset.at_ns > now_ns || !at) continue;
    edits.push_back({*at, Admin::reset, std::nullopt, std::nullopt});
    Event event;
    event.kind = "drain_over";
    event.service = key.first;
    event.backend = key.second;
    event.text = fmt::format("{}/{} had {:g} s to drain: reset now", key.first, key.second,
                             static_cast<double>(reset.after_ms) / 1e3);
    events.push_back(std::move(event));
  }
  if (edits.empty()) return;
  if (const Result<Change> changed = edit_backends(edits); !changed) {
    if (reset_failed_ns_ == 0)
      note(Event::Level::error, "reset_failed",
           "drained for long enough, but not reset, will be tried again: " + changed.error().text());
    reset_failed_ns_ = now_ns;
    return;
  }
  reset_failed_ns_ = 0;
  for (Event& event : events)
    events_.add(std::move(event));
}

void Daemon::tell_scale() {
  if (dataplane_.stats() == nullptr) return;
  for (const ScaleChange& change : watch_scale(model_, *dataplane_.stats())) {
    const std::string& name = model_.services()[change.service].config.name;
    Event event;
    event.level = change.state == Scale::up ? Event::Level::warning : Event::Level::info;
    event.kind = change.state == Scale::up     ? "scale_up"
                 : change.state == Scale::down ? "scale_down"
                                               : "scale_ok";
    event.service = name;
    event.text = fmt::format("{}: {:.0f} % of what its backends may have: {}", name, change.percent,
                             change.state == Scale::up     ? "more of them are wanted"
                             : change.state == Scale::down ? "fewer of them would do"
                                                           : "enough of them, and not too many");
    event.details = {{"percent", change.percent}};
    events_.add(std::move(event));
    rollout_->publish_soon();
  }
}

void Daemon::watch_syns() {
  if (dataplane_.stats() == nullptr) return;
  for (const SynWatch::Change& change : syn_watch_.look(model_, *dataplane_.stats())) {
    model_.note_suspect(change.place, change.suspect);
    if (!change.suspect) continue;
    checker_->hint(model_.backend(change.place).id);
    Event event;
    event.level = Event::Level::warning;
    event.kind = "backend_suspect";
    event.service = model_.service_of(change.place).config.name;
    event.backend = model_.backend(change.place).config.name;
    event.text = fmt::format("{}/{} may be gone: of some {:.0f} new flows clients repeated {:.0f} SYNs",
                             event.service, event.backend, change.seen.flows, change.seen.repeated);
    event.details = {{"flows", change.seen.flows}, {"repeated", change.seen.repeated}};
    events_.add(std::move(event));
  }
}

}  // namespace sluice
