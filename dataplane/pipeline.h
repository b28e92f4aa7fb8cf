// The packet's way between rx and tx, in order, for one worker: parse, classify, track, rewrite; then, when
// the packets have been sent, account.
//
//   batch.clear(); batch.add(...) for each packet received
//   pipeline.process(batch, tables, now_s);
//   ... send what has Verdict::forward or answer; unsent ones: refuse(packet, Reason::tx_full) ...
//   pipeline.account(batch);
//   pipeline.age(tables, now_s, tsc);   // also when nothing was received
//
// Nothing here allocates, locks, logs, throws or calls the kernel; work per batch is bounded. Runs without
// EAL.
#pragma once

#include "dataplane/batch.h"
#include "dataplane/flow_table.h"
#include "dataplane/rewrite.h"
#include "dataplane/session_table.h"
#include "dataplane/track.h"
#include "src/stats.h"

namespace sluice {

class Pipeline {
 public:
  // `tsc_hz`: of the clock that age() is told. The worker of number 0 ages the sessions of all.
  // `workers`: of all workers (Tracker).
  Pipeline(FlowTable& flows, SessionTable& sessions, WorkerStats& stats, uint64_t tsc_hz, uint32_t number = 0,
           std::span<const WorkerStats> workers = {})
      : flows_(flows),
        sessions_(sessions),
        stats_(stats),
        tracker_(flows, sessions, stats, workers, number),
        tsc_hz_(tsc_hz),
        ages_sessions_(number == 0) {}

  // `tables` may be empty (nothing published yet). Every packet of the batch has its verdict afterwards.
  void process(Batch& batch, const TablesView& tables, uint32_t now_s);
  // Adds the batch to the counters: the only place that counts packets.
  void account(const Batch& batch);
  // Ageing at the pace of one round of the flow table a second, and of the session table in sixteen; a
  // bounded piece of them each time. True: it is behind that pace, and should be called again soon.
  bool age(const TablesView& tables, uint32_t now_s, uint64_t tsc);

  Tracker& tracker() { return tracker_; }

 private:
  FlowTable& flows_;
  SessionTable& sessions_;
  WorkerStats& stats_;
  Tracker tracker_;
  Rewriter rewriter_;
  const uint64_t tsc_hz_;
  const bool ages_sessions_;
  uint64_t next_sweep_tsc_ = 0;
  uint64_t next_sessions_tsc_ = 0;
};

}  // namespace sluice
