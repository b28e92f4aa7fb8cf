// How evenly the lookup table of each method is shared, as its definition says.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <numeric>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include "tests/property/lookup_tables.h"

namespace sluice {
namespace {

using namespace test;

RC_GTEST_PROP(LookupTableBalance, MinimalIsExactToOneSlot, ()) {
  const auto weights = *any_weights();
  const auto members = members_of(weights);
  RC_ASSERT(is_balanced(members, build(Method::minimal, members, *any_slots())));
}

TEST(LookupTableBalance, MinimalIsExactAtTheRealSizes) {
  Weights weights = {{"heavy", limits::kWeightMax}, {"light", 1}, {"out", 0}};
  for (uint32_t i = 0; i < 500; i++)
    weights["backend-" + std::to_string(i)] = i * 7 % 301;
  const auto members = members_of(weights);
  for (const uint32_t slots : {limits::kLookupSlotsDefault, limits::kLookupSlotsLarge})
    EXPECT_TRUE(is_balanced(members, build(Method::minimal, members, slots)));
}

// After any number of slots each member has had its share of them, to less than one; modulo's table is the
// same one.
RC_GTEST_PROP(LookupTableBalance, AScheduleIsInProportionAllAlong, ()) {
  const auto weights = *any_weights();
  const auto slots = *any_slots();
  const auto members = members_of(weights);
  const Table table = build(Method::weighted_round_robin, members, slots);
  RC_ASSERT(table == build(Method::modulo, members, slots));
  // Of the weights themselves, or of the shares of the table that stand for them.
  std::vector<uint64_t> parts;
  uint64_t divisor = 0;
  for (const MaglevMember& member : members) {
    parts.push_back(member.weight);
    divisor = std::gcd(divisor, member.weight);
  }
  uint64_t total = total_of(weights);
  if (total / divisor > slots) {
    std::fill(parts.begin(), parts.end(), 0);
    for (const uint16_t position : table)
      parts[position]++;
    total = slots;
    RC_ASSERT(is_balanced(members, table));
  }
  // Around after the last whole round, three times: in proportion still.
  const uint32_t turns = whole_rounds(Method::weighted_round_robin, members, slots);
  RC_ASSERT(turns > slots / 2 && turns <= slots);
  std::vector<uint64_t> had(members.size());
  for (uint64_t slot = 0; slot < 3 * uint64_t{turns}; slot++) {
    had[table[slot % turns]]++;
    for (size_t i = 0; i < members.size(); i++) {
      const auto off = static_cast<int64_t>(had[i] * total) - static_cast<int64_t>((slot + 1) * parts[i]);
      RC_ASSERT(std::abs(off) < static_cast<int64_t>(total));
    }
  }
}

TEST(LookupTableBalance, ModuloWithoutWeightsIsTheRemainder) {
  const auto weights = equal_weights(7);
  const auto members = members_of(weights);
  const Table table = build(Method::modulo, members, 251);
  for (uint32_t slot = 0; slot < 251; slot++)
    EXPECT_EQ(table[slot], slot % 7);
}

// No less even than if each slot drew its owner by weight: the chi-square of the shares is at most the 99.9 %
// point of a draw's (normal approximation by Wilson and Hilferty). It is less, as darts come regularly. Input
// is fixed.
TEST(LookupTableBalance, RendezvousIsAtLeastAsEvenAsADrawByWeight) {
  Weights weights;
  for (uint32_t i = 0; i < 400; i++)
    weights["backend-" + std::to_string(i)] = 50 + i % 7 * 40;
  const auto members = members_of(weights);
  const Table table = build(Method::rendezvous, members, limits::kLookupSlotsLarge);
  std::vector<double> count(members.size());
  for (const uint16_t position : table)
    count[position]++;
  double chi_square = 0;
  for (size_t i = 0; i < members.size(); i++) {
    const double expected =
        static_cast<double>(table.size()) * members[i].weight / static_cast<double>(total_of(weights));
    chi_square += (count[i] - expected) * (count[i] - expected) / expected;
  }
  const double freedom = static_cast<double>(members.size()) - 1, spread = 2 / (9 * freedom);
  const double normal = (std::cbrt(chi_square / freedom) - (1 - spread)) / std::sqrt(spread);
  std::printf("rendezvous: chi-square %.1f of %.0f degrees of freedom\n", chi_square, freedom);
  EXPECT_LT(normal, 3.09);
}

// Two members, one twice the other: also where a share is far from small, the weight is the rate.
TEST(LookupTableBalance, RendezvousOfFewIsByWeightToo) {
  const Weights weights = {{"a", 100}, {"b", 200}, {"c", 300}};
  const auto members = members_of(weights);
  const Table table = build(Method::rendezvous, members, limits::kLookupSlotsLarge);
  for (size_t i = 0; i < members.size(); i++) {
    const double p = members[i].weight / 600.0, slots = limits::kLookupSlotsLarge;
    const auto have = static_cast<double>(std::count(table.begin(), table.end(), i));
    EXPECT_LT(std::abs(have - p * slots), 4 * std::sqrt(slots * p * (1 - p))) << members[i].key;
  }
}

// The shares of a ring with n points a member differ by 1 / sqrt(n), of the mean: 7 % of 200.
TEST(LookupTableBalance, ARingsSharesDifferByItsPoints) {
  const auto weights = equal_weights(300);
  const auto members = members_of(weights);
  const Table table = build(Method::ring, members, limits::kLookupSlotsLarge);
  std::vector<double> count(members.size());
  for (const uint16_t position : table)
    count[position]++;
  const double mean = static_cast<double>(table.size()) / static_cast<double>(members.size());
  double variance = 0;
  for (const double n : count)
    variance += (n - mean) * (n - mean) / static_cast<double>(members.size());
  EXPECT_NEAR(std::sqrt(variance) / mean, 0.07, 0.02);
}

// A weight that doubles gives a second point for each: twice the share.
TEST(LookupTableBalance, ARingIsByWeight) {
  Weights weights = equal_weights(200);
  uint32_t i = 0;
  for (auto& [key, weight] : weights)
    weight = ++i % 2 == 0 ? 100 : 200;
  const auto members = members_of(weights);
  const Table table = build(Method::ring, members, limits::kLookupSlotsLarge);
  double heavy = 0;
  for (const uint16_t position : table)
    heavy += members[position].weight == 200;
  EXPECT_NEAR(heavy / static_cast<double>(table.size()), 2.0 / 3, 0.02);
}

}  // namespace
}  // namespace sluice
