// Stage 3: which backend. A tracked flow keeps its backend while that backend lives; everything else is
// selected by the service's lookup table, and tracked.
//
// TCP: a SYN makes an unconfirmed flow, its next packet confirms it; FIN or RST make it closing; a SYN on a
// closing flow is a new connection and selects afresh, and so is one on an established flow whose
// backend takes no new flows (the server's RST never passes here). A packet of an unknown connection (it
// began before we saw it, or was forgotten) is selected by the lookup table, as every other balancer would,
// and tracked as unconfirmed. UDP: the second datagram confirms.
//
// A method that looks at more than the packet (chooser.h) has the last word on a flow that begins here and
// has got a place; the others' packets, and those of the next balancer, are selected by hash.
//
// A flow whose backend is gone is selected afresh; where the service says so, a TCP one is forgotten instead,
// and its packet becomes a reset to the client (reset.h). What else of it was under way is not tracked. A
// backend that failed and keeps its flows all the same has none opened on it: a SYN selects afresh.
//
// A stateless service's packets are selected by its lookup table, each by itself, and leave nothing behind.
//
// A service with sessions: a new flow goes to its session's backend (session_table.h), found by the client's
// address or by a key in the payload; the session's first choice is the lookup table's, by the same hash.
// One packet proves nothing here either: until its flow is confirmed, a session rests no longer than a SYN.
// Sessions of flows that go on are refreshed once in refresh_s. Then, and at each packet while sessions were
// moved or unpinned lately (moved_sessions.h), a UDP flow goes where its session was moved to, and a TCP one
// is reset, if that was asked for. Of a service with keys, the flow itself is what the key says, whatever
// addresses it comes from; packets too short for a key are tracked as connections are.
//
// Two passes over a batch. First the packets whose flow is in its home bucket, which nearly all are; nothing
// moves in the table meanwhile. Then, in order, what that left open: by now the lines that it needs are under
// way. A flow's packets stay in order, as all of one flow are found in the first pass or none is.
#pragma once

#include <optional>
#include <span>

#include "dataplane/batch.h"
#include "dataplane/chooser.h"
#include "dataplane/flow_table.h"
#include "dataplane/recent_set.h"
#include "dataplane/session_table.h"
#include "src/stats.h"

namespace sluice {

class Tracker {
 public:
  // A flow's first packet is remembered for so long at least: its session waits for the second one.
  static constexpr uint32_t kOnTrialS = 64;

  // `workers`: those of all workers that run, of which `stats` is number `number`; none: it is alone.
  Tracker(FlowTable& flows, SessionTable& sessions, WorkerStats& stats,
          std::span<const WorkerStats> workers = {}, uint32_t number = 0)
      : flows_(flows),
        sessions_(sessions),
        stats_(stats),
        chooser_(workers.empty() ? std::span<const WorkerStats>(&stats, 1) : workers, number) {}

  // `now_s`: CLOCK_MONOTONIC seconds.
  void track(Batch& batch, const TablesView& tables, uint32_t now_s);

  // Ageing: forgets flows that are idle for too long, or whose backend is removed. At most `groups` groups of
  // buckets, of which at most `scans_max` are looked into (FlowTable::sweep). Returns how many it passed.
  uint64_t sweep(uint64_t groups, uint32_t scans_max, const TablesView& tables, uint32_t now_s);

  // The same for sessions: the next `lines` of their table. Of all workers one does this.
  void sweep_sessions(uint64_t lines, const TablesView& tables, uint32_t now_s);

  // Counts the flows that a predecessor left in the table: sets the gauges, each once, as others read them.
  void recount();
  // The same for sessions, and mends what it left half done. Before any worker runs; of `workers` one does.
  void recover_sessions(std::span<const WorkerStats> workers);
  void forget_flows();
  // Removes all sessions: their backends' ids mean others.
  void forget_sessions();

