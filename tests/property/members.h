// Members of a lookup table for the property tests: generated, and by count.
#pragma once

#include <algorithm>
#include <map>
#include <string>
#include <vector>

#include <rapidcheck.h>

#include "src/maglev.h"

namespace sluice::test {

using Weights = std::map<std::string, uint32_t>;
using Table = std::vector<uint16_t>;

// Members point into the names of `weights`.
std::vector<MaglevMember> members_of(const Weights&& weights) = delete;
inline std::vector<MaglevMember> members_of(const Weights& weights) {
  std::vector<MaglevMember> members;
  for (const auto& [key, weight] : weights)
    members.push_back({key, weight});
  return members;
}

inline std::vector<std::string> owners(const std::vector<MaglevMember>& members, const Table& table) {
  std::vector<std::string> keys;
  for (const uint16_t position : table)
    keys.emplace_back(members.at(position).key);
  return keys;
}

// Each member has its exact share, rounded up or down.
inline bool is_balanced(const std::vector<MaglevMember>& members, const Table& table) {
  std::vector<uint64_t> count(members.size());
  for (const uint16_t position : table)
    count[position]++;
  uint64_t total = 0;
  for (const MaglevMember& member : members)
    total += member.weight;
  for (size_t i = 0; i < members.size(); i++) {
    const uint64_t share = table.size() * members[i].weight;
    if (count[i] < share / total || count[i] > (share + total - 1) / total) return false;
  }
  return true;
}

inline Weights equal_weights(uint32_t count) {
  Weights weights;
  for (uint32_t i = 0; i < count; i++)
    weights["backend-" + std::to_string(i)] = 100;
  return weights;
}

inline rc::Gen<uint32_t> any_weight() {
  return rc::gen::weightedOneOf<uint32_t>({
      {4, rc::gen::inRange(1u, 200u)},
      {1, rc::gen::just(0u)},
      {2, rc::gen::just(limits::kWeightDefault)},
      {1, rc::gen::inRange(1u, limits::kWeightMax + 1)},
      {1, rc::gen::element(1u, limits::kWeightMax)},
  });
}

inline rc::Gen<std::string> any_key() {
  return rc::gen::nonEmpty(rc::gen::container<std::string>(rc::gen::inRange('!', '~')));
}

// At least one member with weight.
inline rc::Gen<Weights> any_weights() {
  return rc::gen::suchThat(rc::gen::container<Weights>(any_key(), any_weight()), [](const Weights& weights) {
    return std::any_of(weights.begin(), weights.end(), [](const auto& member) { return member.second > 0; });
  });
}

inline rc::Gen<uint32_t> any_slots() {
  return rc::gen::element(3u, 5u, 13u, 127u, 251u, 1021u, 4093u);
}

}  // namespace sluice::test
