// Health checks of all backends: when each is checked next, and what its results make of its health.
//
// Owner: sluiced's one thread. Each backend has its places in time, one an interval, at a phase of its own:
// phases are spread evenly, and no check moves the next one, so thousands of backends never gather. A check
// is due at its place (plus jitter); places that have passed by more than half an interval when the check
// before them ends are skipped and counted as missed. Checks of one backend never overlap. All times are
// CLOCK_MONOTONIC's: the wall clock may jump as it likes.
//
// The first check begins at once. While a backend is not settled (unknown, suspected by a hint, or with
// verdicts against its health) it is checked every `fast_interval` instead, and then falls back to its
// places.
//
// At most `concurrent_max` checks run at a time; the rest wait their turn. Those of backends that were silent
// the last time, so that they will probably run into their timeout again, may take three quarters of that
// only: any number of dead backends leaves the others a quarter, whatever the timeouts.
//
// The first verdict of a backend in state `unknown` decides at once, but where unknown counts as up
// (`initially = "up"`) a bad one is only the first of `fall`: whoever gets traffic loses it by `fall` bad
// checks in a row, never by one. After that `rise` good checks in a row bring it up and `fall` bad ones in a
// row take it down; one of the other kind starts the count again.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <set>
#include <unordered_map>
#include <utility>

#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>

#include "controlplane/probe.h"
#include "src/tables.h"

namespace sluice {

// Rise and fall of one backend; no clock, no socket.
struct HealthCounter {
  Health health = Health::unknown;
  uint32_t good_in_a_row = 0;
  uint32_t bad_in_a_row = 0;
  bool unknown_is_up = false;  // it gets traffic while `health` is unknown

  // Counts one verdict; true when `health` changed by it.
  bool record(bool good, uint32_t rise, uint32_t fall);
  // False: the last verdicts speak for another health.
  bool is_settled() const {
    return (health == Health::up && bad_in_a_row == 0) || (health == Health::down && good_in_a_row == 0);
  }
};

// What was seen of one backend since it has been watched.
struct CheckHistory {
  CheckResult last;      // code none: no verdict, with the reason in `detail`
  CheckResult last_bad;  // the last that was neither good nor without a verdict
  uint64_t last_ns = 0;  // CLOCK_MONOTONIC of the end of `last`; 0: none yet
  uint64_t last_bad_ns = 0;
  uint64_t done = 0;        // checks that ended, with a verdict or without
  uint64_t missed = 0;      // places in time without a check: this host was busy, or too many were waiting
  uint32_t impossible = 0;  // checks in a row without a verdict
  HealthCounter counter;
};

struct CheckerTotals {
  uint64_t started = 0;
  uint64_t missed = 0;
  uint64_t late_max_us = 0;  // the most that a check began after its time, since forget_late_max()
  uint32_t running = 0;
  uint32_t waiting = 0;
};

class HealthChecker {
 public:
  // After every check, with the health it leads to. May call the checker's own functions.
  using Handler = std::function<void(BackendId, const CheckResult&, Health)>;
  HealthChecker(boost::asio::io_context& io, uint32_t concurrent_max, Handler on_result);
  ~HealthChecker();

  // Checks this backend from now on. `health` is where it starts (taken over from a predecessor, or unknown);
  // for one that is checked already it is used only when the target's address, port or kind of check differs.
  // `unknown_is_up`: as in HealthCounter.
  void watch(BackendId id, const CheckTarget& target, Health health, bool unknown_is_up = false);
  void forget(BackendId id);
  bool watches(BackendId id) const { return watched_.count(id) != 0; }

  // Somebody suspects this backend: it is checked at once (but no sooner than fast_interval after the last
  // check began), and every fast_interval until `rise` checks in a row were good, or it is down. Nothing, for
  // a backend that is not watched. O(log n): may be called for every lost packet.
  void hint(BackendId id);

  // nullptr: not watched. Valid until the loop goes on.
  const CheckHistory* history(BackendId id) const;
  CheckerTotals totals() const;
  void forget_late_max() { totals_.late_max_us = 0; }

 private:
  using Clock = boost::asio::chrono::steady_clock;
  struct Watched;

  void schedule(Watched& watched, Clock::time_point when);
  void schedule_next(Watched& watched);
  void arm();
  void run_due();
  void due(Watched& watched);
  bool may_start(const Watched& watched) const;
  void start(Watched& watched);
  void finished(BackendId id, const CheckResult& result);
  void start_waiting();
  bool start_first_of(std::deque<BackendId>& queue);
  void no_longer_running(const Watched& watched);

  const uint32_t concurrent_max_;
  const uint32_t silent_max_;  // of those, for backends that were silent
  const Handler on_result_;
  const std::unique_ptr<ProbeTools> tools_;
  std::unordered_map<BackendId, std::unique_ptr<Watched>> watched_;
  std::set<std::pair<Clock::time_point, BackendId>> due_;
  boost::asio::steady_timer timer_;  // for the first of due_
  Clock::time_point timer_at_ = {};  // what it is armed for; {}: not armed
  // Due, but too many are running. Ids forgotten meanwhile are skipped.
  std::deque<BackendId> waiting_, waiting_silent_;
  uint64_t next_phase_ = 0;  // as a fraction of the interval, in units of 2^-64
  CheckerTotals totals_;
  uint32_t silent_running_ = 0;
};

}  // namespace sluice
