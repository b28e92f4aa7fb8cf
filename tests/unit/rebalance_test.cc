// Which sessions a rebalance moves: by activity, as few as needed, never one too far.
#include "controlplane/rebalance.h"

#include <cmath>
#include <map>
#include <numeric>
#include <random>
#include <set>

#include <gtest/gtest.h>

#include "src/session_layout.h"

namespace sluice {
namespace {

constexpr uint64_t kMany = 1'000'000;

// Sessions of a backend: `count` with these hashes' high bits.
std::vector<MovableSession> sessions_of(uint32_t backend, uint64_t count) {
  std::vector<MovableSession> sessions;
  for (uint64_t i = count; i > 0; i--)
    sessions.push_back({i * 1'000 + backend, BackendId{backend}});
  return sessions;
}

TEST(Rebalance, moves_what_is_too_much_to_who_has_too_little) {
  const std::vector<BackendActivity> backends = {{BackendId{1}, 100, 8'000, 80}, {BackendId{2}, 100, 0, 0}};
  const RebalancePlan plan = plan_rebalance(backends, {sessions_of(1, 80), {}}, kMany);
  ASSERT_EQ(plan.moves.size(), 40u);
  for (uint64_t i = 0; i < 40; i++)
    EXPECT_EQ(plan.moves[i], (SessionMove{(i + 1) * 1'000 + 1, BackendId{1}, BackendId{2}})) << "by hash";
  EXPECT_DOUBLE_EQ(imbalance(backends, std::vector<double>{8'000, 0}), 0.5);
  EXPECT_DOUBLE_EQ(imbalance(backends, plan.packets), 0);
  EXPECT_EQ(plan_rebalance(backends, {sessions_of(1, 80), {}}, 7).moves.size(), 7u);
  EXPECT_EQ(plan_rebalance(backends, {sessions_of(1, 3), {}}, kMany).moves.size(), 3u)
      << "the others may not";
}

TEST(Rebalance, resets_as_few_connections_as_it_can) {
  const std::vector<BackendActivity> backends = {{BackendId{1}, 100, 8'000, 80}, {BackendId{2}, 100, 0, 0}};
  std::vector<MovableSession> sessions = sessions_of(1, 80);
  for (MovableSession& session : sessions)
    session.is_live = session.hash % 2'000 < 1'000;
  sessions.resize(60);
  const RebalancePlan plan = plan_rebalance(backends, {sessions, {}}, kMany);
  ASSERT_EQ(plan.moves.size(), 40u);
  for (uint64_t i = 0; i < 40; i++)
    EXPECT_EQ(plan.moves[i].is_live, i >= 30) << "the quiet ones first, of which there are 30";
}

TEST(Rebalance, counts_packets_not_sessions) {
  const std::vector<BackendActivity> backends = {{BackendId{1}, 100, 5'000, 900},
                                                 {BackendId{2}, 100, 5'000, 10}};
  EXPECT_TRUE(plan_rebalance(backends, {sessions_of(1, 900), sessions_of(2, 10)}, kMany).moves.empty());
}

TEST(Rebalance, leaves_alone_what_is_even_enough_or_could_only_get_worse) {
  const std::vector<BackendActivity> even = {{BackendId{1}, 100, 1'049, 100}, {BackendId{2}, 100, 951, 100}};
  EXPECT_TRUE(plan_rebalance(even, {sessions_of(1, 100), {}}, kMany).moves.empty());
  // One session is all there is to do: elsewhere it would be as uneven.
  const std::vector<BackendActivity> one = {{BackendId{1}, 100, 1'000, 1}, {BackendId{2}, 100, 0, 0}};
  EXPECT_TRUE(plan_rebalance(one, {sessions_of(1, 1), {}}, kMany).moves.empty());
  const std::vector<BackendActivity> silent = {{BackendId{1}, 100, 0, 10}, {BackendId{2}, 100, 0, 0}};
  EXPECT_TRUE(plan_rebalance(silent, {sessions_of(1, 10), {}}, kMany).moves.empty());
  EXPECT_EQ(imbalance(silent, std::vector<double>{0, 0}), 0);
}

TEST(Rebalance, knows_weights_room_and_who_takes_no_new_ones) {
  // b3 drains: what it has is nobody's business, and it gets nothing.
  const std::vector<BackendActivity> backends = {
      {BackendId{1}, 300, 1'000, 100}, {BackendId{2}, 100, 3'000, 300}, {BackendId{3}, 0, 9'000, 900}};
  const RebalancePlan plan = plan_rebalance(backends, {{}, sessions_of(2, 300), sessions_of(3, 900)}, kMany);
  ASSERT_EQ(plan.moves.size(), 200u);
  for (const SessionMove& move : plan.moves) {
    EXPECT_EQ(move.from, BackendId{2});
    EXPECT_EQ(move.to, BackendId{1});
  }
  std::vector<BackendActivity> full = backends;
  full[0].room = 5;
  EXPECT_EQ(plan_rebalance(full, {{}, sessions_of(2, 300), {}}, kMany).moves.size(), 5u);
}

// Proves, for any activity: never more than asked for, never one that may not move, or twice; nobody ends
// farther from its due; what is left is what could not be moved; and the same input makes the same plan.
TEST(Rebalance, properties) {
  std::mt19937 random(5);
  uint64_t moved = 0;
  for (int round = 0; round < 2'000; round++) {
    const size_t count = 1 + random() % 12;
    std::vector<BackendActivity> backends;
    std::vector<std::vector<MovableSession>> movable;
    for (uint32_t i = 0; i < count; i++) {
      BackendActivity of;
      of.id = BackendId{i};
      of.weight = random() % 5 == 0 ? 0 : 1 + random() % 200;
      of.packets = random() % 4 == 0 ? 0 : random() % 100'000;
      of.sessions = random() % 200;
      if (random() % 3 == 0) of.room = random() % 20;
      movable.push_back(sessions_of(i, random() % 3 == 0 ? 0 : random() % (of.sessions + 1)));
      backends.push_back(of);
    }
    const uint64_t most = random() % 2 == 0 ? kMany : random() % 30;
    const RebalancePlan plan = plan_rebalance(backends, movable, most);
    moved += plan.moves.size();
    ASSERT_LE(plan.moves.size(), most);
    std::set<uint64_t> may, done;
    for (const auto& sessions : movable) {
      for (const MovableSession& session : sessions)
        may.insert(session.hash);
    }
    std::vector<uint64_t> gets(count, 0);
    for (const SessionMove& move : plan.moves) {
      ASSERT_TRUE(may.contains(move.hash));
      ASSERT_TRUE(done.insert(move.hash).second);
      ASSERT_NE(move.from, move.to);
      ASSERT_NE(backends[index(move.from)].weight, 0u);
      ASSERT_NE(backends[index(move.to)].weight, 0u);
      gets[index(move.to)]++;
    }
    const std::vector<double> due = packets_due(backends);
    std::vector<double> before;
    for (size_t i = 0; i < count; i++) {
      before.push_back(static_cast<double>(backends[i].packets));
      ASSERT_LE(gets[i], backends[i].room);
      ASSERT_EQ(gets[i], plan.gets[i]);
      ASSERT_LE(plan.gives[i], movable[i].size());
      if (backends[i].weight == 0) {
        ASSERT_EQ(plan.packets[i], before[i]);
      } else {
        ASSERT_LE(std::abs(plan.packets[i] - due[i]), std::abs(before[i] - due[i]) + 1e-6);
      }
    }
    if (!plan.moves.empty()) {
      ASSERT_LT(imbalance(backends, plan.packets), imbalance(backends, before));
    }
    for (auto& sessions : movable)
      std::shuffle(sessions.begin(), sessions.end(), random);
    ASSERT_EQ(plan_rebalance(backends, movable, most).moves, plan.moves);
  }
  EXPECT_GT(moved, 10'000u);
}

// Proves: a session's rest is longer than any connection's that it may have.
TEST(Rebalance, how_long_a_session_is_quiet_before_it_may_move) {
  ServiceRecord service{};
  service.protocol = wire::kProtoUdp;
  EXPECT_EQ(quiet_s(service), 0u);
  service.protocol = wire::kProtoTcp;
  service.session_idle_s = 3'600;
  service.idle_s[ServiceRecord::kSyn] = 30;
  service.idle_s[ServiceRecord::kEstablished] = 900;
  service.idle_s[ServiceRecord::kClosing] = 60;
  EXPECT_GT(quiet_s(service), 900 + refresh_s(3'600));
  service.idle_s[ServiceRecord::kEstablished] = 86'400;
  EXPECT_GT(quiet_s(service), 86'400u + 256 + 128);
}

}  // namespace
}  // namespace sluice