 private:
  // What became of the batch, added to the counters once.
  struct Sums {
    uint32_t inserted = 0;
    uint32_t expired = 0;
    uint32_t evicted = 0;
    uint32_t untracked = 0;
    uint32_t reselected = 0;
    uint32_t reused = 0;
    uint32_t reset = 0;
    int32_t active = 0;
    bool any() const { return (inserted | expired | evicted | untracked | reselected | reused | reset) != 0; }
  };
  // A packet that the first pass left open, and its session's hash.
  struct Rest {
    Packet* packet;
    uint64_t session;
  };
  static constexpr uint64_t kNoSession = 0;

  struct Found;
  struct Steady;

  bool is_at_home(Packet& packet, const Steady& steady, const TablesView& tables, uint32_t now_s, Sums& sums);
  bool is_at_home_in_flood(Packet& packet, const Steady& steady, const TablesView& tables, uint32_t now_s,
                           Sums& sums);
  bool follow_home(Packet& packet, const TablesView& tables, uint32_t now_s, Sums& sums);
  void track_rest(std::span<Rest> rest, const TablesView& tables, uint32_t now_s, Sums& sums);

  static Found look(const Packet& packet, FlowTable::Place place, const TablesView& tables, uint32_t now_s);
  void follow(Packet& packet, FlowTable::Place place, const TablesView& tables, uint32_t now_s, Sums& sums);
  void restart(Packet& packet, FlowTable::Place place, const Found& found, const TablesView& tables,
               uint32_t now_s, Sums& sums);
  bool reset(Packet& packet, FlowTable::Place place, const TablesView& tables, uint32_t now_s, Sums& sums);
  template <bool at_home>
  bool create(Packet& packet, uint64_t session, const TablesView& tables, uint32_t now_s, Sums& sums);
  uint64_t session_of(const Packet& packet, const TablesView& tables) const;
  bool take_key(Packet& packet, const TablesView& tables);
  bool choose(Packet& packet, uint64_t session, const TablesView& tables, uint32_t now_s);
  bool has_room(BackendId id, bool for_session, const TablesView& tables) const;
  bool has_session_room(BackendId id, const TablesView& tables) const;
  bool find_room(Packet& packet, uint64_t hash, bool for_session, const TablesView& tables);
  bool choose_by_method(Packet& packet, uint64_t session, const TablesView& tables);
  bool choose_by_session(Packet& packet, uint64_t session, const TablesView& tables, uint32_t now_s);
  bool choose_by_session_closely(Packet& packet, uint64_t session, const TablesView& tables, uint32_t now_s);
  bool follow_session(Packet& packet, SessionTable::Found& found, uint64_t session, const TablesView& tables,
                      uint32_t now_s);
  void touch(const Packet& packet, SessionTable::Found& found, const ServiceRecord& service, uint32_t now_s);
  bool lend(Packet& packet, uint64_t session, BackendId lost, const TablesView& tables);
  bool may_have_moved(const Packet& packet, const TablesView& tables, uint32_t now_s) const;
  void count_made(const Packet& packet);
  void remake_session(const Packet& packet, FlowTable::Place place, uint64_t session,
                      const TablesView& tables, uint32_t now_s);
  bool refresh_session(Packet& packet, FlowTable::Place place, const TablesView& tables, uint32_t now_s,
                       Sums& sums);
  std::optional<BackendId> moved_to(const Packet& packet, const SessionValue& session,
                                    const TablesView& tables) const;
  void end_by_reset(Packet& packet, FlowTable::Place place, uint32_t now_s, Sums& sums);
  void count_new(const Packet& packet);
  void add(const Sums& sums);

  FlowTable& flows_;
  SessionTable& sessions_;
  WorkerStats& stats_;
  Chooser chooser_;
  uint64_t sessions_swept_ = 0;    // the line to go on with
  RecentSet<kOnTrialS> on_trial_;  // flows whose confirmation their session waits for
  // Flows that were reset, while their packets may still come; in 64 s so many at most. Of the connections that
  // began elsewhere one in eight at most is then taken for one of them: it is tracked later.
  static constexpr uint32_t kResetsRemembered = 4096;
  RecentSet<64> reset_lately_;
  bool many_unknown_ = false;      // of the last batch's packets; only how to look depends on it
};

}  // namespace sluice
