// Stage 3: which backend. A tracked flow keeps its backend while that backend lives; everything else is
// selected by the service's lookup table, and tracked.
//
// TCP: a SYN makes an unconfirmed flow, its next packet confirms it; FIN or RST make it closing; a SYN on a
// closing flow is a new connection and selects afresh, and so is one on an established flow whose
// backend takes no new flows (the server's RST never passes here). A packet of an unknown connection (it
// began before we saw it, or was forgotten) is selected by the lookup table, as every other balancer would,
// and tracked as unconfirmed. UDP: the second datagram confirms.
#pragma once

#include "dataplane/batch.h"
#include "dataplane/flow_table.h"
#include "src/stats.h"

namespace sluice {

class Tracker {
 public:
  Tracker(FlowTable& flows, WorkerStats& stats) : flows_(flows), stats_(stats) {}

  // `now_s`: CLOCK_MONOTONIC seconds.
  void track(Batch& batch, const TablesView& tables, uint32_t now_s);

  // Ageing: looks at `buckets` buckets and forgets flows that are idle for too long, or whose backend is
  // removed.
  void sweep(uint64_t buckets, const TablesView& tables, uint32_t now_s);

  // Counts the flows that a predecessor left in the table: sets the gauges.
  void recount();

 private:
  bool track_one(Packet& packet, const TablesView& tables, uint32_t now_s);
  bool select(Packet& packet, const TablesView& tables, const ServiceRecord& service) const;
  void create(Packet& packet, const TablesView& tables, uint32_t now_s);
  void count_new(const Packet& packet);

  FlowTable& flows_;
  WorkerStats& stats_;
};

}  // namespace sluice
