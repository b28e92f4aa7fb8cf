#include "controlplane/health.h"

#include <algorithm>
#include <chrono>

#include "controlplane/probe_tools.h"
#include "src/segment.h"

namespace sluice {
namespace {

// Checks that are begun in one turn of the loop: results and clients get theirs in between.
constexpr uint32_t kStartsPerTurn = 64;
// Steps of the golden ratio fall evenly into the circle, however many there are (Knuth 6.4, theorem S).
constexpr uint64_t kPhaseStep = 0x9e3779b97f4a7c15;

// This share, in units of 2^-64, of a time.
std::chrono::nanoseconds share_of(std::chrono::nanoseconds time, uint64_t share) {
  return std::chrono::nanoseconds(
      static_cast<int64_t>(static_cast<double>(time.count()) * (static_cast<double>(share) * 0x1p-64)));
}

bool is_silence(CheckCode code) {
  return code == CheckCode::l4tout || code == CheckCode::l6tout || code == CheckCode::l7tout ||
         code == CheckCode::proctout;
}

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
  BackendId id;
  std::shared_ptr<const CheckTarget> target;
  CheckHistory history;
  std::unique_ptr<Probe> probe;  // while a check runs

  // Place n in time is `phase` + n intervals.
  Clock::time_point phase;
  int64_t place = -1;     // of the last check that had one, or the next one
  bool at_place = false;  // the next check, or the one that runs, is that of `place`

  Clock::time_point due;      // when the next check is, while is_due
  Clock::time_point started;  // the last one
  bool is_due = false;        // {due, id} is in due_
  bool waits = false;         // its id is in waiting_ or waiting_silent_
  bool was_silent = false;    // the last check ran into its timeout
  bool runs_as_silent = false;
  uint32_t suspicion = 0;  // good checks that are still wanted after a hint

