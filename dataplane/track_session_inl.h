// What nearly every new connection of a service with sessions needs, for dataplane/track.cc; the rest is in
// track_session.cc.
#pragma once

#include "dataplane/select.h"
#include "dataplane/track.h"
#include "src/session_key.h"

namespace sluice {

inline uint64_t Tracker::session_of(const Packet& packet, const TablesView& tables) const {
  const ServiceRecord& service = tables.service(packet.service);
  if ((service.flags & ServiceRecord::kSessions) == 0) return kNoSession;
  // take_key() made it the flow's, unless there was none.
  if ((service.flags & ServiceRecord::kByKey) != 0)
    return packet.is_keyed ? packet.hash - flow_mark(packet.service) : kNoSession;
  const HashSecret& secret = tables.generation().secret;
  if (packet.family == Family::v4) [[likely]] {
    const auto* ip = reinterpret_cast<const wire::Ipv4*>(packet.data + sizeof(wire::Ethernet));
    return client_session(ip->source, service, secret);
  }
  return client_session(source_of(packet), service, secret);
}

// Was it heard of in this piece of refresh_s? Then it has not rested for too long, and there is nothing to say.
inline bool is_touched(const SessionValue& session, const ServiceRecord& service, uint32_t now_s) {
  return ((session.last_s ^ now_s) & kSessionTimeMask) < refresh_s(service.session_idle_s);
}

// What follow_session() does for nearly all: the session is learnt, was heard of a moment ago, and its
// backend is this service's and well.
[[gnu::noinline]] inline bool Tracker::choose_by_session(Packet& packet, uint64_t session,
                                                         const TablesView& tables, uint32_t now_s) {
  const SessionTable::Found found = sessions_.glance(session);
  if (found) [[likely]] {
    constexpr uint32_t kWell = BackendRecord::kConfigured | BackendRecord::kAlive | BackendRecord::kResolved;
    constexpr uint32_t kAsked =
        kWell | BackendRecord::kFailed | BackendRecord::kMigrates | BackendRecord::kSorry;
    const SessionValue value = found.session();
    const ServiceRecord& service = tables.service(packet.service);
    const BackendRecord& backend = tables.backend(value.backend);
    const bool is_well = ((backend.flags & kAsked) == kWell) & (backend.service == packet.service);
    const bool has_limits = ((service.flags & ServiceRecord::kCapped) | service.session_life_s) != 0;
    const bool is_here = is_touched(value, service, now_s);
    if (!is_pinned(value.kind) & is_well & is_here & !has_limits) [[likely]] {
      packet.backend = value.backend;
      packet.record = &backend;
      return true;
    }
  }
  return choose_by_session_closely(packet, session, tables, now_s);
}

}  // namespace sluice
