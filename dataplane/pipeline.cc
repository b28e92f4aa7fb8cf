#include "dataplane/pipeline.h"

#include <algorithm>

#include "dataplane/classify.h"
#include "dataplane/parse.h"

namespace sluice {
namespace {

// The sweep goes round the whole table once a second, a little after each batch: at most so many groups of
// buckets, of which at most so many are looked into (64 flows each). Behind with that, a round takes longer.
constexpr uint64_t kSweepGroups = 256;
constexpr uint32_t kSweepScans = 2;
// The same for sessions; lines, one after the other in memory.
constexpr uint64_t kSessionLines = 64;
constexpr uint64_t kSessionRoundS = 16;

}  // namespace

void Pipeline::process(Batch& batch, const TablesView& tables, uint32_t now_s) {
  parse(batch);
  if (!tables) [[unlikely]] {
    batch.each_live([](Packet& packet) { refuse(packet, Reason::no_generation); });
    return;
  }
  classify(batch, tables, flows_);
  tracker_.track(batch, tables, now_s);
  rewriter_.rewrite(batch, now_s);
}

bool Pipeline::age(const TablesView& tables, uint32_t now_s, uint64_t tsc) {
  if (ages_sessions_ && tsc >= next_sessions_tsc_) {
    tracker_.sweep_sessions(kSessionLines, tables, now_s);
    const uint64_t step = kSessionLines * kSessionRoundS * tsc_hz_ / sessions_.lines();
    next_sessions_tsc_ = std::max(next_sessions_tsc_ + step, tsc - tsc_hz_);
  }
  const bool is_behind = ages_sessions_ && next_sessions_tsc_ < tsc;
  if (tsc < next_sweep_tsc_) return is_behind;
  const uint64_t passed = tracker_.sweep(kSweepGroups, kSweepScans, tables, now_s);
  next_sweep_tsc_ = std::max(next_sweep_tsc_ + passed * tsc_hz_ / flows_.groups(), tsc - tsc_hz_);
  return is_behind || next_sweep_tsc_ < tsc;
}

namespace {

// Of consecutive packets for one service, mostly the whole batch.
struct ServiceSums {
  uint32_t packets = 0;
  uint32_t forwarded = 0;
  uint32_t dropped = 0;
  uint64_t bytes = 0;
};

inline void add(ServiceCounters& service, const ServiceSums& sums) {
  service.packets.add(sums.packets);
  service.bytes.add(sums.bytes);
  service.forwarded.add(sums.forwarded);
  service.dropped.add(sums.dropped);
}

}  // namespace

void Pipeline::account(const Batch& batch) {
  uint32_t forwarded = 0;
  uint32_t answered = 0;
  // Odd: a reader's copy taken from here on is not of one instant. The fence keeps the adds below behind it;
  // pairs with the fence in snapshot().
  const uint64_t sequence = stats_.sequence.load(std::memory_order_relaxed);
  stats_.sequence.store(sequence + 1, std::memory_order_relaxed);
  std::atomic_thread_fence(std::memory_order_release);

  ServiceId service = kNoService;
  ServiceSums sums;
  const auto next_service = [&](ServiceId next) {
    if (service != kNoService) add(stats_.services[index(service)], sums);
    sums = {};
    service = next;
  };
  for (uint32_t i = 0; i < batch.count; i++) {
    const Packet& packet = batch.packets[i];
    if (packet.service != service) [[unlikely]]
      next_service(packet.service);
    sums.packets++;
    if (packet.verdict == Verdict::forward) [[likely]] {
      sums.forwarded++;
      sums.bytes += packet.ip_bytes;
      forwarded++;
      BackendCounters& backend = stats_.backends[index(packet.backend)];
      backend.packets.add(1);
      backend.bytes.add(packet.ip_bytes);
    } else if (packet.verdict == Verdict::answer) {
      sums.bytes += packet.ip_bytes;
      answered++;
    } else {
      sums.bytes += packet.service == kNoService ? 0 : packet.ip_bytes;
      sums.dropped++;
      stats_.packets.by_reason[static_cast<size_t>(packet.reason)].add(1);
    }
  }
  next_service(kNoService);
  stats_.packets.received.add(batch.count);
  stats_.packets.forwarded.add(forwarded);
  stats_.packets.answered.add(answered);

  // Even again: release, so that a reader that sees it sees the adds; pairs with snapshot()'s load-acquire.
  stats_.sequence.store(sequence + 2, std::memory_order_release);
}

}  // namespace sluice
