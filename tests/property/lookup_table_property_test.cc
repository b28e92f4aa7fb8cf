// The lookup table of every method: full, the same for any order of the input, balanced as its definition
// says; and how much of it moves when members change.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>
#include <map>
#include <numeric>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "src/lookup_table.h"
#include "tests/property/members.h"

namespace sluice {
namespace {

using namespace test;

const std::vector<Method> kOwnTables = {Method::maglev,  Method::ring,   Method::rendezvous,
                                        Method::minimal, Method::modulo, Method::weighted_round_robin};

Table build(Method method, const std::vector<MaglevMember>& members, uint32_t slots) {
  Table table(slots, 0xfffe);
  RC_ASSERT(lookup_build(method, members, table));
  return table;
}

std::vector<std::string> owners_by(Method method, const Weights& weights, uint32_t slots) {
  const auto members = members_of(weights);
  return owners(members, build(method, members, slots));
}

rc::Gen<Method> any_method() {
  return rc::gen::elementOf(kOwnTables);
}

// At least `least` members, all of them with weight.
rc::Gen<Weights> some_weights(size_t least) {
  const auto weight = rc::gen::weightedOneOf<uint32_t>({{3, rc::gen::inRange(1u, 200u)},
                                                        {2, rc::gen::just(100u)},
                                                        {1, rc::gen::inRange(1u, limits::kWeightMax + 1)}});
  return rc::gen::suchThat(rc::gen::container<Weights>(any_key(), weight),
                           [=](const Weights& weights) { return weights.size() >= least; });
}

std::string any_of(const Weights& weights) {
  return std::next(weights.begin(), *rc::gen::inRange<int>(0, static_cast<int>(weights.size())))->first;
}

uint64_t total_of(const Weights& weights) {
  uint64_t total = 0;
  for (const auto& [key, weight] : weights)
    total += weight;
  return total;
}

// ---- All methods
// ------------------------------------------------------------------------------------------------

RC_GTEST_PROP(LookupTableProperty, FillsEverySlotWithAMemberThatHasWeight, ()) {
  const auto weights = *any_weights();
  const auto members = members_of(weights);
  for (const uint16_t position : build(*any_method(), members, *any_slots())) {
    RC_ASSERT(position < members.size());
    RC_ASSERT(members[position].weight > 0u);
  }
}

RC_GTEST_PROP(LookupTableProperty, TheOrderOfTheInputDoesNotMatter, ()) {
  const auto weights = *any_weights();
  const auto slots = *any_slots();
  const auto method = *any_method();
  const auto members = members_of(weights);
  std::vector<MaglevMember> shuffled = members;
  for (size_t i = shuffled.size(); i > 1; i--)
    std::swap(shuffled[i - 1], shuffled[*rc::gen::inRange<size_t>(0, i)]);
  RC_ASSERT(owners(shuffled, build(method, shuffled, slots)) ==
            owners(members, build(method, members, slots)));
}

RC_GTEST_PROP(LookupTableProperty, AMemberWithoutWeightChangesNothing, ()) {
  auto weights = *any_weights();
  const auto slots = *any_slots();
  const auto method = *any_method();
  const auto with = owners_by(method, weights, slots);
  std::erase_if(weights, [](const auto& member) { return member.second == 0; });
  RC_ASSERT(owners_by(method, weights, slots) == with);
}

TEST(LookupTable, NobodyWithWeightFillsNothing) {
  const std::vector<MaglevMember> members = {{"a", 0}, {"b", 0}};
  for (const auto& [name, method] : kMethods) {
    Table table(251, 0x1234);
    EXPECT_FALSE(lookup_build(method, {}, table)) << name;
    EXPECT_FALSE(lookup_build(method, members, table)) << name;
    EXPECT_EQ(table, Table(251, 0x1234)) << name;
  }
}

TEST(LookupTable, MethodsThatDecideInTheDataPlaneHaveMaglevs) {
  const Weights weights = {{"a", 100}, {"b", 30}, {"c", 7}};
  const auto members = members_of(weights);
  Table maglev(251), table(251);
  ASSERT_TRUE(maglev_build(members, maglev));
  for (const Method method : {Method::source_hash, Method::random, Method::least_connections,
                              Method::weighted_least_connections, Method::power_of_two}) {
    ASSERT_TRUE(lookup_build(method, members, table));
    EXPECT_EQ(table, maglev) << name_of(method);
  }
}

// Extremes: one heavy among many light ones, more members than slots, one alone, all of the least weight.
TEST(LookupTable, ExtremesAreFilled) {
  Weights uneven = {{"heavy", limits::kWeightMax}}, light = {{"one", 1}};
  for (int i = 0; i < 500; i++)
    uneven["light-" + std::to_string(i)] = 1;
  for (const Weights& weights :
       {uneven, light, Weights{{"a", limits::kWeightMax}, {"b", 1}}, equal_weights(3'000)}) {
    const auto members = members_of(weights);
    for (const auto& [name, method] : kMethods) {
      for (const uint32_t slots : {3u, 251u, limits::kLookupSlotsDefault, limits::kLookupSlotsLarge}) {
#ifdef SLUICE_SANITIZED
        if (slots == limits::kLookupSlotsLarge) continue;  // takes half a minute
#endif
        Table table(slots, 0xfffe);
        ASSERT_TRUE(lookup_build(method, members, table));
        ASSERT_LT(*std::max_element(table.begin(), table.end()), members.size()) << name << " " << slots;
      }
    }
  }
}

// Every balancer of a cluster must build these bytes, whatever its version, compiler and CPU.
TEST(LookupTable, TheDefinitionsArePinned) {
  const std::vector<MaglevMember> members = {{"b1", 100}, {"b2", 50}, {"b3", 25}, {"b4", 9999}, {"b5", 1}};
  const std::map<Method, uint64_t> expected = {
      {Method::ring, 16879011427298607159u},
      {Method::rendezvous, 7098366271516913621u},
      {Method::minimal, 6216285758351136793u},
      {Method::modulo, 2914936238456675850u},
  };
  for (const auto& [method, checksum] : expected) {
    Table table(limits::kLookupSlotsDefault);
    ASSERT_TRUE(lookup_build(method, members, table));
    EXPECT_EQ(maglev_checksum(members, table), checksum) << name_of(method);
  }
}

// ---- Balance
// ----------------------------------------------------------------------------------------------------

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
  std::vector<uint64_t> had(members.size());
  for (uint64_t slot = 0; slot < slots; slot++) {
    had[table[slot]]++;
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

// ---- Definitions, carried out naively
// ---------------------------------------------------------------------------

uint64_t draw(uint64_t seed, uint64_t n) {
  uint64_t x = seed + (n + 1) * 0x9e3779b97f4a7c15ULL;
  x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ULL;
  x = (x ^ x >> 27) * 0x94d049bb133111ebULL;
  return x ^ x >> 31;
}

uint64_t scale(uint64_t random, uint64_t below) {
  __extension__ using Wide = unsigned __int128;
  return static_cast<uint64_t>(Wide{random} * below >> 64);
}

uint64_t seed_of(const std::string& key) {
  return XXH3_64bits(key.data(), key.size());
}

// Dart by dart in order of time, one queue of all members.
std::vector<std::string> naive_rendezvous(const Weights& weights, uint32_t slots) {
  std::map<std::pair<uint64_t, std::string>, uint64_t> next;  // {time, who}: how many it threw
  for (const auto& [key, weight] : weights) {
    if (weight > 0) next[{scale(draw(seed_of(key), UINT64_MAX - 1), (uint64_t{1} << 38) / weight), key}] = 0;
  }
  std::vector<std::string> table(slots);
  for (uint32_t free = slots; free > 0;) {
    const auto dart = next.extract(next.begin());
    const auto& [time, key] = dart.key();
    std::string& owner = table[scale(draw(seed_of(key), dart.mapped()), slots)];
    if (owner.empty()) {
      owner = key;
      free--;
    }
    next[{time + (uint64_t{1} << 38) / weights.at(key), key}] = dart.mapped() + 1;
  }
  return table;
}

RC_GTEST_PROP(LookupTableDefinition, RendezvousIsTheFirstDart, ()) {
  const auto weights = *any_weights();
  const auto slots = *rc::gen::element(3u, 13u, 127u, 251u);
  RC_ASSERT(owners_by(Method::rendezvous, weights, slots) == naive_rendezvous(weights, slots));
}

// All points sorted, each slot's owner searched for.
std::vector<std::string> naive_ring(Weights weights, uint32_t slots) {
  std::erase_if(weights, [](const auto& member) { return member.second == 0; });
  uint64_t doubled = 2;
  while (total_of(weights) * doubled < 100 * weights.size())
    doubled *= 2;
  std::map<uint64_t, std::string> circle;
  for (const auto& [key, weight] : weights) {
    for (uint64_t n = 0; n < weight * doubled; n++)
      circle.emplace(draw(seed_of(key), n), key);
  }
  std::vector<std::string> table;
  __extension__ using Wide = unsigned __int128;
  for (uint64_t slot = 0; slot < slots; slot++) {
    const auto place = static_cast<uint64_t>(((Wide{slot} << 64) + slots - 1) / slots);
    const auto point = circle.lower_bound(place);
    table.push_back(point == circle.end() ? circle.begin()->second : point->second);
  }
  return table;
}

RC_GTEST_PROP(LookupTableDefinition, ARingIsTheNextPoint, ()) {
  auto weights = *any_weights();
  for (auto& [key, weight] : weights)
    weight %= 1'000;  // few enough points for none to be left out
  RC_PRE(total_of(weights) > 0);
  const auto slots = *rc::gen::element(3u, 13u, 127u, 251u, 4093u);
  const auto table = owners_by(Method::ring, weights, slots);
  RC_ASSERT(table == naive_ring(weights, slots));
}

// ---- What moves
// -------------------------------------------------------------------------------------------------

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