  const HealthConfig& config() const { return target->config; }
  bool is_settled() const { return suspicion == 0 && history.counter.is_settled(); }
};

HealthChecker::HealthChecker(boost::asio::io_context& io, uint32_t concurrent_max, Handler on_result)
    : concurrent_max_(concurrent_max),
      silent_max_(concurrent_max - concurrent_max / 4),
      on_result_(std::move(on_result)),
      tools_(std::make_unique<ProbeTools>(io)),
      timer_(io) {}

HealthChecker::~HealthChecker() = default;

void HealthChecker::watch(BackendId id, const CheckTarget& target, Health health, bool unknown_is_up) {
  const auto known = watched_.find(id);
  CheckHistory history;
  history.counter = HealthCounter{health, 0, 0, unknown_is_up};
  if (known != watched_.end()) {
    Watched& old = *known->second;
    old.history.counter.unknown_is_up = unknown_is_up;
    if (*old.target == target) return;
    const bool same_question = old.target->address == target.address && old.target->port == target.port &&
                               old.target->config.type == target.config.type;
    if (same_question) history = old.history;
    forget(id);
  }
  auto fresh = std::make_unique<Watched>();
  fresh->id = id;
  fresh->target = std::make_shared<const CheckTarget>(target);
  fresh->history = history;
  const Clock::time_point now = Clock::now();
  fresh->phase = now + share_of(target.config.interval, next_phase_);
  next_phase_ += kPhaseStep;
  schedule(*fresh, now);
  watched_.emplace(id, std::move(fresh));
}

void HealthChecker::forget(BackendId id) {
  const auto found = watched_.find(id);
  if (found == watched_.end()) return;
  const std::unique_ptr<Watched> gone = std::move(found->second);
  watched_.erase(found);
  if (gone->is_due) due_.erase({gone->due, id});
  if (!gone->probe) return;
  no_longer_running(*gone);
  start_waiting();
}

void HealthChecker::hint(BackendId id) {
  const auto found = watched_.find(id);
  if (found == watched_.end()) return;
  Watched& watched = *found->second;
  if (watched.history.counter.health == Health::down) return;
  watched.suspicion = watched.config().rise;
  if (!watched.is_due) return;  // it runs or waits: that is at once
  const Clock::time_point soonest = std::max(watched.started + watched.config().fast_interval, Clock::now());
  if (watched.due <= soonest) return;
  watched.at_place = false;
  schedule(watched, soonest);
}

const CheckHistory* HealthChecker::history(BackendId id) const {
  const auto found = watched_.find(id);
  return found == watched_.end() ? nullptr : &found->second->history;
}

CheckerTotals HealthChecker::totals() const {
  CheckerTotals totals = totals_;
  totals.waiting = static_cast<uint32_t>(waiting_.size() + waiting_silent_.size());
  return totals;
}

// ---- When -------------------------------------------------------------------------------------------------

void HealthChecker::schedule(Watched& watched, Clock::time_point when) {
  if (watched.is_due) due_.erase({watched.due, watched.id});
  watched.due = when;
  watched.is_due = true;
  due_.insert({when, watched.id});
  arm();
}

void HealthChecker::schedule_next(Watched& watched) {
  const HealthConfig& config = watched.config();
  const Clock::time_point now = Clock::now();
  if (!watched.is_settled()) {
    watched.at_place = false;
    return schedule(watched, std::max(watched.started + config.fast_interval, now));
  }
  const std::chrono::nanoseconds interval = config.interval;
  // The last place that is too long ago to be made up for.
  const int64_t passed =
      now - watched.phase < interval / 2 ? -1 : (now - watched.phase - interval / 2) / interval;
  int64_t next = watched.place + 1;
  if (watched.at_place) {
    watched.history.missed += static_cast<uint64_t>(std::max<int64_t>(passed + 1 - next, 0));
    totals_.missed += static_cast<uint64_t>(std::max<int64_t>(passed + 1 - next, 0));
    next = std::max(next, passed + 1);
  } else {
    // Those before were not missed: it was checked in between.
    next = now < watched.phase ? 0 : (now - watched.phase) / interval + 1;
  }
  watched.place = next;
  watched.at_place = true;
  Clock::time_point when = watched.phase + next * interval;
  if (config.jitter.count() > 0) when += share_of(config.jitter, tools_->random());
  schedule(watched, when);
}

void HealthChecker::arm() {
  if (due_.empty() || (timer_at_ != Clock::time_point{} && timer_at_ <= due_.begin()->first)) return;
  timer_at_ = due_.begin()->first;
  timer_.expires_at(timer_at_);
  timer_.async_wait([this](const boost::system::error_code& error) {
    if (error) return;
    timer_at_ = {};
    run_due();
  });
}

void HealthChecker::run_due() {
  for (uint32_t begun = 0; begun < kStartsPerTurn && !due_.empty(); begun++) {
    const auto [when, id] = *due_.begin();
    if (when > Clock::now()) break;
    Watched& watched = *watched_.at(id);
    due_.erase(due_.begin());
    watched.is_due = false;
    due(watched);
  }
  arm();
}

void HealthChecker::due(Watched& watched) {
  if (may_start(watched)) return start(watched);
  watched.waits = true;
  (watched.was_silent ? waiting_silent_ : waiting_).push_back(watched.id);
}

// ---- Whether ----------------------------------------------------------------------------------------------

bool HealthChecker::may_start(const Watched& watched) const {
  return totals_.running < concurrent_max_ && (!watched.was_silent || silent_running_ < silent_max_);
}

void HealthChecker::start_waiting() {
  // By turns: neither kind waits for the other to have none left.
  for (bool any = true; any;) {
    any = start_first_of(waiting_);
    any = start_first_of(waiting_silent_) || any;
  }
}

bool HealthChecker::start_first_of(std::deque<BackendId>& queue) {
  while (!queue.empty()) {
    const auto found = watched_.find(queue.front());
    if (found == watched_.end() || !found->second->waits) {
      queue.pop_front();
      continue;
    }
    if (!may_start(*found->second)) return false;
    queue.pop_front();
    start(*found->second);
    return true;
  }
  return false;
}

// ---- Doing ------------------------------------------------------------------------------------------------

void HealthChecker::start(Watched& watched) {
  watched.waits = false;
  watched.started = Clock::now();
  const auto late = std::chrono::duration_cast<std::chrono::microseconds>(watched.started - watched.due);
  totals_.late_max_us = std::max(totals_.late_max_us, static_cast<uint64_t>(late.count()));
  totals_.started++;
  totals_.running++;
  watched.runs_as_silent = watched.was_silent;
  if (watched.runs_as_silent) silent_running_++;
  watched.probe = Probe::start(*tools_, watched.target,
                               [this, id = watched.id](const CheckResult& result) { finished(id, result); });
}

void HealthChecker::no_longer_running(const Watched& watched) {
  totals_.running--;
  if (watched.runs_as_silent) silent_running_--;
}

void HealthChecker::finished(BackendId id, const CheckResult& result) {
  Watched& watched = *watched_.at(id);
  watched.probe.reset();
  no_longer_running(watched);
  CheckHistory& history = watched.history;
  history.done++;
  history.last = result;
  history.last_ns = monotonic_ns();
  if (result.code == CheckCode::none) {
    history.impossible++;
  } else {
    history.impossible = 0;
    watched.was_silent = is_silence(result.code);
    if (result.is_good()) {
      watched.suspicion -= watched.suspicion > 0 ? 1 : 0;
    } else {
      history.last_bad = result;
      history.last_bad_ns = history.last_ns;
    }
    history.counter.record(result.is_good(), watched.config().rise, watched.config().fall);
    if (history.counter.health == Health::down) watched.suspicion = 0;
  }
  const Health health = history.counter.health;
  schedule_next(watched);
  start_waiting();
  on_result_(id, result, health);
}

}  // namespace sluice
