// The limits' part of stage 3: a backend that has as many flows or sessions as it may gets no new one.
#include <algorithm>

#include "dataplane/select.h"
#include "dataplane/track.h"
#include "src/session_key.h"

namespace sluice {

// As all workers count at this moment: what others add meanwhile is one flow each at most.
bool Tracker::has_room(BackendId id, bool for_session, const TablesView& tables) const {
  const BackendCold& limits = tables.backend_cold(id);
  if (limits.max_flows != 0 && chooser_.active_flows(id) >= limits.max_flows) return false;
  return !for_session || has_session_room(id, tables);
}
bool Tracker::has_session_room(BackendId id, const TablesView& tables) const {
  const uint32_t most = tables.backend_cold(id).max_sessions;
  return most == 0 || chooser_.active_sessions(id) < most;
}

// The packet's backend was chosen, by this hash or else: if it is full, the next choice that is not. The same
// each time that the same backends are full. False: all that were asked are; the packet is refused.
[[gnu::noinline]] bool Tracker::find_room(Packet& packet, uint64_t hash, bool for_session,
                                          const TablesView& tables) {
  const ServiceRecord& service = tables.service(packet.service);
  if (has_room(packet.backend, for_session, tables)) return true;
  stats_.flows.overflowed.add(1);
  constexpr int kChoices = 8;
  for (int choice = 0; choice < kChoices; choice++) {
    hash = next_choice(hash);
    if (!select(packet, hash, tables)) return false;
    if (has_room(packet.backend, for_session, tables)) return true;
  }
  // Nearly all are full. One after the other, but no more than a packet may cost: a flood pays as well.
  const uint32_t looks = chooser_.looks(64);
  const auto members = tables.members(service);
  const auto count = static_cast<uint32_t>(members.size());
  uint32_t at = lookup_slot(hash, count);
  for (uint32_t i = 0; i < std::min(count, looks); i++) {
    if (has_room(members[at], for_session, tables)) {
      packet.backend = members[at];
      packet.record = &tables.backend(packet.backend);
      return true;
    }
    at = at + 1 < count ? at + 1 : 0;
  }
  return refuse(packet, Reason::backends_full);
}

}  // namespace sluice
