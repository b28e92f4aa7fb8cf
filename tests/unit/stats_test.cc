// The seqlock around a worker's packet counters: every whole snapshot is of one instant, also beside a busy
// writer.
#include "src/stats.h"

#include <atomic>
#include <memory>
#include <thread>

#include <gtest/gtest.h>

namespace sluice {
namespace {

static_assert(not_below_0(0) == 0 && not_below_0(7) == 7);
static_assert(not_below_0(~uint64_t{0}) == 0 && not_below_0(uint64_t{1} << 63) == 0);

class StatsTest : public testing::Test {
 protected:
  StatsTest() : segment_(Segment::anonymous(kStatsSegment, sizeof(StatsSegment))) {}

  WorkerStats& worker() { return segment_.as<StatsSegment>().workers[3]; }

  // One batch of packets, added as stats.h asks of the writer.
  void add_batch(WorkerStats& worker, uint64_t n) {
    const uint64_t sequence = worker.sequence.load(std::memory_order_relaxed);
    worker.sequence.store(sequence + 1, std::memory_order_relaxed);
    std::atomic_thread_fence(std::memory_order_release);
    worker.packets.received.add(n * (2 + kReasonCount));
    worker.packets.forwarded.add(n);
    worker.packets.answered.add(n);
    for (Counter& counter : worker.packets.by_reason)
      counter.add(n);
    worker.sequence.store(sequence + 2, std::memory_order_release);
  }

  static uint64_t accounted(const PacketSnapshot& copy) {
    uint64_t sum = copy.forwarded + copy.answered;
    for (const uint64_t n : copy.by_reason)
      sum += n;
    return sum;
  }

  Segment segment_;
};

TEST_F(StatsTest, ASnapshotHoldsEveryCounter) {
  add_batch(worker(), 1);
  worker().packets.by_reason[2].add(40);
  const PacketSnapshot copy = snapshot(worker());
  EXPECT_TRUE(copy.whole);
  EXPECT_EQ(copy.received, 2 + kReasonCount);
  EXPECT_EQ(copy.forwarded, 1u);
  EXPECT_EQ(copy.answered, 1u);
  for (size_t i = 0; i < kReasonCount; i++)
    EXPECT_EQ(copy.by_reason[i], i == 2 ? 41u : 1u);
}

TEST_F(StatsTest, AWriterStoppedInTheMiddleIsTold) {
  add_batch(worker(), 1);
  worker().sequence.store(worker().sequence.load() + 1);
  worker().packets.received.add(5);
  const PacketSnapshot copy = snapshot(worker());
  EXPECT_FALSE(copy.whole);
  EXPECT_EQ(copy.received, 7 + kReasonCount) << "what there is";
}

TEST_F(StatsTest, SnapshotsBesideABusyWriterAddUp) {
  constexpr int kSnapshots = 1'000'000;
  std::atomic<bool> stop{false};
  std::thread writer([&] {
    for (uint64_t n = 1; !stop.load(std::memory_order_relaxed); n++) {
      add_batch(worker(), n % 64);
      std::this_thread::yield();
    }
  });
  int whole = 0;
  uint64_t last_received = 0;
  for (int i = 0; i < kSnapshots; i++) {
    const PacketSnapshot copy = snapshot(worker());
    if (!copy.whole) continue;  // the scheduler stopped the writer in the middle
    whole++;
    ASSERT_EQ(copy.received, accounted(copy));
    ASSERT_GE(copy.received, last_received);
    last_received = copy.received;
  }
  stop = true;
  writer.join();
  EXPECT_GT(whole, kSnapshots / 10);
  EXPECT_EQ(accounted(snapshot(worker())), snapshot(worker()).received);
}

TEST(CounterTest, AddsAndTakesAway) {
  Counter counter;
  counter.add(7);
  counter.subtract(3);
  EXPECT_EQ(counter.get(), 4u);
  counter.set(1);
  counter.subtract(1);
  EXPECT_EQ(counter.get(), 0u);
}

}  // namespace
}  // namespace sluice
