#include "dataplane/worker.h"

#include <rte_cycles.h>
#include <rte_ethdev.h>
#include <rte_mbuf.h>

#include <algorithm>
#include <cstring>
#include <ctime>

namespace sluice {
namespace {

// Some tens of microseconds of polling: between two bursts nobody sleeps.
constexpr uint32_t kIdleLoopsBeforeSleep = 1'000;
// A full transmit ring is tried again this often before packets are given up.
constexpr int kSendAttempts = 4;

// Makes the mbuf what the stages made of the packet.
void apply(const Packet& packet, rte_mbuf* mbuf) {
  const auto data_offset = static_cast<uint16_t>(packet.data - static_cast<uint8_t*>(mbuf->buf_addr));
  const auto grown = static_cast<uint16_t>(mbuf->data_off - data_offset);
  mbuf->data_off = data_offset;
  if (packet.verdict == Verdict::answer && mbuf->nb_segs > 1) {
    // All of an answer is in the first piece.
    rte_pktmbuf_free(mbuf->next);
    mbuf->next = nullptr;
    mbuf->nb_segs = 1;
  }
  // Only a packet in one piece gets shorter (padding of short frames).
  mbuf->data_len = mbuf->nb_segs == 1 ? static_cast<uint16_t>(packet.bytes)
                                      : static_cast<uint16_t>(mbuf->data_len + grown);
  mbuf->pkt_len = mbuf->nb_segs == 1 ? packet.bytes : mbuf->pkt_len + grown;
}

}  // namespace

Worker::Worker(uint16_t queue, std::span<const PortInfo> ports, FlowBucket* buckets, uint32_t bucket_bits,
               SessionTable& sessions, std::span<WorkerStats> stats, CommandsDone& done, uint64_t tsc_hz,
               uint32_t sleep_max_us)
    : queue_(queue),
      ports_(ports),
      flows_(buckets, bucket_bits),
      stats_(stats[queue]),
      pipeline_(flows_, sessions, stats_, tsc_hz, queue, stats),
      commands_(sessions, stats_, done),
      tsc_hz_(tsc_hz),
      sleep_max_us_(sleep_max_us),
      now_s_(static_cast<uint32_t>(monotonic_ns() / 1'000'000'000)) {
  pipeline_.tracker().recount();
  if (queue == 0) pipeline_.tracker().recover_sessions(stats);
}

TablesView Worker::acquire_tables() {
  // Pairs with the main thread's store-release: the mapping is complete.
  const std::byte* base = tables.load(std::memory_order_acquire);
  if (base == nullptr) return {};
  if (base != tables_used_) [[unlikely]] {
    const uint64_t incarnation = reinterpret_cast<const SegmentHeader*>(base)->incarnation;
    if (tables_used_ != nullptr && incarnation != tables_incarnation_) {
      // Another segment: its ids mean other backends. (At the start the main thread has seen to that.)
      pipeline_.tracker().forget_flows();
      if (queue_ == 0) pipeline_.tracker().forget_sessions();
    }
    // In this order: src/stats.h, acknowledged_incarnation.
    stats_.acknowledged_generation.store(0, std::memory_order_release);
    stats_.acknowledged_incarnation.store(incarnation, std::memory_order_release);
    tables_used_ = base;
    tables_incarnation_ = incarnation;
  }
  return TablesView::acquire(base);
}

void Worker::acknowledge(const TablesView& view) {
  const uint64_t number = view.generation().number;
  if (stats_.acknowledged_generation.load(std::memory_order_relaxed) == number) return;
  // Release: every read of older generations, this batch's included, is done before sluiced sees the number
  // and reuses their memory. Pairs with its load-acquire in acknowledged().
  stats_.acknowledged_generation.store(number, std::memory_order_release);
}

void Worker::run_commands(const TablesView& view) {
  // Pairs with the main thread's store-release: the mapping is complete.
  commands_.use(commands.load(std::memory_order_acquire));
  commands_.run(view, tables_incarnation_, now_s_);
}

void Worker::send(uint16_t in_port) {
  rte_mbuf* out[limits::kBatchMax];
  uint8_t position[limits::kBatchMax];
  bool done[limits::kBatchMax] = {};
  // One burst for each egress port; nearly always there is one.
  for (uint32_t first = 0; first < batch_.count; first++) {
    if (done[first] || batch_.packets[first].verdict == Verdict::refused) continue;
    const uint16_t port = batch_.packets[first].out_port;
    uint16_t count = 0;
    for (uint32_t i = first; i < batch_.count; i++) {
      const Packet& packet = batch_.packets[i];
      if (done[i] || packet.verdict == Verdict::refused || packet.out_port != port) continue;
      done[i] = true;
      apply(packet, mbufs_[i]);
      position[count] = static_cast<uint8_t>(i);
      out[count++] = mbufs_[i];
    }
    uint16_t sent = 0;
    for (int attempt = 0; attempt < kSendAttempts && sent < count && port < ports_.size(); attempt++) {
      sent = static_cast<uint16_t>(
          sent + rte_eth_tx_burst(port, queue_, out + sent, static_cast<uint16_t>(count - sent)));
    }
    for (uint16_t i = sent; i < count; i++)
      refuse(batch_.packets[position[i]], Reason::tx_full);
  }
  const bool has_exception_path = ports_[in_port].kernel_sees_rest != 0;
  for (uint32_t i = 0; i < batch_.count; i++) {
    Packet& packet = batch_.packets[i];
    if (packet.verdict != Verdict::refused) continue;
    if (is_pass(packet.reason) && !has_exception_path) packet.reason = Reason::no_exception_path;
    rte_pktmbuf_free(mbufs_[i]);
  }
}

bool Worker::poll(const PortInfo& port, uint16_t port_id, const TablesView& view) {
  const uint16_t received = rte_eth_rx_burst(port_id, queue_, mbufs_, limits::kBatchMax);
  if (received == 0) return false;
  batch_.clear();
  batch_.station = port.hears_all != 0 ? &port.mac : nullptr;
  for (uint16_t i = 0; i < received; i++) {
    rte_mbuf* mbuf = mbufs_[i];
    batch_.add(rte_pktmbuf_mtod(mbuf, uint8_t*), mbuf->pkt_len, mbuf->data_len, rte_pktmbuf_headroom(mbuf),
               port_id);
  }
  pipeline_.process(batch_, view, now_s_);
  send(port_id);
  pipeline_.account(batch_);
  return true;
}

bool Worker::keep_time(uint64_t tsc, const TablesView& view) {
  if (tsc >= next_second_tsc_) {
    now_s_ = static_cast<uint32_t>(monotonic_ns() / 1'000'000'000);
    next_second_tsc_ = tsc + tsc_hz_ / 4;
    stats_.heartbeat_ns.set(monotonic_ns());
  }
  return view && pipeline_.age(view, now_s_, tsc);
}

// After some empty looks at the ports: sleeps, each time twice as long, up to the limit. The first packet
// ends that. Not on any packet's way: there is none.
void Worker::rest(bool busy) {
  if (busy) {
    idle_loops_ = 0;
    return;
  }
  if (++idle_loops_ < kIdleLoopsBeforeSleep) return;
  const uint32_t doublings = std::min(idle_loops_ - kIdleLoopsBeforeSleep, 10u);
  idle_loops_ = std::min(idle_loops_, kIdleLoopsBeforeSleep + 10);
  const timespec pause = {0, static_cast<long>(std::min(sleep_max_us_, 1u << doublings)) * 1'000};
  nanosleep(&pause, nullptr);
}

void Worker::run() {
  uint64_t before = rte_rdtsc();
  while (!stop.load(std::memory_order_relaxed)) {
    const TablesView view = acquire_tables();
    bool busy = false;
    for (uint16_t port = 0; port < ports_.size(); port++)
      busy |= poll(ports_[port], port, view);
    if (view) acknowledge(view);
    if (view && queue_ == 0) run_commands(view);
    const uint64_t tsc = rte_rdtsc();
    const bool has_more = keep_time(tsc, view);
    (busy ? stats_.busy_cycles : stats_.idle_cycles).add(tsc - before);
    stats_.loops.add(1);
    before = tsc;
    if (sleep_max_us_ != 0) [[unlikely]]
      rest(busy || has_more);  // the next loop's time, idle or not
  }
}

}  // namespace sluice
