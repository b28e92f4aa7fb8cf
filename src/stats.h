// The `stats` segment: what the data plane tells about itself.
//
// Writer: sluice-dataplane; each WorkerStats has one writing worker, `commands` worker 0, the header the main
// thread. Readers: sluiced, read-only; the workers each other's gauges. Of fixed size whatever the number of
// workers (a sparse file), so it is taken over at every restart and its counters only ever grow.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "src/address.h"
#include "src/commands_layout.h"
#include "src/reason.h"
#include "src/segment.h"
#include "src/size_limits.h"

namespace sluice {

// A counter or gauge with one writer. All accesses are relaxed: a reader wants a recent value, and nothing is
// ordered by it; a consistent set of them is read under WorkerStats::sequence. The writer's add is a plain
// add (no lock prefix).
class Counter {
 public:
  void add(uint64_t n) {
    value_.store(value_.load(std::memory_order_relaxed) + n, std::memory_order_relaxed);
  }
  void subtract(uint64_t n) { add(~n + 1); }
  void set(uint64_t n) { value_.store(n, std::memory_order_relaxed); }
  uint64_t get() const { return value_.load(std::memory_order_relaxed); }

 private:
  std::atomic<uint64_t> value_{0};
};
static_assert(sizeof(Counter) == 8);

// Of a gauge that is a sum over workers: one may have less than none, as another made what it removed. Read
// in the middle of that, so may the sum.
constexpr uint64_t not_below_0(uint64_t sum) {
  return static_cast<int64_t>(sum) < 0 ? 0 : sum;
}

struct alignas(32) BackendCounters {
  Counter packets;       // forwarded to it
  Counter bytes;         // of IP packets as received, without Ethernet and tunnel headers
  Counter flows;         // new flows given to it
  Counter flows_active;  // gauge: entries of this worker's flow table that name it
};
static_assert(sizeof(BackendCounters) == 32);

struct alignas(64) ServiceCounters {
  Counter packets;    // received for it
  Counter bytes;      // as above
  Counter flows;      // new flows
  Counter forwarded;  // packets
  Counter dropped;    // packets; received for it and neither forwarded nor answered
  Counter reserved[3];
};
static_assert(sizeof(ServiceCounters) == 64);

// What one worker did. received = forwarded + answered + the sum of by_reason, at every even `sequence`.
struct PacketCounters {
  Counter received;
  Counter forwarded;
  Counter answered;  // "packet too big" or a TCP reset sent instead
  Counter by_reason[kReasonCount];
};

struct FlowCounters {
  Counter active;  // gauge: entries in the table
  Counter inserted;
  Counter expired;     // idle timeout
  Counter evicted;     // an unconfirmed flow gave its place to another
  Counter untracked;   // packets of new flows without a place: forwarded by the lookup table alone
  Counter reselected;  // its backend was gone: selected afresh
  Counter reused;      // a SYN on a closing flow: selected afresh
  Counter reset;       // its backend was gone: forgotten, and the client told by a TCP reset
  Counter overflowed;  // choices of a backend that was full: to the next one that was not
};

// Sessions (src/session_layout.h), as this worker made, moved and removed them.
struct SessionCounters {
  Counter active;   // gauge: less than none, modulo 2^64, when others made what this one removed
  Counter made;     // by a connection, a datagram or an operator
  Counter moved;    // its backend was down or gone: to the next choice; or an operator's
  Counter ended;    // idle or old, or its backend was removed, or unpinned
  Counter full;     // connections that found no place for theirs: the hash decided
  Counter keyless;  // packets too short for their service's key: tracked as connections are
  Counter reserved[2];
};

struct alignas(64) WorkerStats {
  // Store-release after the batch that used the generation is sent; pairs with sluiced's load-acquire before
  // it reuses memory of an older one. Alone on its line with what else the worker writes once a loop.
  std::atomic<uint64_t> acknowledged_generation;
  // Which tables segment that generation is of (SegmentHeader::incarnation). Changed only after
  // acknowledged_generation was set to 0, so whoever reads this first and then the generation never pairs an
  // old number with a new segment.
  std::atomic<uint64_t> acknowledged_incarnation;
  // Odd while a batch's counters are being added; even and unchanged around a reader's copy means that the
  // copy is of one instant. Writer: release on both sides; reader: acquire first, fence, relaxed last (a
  // seqlock).
  std::atomic<uint64_t> sequence;
  Counter heartbeat_ns;  // CLOCK_MONOTONIC
  Counter loops;
  Counter busy_cycles;  // TSC: loops that received packets
  Counter idle_cycles;  // loops that did not

