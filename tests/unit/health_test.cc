// What rise and fall make of verdicts, and when checks come: over real loopback sockets.
#include "controlplane/health.h"

#include <algorithm>
#include <memory>
#include <optional>
#include <string>
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

}  // namespace
}  // namespace sluice
