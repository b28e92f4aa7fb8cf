// The sessions' part of stage 3: which session a packet is of, and where it sends a new flow.
#include <optional>
#include <vector>

#include "dataplane/reset.h"
#include "dataplane/select.h"
#include "dataplane/track.h"
#include "dataplane/track_session_inl.h"
#include "src/session_key.h"

namespace sluice {
namespace {

// The service whose session this is: its times hold.
const ServiceRecord* service_of(const TablesView& tables, const SessionValue& session) {
  const BackendRecord& backend = tables.backend(session.backend);
  return (backend.flags & BackendRecord::kConfigured) == 0 ? nullptr : &tables.service(backend.service);
}

// Is it a session of this service, or its group, and not over? Its id may be of a removed backend.
bool is_ours(const SessionValue& session, const ServiceRecord& service, const TablesView& tables,
             uint32_t now_s) {
  const ServiceRecord* const of = service_of(tables, session);
  return of != nullptr && of->session_salt == service.session_salt && !is_over(session, service, now_s);
}

// One packet proves nothing: the session that it makes rests for as long as its flow may. When that is
// confirmed, the session rests for its own time (follow()). Else a flood of spoofed packets would fill the
// table, and max_sessions, for an hour.
uint32_t on_trial_s(const ServiceRecord& service) {
  const uint32_t state = service.protocol == wire::kProtoUdp ? ServiceRecord::kUdp : ServiceRecord::kSyn;
  return std::min<uint32_t>(service.idle_s[state], service.session_idle_s);
}

}  // namespace

// Makes the flow what the key in the payload says. False: the payload ends before it.
bool Tracker::take_key(Packet& packet, const TablesView& tables) {
  const ServiceRecord& service = tables.service(packet.service);
  const uint32_t ip_header_bytes = packet.family == Family::v4 ? sizeof(wire::Ipv4) : sizeof(wire::Ipv6);
  const uint32_t at = ip_header_bytes + sizeof(wire::Udp) + service.key_offset;
  const uint32_t end = at + service.key_bytes;
  packet.is_keyed = end <= packet.ip_bytes && sizeof(wire::Ethernet) + end <= packet.contiguous_bytes &&
                    service.key_bytes <= limits::kKeyBytesMax;
  if (!packet.is_keyed) return false;
  const SessionKey key = payload_key({packet.data + sizeof(wire::Ethernet) + at, service.key_bytes}, service);
  packet.hash = session_hash(key, tables.generation().secret) + flow_mark(packet.service);
  return true;
}

void Tracker::count_made(const Packet& packet) {
  stats_.sessions.made.add(1);
  stats_.sessions.active.add(1);
  stats_.sessions_active[index(packet.backend)].add(1);
}

// This connection to the next choice that has room for it; the session stays where it is.
bool Tracker::lend(Packet& packet, uint64_t session, BackendId lost, const TablesView& tables) {
  const uint64_t hash = next_choice(session, tables.backend(lost));
  if (!select(packet, hash, tables)) return false;
  const bool is_capped = (tables.service(packet.service).flags & ServiceRecord::kCapped) != 0;
  return !is_capped || !is_first(packet) || find_room(packet, hash, false, tables);
}

// A new connection is a sign of life: said once in each piece of refresh_s, the same pieces as of those that
// go on. So what a session says is never older than a piece, which is what it rests for longer.
void Tracker::touch(const Packet& packet, SessionTable::Found& found, const ServiceRecord& service,
                    uint32_t now_s) {
  SessionValue value = found.session();
  if (is_touched(value, service, now_s)) return;
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

// The backend that a session sends this packet's flow to. False: none, as it must be chosen anew; `found` is
// then the session as it is, or empty.
bool Tracker::follow_session(Packet& packet, SessionTable::Found& found, uint64_t session,
                             const TablesView& tables, uint32_t now_s) {
  const ServiceRecord& service = tables.service(packet.service);
  const SessionValue value = found.session();
  const bool is_pinned = sluice::is_pinned(value.kind);
  if (!is_ours(value, service, tables, now_s)) return false;
  // A group's session may name another service's backend: ours of the same name is meant.
  const std::optional<BackendId> own = tables.own_backend(packet.service, value.backend);
  if (!own) {
    // Its backend is none of ours: ours is the next choice, and the others of the group keep theirs.
    if (lend(packet, session, value.backend, tables) && !is_pinned) touch(packet, found, service, now_s);
    return true;
  }
  const BackendRecord& backend = tables.backend(*own);
  // Nobody is tied to who only says sorry.
  const bool is_alive =
      (backend.flags & (BackendRecord::kAlive | BackendRecord::kSorry)) == BackendRecord::kAlive;
  const bool has_failed =
      (backend.flags & (BackendRecord::kFailed | BackendRecord::kResolved)) != BackendRecord::kResolved;
  if ((backend.flags & BackendRecord::kMigrates) != 0 && !is_pinned) return false;
  const bool waits = service.on_failure == SessionFailure::keep && is_alive;
  if ((is_alive && !has_failed) || waits) {
    packet.backend = *own;
    packet.record = &backend;
    // A connection more than it may have is lent to another.
    if ((service.flags & ServiceRecord::kCapped) != 0 && is_first(packet) &&
        !find_room(packet, session, false, tables))
      return true;
  } else if (service.on_failure == SessionFailure::rehash && !is_pinned) {
    return false;
  } else {
    // It comes back when the backend is well.
    if (!lend(packet, session, value.backend, tables)) return true;
  }
  if (!is_pinned) touch(packet, found, service, now_s);
  return true;
}

bool Tracker::choose_by_session_closely(Packet& packet, uint64_t session, const TablesView& tables,
                                        uint32_t now_s) {
  SessionTable::Found found = sessions_.find(session);
  const ServiceRecord& service = tables.service(packet.service);
  const uint32_t on_trial_from_s = now_s - (service.session_idle_s - on_trial_s(service));
  // Others may be at the same session: it changes under our hands a few times at most.
  for (int attempt = 0; attempt < 4; attempt++) {
    if (found && follow_session(packet, found, session, tables, now_s))
      return packet.verdict == Verdict::forward;
    const bool is_over_now = found && !is_ours(found.session(), service, tables, now_s);
    const bool moves = found && !is_over_now;
    const uint64_t hash = moves ? next_choice(session, tables.backend(found.session().backend)) : session;
    if (!select(packet, hash, tables)) return false;
    // Nobody is tied to who only says sorry.
    if ((packet.record->flags & BackendRecord::kSorry) != 0) return true;
    if ((service.flags & ServiceRecord::kCapped) != 0) {
      if (is_first(packet)) {
        if (!find_room(packet, hash, true, tables)) return false;
      } else if (!has_session_room(packet.backend, tables)) {
        // It goes on somewhere; what is remembered has its limit.
        stats_.flows.overflowed.add(1);
        return true;
      }
    }
    SessionValue fresh{packet.backend, SessionKind::learnt, 0, on_trial_from_s, now_s >> kCreatedShift};
    if (moves) {
      // It is as old as it was, and has been heard of as lately.
      const SessionValue was = found.session();
      fresh.created = was.created;
      if (since_s(was.last_s, now_s) < since_s(on_trial_from_s, now_s)) fresh.last_s = was.last_s;
    }
    if (!found) {
      const SessionTable::Made made = sessions_.find_or_make(session, fresh);
      if (made.made) {
        count_made(packet);
        on_trial_.put(packet.hash, now_s);
        return true;
      }
      if (!made.found) {
        stats_.sessions.full.add(1);
        return true;
      }
      found = made.found;
      continue;
    }
    const SessionValue before = found.session();
    if (SessionTable::change(found, fresh)) {
      (is_over_now ? stats_.sessions.ended : stats_.sessions.moved).add(1);
      if (is_over_now) stats_.sessions.made.add(1);
      stats_.sessions_active[index(before.backend)].subtract(1);
      stats_.sessions_active[index(packet.backend)].add(1);
      on_trial_.put(packet.hash, now_s);
      return true;
    }
    if (!found) found = sessions_.find(session);
  }
  return true;
}

// Where a flow belongs whose session was moved, unless that is where it is, or cannot be.
std::optional<BackendId> Tracker::moved_to(const Packet& packet, const SessionValue& session,
                                           const TablesView& tables) const {
  const ServiceRecord& service = tables.service(packet.service);
  const std::optional<BackendId> own = tables.own_backend(packet.service, session.backend);
  if (!own || *own == packet.backend) return {};
  const BackendRecord& backend = tables.backend(*own);
  constexpr uint8_t kAsked = BackendRecord::kAlive | BackendRecord::kFailed | BackendRecord::kResolved |
                             BackendRecord::kMigrates | BackendRecord::kSorry;
  if (backend.service != packet.service ||
      (backend.flags & kAsked) != (BackendRecord::kAlive | BackendRecord::kResolved))
    return {};
  // A flow more than it may have stays where it is.
  const bool is_full = (service.flags & ServiceRecord::kCapped) != 0 && !has_room(*own, false, tables);
  return is_full ? std::nullopt : own;
}

// A connection goes on that has no session: its own ended before it was proven, or found no place. It is
// where the connection is. Not where sessions have a lifetime: the client's next connection may be to be
// chosen anew. There only a flow that began lately makes one.
void Tracker::remake_session(const Packet& packet, FlowTable::Place place, uint64_t session,
                             const TablesView& tables, uint32_t now_s) {
  const ServiceRecord& service = tables.service(packet.service);
  const bool is_young = is_unconfirmed(place.state()) && on_trial_.may_have(packet.hash);
  if (service.session_life_s != 0 && !is_young) return;
  if ((packet.record->flags & (BackendRecord::kSorry | BackendRecord::kMigrates)) != 0) return;
  if ((service.flags & ServiceRecord::kCapped) != 0 && !has_session_room(packet.backend, tables)) return;
  const SessionValue fresh{packet.backend, SessionKind::learnt, 0, now_s, now_s >> kCreatedShift};
  if (sessions_.find_or_make(session, fresh).made) count_made(packet);
}

// A connection goes on: its session must not end meanwhile. False: the connection ended instead.
[[gnu::noinline]] bool Tracker::refresh_session(Packet& packet, FlowTable::Place place,
                                                const TablesView& tables, uint32_t now_s, Sums& sums) {
  const uint64_t session = session_of(packet, tables);
  if (session == kNoSession) return true;
  SessionTable::Found found = sessions_.find(session);
  if (!found) {
    remake_session(packet, place, session, tables, now_s);
    return true;
  }
  SessionValue value = found.session();
  const ServiceRecord& service = tables.service(packet.service);
  if (is_pinned(value.kind)) return true;
  // A flow's first packet near its session's end does not put that off, and so its second may come too late:
  // what counts is that the session was there for the packet before this one.
  if (is_over(value, service, now_s) && is_over(value, service, now_s - place.idle_s(now_s))) return true;
  const bool is_udp = packet.protocol == wire::kProtoUdp;
  const bool follows =
      value.kind == SessionKind::moved_resets || (is_udp && value.kind == SessionKind::moved);
  const bool is_followed = follows && age_s(value, now_s) <= followed_s(service);
  const std::optional<BackendId> there = is_followed ? moved_to(packet, value, tables) : std::nullopt;
  if (there && !is_udp && may_answer_reset(packet)) {
    end_by_reset(packet, place, now_s, sums);
    return false;
  }
  if (there && is_udp) {
    stats_.backends[index(packet.backend)].flows_active.subtract(1);
    stats_.backends[index(*there)].flows_active.add(1);
    place.set_backend(*there);
    packet.backend = *there;
    packet.record = &tables.backend(*there);
  }
  const bool is_as_others = value.kind >= SessionKind::moved && age_s(value, now_s) > kFollowedMax_s;
  if (is_as_others) value.kind = SessionKind::learnt;
  if (value.last_s != (now_s & kSessionTimeMask) || is_as_others) {
    value.last_s = now_s;
    SessionTable::change(found, value);
  }
  return true;
}

void Tracker::sweep_sessions(uint64_t lines, const TablesView& tables, uint32_t now_s) {
  const uint64_t count = std::min(lines, sessions_.lines());
  sessions_.sweep(
      sessions_swept_, count,
      [&](const SessionValue& session) {
        const ServiceRecord* service = service_of(tables, session);
        return service != nullptr && (service->flags & ServiceRecord::kSessions) != 0 &&
               !is_over(session, *service, now_s);
      },
      [&](const SessionValue& session) {
        stats_.sessions.active.subtract(1);
        stats_.sessions.ended.add(1);
        stats_.sessions_active[index(session.backend)].subtract(1);
      });
  sessions_swept_ = (sessions_swept_ + count) % sessions_.lines();
}

void Tracker::forget_sessions() {
  sessions_.sweep(
      0, sessions_.lines(), [](const SessionValue&) { return false; },
      [&](const SessionValue& session) {
        stats_.sessions.active.subtract(1);
        stats_.sessions.ended.add(1);
        stats_.sessions_active[index(session.backend)].subtract(1);
      });
}

void Tracker::recover_sessions(std::span<const WorkerStats> workers) {
  uint64_t active = 0;
  std::vector<uint64_t> by_backend(std::size(stats_.sessions_active));
  sessions_.recover([&](const SessionValue& session) {
    active++;
    by_backend[index(session.backend)]++;
  });
  // The sums of all workers' gauges are the table's.
  for (const WorkerStats& other : workers) {
    if (&other == &stats_) continue;
    active -= other.sessions.active.get();
    for (size_t i = 0; i < by_backend.size(); i++)
      by_backend[i] -= other.sessions_active[i].get();
  }
  stats_.sessions.active.set(active);
  for (size_t i = 0; i < by_backend.size(); i++) {
    Counter& gauge = stats_.sessions_active[i];
    if (gauge.get() != by_backend[i]) gauge.set(by_backend[i]);
  }
}

}  // namespace sluice