  // Written by the main thread at start and end, on a line of its own.
  alignas(64) Counter cpu;  // that the worker is pinned to
  Counter active;           // 1: this worker runs
  alignas(64) PacketCounters packets;
  alignas(64) FlowCounters flows;
  alignas(64) SessionCounters sessions;
  ServiceCounters services[limits::kServicesMax];  // by ServiceId
  BackendCounters backends[limits::kBackendsMax];  // by BackendId
  // By BackendId: SYNs that came again for a flow that has seen nothing but SYNs. A backend that does not
  // answer makes these. Apart from BackendCounters, whose line each packet touches.
  Counter syns_repeated[limits::kBackendsMax];
  // By BackendId, gauges: sessions that name it, as SessionCounters::active.
  Counter sessions_active[limits::kBackendsMax];
};
static_assert(offsetof(WorkerStats, cpu) == 64 && offsetof(WorkerStats, packets) == 128);

// The generation of this very tables segment that the worker has acknowledged; 0: none.
inline uint64_t acknowledged(const WorkerStats& worker, uint64_t tables_incarnation) {
  if (worker.acknowledged_incarnation.load(std::memory_order_acquire) != tables_incarnation) return 0;
  return worker.acknowledged_generation.load(std::memory_order_acquire);
}

struct PortInfo {
  char name[limits::kNameBytes];  // DPDK's: "net_af_xdp0", "0000:03:00.0"
  char interface[16];             // the kernel's, when it has one: "eth0"
  uint32_t ifindex;               // 0: the kernel has no such interface
  uint32_t mtu_bytes;
  char driver[24];
  MacAddress mac;
  // 1: the kernel has a copy of every packet. 0: what was received is ours alone, also on a steered port,
  // where what is not VIP traffic was not received at all.
  uint8_t kernel_sees_rest;
  uint8_t steered;    // 1: the steering program decides (bpf/steer.bpf.c)
  uint8_t hears_all;  // 1: it also hears frames to other stations, even those we sent
  uint8_t reserved[3];
  uint32_t queues;
};

struct StatsHeader {
  SegmentHeader segment;
  // Raised with release after ports and workers are filled in at each start; a reader that sees a new value
  // with acquire sees them all. 0: never started.
  alignas(64) std::atomic<uint64_t> starts;
  uint32_t workers_count;
  uint32_t ports_count;
  uint64_t started_ns;  // CLOCK_MONOTONIC
  uint64_t tsc_hz;
  uint64_t flows_max;         // per worker
  uint64_t sessions_max;      // of all workers
  uint64_t flows_bytes;       // of all workers' flow tables and the session table,
  uint64_t flows_page_bytes;  //   in pages of this size (Segment::page_bytes)
  char version[32];
  PortInfo ports[limits::kPortsMax];
  // Counted by the ports, by their own counters, since the start; the main thread copies them once a second.
  struct PortCounters {
    Counter received;
    Counter sent;
    Counter missed;  // the receive ring was full
  } port_counters[limits::kPortsMax];
};

struct StatsSegment {
  StatsHeader header;
  CommandsDone commands;
  WorkerStats workers[limits::kWorkersMax];
};

inline constexpr SegmentKind kStatsSegment = {"stats", "sluice-dataplane",
                                              0x2073746174536c53ULL,  // "SlStats "
                                              layout_hash({sizeof(StatsHeader),
                                                           offsetof(StatsHeader, starts),
                                                           offsetof(StatsHeader, ports),
                                                           offsetof(StatsHeader, sessions_max),
                                                           offsetof(StatsHeader, flows_page_bytes),
                                                           sizeof(PortInfo),
                                                           offsetof(PortInfo, mac),
                                                           offsetof(StatsHeader, port_counters),
                                                           sizeof(WorkerStats),
                                                           offsetof(WorkerStats, sequence),
                                                           offsetof(WorkerStats, packets),
                                                           offsetof(WorkerStats, flows),
                                                           offsetof(WorkerStats, services),
                                                           offsetof(WorkerStats, backends),
                                                           offsetof(WorkerStats, syns_repeated),
                                                           offsetof(WorkerStats, sessions),
                                                           offsetof(WorkerStats, sessions_active),
                                                           sizeof(ServiceCounters),
                                                           sizeof(BackendCounters),
                                                           kReasonCount,
                                                           sizeof(FlowCounters),
                                                           offsetof(StatsSegment, commands),
                                                           offsetof(CommandsDone, answers),
                                                           sizeof(CommandsDone)})};

// A copy of one worker's packet counters, of one instant. Only a worker killed or preempted in the middle of
// an update leaves an odd sequence for long: then the copy is what there is, and not `whole` (the next start
// repairs the sum, dataplane/worker.cc).
struct PacketSnapshot {
  uint64_t received = 0;
  uint64_t forwarded = 0;
  uint64_t answered = 0;
  uint64_t by_reason[kReasonCount] = {};
  bool whole = false;  // of one instant
};

inline PacketSnapshot snapshot(const WorkerStats& worker) {
  PacketSnapshot copy;
  for (int attempt = 0; attempt < 10'000; attempt++) {
    const uint64_t before = worker.sequence.load(std::memory_order_acquire);
    copy.received = worker.packets.received.get();
    copy.forwarded = worker.packets.forwarded.get();
    copy.answered = worker.packets.answered.get();
    for (size_t i = 0; i < kReasonCount; i++)
      copy.by_reason[i] = worker.packets.by_reason[i].get();
    // Keeps the loads above before the second look at the sequence.
    std::atomic_thread_fence(std::memory_order_acquire);
    copy.whole = before % 2 == 0 && worker.sequence.load(std::memory_order_relaxed) == before;
    if (copy.whole) break;
  }
  return copy;
}

}  // namespace sluice
