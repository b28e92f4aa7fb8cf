// Whom a new flow gets whose backend is full, for `explain`: what dataplane/track_caps.cc does with a packet,
// in the same order and within the same bounds. tests/unit/room_test.cc holds the two together.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "src/flow_key.h"
#include "src/session_key.h"
#include "src/tables.h"

namespace sluice {

struct Room {
  std::optional<BackendId> backend;  // who has room; nobody: the flow is refused
  std::vector<BackendId> full;       // who was asked before, in that order, each once
};

// `first`: who was chosen, by `hash` or else. `select(hash)`: the lookup table's choice, a
// std::optional<BackendId>; nothing: it is empty. `members`: the table's. `workers`: how many run.
// `has_room(id)`: for this flow, a bool. Cost: asks 73 backends at most.
template <typename Select, typename HasRoom>
Room find_room(BackendId first, uint64_t hash, const Select& select, std::span<const BackendId> members,
               uint32_t workers, const HasRoom& has_room) {
  Room room;
  const auto asked = [&](BackendId id) {
    if (has_room(id)) {
      room.backend = id;
      return true;
    }
    if (std::find(room.full.begin(), room.full.end(), id) == room.full.end()) room.full.push_back(id);
    return false;
  };
  if (asked(first)) return room;
  constexpr int kChoices = 8;
  for (int choice = 0; choice < kChoices; choice++) {
    hash = next_choice(hash);
    const std::optional<BackendId> next = select(hash);
    if (!next || asked(*next)) return room;
  }
  const uint32_t looks = std::max(64 / std::max(workers, 1u), 8u);
  const auto count = static_cast<uint32_t>(members.size());
  uint32_t at = lookup_slot(hash, count);
  for (uint32_t i = 0; i < std::min(count, looks); i++) {
    if (asked(members[at])) return room;
    at = at + 1 < count ? at + 1 : 0;
  }
  return room;
}

}  // namespace sluice
