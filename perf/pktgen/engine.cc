#include "perf/pktgen/engine.h"

#include <rte_cycles.h>
#include <rte_mbuf.h>
#include <rte_ring.h>

#include <algorithm>

namespace sluice::pktgen {
namespace {

// Packets that are not back this long after the last one that is will not come.
constexpr double kSilence_s = 0.25;
// A turn takes some microseconds; one that took this long was interrupted.
constexpr double kHeldUp_s = 20e-6;
constexpr uint32_t kAskStopEvery = 256;  // turns
constexpr uint32_t kFreeLow = 4;         // bursts

// For writing: the other core has the line, and a plain prefetch would only share it. (The builtin makes this
// instruction only where the compiler may assume it; all x86-64 CPUs DPDK runs on have it, or take it for a
// hint to do nothing.)
void ask_for(const void* line) {
  asm volatile("prefetchw %0" : : "m"(*static_cast<const char*>(line)));
}

uint8_t* frame_start(rte_mbuf* mbuf) {
  return static_cast<uint8_t*>(mbuf->buf_addr) + RTE_PKTMBUF_HEADROOM;
}
// The same without looking into the mbuf: in our pool the buffer lies behind it.
uint8_t* frame_start_of_ours(rte_mbuf* mbuf) {
  return reinterpret_cast<uint8_t*>(mbuf + 1) + RTE_PKTMBUF_HEADROOM;
}

uint32_t share_of(double share) {
  return static_cast<uint32_t>(std::min(share * 4294967296.0, 4294967295.0));
}

}  // namespace

struct Engine::Turn {
  Turn(const Trial& wanted, FlowBook& flows)
      : trial(wanted), writer(wanted), picker(wanted), random(wanted.seed), checker(wanted, flows, outcome) {
    const double slots = 1 - wanted.churn;  // a slot is one packet, or FIN and SYN of a flow that is renewed
    renew_below = share_of(slots > 0 ? wanted.churn / slots : 0);
    const double flood = slots > 0 ? wanted.syn_flood / slots : 0;
    flood_below = share_of(slots > 0 ? wanted.churn / slots + flood : 0);
    has_events = flood_below != 0;
  }

  const Trial& trial;
  Outcome outcome;
  FrameWriter writer;
  Picker picker;
  Random random;
  Checker checker;

  // Events by a random number of 32 bits: below the first a flow is renewed, below the second a flood's
  // packet is sent.
  bool has_events;
  uint32_t renew_below, flood_below;
  bool renewal_due = false;
  uint32_t renewal_flow = 0;
  Item items[kBurst];
  uint32_t items_count = 0, items_used = 0;

  uint64_t start_tsc = 0;
  double packets_per_cycle = 0;  // 0: no rate
  uint64_t least_burst = 1;  // with a rate: what falls due in a microsecond, so that fast rates go in bursts
  uint64_t gap_tsc = 0;      // since the turn before
  uint64_t held_up_from_tsc = 0;  // a gap as long as this is none of our making
  uint64_t arrived_tsc = 0;
  uint64_t ring_used = 0, ring_looks = 0;
  // Packets of one burst share their stamp, mostly.
  uint32_t run_latency = 0;
  uint64_t run_length = 0;

