// What rise and fall make of verdicts, and when checks come: over real loopback sockets.
#include "controlplane/health.h"

#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include <boost/asio/steady_timer.hpp>
#include <gtest/gtest.h>

#include "tests/unit/probe_fixture.h"

namespace sluice {
namespace {

using HealthTest = ProbeFixture;

// ---- rise and fall ----

TEST(HealthCounterTest, TheFirstVerdictDecidesAtOnce) {
  HealthCounter good, bad;
  EXPECT_TRUE(good.record(true, 3, 3));
  EXPECT_EQ(good.health, Health::up);
  EXPECT_TRUE(bad.record(false, 3, 3));
  EXPECT_EQ(bad.health, Health::down);
}

TEST(HealthCounterTest, WhereUnknownCountsAsUpOnlyFallBadOnesInARowTakeItDown) {
  HealthCounter counter{Health::unknown, 0, 0, true};
  EXPECT_FALSE(counter.record(false, 2, 3));
  EXPECT_FALSE(counter.record(false, 2, 3));
  EXPECT_EQ(counter.health, Health::unknown);
  EXPECT_TRUE(counter.record(false, 2, 3));
  EXPECT_EQ(counter.health, Health::down);

  HealthCounter good{Health::unknown, 0, 0, true};
  EXPECT_FALSE(good.record(false, 2, 3));
  EXPECT_TRUE(good.record(true, 2, 3));
  EXPECT_EQ(good.health, Health::up);
}

TEST(HealthCounterTest, FallBadOnesInARowTakeItDownAndAGoodOneStartsTheCountAgain) {
  HealthCounter counter{Health::up};
  for (int round = 0; round < 5; round++) {
    EXPECT_FALSE(counter.record(false, 2, 3));
    EXPECT_FALSE(counter.record(false, 2, 3));
    EXPECT_FALSE(counter.record(true, 2, 3));
  }
  EXPECT_EQ(counter.health, Health::up);
  counter.record(false, 2, 3);
  counter.record(false, 2, 3);
  EXPECT_TRUE(counter.record(false, 2, 3));
  EXPECT_EQ(counter.health, Health::down);
}

TEST(HealthCounterTest, RiseGoodOnesInARowBringItUpAndABadOneStartsTheCountAgain) {
  HealthCounter counter{Health::down};
  EXPECT_FALSE(counter.record(true, 2, 3));
  EXPECT_FALSE(counter.record(false, 2, 3));
  EXPECT_FALSE(counter.record(true, 2, 3));
  EXPECT_TRUE(counter.record(true, 2, 3));
  EXPECT_EQ(counter.health, Health::up);
}

// ---- the checker ----

struct Seen {
  std::vector<Health> healths;
  std::vector<CheckCode> codes;
};

TEST_F(HealthTest, TheCheckerFollowsABackendDownAndUp) {
  Server server(io_, Server::Kind::answers, "HTTP/1.1 200 OK\r\n\r\n");
  Seen seen;
  HealthChecker checker(io_, 10, [&](BackendId id, const CheckResult& result, Health health) {
    EXPECT_EQ(id, BackendId{7});
    seen.codes.push_back(result.code);
    seen.healths.push_back(health);
  });
  CheckTarget wanted = target(server.port(), HealthConfig::Type::http);
  wanted.config.rise = 2;
  wanted.config.fall = 2;
  checker.watch(BackendId{7}, wanted, Health::unknown);
  run_until([&] { return !seen.healths.empty(); });
  EXPECT_EQ(seen.healths.front(), Health::up);
  server.say("HTTP/1.1 500 Oops\r\n\r\n");
  run_until([&] { return seen.healths.back() == Health::down; });
  const auto bad = std::count(seen.codes.begin(), seen.codes.end(), CheckCode::l7sts);
  EXPECT_EQ(bad, 2) << "fall = 2";
  server.say("HTTP/1.1 200 OK\r\n\r\n");
  run_until([&] { return seen.healths.back() == Health::up; });
}

TEST_F(HealthTest, ATakenOverHealthNeedsFallToChange) {
  Seen seen;
  HealthChecker checker(
      io_, 10, [&](BackendId, const CheckResult&, Health health) { seen.healths.push_back(health); });
  CheckTarget wanted = target(refusing_port(), HealthConfig::Type::tcp);
  wanted.config.fall = 3;
  checker.watch(BackendId{1}, wanted, Health::up);
  run_until([&] { return seen.healths.size() >= 3; });
  EXPECT_EQ(seen.healths[0], Health::up);
  EXPECT_EQ(seen.healths[1], Health::up);
  EXPECT_EQ(seen.healths[2], Health::down);
}

TEST_F(HealthTest, ABackendThatCountsAsUpBeforeItsFirstCheckNeedsFallToChange) {
  Seen seen;
  HealthChecker checker(
      io_, 10, [&](BackendId, const CheckResult&, Health health) { seen.healths.push_back(health); });
  CheckTarget wanted = target(refusing_port(), HealthConfig::Type::tcp);
  wanted.config.fall = 3;
  checker.watch(BackendId{1}, wanted, Health::unknown, true);
  run_until([&] { return seen.healths.size() >= 3; });
  EXPECT_EQ(seen.healths[0], Health::unknown);
  EXPECT_EQ(seen.healths[1], Health::unknown);
  EXPECT_EQ(seen.healths[2], Health::down);
}

TEST_F(HealthTest, AForgottenBackendIsNotReportedAndAnotherAddressStartsAfresh) {
  Server server(io_, Server::Kind::says_nothing);
  Seen seen;
  HealthChecker checker(
      io_, 10, [&](BackendId, const CheckResult&, Health health) { seen.healths.push_back(health); });
  const CheckTarget bad = target(refusing_port(), HealthConfig::Type::tcp);
  checker.watch(BackendId{1}, bad, Health::unknown);
  run_until([&] { return seen.healths.size() == 1; });
  EXPECT_EQ(seen.healths[0], Health::down);
  const CheckTarget good = target(server.port(), HealthConfig::Type::tcp);
  checker.watch(BackendId{1}, good, Health::unknown);
  run_until([&] { return seen.healths.size() == 2; });
  EXPECT_EQ(seen.healths[1], Health::up) << "one good check decides: nothing was known of this server";
  checker.forget(BackendId{1});
  EXPECT_FALSE(checker.watches(BackendId{1}));
  const size_t before = seen.healths.size();
  check(target(server.port(), HealthConfig::Type::http));  // the loop runs on for its 300 ms
  EXPECT_EQ(seen.healths.size(), before);
}

// More backends than may be checked at a time, among them ones that never answer: each gets its turn, never
// too many at once, and the others' results do not wait for the silent ones' for ever.
TEST_F(HealthTest, AtMostSoManyChecksRunAtATimeAndAllGetTheirTurn) {
  constexpr uint32_t kBackends = 60;
  Server answering(io_, Server::Kind::answers, "HTTP/1.1 200 OK\r\n\r\n");
  Server silent(io_, Server::Kind::says_nothing);
  std::vector<std::optional<Health>> health(kBackends);
  HealthChecker checker(io_, 4, [&](BackendId id, const CheckResult& result, Health h) {
    if (result.code != CheckCode::none) health[index(id)] = h;  // none: this machine was busy
  });
  for (uint32_t i = 0; i < kBackends; i++) {
    CheckTarget wanted = target((i % 10 == 0 ? silent : answering).port(), HealthConfig::Type::http);
    wanted.config.timeout = Milliseconds(50);
    checker.watch(BackendId{i}, wanted, Health::unknown);
  }
  run_until(
      [&] { return std::all_of(health.begin(), health.end(), [](const auto& h) { return h.has_value(); }); });
  for (uint32_t i = 0; i < kBackends; i++) {
    EXPECT_EQ(health[i], i % 10 == 0 ? Health::down : Health::up) << i;
  }
}

// ---- when checks come ----

class Watching : public ProbeFixture {
 protected:
  explicit Watching(uint32_t concurrent_max = 10)
      : checker_(io_, concurrent_max,
                 [this](BackendId, const CheckResult& result, Health) { codes_.push_back(result.code); }) {}
  uint64_t done(uint32_t id) const { return checker_.history(BackendId{id})->done; }

