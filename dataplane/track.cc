#include "dataplane/track.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstring>
#include <vector>

#include "dataplane/reset.h"
#include "dataplane/select.h"
#include "dataplane/track_session_inl.h"
#include "src/wire.h"

namespace sluice {
namespace {

// What a packet says about its connection. A datagram says no more than TCP data.
enum Signal : uint8_t { data, syn, ending };

constexpr Signal signal_of(uint32_t tcp_flags) {
  if ((tcp_flags & (wire::kTcpFin | wire::kTcpRst)) != 0) return ending;
  return (tcp_flags & (wire::kTcpSyn | wire::kTcpAck)) == wire::kTcpSyn ? syn : data;
}

// A tracked flow's next state, by signal and state. long_lived stands here as established.
constexpr FlowState next_state(Signal signal, FlowState state) {
  switch (state) {
    case FlowState::empty:
    case FlowState::closing:
      return state;
    case FlowState::udp_new:
    case FlowState::udp:
      return FlowState::udp;
    default:
      // A SYN and a RST prove nothing: so answers a spoofed host, when our backend answers it.
      if (signal == ending) return state == FlowState::syn ? state : FlowState::closing;
      return signal == syn && state != FlowState::long_lived ? state : FlowState::established;
  }
}

constexpr auto kSignals = [] {
  std::array<Signal, 64> signals{};
  for (uint32_t flags = 0; flags < signals.size(); flags++)
    signals[flags] = signal_of(flags);
  return signals;
}();
constexpr auto kNextStates = [] {
  std::array<std::array<FlowState, 8>, 3> next{};
  for (const Signal signal : {data, syn, ending}) {
    for (uint32_t state = 0; state < 8; state++)
      next[signal][state] = next_state(signal, static_cast<FlowState>(state));
  }
  return next;
}();

Signal signal_of(const Packet& packet) {
  return kSignals[packet.tcp_flags & (kSignals.size() - 1)];
}

FlowState first_state(const Packet& packet) {
  if (packet.protocol == wire::kProtoUdp) return FlowState::udp_new;
  // One packet proves nothing, whatever it says; not even that there was something to end.
  constexpr FlowState first[] = {FlowState::midstream, FlowState::syn, FlowState::midstream};
  return first[signal_of(packet)];
}

// The service whose timeouts hold for a flow of this backend; nullptr when the backend is removed.
const ServiceRecord* service_of(const TablesView& tables, BackendId id) {
  const BackendRecord& backend = tables.backend(id);
  return (backend.flags & BackendRecord::kConfigured) == 0 ? nullptr : &tables.service(backend.service);
}

// Seconds that the flow at `place` may still rest; 0: it is over.
uint32_t remaining_s(FlowTable::Place place, const TablesView& tables, uint32_t now_s) {
  const ServiceRecord* service = service_of(tables, place.backend());
  if (service == nullptr) return 0;
  const uint32_t idle_s = place.idle_s(now_s);
  const uint32_t timeout_s = idle_timeout_s(*service, place.state());
  return idle_s > timeout_s ? 0 : timeout_s - idle_s + 1;
}

}  // namespace

// Of a new flow: its session's backend, or else the lookup table's.
inline bool Tracker::choose(Packet& packet, uint64_t session, const TablesView& tables, uint32_t now_s) {
  if (session != kNoSession) return choose_by_session(packet, session, tables, now_s);
  const uint64_t hash = choice_hash(packet, tables);
  if (!select(packet, hash, tables)) return false;
  const ServiceRecord& service = tables.service(packet.service);
  if ((service.flags & ServiceRecord::kCapped) == 0 || !is_first(packet) || Chooser::decides(service))
      [[likely]]
    return true;
  return find_room(packet, hash, false, tables);
}

// Then, of one that begins here and has its place: who it is by the method, if that is not a hash. False:
// they are all full, and the packet is refused.
inline bool Tracker::choose_by_method(Packet& packet, uint64_t session, const TablesView& tables) {
  const ServiceRecord& service = tables.service(packet.service);
  if (!Chooser::decides(service) || session != kNoSession || !is_first(packet)) [[likely]]
    return true;
  packet.backend = chooser_.choose(packet.service, service, tables);
  packet.record = &tables.backend(packet.backend);
  return (service.flags & ServiceRecord::kCapped) == 0 || find_room(packet, packet.hash, false, tables);
}

// What a tracked flow's packet finds.
struct Tracker::Found {
  const BackendRecord* record;
  FlowState state;
  FlowState next;
  bool keeps;    // its backend lives
  bool reused;   // a new connection on the same ports
  bool expired;  // idle for too long
  bool is_hit() const { return keeps & !reused & !expired; }
};

inline Tracker::Found Tracker::look(const Packet& packet, FlowTable::Place place, const TablesView& tables,
                                    uint32_t now_s) {
  const ServiceRecord& service = tables.service(packet.service);
  const BackendRecord& backend = tables.backend(place.backend());
  const Signal signal = signal_of(packet);
  Found found;
  found.record = &backend;
  found.state = place.state();
  const FlowState next = kNextStates[signal][static_cast<uint32_t>(found.state)];
  found.next = next == FlowState::established ? established_state(service) : next;
  found.keeps = ((backend.flags & BackendRecord::kAlive) != 0) & (backend.service == packet.service);
  // A SYN on a closing flow is a new connection. So is one on a confirmed flow, though it may also be a
  // stray: it selects afresh only if the backend may not have new ones (the server's RST, which we do not
  // see, ended the old).
  const bool refuses_new = (backend.flags & BackendRecord::kTakesNew) == 0;
  const bool failed = (backend.flags & BackendRecord::kFailed) != 0;
  found.reused = (signal == syn) & ((found.state == FlowState::closing) | failed |
                                    (!is_unconfirmed(found.state) & refuses_new));
  found.expired = place.idle_s(now_s) > idle_timeout_s(service, found.state);
  return found;
}

void Tracker::count_new(const Packet& packet) {
  stats_.services[index(packet.service)].flows.add(1);
  stats_.backends[index(packet.backend)].flows.add(1);
}

// Was its last packet in another piece of refresh_s? A long_lived flow knows its time to such a piece only.
inline bool is_first_in_refresh(FlowTable::Place place, const ServiceRecord& service, uint32_t now_s) {
  static_assert(1u << kLongShift == 128, "refresh_s() of services whose flows may be long_lived");
  const uint32_t idle_s = place.idle_s(now_s);
  if (place.state() == FlowState::long_lived) return idle_s != 0;
  const uint32_t piece_s = refresh_s(service.session_idle_s);
  return now_s / piece_s != (now_s - idle_s) / piece_s;
}

inline bool Tracker::may_have_moved(const Packet& packet, const TablesView& tables, uint32_t now_s) const {
  return sessions_.moved.any(now_s) && sessions_.moved.may_have(session_of(packet, tables));
}

// A packet of a flow that is in the table.
[[gnu::noinline]] void Tracker::follow(Packet& packet, FlowTable::Place place, const TablesView& tables,
                                       uint32_t now_s, Sums& sums) {
  const Found found = look(packet, place, tables, now_s);
  if (!found.is_hit()) [[unlikely]]
    return restart(packet, place, found, tables, now_s, sums);
  packet.backend = place.backend();
  packet.record = found.record;
  packet.how = FlowHow::hit;
  if (found.state == FlowState::syn && signal_of(packet) == syn)
    stats_.syns_repeated[index(packet.backend)].add(1);
  const ServiceRecord& service = tables.service(packet.service);
  // Its timeout may be a shorter one now.
  if (found.next != found.state) flows_.expect(place, now_s, idle_timeout_s(service, found.next));
  if ((service.flags & ServiceRecord::kSessions) != 0 && !is_unconfirmed(found.next)) {
    const bool is_confirmed_now = is_unconfirmed(found.state) && on_trial_.may_have(packet.hash);
    if ((is_confirmed_now || is_first_in_refresh(place, service, now_s) ||
         may_have_moved(packet, tables, now_s)) &&
        !refresh_session(packet, place, tables, now_s, sums)) [[unlikely]]
      return;
  }
  place.touch(found.next, now_s);
}

// The flow starts anew in the place it has.
[[gnu::noinline]] void Tracker::restart(Packet& packet, FlowTable::Place place, const Found& found,
                                        const TablesView& tables, uint32_t now_s, Sums& sums) {
  const BackendId tracked = place.backend();
  if (!found.keeps && reset(packet, place, tables, now_s, sums)) return;
  const uint64_t session = session_of(packet, tables);
  // Its own place is free for it.
  stats_.backends[index(tracked)].flows_active.subtract(1);
  if (!choose(packet, session, tables, now_s) || !choose_by_method(packet, session, tables)) {
    stats_.backends[index(tracked)].flows_active.add(1);
    return;
  }
  place.set_backend(packet.backend);
  const ServiceRecord& service = tables.service(packet.service);
  const FlowState first = first_state(packet);
  uint32_t rests_s = idle_timeout_s(service, first), seen_s = now_s;
  if (!found.keeps && first == FlowState::midstream) {
    // Its new backend knows nothing of the connection, and most likely ends it: it rests as a SYN's, as if it
    // had been seen that much earlier.
    const uint32_t shorter_s = std::min(rests_s, service.idle_s[ServiceRecord::kSyn]);
    seen_s = now_s - (rests_s - shorter_s);
    rests_s = shorter_s;
  }
  stats_.backends[index(packet.backend)].flows_active.add(1);
  count_new(packet);
  if (!found.keeps) {
    packet.how = FlowHow::reselected;
    sums.reselected++;
  } else if (found.reused) {
    packet.how = FlowHow::reused;
    sums.reused++;
  } else {
    packet.how = FlowHow::created;
    sums.expired++;
    sums.inserted++;
  }
  place.touch(first, seen_s);
  flows_.expect(place, now_s, rests_s);
}

// A flow whose backend is gone: forgotten, and the client told so. False: that is not to be; nothing was
// done.
bool Tracker::reset(Packet& packet, FlowTable::Place place, const TablesView& tables, uint32_t now_s,
                    Sums& sums) {
  const BackendRecord& backend = tables.backend(place.backend());
  if ((tables.service(packet.service).flags & ServiceRecord::kResets) == 0 &&
      (backend.flags & BackendRecord::kResets) == 0)
    return false;
  // Another service's flow of the same hash is not the client's.
  const bool is_removed = (backend.flags & BackendRecord::kConfigured) == 0;
  if (!(is_removed || backend.service == packet.service) || !may_answer_reset(packet)) return false;
  end_by_reset(packet, place, now_s, sums);
  return true;
}

// The flow is forgotten, and its packet becomes the reset.
void Tracker::end_by_reset(Packet& packet, FlowTable::Place place, uint32_t now_s, Sums& sums) {
  packet.backend = place.backend();
  packet.how = FlowHow::reset;
  packet.verdict = Verdict::answer;
  packet.out_port = packet.in_port;
  answer_reset(packet);
  stats_.backends[index(packet.backend)].flows_active.subtract(1);
  sums.active--;
  sums.reset++;
  // More would make too many others' packets look so.
  if (reset_lately_.puts(now_s) < kResetsRemembered) reset_lately_.put(packet.hash, now_s);
  flows_.erase(place);
}

// A new flow. `at_home`: only if its home bucket has a place; false: it has none, nothing was done. (In a
// flood only a connection that goes on is worth looking further for: with its next packet.)
template <bool at_home>
[[gnu::always_inline]] inline bool Tracker::create(Packet& packet, uint64_t session, const TablesView& tables,
                                                   uint32_t now_s, Sums& sums) {
  const FlowState first = first_state(packet);
  if (first == FlowState::midstream && reset_lately_.may_have(packet.hash, now_s)) [[unlikely]] {
    // It was under way when its connection was reset: no flow of another backend.
    if (choose(packet, session, tables, now_s)) packet.how = FlowHow::untracked;
    return true;
  }
  FlowTable::HomePlace at;
  if constexpr (at_home) {
    at = flows_.place_at_home(packet.hash, now_s);
    if (!at && (first != FlowState::syn || !flows_.is_crowded(now_s))) return false;
  }
  if (!choose(packet, session, tables, now_s)) [[unlikely]]
    return true;
  const FlowTable::NewFlow flow = {packet.hash, packet.backend, first,
                                   idle_timeout_s(tables.service(packet.service), first)};
  FlowTable::Inserted inserted;
  if constexpr (at_home) {
    if (at) inserted = flows_.insert_at_home(flow, at, now_s);
  } else {
    inserted = flows_.insert(flow, now_s,
                             [&](FlowTable::Place place) { return remaining_s(place, tables, now_s) == 0; });
  }
  if (inserted.displaced) {
    sums.expired += inserted.victim_expired;
    sums.evicted += !inserted.victim_expired;
    sums.active--;
    stats_.backends[index(inserted.victim_backend)].flows_active.subtract(1);
  }
  if (!inserted.place) {
    packet.how = FlowHow::untracked;
    sums.untracked++;
    return true;
  }
  if (!choose_by_method(packet, session, tables)) [[unlikely]] {
    flows_.erase(inserted.place);
    return true;
  }
  if (packet.backend != flow.backend) [[unlikely]]
    inserted.place.set_backend(packet.backend);
  packet.how = FlowHow::created;
  sums.inserted++;
  sums.active++;
  stats_.backends[index(packet.backend)].flows_active.add(1);
  count_new(packet);
  return true;
}

void Tracker::add(const Sums& sums) {
  FlowCounters& flows = stats_.flows;
  flows.active.add(static_cast<uint64_t>(int64_t{sums.active}));
  flows.inserted.add(sums.inserted);
  flows.expired.add(sums.expired);
  flows.evicted.add(sums.evicted);
  flows.untracked.add(sums.untracked);
  flows.reselected.add(sums.reselected);
  flows.reused.add(sums.reused);
  flows.reset.add(sums.reset);
}

// What nearly all packets find, prepared once for all packets of a service: a confirmed flow of one state,
// not idle for too long, to a backend of this service that lives.
struct Tracker::Steady {
  static constexpr uint64_t kBackendMask = 0xffffffff00000000 | BackendRecord::kAlive;

