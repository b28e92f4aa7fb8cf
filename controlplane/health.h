// Health checks of all backends: when each is checked next, and what its results make of its health.
//
// Owner: sluiced's one thread. A backend's first check starts at once; the ones after it are spread over the
// interval, each backend at its own phase, then come every interval (a check that takes longer delays the
// next one, checks of one backend never overlap). At most `concurrent_max` checks run at a time; the rest
// wait their turn in order, so thousands of backends cost as many timers and a bounded number of sockets.
//
// The first verdict of a backend in state `unknown` decides at once, but where unknown counts as up
// (`initially = "up"`) a bad one is only the first of `fall`: whoever gets traffic loses it by `fall` bad
// checks in a row, never by one. After that `rise` good checks in a row bring it up and `fall` bad ones in a
// row take it down; one of the other kind starts the count again.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <random>

#include <boost/asio/io_context.hpp>

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

 private:
  struct Watched;
  void arm(Watched& watched, boost::asio::chrono::steady_clock::time_point when);
  void due(Watched& watched);
  void start(Watched& watched);
  void finished(BackendId id, const CheckResult& result);
  void start_waiting();

  boost::asio::io_context& io_;
  const uint32_t concurrent_max_;
  const Handler on_result_;
  std::map<BackendId, std::unique_ptr<Watched>> watched_;
  std::deque<BackendId>
      waiting_;  // due, but concurrent_max_ are running; ids forgotten meanwhile are skipped
  uint32_t running_ = 0;
  std::minstd_rand phase_;
};

}  // namespace sluice
