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

// One packet proves nothing: the session that it makes rests for as long as its flow may. When that is
// confirmed, the session rests for its own time (follow()). Else a flood of spoofed packets would fill the
// table, and max_sessions, for an hour.
inline uint32_t on_trial_s(const ServiceRecord& service) {
  const uint32_t state = service.protocol == wire::kProtoUdp ? ServiceRecord::kUdp : ServiceRecord::kSyn;
  return std::min<uint32_t>(service.idle_s[state], service.session_idle_s);
}

// A new connection is a sign of life: said once in each piece of refresh_s, the same pieces as of those that
// go on. So what a session says is never older than a piece, which is what it rests for longer.
inline void Tracker::touch(const Packet& packet, SessionTable::Found& found, const ServiceRecord& service,
                           uint32_t now_s) {
  SessionValue value = found.session();
  if (((value.last_s ^ now_s) & kSessionTimeMask) < refresh_s(service.session_idle_s)) [[likely]]
    return;
  // Nor does a SYN put off the end that is near; a datagram may be all there is of its flow, so a second flow
  // is proof.
  if (packet.protocol == wire::kProtoTcp &&
      since_s(value.last_s, now_s) >= service.session_idle_s - on_trial_s(service)) {
    // An untracked flow's second packet comes here as well.
    if (is_first(packet) || !on_trial_.may_have(packet.hash)) return on_trial_.put(packet.hash, now_s);
  }
  value.last_s = now_s;
  SessionTable::change(found, value);  // if somebody else did: as good
}

[[gnu::noinline]] inline bool Tracker::choose_by_session(Packet& packet, uint64_t session,
                                                         const TablesView& tables, uint32_t now_s) {
  SessionTable::Found found = sessions_.find(session);
  if (found) [[likely]] {
    // What follow_session() does for nearly all.
    constexpr uint32_t kWell = BackendRecord::kConfigured | BackendRecord::kAlive | BackendRecord::kResolved;
    constexpr uint32_t kAsked =
        kWell | BackendRecord::kFailed | BackendRecord::kMigrates | BackendRecord::kSorry;
    const SessionValue value = found.session();
    const ServiceRecord& service = tables.service(packet.service);
    const BackendRecord& backend = tables.backend(value.backend);
    const bool is_well = ((backend.flags & kAsked) == kWell) & (backend.service == packet.service);
    const bool has_limits = ((service.flags & ServiceRecord::kCapped) | service.session_life_s) != 0;
    const bool is_fresh = since_s(value.last_s, now_s) <= service.session_idle_s;
    if (!is_pinned(value.kind) & is_well & is_fresh & !has_limits) [[likely]] {
      packet.backend = value.backend;
      packet.record = &backend;
      touch(packet, found, service, now_s);
      return true;
    }
  }
  return choose_by_session(packet, found, session, tables, now_s);
}

}  // namespace sluice