  ServiceId service = kNoService;
  uint16_t entry = 0;  // what such a flow's state_time becomes
  uint16_t timeout_units = 0;
  uint16_t same_time_mask = 0;  // last seen in another such piece of time: it refreshes its session
  bool stateless = false;
  bool by_key = false;
  bool has_sessions = false;
  uint64_t backend_start = 0;  // the first eight bytes of its backend's record, where kBackendMask says

  Steady() = default;
  Steady(ServiceId id, const ServiceRecord& record, uint32_t now_s, bool some_moved)
      : service(id),
        stateless((record.flags & ServiceRecord::kStateless) != 0),
        by_key((record.flags & ServiceRecord::kByKey) != 0),
        has_sessions((record.flags & ServiceRecord::kSessions) != 0),
        backend_start(uint64_t{index(id)} << 32 | BackendRecord::kAlive) {
    const FlowState state = record.protocol == wire::kProtoUdp ? FlowState::udp : established_state(record);
    const uint32_t timeout_s = idle_timeout_s(record, state);
    entry = state_and_time(state, now_s);
    // Rounded down: at the very end of a long timeout follow() decides.
    timeout_units =
        static_cast<uint16_t>(state == FlowState::long_lived ? timeout_s >> kLongShift : timeout_s);
    const uint32_t refresh_mask = refresh_s(record.session_idle_s) - 1;
    same_time_mask = static_cast<uint16_t>(!has_sessions                    ? kTimeMask
                                           : state == FlowState::long_lived ? refresh_mask >> kLongShift
                                                                            : refresh_mask);
    // No backend is nobody's: follow() looks at each packet.
    if (has_sessions && some_moved) [[unlikely]]
      backend_start = uint64_t{index(kNoService)} << 32;
  }

