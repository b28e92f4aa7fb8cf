// One worker: a pinned lcore that polls its queue of every port, in a loop that never blocks:
//
//   acquire the current generation -> for each port: receive, process, send, account -> acknowledge -> sweep
//   a little
//
// The main thread makes a Worker, starts it with rte_eal_remote_launch and from then on touches nothing in it
// but `tables` and `stop`. It polls without pause, unless it was told that it may sleep when idle. Times in
// the loop come from the TSC; CLOCK_MONOTONIC is read (in user space, vDSO) four times a second.
#pragma once

#include <atomic>
#include <cstdint>
#include <span>

#include "dataplane/commands.h"
#include "dataplane/flow_table.h"
#include "dataplane/pipeline.h"
#include "src/stats.h"

struct rte_mbuf;

namespace sluice {

class Worker {
 public:
  // `queue`: this worker's queue on every port, and its number. `sessions` is shared by all workers; `stats`
  // are those of all that run. `done`: of the commands, which worker 0 runs.
  Worker(uint16_t queue, std::span<const PortInfo> ports, FlowBucket* buckets, uint32_t bucket_bits,
         SessionTable& sessions, std::span<WorkerStats> stats, CommandsDone& done, uint64_t tsc_hz,
         uint32_t sleep_max_us);

  // Until `stop`. Runs on the worker's lcore.
  void run();

  // The tables segment, once there is one; null before. Store-release by the main thread after the segment is
  // mapped; load-acquire by the worker once a loop. A mapping is never taken away while workers run.
  std::atomic<const std::byte*> tables{nullptr};
  // The commands segment, in the same way.
  std::atomic<const std::byte*> commands{nullptr};
  // Relaxed on both sides: nothing is handed over by it.
  std::atomic<bool> stop{false};

 private:
  TablesView acquire_tables();
  void acknowledge(const TablesView& tables);
  void run_commands(const TablesView& tables);
  bool poll(const PortInfo& port, uint16_t port_id, const TablesView& tables);
  void send(uint16_t in_port);
  bool keep_time(uint64_t tsc, const TablesView& tables);  // true: there is more to do
  void rest(bool busy);

  const uint16_t queue_;
  const std::span<const PortInfo> ports_;
  FlowTable flows_;
  WorkerStats& stats_;
  Pipeline pipeline_;
  Commands commands_;
  Batch batch_;
  rte_mbuf* mbufs_[limits::kBatchMax];  // by position in the batch

  const std::byte* tables_used_ = nullptr;
  uint64_t tables_incarnation_ = 0;

  const uint64_t tsc_hz_;
  const uint32_t sleep_max_us_;
  uint32_t idle_loops_ = 0;
  uint32_t now_s_ = 0;
  uint64_t next_second_tsc_ = 0;
};

}  // namespace sluice
