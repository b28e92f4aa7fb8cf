// The lookup table of every method: full, the same for any order of the input, as its definition says when
// that is carried out naively. Balance and movement: lookup_balance_property_test.cc,
// lookup_movement_property_test.cc.
#include <algorithm>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "tests/property/lookup_tables.h"

namespace sluice {
namespace {

using namespace test;

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

// ---- Definitions, carried out naively

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

}  // namespace
}  // namespace sluice