  bool holds_for(uint16_t of_flow) const {
    return (static_cast<uint16_t>(entry ^ of_flow) <= same_time_mask) &
           (((entry - of_flow) & kTimeMask) <= timeout_units);
  }
  // Not 0: the backend is dead, or another service's.
  uint64_t unlike(const BackendRecord& record) const {
    uint64_t start;
    std::memcpy(&start, &record, sizeof start);
    return (start ^ backend_start) & kBackendMask;
  }
};
static_assert(offsetof(BackendRecord, flags) == 0 && offsetof(BackendRecord, service) == 4);

// A packet with one of these flags may change its flow's state.
constexpr uint8_t kNews = wire::kTcpSyn | wire::kTcpFin | wire::kTcpRst;

// First pass, usually: nearly every packet says nothing new, and belongs to a steady flow at home. What
// follow() would do, in a few instructions.
inline bool Tracker::is_at_home(Packet& packet, const Steady& steady, const TablesView& tables,
                                uint32_t now_s, Sums& sums) {
  FlowBucket& bucket = flows_.home_of(packet.hash);
  const uint32_t mask = matching_tags(bucket, packet.hash);
  if (mask == 0) [[unlikely]]
    return false;
  const auto slot = static_cast<uint32_t>(std::countr_zero(mask));
  const BackendId id = backend_of(bucket, slot);
  const BackendRecord& record = tables.backend(id);
  if (!steady.holds_for(bucket.state_time[slot]) || (packet.tcp_flags & kNews) != 0 ||
      steady.unlike(record) != 0) [[unlikely]] {
    return follow_home(packet, tables, now_s, sums);
  }
  packet.backend = id;
  packet.record = &record;
  packet.how = FlowHow::hit;
  bucket.state_time[slot] = steady.entry;  // also when it says so already: cheaper than to ask
  return true;
}

// The same, when many packets are of unknown flows: whether this one's is at home is not asked by a branch,
// which would be guessed wrong half of the time.
inline bool Tracker::is_at_home_in_flood(Packet& packet, const Steady& steady, const TablesView& tables,
                                         uint32_t now_s, Sums& sums) {
  FlowBucket& bucket = flows_.home_of(packet.hash);
  const uint32_t mask = matching_tags(bucket, packet.hash);
  // Some place, if it has none: what it holds is looked at and not used.
  const auto slot = static_cast<uint32_t>(std::countr_zero(mask | 1u << (kBucketFlows - 1)));
  const BackendId id = backend_of(bucket, slot);
  const BackendRecord& record = tables.backend(id);
  packet.backend = id;
  packet.record = &record;
  packet.how = FlowHow::hit;
  const uint16_t entry = bucket.state_time[slot];
  const bool has_no_news = (steady.unlike(record) | (packet.tcp_flags & kNews)) == 0;
  const bool is_steady = static_cast<bool>(int{steady.holds_for(entry)} & int{has_no_news});
  const bool is_here = mask != 0;
  uint32_t to_do = static_cast<uint32_t>(is_here & !is_steady) << 1 |
                   static_cast<uint32_t>(is_here & (entry != steady.entry));
  // Keeps the compiler from asking for its parts one by one.
  asm("" : "+r"(to_do));
  if (to_do != 0) {
    if (to_do > 1) [[unlikely]]
      return follow_home(packet, tables, now_s, sums);
    bucket.state_time[slot] = steady.entry;
  }
  return is_here;
}

// A packet whose flow seems to be at home, and is not steady. False: the place is free since.
[[gnu::noinline]] bool Tracker::follow_home(Packet& packet, const TablesView& tables, uint32_t now_s,
                                            Sums& sums) {
  const FlowTable::Place place = flows_.find_home(packet.hash);
  if (place) follow(packet, place, tables, now_s, sums);
  return static_cast<bool>(place);
}

void Tracker::track(Batch& batch, const TablesView& tables, uint32_t now_s) {
  Sums sums;
  Steady steady;
  Rest rest[limits::kBatchMax + 1];
  uint32_t rest_count = 0;
  bool has_sessions = false;
  const bool some_moved = sessions_.moved.any(now_s);
  const auto first_pass = [&](auto&& is_at_home) {
    batch.each_live([&](Packet& packet) {
      if (packet.service != steady.service) [[unlikely]]
        steady = Steady(packet.service, tables.service(packet.service), now_s, some_moved);
      if (steady.stateless) [[unlikely]] {
        packet.how = FlowHow::stateless;
        select(packet, choice_hash(packet, tables), tables);
        return;
      }
      has_sessions |= steady.has_sessions;
      rest[rest_count].packet = &packet;
      if (steady.by_key) [[unlikely]] {
        // Another flow than classify thought: its line is not here yet.
        if (take_key(packet, tables)) {
          flows_.prefetch(packet.hash);
          rest_count++;
          return;
        }
        stats_.sessions.keyless.add(1);
      }
      rest_count += is_at_home(packet) ? 0 : 1;
    });
  };
  if (many_unknown_) [[unlikely]] {
    first_pass([&](Packet& packet) { return is_at_home_in_flood(packet, steady, tables, now_s, sums); });
  } else {
    first_pass([&](Packet& packet) { return is_at_home(packet, steady, tables, now_s, sums); });
  }
  many_unknown_ = rest_count > batch.count / 8;
  for (uint32_t i = 0; i < rest_count; i++) {
    rest[i].session = has_sessions ? session_of(*rest[i].packet, tables) : kNoSession;
    if (rest[i].session != kNoSession) sessions_.prefetch(rest[i].session);
  }
  if (rest_count != 0) track_rest({rest, rest_count}, tables, now_s, sums);
  if (sums.any()) add(sums);
}

// Second pass: new flows, and those that are away from home. First what the home line, which is here,
// decides; the others' second lines are on their way meanwhile.
[[gnu::noinline]] void Tracker::track_rest(std::span<Rest> rest, const TablesView& tables, uint32_t now_s,
                                           Sums& sums) {
  uint32_t far_count = 0;
  for (const Rest of : rest) {
    Packet* const packet = of.packet;
    if (!flows_.may_be_away(packet->hash)) {
      // Here only if a packet before this one brought it.
      if (const FlowTable::Place place = flows_.find_home(packet->hash)) [[unlikely]] {
        follow(*packet, place, tables, now_s, sums);
        continue;
      }
      if (create<true>(*packet, of.session, tables, now_s, sums)) [[likely]]
        continue;
    }
    flows_.prefetch_other(packet->hash);
    rest[far_count++] = of;
  }
  for (uint32_t i = 0; i < far_count; i++) {
    Packet& packet = *rest[i].packet;
    const uint64_t session = rest[i].session;
    if (const FlowTable::Place place = flows_.find(packet.hash)) {
      follow(packet, place, tables, now_s, sums);
      continue;
    }
    const bool at_home = flows_.is_crowded(now_s) && first_state(packet) == FlowState::syn;
    if (!at_home || !create<true>(packet, session, tables, now_s, sums))
      create<false>(packet, session, tables, now_s, sums);
  }
}

uint64_t Tracker::sweep(uint64_t groups, uint32_t scans_max, const TablesView& tables, uint32_t now_s) {
  return flows_.sweep(groups, scans_max, now_s, [&](FlowTable::Place place) {
    const uint32_t rest_s = remaining_s(place, tables, now_s);
    if (rest_s == 0) {
      stats_.backends[index(place.backend())].flows_active.subtract(1);
      stats_.flows.active.subtract(1);
      stats_.flows.expired.add(1);
    } else if (place.state() == FlowState::established) {
      // If its service's timeout became one of days: the seconds of this state would wrap.
      const ServiceRecord& service = *service_of(tables, place.backend());
      place.touch(established_state(service), now_s - place.idle_s(now_s));
    }
    return rest_s;
  });
}

void Tracker::recount() {
  uint64_t active = 0;
  std::vector<uint64_t> by_backend(std::size(stats_.backends));
  flows_.each([&](FlowTable::Place place) {
    active++;
    by_backend[index(place.backend())]++;
  });
  stats_.flows.active.set(active);
  for (size_t i = 0; i < by_backend.size(); i++) {
    Counter& gauge = stats_.backends[i].flows_active;
    if (gauge.get() != by_backend[i]) gauge.set(by_backend[i]);
  }
}

void Tracker::forget_flows() {
  flows_.clear();
  stats_.flows.active.set(0);
  for (BackendCounters& backend : stats_.backends) {
    if (backend.flows_active.get() != 0) backend.flows_active.set(0);
  }
}

}  // namespace sluice
