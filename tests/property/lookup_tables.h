// Lookup tables of all methods for the property tests, over the members of members.h.
#pragma once

#include <string>
#include <vector>

#include <rapidcheck.h>

#include "src/lookup_table.h"
#include "tests/property/members.h"

namespace sluice::test {

inline const std::vector<Method> kOwnTables = {Method::maglev,  Method::ring,   Method::rendezvous,
                                               Method::minimal, Method::modulo, Method::weighted_round_robin};

inline Table build(Method method, const std::vector<MaglevMember>& members, uint32_t slots) {
  Table table(slots, 0xfffe);
  RC_ASSERT(lookup_build(method, members, table));
  return table;
}

inline std::vector<std::string> owners_by(Method method, const Weights& weights, uint32_t slots) {
  const auto members = members_of(weights);
  return owners(members, build(method, members, slots));
}

inline rc::Gen<Method> any_method() {
  return rc::gen::elementOf(kOwnTables);
}

// At least `least` members, all of them with weight.
inline rc::Gen<Weights> some_weights(size_t least) {
  const auto weight = rc::gen::weightedOneOf<uint32_t>({{3, rc::gen::inRange(1u, 200u)},
                                                        {2, rc::gen::just(100u)},
                                                        {1, rc::gen::inRange(1u, limits::kWeightMax + 1)}});
  return rc::gen::suchThat(rc::gen::container<Weights>(any_key(), weight),
                           [=](const Weights& weights) { return weights.size() >= least; });
}

inline std::string any_of(const Weights& weights) {
  return std::next(weights.begin(), *rc::gen::inRange<int>(0, static_cast<int>(weights.size())))->first;
}

inline uint64_t total_of(const Weights& weights) {
  uint64_t total = 0;
  for (const auto& [key, weight] : weights)
    total += weight;
  return total;
}

// SplitMix64's n-th number, and one evenly below a bound: the definitions' own, written down again.
inline uint64_t draw(uint64_t seed, uint64_t n) {
  uint64_t x = seed + (n + 1) * 0x9e3779b97f4a7c15ULL;
  x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ULL;
  x = (x ^ x >> 27) * 0x94d049bb133111ebULL;
  return x ^ x >> 31;
}

inline uint64_t scale(uint64_t random, uint64_t below) {
  __extension__ using Wide = unsigned __int128;
  return static_cast<uint64_t>(Wide{random} * below >> 64);
}

}  // namespace sluice::test