  void add_latency(uint32_t latency) {
    if (latency == run_latency) {
      run_length++;
      return;
    }
    flush_latency();
    run_latency = latency;
    run_length = 1;
  }
  void flush_latency() {
    if (run_length != 0) outcome.latency.add(run_latency, run_length);
    run_length = 0;
  }
};

Engine::Engine(const Port& port) : port_(port) {
  free_count_ =
      rte_mempool_get_bulk(port.pool, reinterpret_cast<void**>(free_), kPoolPackets) == 0 ? kPoolPackets : 0;
}

void Engine::pick(Turn& turn) {
  for (uint32_t i = 0; i < kBurst; i++) {
    Item& item = turn.items[i];
    if (turn.renewal_due) {
      item = {turn.renewal_flow, Kind::renewed};
      turn.renewal_due = false;
      continue;
    }
    item = {turn.picker.pick(turn.random), Kind::normal};
    if (turn.has_events) {
      const auto event = static_cast<uint32_t>(turn.random.next());
      if (event < turn.renew_below) {
        item.kind = Kind::last;
        turn.renewal_due = true;
        turn.renewal_flow = item.flow;
      } else if (event < turn.flood_below) {
        item = {kFloodFlow, Kind::flood};
        continue;
      }
    }
    flows_.prefetch(item.flow);
  }
  turn.items_count = kBurst;
  turn.items_used = 0;
}

void Engine::write(Turn& turn, const Item& item, rte_mbuf* mbuf, uint32_t stamp) {
  Counts& counts = turn.outcome.counts;
  const auto vips = static_cast<uint32_t>(turn.trial.vips.size());
  uint8_t* at = frame_start_of_ours(mbuf);
  uint32_t bytes = 0;
  if (item.kind == Kind::flood) {
    const uint64_t number = flood_number_++;
    bytes =
        turn.writer.write(at, flood_client(number), kFloodFlow, vip_of(static_cast<uint32_t>(number), vips),
                          kFloodFlow << FlowBook::kEchoBits, stamp, wire::kTcpSyn);
    counts.syn++;
    counts.flood++;
  } else {
    if (item.kind == Kind::renewed) flows_.renew(item.flow);
    const bool first = flows_.begin(item.flow);
    const bool last = item.kind == Kind::last && !first;
    const auto flags =
        static_cast<uint8_t>(first ? wire::kTcpSyn : wire::kTcpAck | (last ? wire::kTcpFin : 0));
    const uint32_t incarnation = flows_.incarnation(item.flow);
    bytes = turn.writer.write(at, client_of(item.flow, incarnation), item.flow, vip_of(item.flow, vips),
                              item.flow << FlowBook::kEchoBits | (incarnation & FlowBook::kEchoMask), stamp,
                              flags);
    counts.syn += first ? 1 : 0;
    counts.fin += last ? 1 : 0;
  }
  counts.bytes += bytes + kCheckSequenceBytes;
  mbuf->data_off = RTE_PKTMBUF_HEADROOM;
  rte_mbuf_refcnt_set(mbuf, 1);
  mbuf->nb_segs = 1;
  mbuf->port = port_.id;
  mbuf->ol_flags = 0;
  mbuf->packet_type = 0;
  mbuf->pkt_len = bytes;
  mbuf->data_len = static_cast<uint16_t>(bytes);
}

void Engine::collect(Turn& turn) {
  for (uint32_t i = 0; i < arrived_count_; i++) {
    const uint32_t flow = turn.checker.flow_of(frame_start_of_ours(arrived_[i]));
    flows_.prefetch(std::min(flow, turn.trial.flows - 1));
  }
  const auto arrived = static_cast<uint32_t>(turn.arrived_tsc);
  for (uint32_t i = 0; i < arrived_count_; i++) {
    rte_mbuf* mbuf = arrived_[i];
    uint8_t* sent_at = frame_start(mbuf);
    const auto added = static_cast<uint32_t>(RTE_PKTMBUF_HEADROOM - mbuf->data_off);
    // A frame that begins behind its old start, or is in pieces, is none of ours.
    const bool ours =
        mbuf->data_off <= RTE_PKTMBUF_HEADROOM && mbuf->nb_segs == 1 && mbuf->data_len == mbuf->pkt_len;
    if (turn.checker.check({sent_at, added, ours ? mbuf->data_len : 0u})) {
      turn.add_latency(arrived - turn.checker.stamp_of(sent_at));
    }
  }
  for (uint32_t i = 0; i < arrived_count_; i++)
    free_[free_count_++] = arrived_[i];
  arrived_count_ =
      rte_ring_sc_dequeue_burst(port_.from_target, reinterpret_cast<void**>(arrived_), kBurst, nullptr);
  turn.arrived_tsc = rte_rdtsc();
  for (uint32_t i = 0; i < arrived_count_; i++) {
    const uint8_t* frame = frame_start_of_ours(arrived_[i]);
    ask_for(arrived_[i]);
    ask_for(frame);
    if (turn.trial.path == Path::ipip) __builtin_prefetch(frame - RTE_CACHE_LINE_SIZE);
  }
}

// Packets that may be offered now. A turn that came late because somebody else had the CPU stops the trial's
// clock, so that all packets of the trial are offered at its rate; packets that are late because this loop is
// too slow are given up.
uint32_t Engine::due(Turn& turn, uint64_t now) const {
  uint64_t left = kBurst;
  if (turn.packets_per_cycle > 0) {
    const uint64_t offered = turn.outcome.counts.sent + turn.outcome.late_packets;
    const auto by_now =
        static_cast<uint64_t>(static_cast<double>(now - turn.start_tsc) * turn.packets_per_cycle);
    uint64_t behind = by_now > offered ? by_now - offered : 0;
    if (behind > kBehindMax) {
      const uint64_t excess = behind - kBehindMax;
      if (turn.gap_tsc > turn.held_up_from_tsc) {
        const auto stopped = static_cast<uint64_t>(static_cast<double>(excess) / turn.packets_per_cycle);
        turn.start_tsc += stopped;
        turn.outcome.held_up_tsc += stopped;
      } else {
        turn.outcome.late_packets += excess;
      }
      behind = kBehindMax;
    }
    left = behind < turn.least_burst ? 0 : std::min<uint64_t>(behind, kBurst);
  }
  if (turn.trial.packets != 0) {
    left = std::min(left, turn.trial.packets - turn.outcome.counts.sent - ready_count_);
  }
  return static_cast<uint32_t>(left);
}

void Engine::offer(Turn& turn, uint64_t now) {
  Counts& counts = turn.outcome.counts;
  if (ready_count_ == 0) {
    if (free_count_ < kBurst * kFreeLow) {
      // The target dropped some: they are in the pool.
      const uint32_t wanted = std::min(kBurst, rte_mempool_avail_count(port_.pool));
      void** to = reinterpret_cast<void**>(free_ + free_count_);
      if (wanted > 0 && rte_mempool_get_bulk(port_.pool, to, wanted) == 0) free_count_ += wanted;
    }
    const uint32_t count = std::min(due(turn, now), free_count_);
    for (uint32_t i = 0; i < count; i++) {
      if (turn.items_used == turn.items_count) pick(turn);
      rte_mbuf* mbuf = free_[--free_count_];
      write(turn, turn.items[turn.items_used++], mbuf, static_cast<uint32_t>(now));
      ready_[i] = mbuf;
    }
    ready_count_ = count;
    if (turn.items_used == turn.items_count) pick(turn);
  }
  if (ready_count_ == 0) return;
  unsigned room = 0;
  const uint32_t taken =
      rte_ring_sp_enqueue_burst(port_.to_target, reinterpret_cast<void**>(ready_), ready_count_, &room);
  turn.ring_used += kRingPackets - room;
  turn.ring_looks++;
  counts.sent += taken;
  uint32_t left = ready_count_ - taken;
  if (turn.packets_per_cycle > 0) {
    for (uint32_t i = taken; i < ready_count_; i++)
      free_[free_count_++] = ready_[i];
    counts.sent += left;
    counts.ring_full += left;
    left = 0;
  }
  std::copy(ready_ + ready_count_ - left, ready_ + ready_count_, ready_);
  ready_count_ = left;
  if (taken == 0 && arrived_count_ == 0) rte_pause();
}

void Engine::drain(Turn& turn) {
  const auto silence_tsc = static_cast<uint64_t>(kSilence_s * static_cast<double>(rte_get_tsc_hz()));
  const Counts& counts = turn.outcome.counts;
  uint64_t last_tsc = rte_rdtsc();
  while (rte_rdtsc() - last_tsc < silence_tsc) {
    collect(turn);
    if (arrived_count_ > 0) last_tsc = rte_rdtsc();
    if (arrived_count_ == 0 && counts.received + counts.ring_full >= counts.sent) break;
    rte_pause();
  }
  turn.flush_latency();
  // Written, and never offered.
  while (ready_count_ > 0)
    free_[free_count_++] = ready_[--ready_count_];
}

// What came after the last trial had given it up.
void Engine::take_back_all() {
  free_count_ += rte_ring_sc_dequeue_burst(port_.from_target, reinterpret_cast<void**>(free_ + free_count_),
                                           kPoolPackets - free_count_, nullptr);
}

uint64_t Engine::missing_mbufs() const {
  const uint64_t here = free_count_ + ready_count_ + arrived_count_ + rte_ring_count(port_.to_target) +
                        rte_ring_count(port_.from_target) + rte_mempool_avail_count(port_.pool);
  return kPoolPackets - std::min<uint64_t>(here, kPoolPackets);
}

Result<Outcome> Engine::run(const Trial& trial, Progress& progress, const std::function<bool()>& stop) {
  if (!flows_.prepare(trial.flows, trial.forget)) return Error{"no memory for so many flows", "fewer flows"};
  take_back_all();
  Turn turn(trial, flows_);
  const double hz = static_cast<double>(rte_get_tsc_hz());
  turn.packets_per_cycle = static_cast<double>(trial.rate_pps) / hz;
  turn.least_burst = std::clamp<uint64_t>(trial.rate_pps / 1'000'000, 1, kBurst / 2);
  turn.outcome.tsc_hz = rte_get_tsc_hz();
  turn.held_up_from_tsc = static_cast<uint64_t>(kHeldUp_s * hz);
  const auto duration_tsc = static_cast<uint64_t>(trial.seconds * hz);
  pick(turn);

  uint64_t now = turn.start_tsc = rte_rdtsc();
  const uint64_t started_tsc = now;
  for (uint32_t round = 0; now - turn.start_tsc < duration_tsc; round++) {
    if (trial.packets != 0 && turn.outcome.counts.sent >= trial.packets) break;
    if (round % kAskStopEvery == 0 && stop()) break;
    collect(turn);
    offer(turn, now);
    progress.sent.store(turn.outcome.counts.sent, std::memory_order_relaxed);
    progress.received.store(turn.outcome.counts.received, std::memory_order_relaxed);
    progress.moved.store(turn.outcome.counts.moved, std::memory_order_relaxed);
    const uint64_t then = now;
    now = rte_rdtsc();
    turn.gap_tsc = now - then;
    turn.outcome.longest_gap_tsc = std::max(turn.outcome.longest_gap_tsc, turn.gap_tsc);
  }
  turn.outcome.elapsed_tsc = now - started_tsc;
  drain(turn);
  if (turn.ring_looks != 0) {
    turn.outcome.ring_fill =
        static_cast<double>(turn.ring_used) / static_cast<double>(turn.ring_looks) / kRingPackets;
  }
  turn.outcome.mbufs_missing = missing_mbufs();
  return std::move(turn.outcome);
}

}  // namespace sluice::pktgen