  std::vector<CheckCode> codes_;
  HealthChecker checker_;
};

// However long single checks take and whenever the loop stands still: each interval has its one place, and
// each place is either checked or counted as missed.
TEST_F(Watching, NoPlaceInTimeIsLostOrMoved) {
  Server server(io_, Server::Kind::says_nothing);
  CheckTarget wanted = target(server.port(), HealthConfig::Type::tcp);
  const auto begin = std::chrono::steady_clock::now();
  const auto places = [&] { return (std::chrono::steady_clock::now() - begin) / wanted.config.interval; };
  for (const Milliseconds jitter : {Milliseconds(0), Milliseconds(10)}) {
    wanted.config.jitter = jitter;
    checker_.watch(BackendId{static_cast<uint32_t>(jitter.count())}, wanted, Health::up);
  }
  run_for(Milliseconds(300));
  std::this_thread::sleep_for(std::chrono::milliseconds(200));  // ten places
  run_for(Milliseconds(500));
  for (const uint32_t id : {0u, 10u}) {
    const CheckHistory& history = *checker_.history(BackendId{id});
    EXPECT_GE(history.missed, 8u);
    // The first check is beside the places; one may be under way, one at the edge, one at the phase.
    EXPECT_NEAR(static_cast<double>(history.done + history.missed), static_cast<double>(places()), 3);
  }
  EXPECT_EQ(checker_.totals().missed,
            checker_.history(BackendId{0})->missed + checker_.history(BackendId{10})->missed);
}

// A backend whose checks end exactly when the next one is due is checked every time, not every other time.
TEST_F(Watching, ATimeoutAsLongAsTheIntervalLosesNoPlaces) {
  Server silent(io_, Server::Kind::says_nothing);
  CheckTarget wanted = target(silent.port(), HealthConfig::Type::http);
  wanted.config.timeout = wanted.config.interval = wanted.config.fast_interval = Milliseconds(100);
  checker_.watch(BackendId{1}, wanted, Health::down);
  run_until([&] { return done(1) >= 8; });
  EXPECT_LE(checker_.history(BackendId{1})->missed, 1u);
}

TEST_F(Watching, AHintIsFollowedByChecksUntilItIsSettled) {
  Server server(io_, Server::Kind::answers, "HTTP/1.1 200 OK\r\n\r\n");
  CheckTarget wanted = target(server.port(), HealthConfig::Type::http);
  wanted.config.interval = std::chrono::hours(1);
  wanted.config.fast_interval = Milliseconds(10);
  wanted.config.rise = 3;
  wanted.config.fall = 2;
  checker_.hint(BackendId{1});  // nobody
  checker_.watch(BackendId{1}, wanted, Health::unknown);
  run_until([&] { return done(1) == 1; });
  run_for(Milliseconds(60));
  EXPECT_EQ(done(1), 1u) << "settled: the next one is an hour away at most";
  checker_.hint(BackendId{1});
  checker_.hint(BackendId{1});  // the same suspicion
  run_until([&] { return done(1) == 4; });
  run_for(Milliseconds(60));
  EXPECT_EQ(done(1), 4u) << "rise good checks have answered it";
  // A suspicion that is right takes it down at the pace of fast_interval, not of the interval.
  server.say("HTTP/1.1 500 Oops\r\n\r\n");
  checker_.hint(BackendId{1});
  run_until([&] { return checker_.history(BackendId{1})->counter.health == Health::down; });
  EXPECT_EQ(done(1), 6u);
  EXPECT_EQ(checker_.history(BackendId{1})->last_bad.detail, "HTTP status 500");
  run_for(Milliseconds(60));
  EXPECT_EQ(done(1), 6u);
}

TEST_F(Watching, WhatCouldNotBeCheckedKeepsItsHealth) {
  CheckTarget wanted = target(refusing_port(), HealthConfig::Type::tcp);
  wanted.config.source = *IpAddress::parse("203.0.113.77");
  checker_.watch(BackendId{1}, wanted, Health::up);
  run_until([&] { return done(1) >= 5; });
  const CheckHistory& history = *checker_.history(BackendId{1});
  EXPECT_EQ(history.counter.health, Health::up);
  EXPECT_EQ(history.impossible, history.done);
  EXPECT_EQ(history.last_bad_ns, 0u);
}

class WatchingWithFewSockets : public Watching {
 protected:
  WatchingWithFewSockets() : Watching(8) {}
};

// Five times as many silent backends as sockets: without a share of its own the one that answers would get a
// turn as seldom as they do.
TEST_F(WatchingWithFewSockets, SilentBackendsDoNotStarveTheOthers) {
  constexpr uint32_t kSilent = 40;
  Server silent(io_, Server::Kind::says_nothing);
  Server answering(io_, Server::Kind::answers, "HTTP/1.1 200 OK\r\n\r\n");
  CheckTarget wanted = target(silent.port(), HealthConfig::Type::http);
  wanted.config.timeout = wanted.config.interval = wanted.config.fast_interval = Milliseconds(200);
  for (uint32_t id = 1; id <= kSilent; id++)
    checker_.watch(BackendId{id}, wanted, Health::down);
  const auto least = [&] {
    uint64_t fewest = UINT64_MAX;
    for (uint32_t id = 1; id <= kSilent; id++)
      fewest = std::min(fewest, done(id));
    return fewest;
  };
  run_until([&] { return least() >= 1; });  // now they are known to be silent
  checker_.watch(BackendId{0}, target(answering.port(), HealthConfig::Type::http), Health::up);
  const uint64_t before = least();
  run_until([&] { return least() >= before + 2; });
  EXPECT_GE(done(0), 20u);
  EXPECT_GT(checker_.totals().missed, 0u);
  EXPECT_LE(checker_.totals().running, 8u);
}

}  // namespace
}  // namespace sluice
