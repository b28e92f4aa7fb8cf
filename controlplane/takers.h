// Who takes new flows, and the lookup table that follows: the one way from members to a table, for what is
// published, for what `diff` foretells and for what `explain` supposes.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "controlplane/model.h"
#include "src/lookup_table.h"
#include "src/tables.h"

namespace sluice {

// A member of a lookup table.
struct Taker {
  BackendId id;
  std::string_view name;
  uint32_t weight;  // in the table: table_weight's

  static bool by_name(const Taker& a, const Taker& b) { return a.name < b.name; }
  bool operator==(const Taker&) const = default;
};

// What a backend counts for in its table: its weight in force. Where the method ignores weights, all are
// alike, and one that starts slowly has its part of that. Both arguments are 1 or more.
uint32_t table_weight(Method method, uint32_t in_force, uint32_t whole);

// Of a backend that takes new flows, and all such of a service by name; the names are the service's.
Taker taker_of(const Service& service, const Backend& backend);
std::vector<Taker> takers_of(const Service& service);
// As the current generation has it; the name is cold's.
Taker published_taker(Method method, BackendId id, const BackendCold& cold);

struct TakersTable {
  std::vector<MaglevMember> members;  // as the takers
  std::vector<uint16_t> slots;        // positions in `members`; empty: there are none
  uint32_t turns = 0;                 // whole_rounds() of them
};
TakersTable table_of(Method method, std::span<const Taker> takers, uint32_t slots);

}  // namespace sluice
