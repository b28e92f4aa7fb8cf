// Weighted Maglev: equal to its definition carried out naively; full, balanced and the same for any order of
// the input; and little of it moves when a backend leaves. Prints the disruption figures of docs/.
#include <algorithm>
#include <cstdio>
#include <map>
#include <numeric>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "src/maglev.h"
#include "tests/property/members.h"

namespace sluice {
namespace {

using namespace test;

Table build(const std::vector<MaglevMember>& members, uint32_t slots) {
  Table table(slots, 0xfffe);
  RC_ASSERT(maglev_build(members, table));
  return table;
}

// How many slots each gets, by the definition: shares rounded down, and one more for the largest fractions,
// one by one.
std::map<std::string, uint64_t> naive_quotas(const Weights& weights, uint64_t slots) {
  uint64_t total = 0;
  for (const auto& [key, weight] : weights)
    total += weight;
  std::map<std::string, uint64_t> quotas, fractions;
  uint64_t given = 0;
  for (const auto& [key, weight] : weights) {
    quotas[key] = slots * weight / total;
    fractions[key] = slots * weight % total;
    given += quotas[key];
  }
  for (; given < slots; given++) {
    std::string best;
    for (const auto& [key, fraction] : fractions) {
      if (best.empty() || fraction > fractions[best]) best = key;
    }
    quotas[best]++;
    fractions.erase(best);
  }
  return quotas;
}

// The definition, step by step: round by round, whole permutations written out, a search from the start of
// the permutation each time.
std::vector<std::string> naive(const Weights& weights, uint32_t slots) {
  std::map<std::string, uint64_t> quotas = naive_quotas(weights, slots);
  std::map<std::string, std::vector<uint32_t>> permutation;
  for (const auto& [key, weight] : weights) {
    const XXH128_hash_t hash = XXH3_128bits(key.data(), key.size());
    for (uint64_t j = 0; j < slots; j++) {
      const uint64_t skip = hash.high64 % (slots - 1) + 1;
      permutation[key].push_back(static_cast<uint32_t>((hash.low64 % slots + j * skip) % slots));
    }
  }
  std::vector<std::string> table(slots);
  for (uint32_t filled = 0; filled < slots;) {
    for (const auto& [key, weight] : weights) {
      if (quotas[key] == 0) continue;
      quotas[key]--;
      for (const uint32_t slot : permutation[key]) {
        if (!table[slot].empty()) continue;
        table[slot] = key;
        filled++;
        break;
      }
    }
  }
  return table;
}

// ---- Properties
// -----------------------------------------------------------------------------------------------------

RC_GTEST_PROP(MaglevProperty, EqualsTheDefinitionCarriedOutNaively, ()) {
  const auto weights = *any_weights();
  const auto slots = *rc::gen::element(3u, 13u, 127u, 251u, 509u);
  const auto members = members_of(weights);
  RC_ASSERT(owners(members, build(members, slots)) == naive(weights, slots));
}

RC_GTEST_PROP(MaglevProperty, FillsEverySlotWithAMemberThatHasWeight, ()) {
  const auto weights = *any_weights();
  const auto members = members_of(weights);
  for (const uint16_t position : build(members, *any_slots())) {
    RC_ASSERT(position < members.size());
    RC_ASSERT(members[position].weight > 0u);
  }
}

RC_GTEST_PROP(MaglevProperty, BalancesWithinOneSlot, ()) {
  const auto weights = *any_weights();
  const auto members = members_of(weights);
  RC_ASSERT(is_balanced(members, build(members, *any_slots())));
}

RC_GTEST_PROP(MaglevProperty, EqualWeightsGetSharesThatDifferByOneAtMost, ()) {
  const auto keys = *rc::gen::nonEmpty(rc::gen::container<std::set<std::string>>(any_key()));
  const auto weight = *rc::gen::inRange(1u, limits::kWeightMax + 1);
  std::vector<MaglevMember> members;
  for (const std::string& key : keys)
    members.push_back({key, weight});
  std::vector<uint32_t> count(members.size());
  for (const uint16_t position : build(members, *any_slots()))
    count[position]++;
  const auto [least, most] = std::minmax_element(count.begin(), count.end());
  RC_ASSERT(*most - *least <= 1u);
}

RC_GTEST_PROP(MaglevProperty, TheOrderOfTheInputDoesNotMatter, ()) {
  const auto weights = *any_weights();
  const auto slots = *any_slots();
  const auto members = members_of(weights);
  std::vector<size_t> order(members.size());
  std::iota(order.begin(), order.end(), size_t{0});
  // A shuffle drawn by rapidcheck, so that it is shrunk with the rest.
  for (size_t i = order.size(); i > 1; i--)
    std::swap(order[i - 1], order[*rc::gen::inRange<size_t>(0, i)]);
  std::vector<MaglevMember> shuffled;
  for (const size_t i : order)
    shuffled.push_back(members[i]);

  const Table table = build(members, slots);
  const Table again = build(shuffled, slots);
  RC_ASSERT(owners(shuffled, again) == owners(members, table));
  RC_ASSERT(maglev_checksum(shuffled, again) == maglev_checksum(members, table));
}

RC_GTEST_PROP(MaglevProperty, TheChecksumTellsTablesApart, ()) {
  const auto weights = *any_weights();
  const auto members = members_of(weights);
  Table table = build(members, *any_slots());
  const uint64_t before = maglev_checksum(members, table);
  RC_PRE(members.size() > 1);
  const auto slot = *rc::gen::inRange<size_t>(0, table.size());
  const auto other = *rc::gen::inRange<size_t>(1, members.size());
  table[slot] = static_cast<uint16_t>((table[slot] + other) % members.size());
  RC_ASSERT(maglev_checksum(members, table) != before);
}

RC_GTEST_PROP(MaglevProperty, OnlyRelativeWeightsMatter, ()) {
  auto weights = *any_weights();
  const auto factor = *rc::gen::inRange(2u, 6u);
  for (auto& [key, weight] : weights)
    weight = std::min(weight, limits::kWeightMax / 6);
  const auto slots = *any_slots();
  const Table table = build(members_of(weights), slots);
  for (auto& [key, weight] : weights)
    weight *= factor;
  RC_ASSERT(build(members_of(weights), slots) == table);
}

// A member of weight 0 is to the table as if it were not there.
RC_GTEST_PROP(MaglevProperty, AMemberWithoutWeightChangesNothing, ()) {
  auto weights = *any_weights();
  const auto slots = *any_slots();
  const auto with = members_of(weights);
  const auto table = owners(with, build(with, slots));
  std::erase_if(weights, [](const auto& member) { return member.second == 0; });
  const auto without = members_of(weights);
  RC_ASSERT(owners(without, build(without, slots)) == table);
}

TEST(MaglevTest, NobodyWithWeightFillsNothing) {
  Table table(251, 0x1234);
  EXPECT_FALSE(maglev_build({}, table));
  const std::vector<MaglevMember> members = {{"a", 0}, {"b", 0}};
  EXPECT_FALSE(maglev_build(members, table));
  EXPECT_EQ(table, Table(251, 0x1234));
}

TEST(MaglevTest, MoreMembersThanSlots) {
  Weights weights;
  for (int i = 0; i < 1000; i++)
    weights["backend-" + std::to_string(i)] = 100;
  const auto members = members_of(weights);
  Table table(251);
  ASSERT_TRUE(maglev_build(members, table));
  EXPECT_EQ(owners(members, table), naive(weights, 251));
}

TEST(MaglevTest, TheRealSizesAreBalanced) {
  Weights weights = {{"heavy", limits::kWeightMax}, {"light", 1}, {"out", 0}};
  for (uint32_t i = 0; i < 500; i++)
    weights["backend-" + std::to_string(i)] = i * 7 % 301;
  const auto members = members_of(weights);
  for (const uint32_t slots : {limits::kLookupSlotsDefault, limits::kLookupSlotsLarge}) {
    Table table(slots, 0xfffe);
    ASSERT_TRUE(maglev_build(members, table));
    ASSERT_LT(*std::max_element(table.begin(), table.end()), members.size());
    EXPECT_TRUE(is_balanced(members, table));
  }
}

// Every balancer of a cluster must build these bytes, whatever its version: a change of the definition breaks
// this.
TEST(MaglevTest, TheDefinitionIsPinned) {
  const std::vector<MaglevMember> members = {{"b1", 100}, {"b2", 50}, {"b3", 25}};
  Table table(limits::kLookupSlotsDefault);
  ASSERT_TRUE(maglev_build(members, table));
  EXPECT_EQ(maglev_checksum(members, table), 6672695138092359937u);
}

// ---- Disruption
// -----------------------------------------------------------------------------------------------------

// Share of slots whose owner is another one after the change, averaged over `trials` choices of whom it hits.
template <typename Change>
double share_changed(uint32_t backends, uint32_t slots, uint32_t trials, Change change) {
  const Weights before = equal_weights(backends);
  const auto members = members_of(before);
  Table table(slots);
  EXPECT_TRUE(maglev_build(members, table));
  uint64_t changed = 0;
  for (uint32_t trial = 0; trial < trials; trial++) {
    Weights after = before;
    change(after, trial);
    const auto members_after = members_of(after);
    Table table_after(slots);
    EXPECT_TRUE(maglev_build(members_after, table_after));
    for (uint32_t slot = 0; slot < slots; slot++) {
      changed += members[table[slot]].key != members_after[table_after[slot]].key;
    }
  }
  return static_cast<double>(changed) / (static_cast<double>(trials) * slots);
}

// The bounds are twice the figures published for Maglev (NSDI'16, 5.3, and measured for this definition):
// they catch a table that is rebuilt rather than repaired, not noise. Input is fixed, so the figures are,
// too.
TEST(MaglevDisruption, LittleMovesWhenBackendsChange) {
  const auto remove = [](uint32_t count, uint32_t backends) {
    return [=](Weights& weights, uint32_t trial) {
      for (uint32_t i = 0; i < count; i++) {
        weights.erase("backend-" + std::to_string((trial * 37 + i * 101) % backends));
      }
    };
  };
  const auto reweight = [](Weights& weights, uint32_t trial) {
    weights["backend-" + std::to_string(trial * 37 % 1000)] = 90;
  };
  const struct {
    const char* what;
    double ideal, bound;
    double at_default, at_large;
  } rows[] = {
      {"1 of 1,000 removed", 0.001, 0.0129,
       share_changed(1000, limits::kLookupSlotsDefault, 16, remove(1, 1000)),
       share_changed(1000, limits::kLookupSlotsLarge, 4, remove(1, 1000))},
      {"10 of 1,000 removed", 0.01, 0.066,
       share_changed(1000, limits::kLookupSlotsDefault, 16, remove(10, 1000)),
       share_changed(1000, limits::kLookupSlotsLarge, 4, remove(10, 1000))},
      {"1 of 100 removed", 0.01, 0.0314, share_changed(100, limits::kLookupSlotsDefault, 16, remove(1, 100)),
       share_changed(100, limits::kLookupSlotsLarge, 4, remove(1, 100))},
      // The requirement is ten times the ideal, of 65,537 slots; on average over whom it hits.
      {"1 of 1,000: weight 100 to 90", 0.0001, 0.001,
       share_changed(1000, limits::kLookupSlotsDefault, 32, reweight),
       share_changed(1000, limits::kLookupSlotsLarge, 4, reweight)},
  };
  std::printf("%-30s %9s %12s %12s\n", "slots changed", "ideal", "M = 65,537", "M = 655,373");
  for (const auto& row : rows) {
    std::printf("%-30s %8.3f%% %11.3f%% %11.3f%%\n", row.what, row.ideal * 100, row.at_default * 100,
                row.at_large * 100);
    EXPECT_GE(row.at_default, row.ideal * 0.9) << row.what;
    EXPECT_LE(row.at_default, row.bound) << row.what;
    EXPECT_LE(row.at_large, row.bound) << row.what;
  }
}

RC_GTEST_PROP(MaglevDisruption, ARemovalMovesFewOthers, ()) {
  auto weights = *rc::gen::suchThat(rc::gen::container<Weights>(any_key(), rc::gen::just(100u)),
                                    [](const Weights& w) { return w.size() >= 2; });
  const auto slots = 4093u;
  const auto before_members = members_of(weights);
  const auto before = owners(before_members, build(before_members, slots));
  const auto gone =
      std::next(weights.begin(), *rc::gen::inRange<int>(0, static_cast<int>(weights.size())))->first;
  weights.erase(gone);
  const auto after_members = members_of(weights);
  const auto after = owners(after_members, build(after_members, slots));
  uint32_t moved = 0;
  for (uint32_t slot = 0; slot < slots; slot++)
    moved += before[slot] != gone && before[slot] != after[slot];
  // Up to 100 members on 4,093 slots, the densest that Maglev's paper advises: 3 % move on average and 5 %
  // were the worst of thousands; a table built without regard to the old one would move all but one in n.
  RC_ASSERT(moved < slots / 10);
}

}  // namespace
}  // namespace sluice
