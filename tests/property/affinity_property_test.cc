// The promise of affinity under everything at once (affinity_world.h), packet by packet (affinity_oracle.h).
//
// 10 million connections of a million clients, 1,000 changes; and less of each other way that a service may
// be set. With a sanitizer a twentieth of the first.
#include <cstdio>
#include <memory>

#include <gtest/gtest.h>

#include "tests/property/affinity_world.h"

namespace sluice {
namespace {

#ifdef SLUICE_SANITIZED
constexpr uint32_t kPart = 20;
#else
constexpr uint32_t kPart = 1;
#endif

AffinitySetup small() {
  return {200'000, 20'000, 100, 4'000};
}

unsigned long long shown(uint64_t n) {
  return n;
}

// What all have to go through; the ways that only some take are the caller's to expect.
void run(const AffinitySetup& setup) {
  const auto world = std::make_unique<AffinityWorld>(setup);
  world->run();
  if (::testing::Test::HasFailure()) return;
  world->check_end();
  const Ways ways = world->oracle().ways;
  std::printf("%llu connections of %u clients, %u changes, %llu packets in %llu s; sessions rest for %u s\n",
              shown(world->made()), setup.clients, setup.changes, shown(world->packets()),
              shown(world->simulated_s()), world->idle_s());
  std::printf(
      "  new flows of live sessions: %llu at their backend (%llu where only a connection that went on kept "
      "it, %llu on one in drain or without weight, %llu from the other service, %llu from the other worker, "
      "%llu waited, %llu came back), %llu lent, %llu parts of a key's flow\n",
      shown(ways.met), shown(ways.by_refresh), shown(ways.on_drained), shown(ways.other_service),
      shown(ways.other_worker), shown(ways.waited), shown(ways.came_back), shown(ways.lent),
      shown(ways.joined));
  std::printf(
      "  moved: %llu sessions as their backend failed, %llu as it migrates, %llu flows as theirs was gone; "
      "squares of the spread by weight: %.3f\n",
      shown(ways.moved), shown(ways.migrated), shown(ways.flows_moved), world->oracle().spread());
  std::printf(
      "  over: %llu sessions (%llu of one packet; %llu came to another backend), %llu with their backend's "
      "removal; might have been: %llu were, %llu not; live at the end: %llu\n",
      shown(ways.over), shown(ways.over_on_trial), shown(ways.over_elsewhere), shown(ways.over_removed),
      shown(ways.between_anew), shown(ways.between), shown(world->live_at_end()));

  // Enough of each to mean something: parts of a thousand.
  const uint64_t some = setup.connections / 1'000;
  EXPECT_GT(ways.met, setup.connections / 4);
  EXPECT_GT(ways.by_refresh, some);
  EXPECT_GT(ways.on_drained, some);
  EXPECT_GT(ways.other_service, setup.connections / 10);
  EXPECT_GT(ways.other_worker, setup.connections / 10);
  EXPECT_GT(ways.migrated, some);
  EXPECT_GT(ways.flows_moved, some);
  EXPECT_GT(ways.over, setup.connections / 10);
  EXPECT_GT(ways.over_elsewhere, some);
  EXPECT_GT(ways.over_removed, some);
  EXPECT_GT(ways.between, some);
  EXPECT_GT(ways.between_anew, some / 10);
  EXPECT_LT(ways.between + ways.between_anew, setup.connections / 10) << "where either is right";
  EXPECT_GT(world->live_at_end(), setup.clients / 10);
  const bool rehashes = setup.on_failure == OnFailure::rehash;
  EXPECT_EQ(ways.moved > some, rehashes);
  EXPECT_EQ(ways.lent > some, !rehashes);
  EXPECT_EQ(ways.came_back > some, !rehashes);
  EXPECT_EQ(ways.waited > some, setup.on_failure == OnFailure::keep);
  EXPECT_EQ(ways.joined > some, setup.affinity == Affinity::key);
  EXPECT_GT(ways.over_on_trial, some);
  // By chance alone within a few hundredths where many move.
  if (rehashes) {
    const double margin = setup.connections > 1'000'000 ? 0.15 : 0.5;
    EXPECT_NEAR(world->oracle().spread(), 1, margin);
  }
}

// Proves, of sessions by client: no packet of a live flow and no connection of a live session goes to another
// backend than before, on either service of the group and with either worker, as long as that one is
// configured, healthy and not told to migrate; a session is live for its idle time after its last packet,
// whoever sent it, over not much later, and then chosen anew; whoever loses his backend gets one that takes
// new flows, by weight, all his connections the same; every packet is forwarded and counted, and no session
// is lost or doubled.
TEST(Affinity, clients) {
  run({10'000'000 / kPart, 1'000'000 / kPart, 1'000 / kPart * (kPart == 1 ? 1 : 4), 200'000 / kPart});
}
// The same of a prefix's addresses, a key's.
TEST(Affinity, prefixes) {
  AffinitySetup setup = small();
  setup.affinity = Affinity::prefix;
  run(setup);
}
TEST(Affinity, keys) {
  AffinitySetup setup = small();
  setup.affinity = Affinity::key;
  run(setup);
}
// A failed backend's clients wait for it; one in maintenance lends them.
TEST(Affinity, keep_by_rendezvous) {
  AffinitySetup setup = small();
  setup.method = Method::rendezvous;
  setup.on_failure = OnFailure::keep;
  run(setup);
}
// Its clients are lent, each time to the same one, and come back. With times of hours: flows are long_lived.
TEST(Affinity, return_by_minimal_over_days) {
  AffinitySetup setup = small();
  setup.method = Method::minimal;
  setup.on_failure = OnFailure::comes_back;
  setup.round_s = 1'700;
  run(setup);
}

}  // namespace
}  // namespace sluice
