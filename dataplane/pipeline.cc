#include "dataplane/pipeline.h"

#include "dataplane/classify.h"
#include "dataplane/parse.h"

namespace sluice {

void Pipeline::process(Batch& batch, const TablesView& tables, uint32_t now_s) {
  parse(batch);
  if (!tables) [[unlikely]] {
    batch.each_live([](Packet& packet) { return refuse(packet, Reason::no_generation); });
    return;
  }
  classify(batch, tables, flows_);
  tracker_.track(batch, tables, now_s);
  rewriter_.rewrite(batch, tables, now_s);
}

void Pipeline::account(const Batch& batch) {
  uint32_t forwarded = 0;
  uint32_t answered = 0;
  // Odd: a reader's copy taken from here on is not of one instant. The fence keeps the adds below behind it;
  // pairs with the fence in snapshot().
  const uint64_t sequence = stats_.sequence.load(std::memory_order_relaxed);
  stats_.sequence.store(sequence + 1, std::memory_order_relaxed);
  std::atomic_thread_fence(std::memory_order_release);

  for (uint32_t i = 0; i < batch.count; i++) {
    const Packet& packet = batch.packets[i];
    if (packet.verdict == Verdict::refused) {
      stats_.packets.by_reason[static_cast<size_t>(packet.reason)].add(1);
    } else {
      forwarded += packet.verdict == Verdict::forward;
      answered += packet.verdict == Verdict::answer;
    }
    if (packet.service == kNoService) continue;
    ServiceCounters& service = stats_.services[index(packet.service)];
    service.packets.add(1);
    service.bytes.add(packet.ip_bytes);
    if (packet.verdict == Verdict::forward) {
      service.forwarded.add(1);
      BackendCounters& backend = stats_.backends[index(packet.backend)];
      backend.packets.add(1);
      backend.bytes.add(packet.ip_bytes);
    } else if (packet.verdict == Verdict::refused) {
      service.dropped.add(1);
    }
  }
  stats_.packets.received.add(batch.count);
  stats_.packets.forwarded.add(forwarded);
  stats_.packets.answered.add(answered);

  // Even again: release, so that a reader that sees it sees the adds; pairs with snapshot()'s load-acquire.
  stats_.sequence.store(sequence + 2, std::memory_order_release);
}

}  // namespace sluice
