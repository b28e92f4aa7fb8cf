#include "dataplane/track.h"

#include "src/wire.h"

namespace sluice {
namespace {

bool is_syn(const Packet& packet) {
  return (packet.tcp_flags & (wire::kTcpSyn | wire::kTcpAck)) == wire::kTcpSyn;
}

FlowState first_state(const Packet& packet) {
  if (packet.protocol == wire::kProtoUdp) return FlowState::udp_new;
  if ((packet.tcp_flags & (wire::kTcpFin | wire::kTcpRst)) != 0) return FlowState::closing;
  return is_syn(packet) ? FlowState::syn : FlowState::midstream;
}

FlowState next_state(FlowState state, const Packet& packet) {
  if (packet.protocol == wire::kProtoUdp) return FlowState::udp;
  if (state == FlowState::closing || (packet.tcp_flags & (wire::kTcpFin | wire::kTcpRst)) != 0) {
    return FlowState::closing;
  }
  return is_syn(packet) ? state : FlowState::established;
}

// The service whose timeouts hold for a flow of this backend; nullptr when the backend is removed.
const ServiceRecord* service_of(const TablesView& tables, BackendId id) {
  const BackendRecord& backend = tables.backend(id);
  return (backend.flags & BackendRecord::kConfigured) == 0 ? nullptr : &tables.service(backend.service);
}

// May the flow at `place` be forgotten?
bool is_over(FlowTable::Place place, const TablesView& tables, uint32_t now_s) {
  const ServiceRecord* service = service_of(tables, place.backend());
  return service == nullptr || place.idle_s(now_s) > idle_timeout_s(*service, place.state());
}

}  // namespace

bool Tracker::select(Packet& packet, const TablesView& tables, const ServiceRecord& service) const {
  if (service.lookup == 0) return refuse(packet, Reason::no_backend);
  packet.backend = tables.select(service, packet.hash);
  return true;
}

void Tracker::count_new(const Packet& packet) {
  stats_.services[index(packet.service)].flows.add(1);
  stats_.backends[index(packet.backend)].flows.add(1);
}

void Tracker::create(Packet& packet, const TablesView& tables, uint32_t now_s) {
  const auto expired = [&](FlowTable::Place place) { return is_over(place, tables, now_s); };
  const FlowTable::Inserted inserted =
      flows_.insert(packet.hash, packet.backend, first_state(packet), now_s, expired);
  if (inserted.displaced) {
    (inserted.victim_expired ? stats_.flows.expired : stats_.flows.evicted).add(1);
    stats_.backends[index(inserted.victim_backend)].flows_active.subtract(1);
    stats_.flows.active.subtract(1);
  }
  if (!inserted.place) {
    packet.how = FlowHow::untracked;
    stats_.flows.untracked.add(1);
    return;
  }
  packet.how = FlowHow::created;
  stats_.flows.inserted.add(1);
  stats_.flows.active.add(1);
  stats_.backends[index(packet.backend)].flows_active.add(1);
  count_new(packet);
}

bool Tracker::track_one(Packet& packet, const TablesView& tables, uint32_t now_s) {
  const ServiceRecord& service = tables.service(packet.service);
  FlowTable::Place place = flows_.find(packet.hash);
  if (!place) {
    if (!select(packet, tables, service)) return false;
    create(packet, tables, now_s);
    return true;
  }

  const BackendId tracked = place.backend();
  const BackendRecord& backend = tables.backend(tracked);
  const FlowState state = place.state();
  const bool keeps = (backend.flags & BackendRecord::kAlive) != 0 && backend.service == packet.service;
  // A SYN on a closing flow is a new connection. So is one on a confirmed flow, though it may also be a
  // stray: it selects afresh only if the backend may not have new ones (the server's RST, which we do not
  // see, ended the old).
  const bool reused =
      is_syn(packet) && (state == FlowState::closing ||
                         (!is_unconfirmed(state) && (backend.flags & BackendRecord::kTakesNew) == 0));
  const bool expired = place.idle_s(now_s) > idle_timeout_s(service, state);
  if (keeps && !reused && !expired) [[likely]] {
    packet.backend = tracked;
    packet.how = FlowHow::hit;
    place.touch(next_state(state, packet), now_s);
    return true;
  }

  // The flow starts anew in the place it has.
  if (!select(packet, tables, service)) return false;
  stats_.backends[index(tracked)].flows_active.subtract(1);
  stats_.backends[index(packet.backend)].flows_active.add(1);
  count_new(packet);
  if (!keeps) {
    packet.how = FlowHow::reselected;
    stats_.flows.reselected.add(1);
  } else if (reused) {
    packet.how = FlowHow::reused;
    stats_.flows.reused.add(1);
  } else {
    packet.how = FlowHow::created;
    stats_.flows.expired.add(1);
    stats_.flows.inserted.add(1);
  }
  place.set_backend(packet.backend);
  place.touch(first_state(packet), now_s);
  return true;
}

void Tracker::track(Batch& batch, const TablesView& tables, uint32_t now_s) {
  batch.each_live([&](Packet& packet) { return track_one(packet, tables, now_s); });
}

void Tracker::sweep(uint64_t buckets, const TablesView& tables, uint32_t now_s) {
  flows_.sweep(buckets, [&](FlowTable::Place place) {
    if (!is_over(place, tables, now_s)) return false;
    stats_.backends[index(place.backend())].flows_active.subtract(1);
    stats_.flows.active.subtract(1);
    stats_.flows.expired.add(1);
    return true;
  });
}

void Tracker::recount() {
  stats_.flows.active.set(0);
  for (BackendCounters& backend : stats_.backends) {
    if (backend.flows_active.get() != 0) backend.flows_active.set(0);
  }
  flows_.sweep(flows_.buckets(), [&](FlowTable::Place place) {
    stats_.flows.active.add(1);
    stats_.backends[index(place.backend()) & (limits::kBackendsMax - 1)].flows_active.add(1);
    return false;
  });
}

}  // namespace sluice
