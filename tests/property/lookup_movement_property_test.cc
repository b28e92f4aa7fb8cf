// How much of the lookup table of each method moves when members come, go or get another weight.
#include <algorithm>
#include <cstdio>
#include <iterator>
#include <map>
#include <span>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include "tests/property/lookup_tables.h"

namespace sluice {
namespace {

using namespace test;

// Slots that changed hands, besides those from `who` (before) and to `who` (after).
uint32_t moved_between_others(const std::vector<std::string>& before, const std::vector<std::string>& after,
                              const std::string& who) {
  uint32_t moved = 0;
  for (size_t slot = 0; slot < before.size(); slot++)
    moved += before[slot] != after[slot] && before[slot] != who && after[slot] != who;
  return moved;
}

uint32_t moved(const std::vector<std::string>& before, const std::vector<std::string>& after) {
  return moved_between_others(before, after, "");
}

// The definition of consistent hashing: a member's coming or going moves its own slots only; and so does
// another weight.
RC_GTEST_PROP(LookupTableMovement, OfRendezvousOnlyTheChangedMembersSlots, ()) {
  auto weights = *some_weights(2);
  const auto slots = *any_slots();
  const auto before = owners_by(Method::rendezvous, weights, slots);
  const auto who = any_of(weights);
  auto reweighted = weights;
  reweighted[who] = *rc::gen::inRange(1u, limits::kWeightMax + 1);
  RC_ASSERT(moved_between_others(before, owners_by(Method::rendezvous, reweighted, slots), who) == 0u);
  const bool grew = reweighted[who] >= weights[who];
  const auto after = owners_by(Method::rendezvous, reweighted, slots);
  for (size_t slot = 0; slot < slots; slot++)
    RC_ASSERT(before[slot] == after[slot] || (grew ? after[slot] : before[slot]) == who);
  weights.erase(who);
  RC_ASSERT(moved_between_others(before, owners_by(Method::rendezvous, weights, slots), who) == 0u);
}

// As long as the points of a unit of weight stay as many.
RC_GTEST_PROP(LookupTableMovement, OfARingOnlyTheChangedMembersSlots, ()) {
  const auto keys = *rc::gen::suchThat(
      rc::gen::container<std::map<std::string, uint32_t>>(any_key(), rc::gen::inRange(50u, 1'000u)),
      [](const Weights& weights) { return weights.size() >= 2; });
  Weights weights = keys;
  const auto slots = *any_slots();
  const auto before = owners_by(Method::ring, weights, slots);
  const auto who = any_of(weights);
  weights[who] = *rc::gen::inRange(50u, 1'000u);
  RC_ASSERT(moved_between_others(before, owners_by(Method::ring, weights, slots), who) == 0u);
  weights.erase(who);
  RC_ASSERT(moved_between_others(before, owners_by(Method::ring, weights, slots), who) == 0u);
}

// What modulo is there to be compared with: of n members without weights one goes, and slot i moves unless i
// modulo n and modulo n - 1 are the same member.
TEST(LookupTableMovement, OfModuloNearlyAll) {
  Weights weights = equal_weights(100);
  const auto before = owners_by(Method::modulo, weights, limits::kLookupSlotsDefault);
  weights.erase("backend-50");
  const auto after = owners_by(Method::modulo, weights, limits::kLookupSlotsDefault);
  EXPECT_NEAR(moved(before, after) / 65'537.0, 0.99, 0.005);
}

struct Change {
  const char* what;
  size_t members;
  bool mixed;      // weights of 1 to 200 instead of 100 each
  double percent;  // of its weight that the member keeps; 0: it goes
};

// The share of slots that moves, on average over whom it hits; the same cases for each method.
double share_moved(Method method, const Change& change, uint32_t slots, uint32_t trials) {
  Weights weights = equal_weights(static_cast<uint32_t>(change.members));
  if (change.mixed) {
    uint64_t n = 0;
    for (auto& [key, weight] : weights)
      weight = 1 + static_cast<uint32_t>(scale(draw(1, n++), 200));
  }
  const auto before = owners_by(method, weights, slots);
  uint64_t sum = 0;
  for (uint32_t trial = 0; trial < trials; trial++) {
    Weights after = weights;
    const auto hit = std::next(after.begin(), static_cast<int>(trial * 37 % change.members));
    if (change.percent == 0) {
      after.erase(hit);
    } else {
      hit->second = std::max(1u, static_cast<uint32_t>(hit->second * change.percent / 100));
    }
    sum += moved(before, owners_by(method, after, slots));
  }
  return static_cast<double>(sum) / trials / slots;
}

// The figures that `minimal` is there for; input is fixed, so they are, too.
TEST(LookupTableMovement, OfMinimalLessThanOfMaglev) {
  const Change changes[] = {
      {"1 of 10 goes", 10, false, 0},
      {"1 of 100 goes", 100, false, 0},
      {"1 of 1,000 goes", 1'000, false, 0},
      {"1 of 100: weight to half", 100, false, 50},
      {"1 of 1,000: weight to 90 %", 1'000, false, 90},
      {"1 of 1,000: weight to half", 1'000, false, 50},
      {"1 of 10 goes, mixed weights", 10, true, 0},
      {"1 of 100 goes, mixed weights", 100, true, 0},
      {"1 of 1,000 goes, mixed weights", 1'000, true, 0},
      {"1 of 100: weight to 90 %, mixed", 100, true, 90},
      {"1 of 100: weight to 110 %, mixed", 100, true, 110},
      {"1 of 1,000: weight to 90 %, mixed", 1'000, true, 90},
      {"1 of 1,000: weight to 110 %, mixed", 1'000, true, 110},
  };
  std::printf("%-36s %9s %9s %11s\n", "slots moved, of 65,537", "Maglev", "minimal", "rendezvous");
#ifdef SLUICE_SANITIZED
  const size_t count = 2;  // averages say nothing about memory
#else
  const size_t count = std::size(changes);
#endif
  for (const Change& change : std::span(changes).first(count)) {
    const double maglev = share_moved(Method::maglev, change, limits::kLookupSlotsDefault, 16);
    const double minimal = share_moved(Method::minimal, change, limits::kLookupSlotsDefault, 16);
    const double rendezvous = share_moved(Method::rendezvous, change, limits::kLookupSlotsDefault, 4);
    std::printf("%-36s %8.3f%% %8.3f%% %10.3f%%\n", change.what, 100 * maglev, 100 * minimal,
                100 * rendezvous);
    EXPECT_LT(minimal, maglev) << change.what;
  }
}

// Over any cases of some density: not in each one, but together.
TEST(LookupTableMovement, OfMinimalLessThanOfMaglevOverRandomCases) {
  uint64_t of_maglev = 0, of_minimal = 0;
  uint64_t n = 0;
  const auto random = [&](uint64_t below) { return scale(draw(7, n++), below); };
  for (int i = 0; i < 300; i++) {
    Weights weights;
    const uint64_t members = 2 + random(60);
    while (weights.size() < members)
      weights["b" + std::to_string(random(100'000))] = static_cast<uint32_t>(1 + random(300));
    Weights after = weights;
    const auto hit = std::next(after.begin(), static_cast<int>(random(members)));
    if (i % 2 == 0) {
      after.erase(hit);
    } else {
      hit->second = static_cast<uint32_t>(1 + random(300));
    }
    for (const Method method : {Method::maglev, Method::minimal}) {
      (method == Method::maglev ? of_maglev : of_minimal) +=
          moved(owners_by(method, weights, 4093), owners_by(method, after, 4093));
    }
  }
  std::printf("300 random changes: Maglev moved %llu slots, minimal %llu\n",
              static_cast<unsigned long long>(of_maglev), static_cast<unsigned long long>(of_minimal));
  EXPECT_LT(static_cast<double>(of_minimal), 0.95 * static_cast<double>(of_maglev));
}

}  // namespace
}  // namespace sluice
