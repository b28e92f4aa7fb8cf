#include "controlplane/health.h"

#include <boost/asio/steady_timer.hpp>

namespace sluice {
namespace {

using Clock = boost::asio::chrono::steady_clock;

}  // namespace

bool HealthCounter::record(bool good, uint32_t rise, uint32_t fall) {
  good_in_a_row = good ? good_in_a_row + 1 : 0;
  bad_in_a_row = good ? 0 : bad_in_a_row + 1;
  const Health before = health;
  if (health == Health::unknown) {
    if (good) {
      health = Health::up;
    } else if (!unknown_is_up || bad_in_a_row >= fall) {
      health = Health::down;
    }
  } else if (health == Health::down && good_in_a_row >= rise) {
    health = Health::up;
  } else if (health == Health::up && bad_in_a_row >= fall) {
    health = Health::down;
  }
  return health != before;
}

struct HealthChecker::Watched {
  Watched(boost::asio::io_context& io, BackendId backend) : id(backend), timer(io) {}

  BackendId id;
  CheckTarget target;
  HealthCounter counter;
  boost::asio::steady_timer timer;
  std::unique_ptr<Probe> probe;  // while a check runs
  Clock::time_point started;
  bool waits = false;      // its id is in waiting_
  bool has_phase = false;  // its place within the interval is chosen
};

HealthChecker::HealthChecker(boost::asio::io_context& io, uint32_t concurrent_max, Handler on_result)
    : io_(io),
      concurrent_max_(concurrent_max),
      on_result_(std::move(on_result)),
      phase_(std::random_device()()) {}

HealthChecker::~HealthChecker() = default;

void HealthChecker::watch(BackendId id, const CheckTarget& target, Health health, bool unknown_is_up) {
  std::unique_ptr<Watched>& slot = watched_[id];
  if (slot) slot->counter.unknown_is_up = unknown_is_up;
  if (slot && slot->target == target) return;
  const bool same_question = slot && slot->target.address == target.address &&
                             slot->target.port == target.port &&
                             slot->target.config.type == target.config.type;
  const HealthCounter counter = same_question ? slot->counter : HealthCounter{health, 0, 0, unknown_is_up};
  forget(id);
  std::unique_ptr<Watched>& fresh = watched_[id];
  fresh = std::make_unique<Watched>(io_, id);
  fresh->target = target;
  fresh->counter = counter;
  arm(*fresh, Clock::now());
}

void HealthChecker::forget(BackendId id) {
  const auto found = watched_.find(id);
  if (found == watched_.end()) return;
  const bool was_running = found->second && found->second->probe;
  watched_.erase(found);
  if (!was_running) return;
  running_--;
  start_waiting();
}

void HealthChecker::arm(Watched& watched, Clock::time_point when) {
  watched.timer.expires_at(when);
  // An expiry that was queued just before the timer died carries no error: so the backend is looked up, and
  // must be the one whose timer this was.
  watched.timer.async_wait(
      [this, id = watched.id, timer = &watched.timer](const boost::system::error_code& error) {
        if (error) return;
        const auto found = watched_.find(id);
        if (found != watched_.end() && &found->second->timer == timer) due(*found->second);
      });
}

void HealthChecker::due(Watched& watched) {
  if (watched.waits || watched.probe) return;
  if (running_ >= concurrent_max_) {
    watched.waits = true;
    waiting_.push_back(watched.id);
    return;
  }
  start(watched);
}

void HealthChecker::start(Watched& watched) {
  running_++;
  watched.started = Clock::now();
  watched.probe = Probe::start(io_, watched.target,
                               [this, id = watched.id](const CheckResult& result) { finished(id, result); });
}

void HealthChecker::finished(BackendId id, const CheckResult& result) {
  Watched& watched = *watched_.at(id);
  watched.probe.reset();
  running_--;
  const HealthConfig& config = watched.target.config;
  if (result.code != CheckCode::none) watched.counter.record(result.is_good(), config.rise, config.fall);

  Clock::time_point next = watched.started + config.interval;
  if (!watched.has_phase) {
    watched.has_phase = true;
    const auto interval_us = std::chrono::microseconds(config.interval).count();
    next = watched.started +
           std::chrono::microseconds(std::uniform_int_distribution<int64_t>(0, interval_us)(phase_));
  }
  arm(watched, std::max(next, Clock::now()));
  const Health health = watched.counter.health;
  start_waiting();
  on_result_(id, result, health);
}

void HealthChecker::start_waiting() {
  while (running_ < concurrent_max_ && !waiting_.empty()) {
    const auto found = watched_.find(waiting_.front());
    waiting_.pop_front();
    if (found == watched_.end() || !found->second->waits) continue;
    found->second->waits = false;
    start(*found->second);
  }
}

}  // namespace sluice
