// Tracking when it gets rough: floods, full tables, damaged ones; and that batches are as good as single
// packets.
#include <random>
#include <vector>

#include <gtest/gtest.h>

#include "tests/unit/tracking_fixture.h"

namespace sluice {
namespace {

using test::Frame;
using test::FrameSpec;
using test::make_frame;
using test::Tracking;

// Proves: a flood of SYNs into a full table moves no established connection while backends change, and what
// is without a place is forwarded and counted; a connection that opens meanwhile and goes on is tracked.
TEST_F(Tracking, a_flood_moves_no_established_connection) {
  std::mt19937 random(5);
  std::vector<std::pair<std::string, uint16_t>> clients;
  std::vector<std::string> backend_of;
  const auto client = [&] {
    return "198." + std::to_string(random() % 256) + "." + std::to_string(random() % 256) + "." +
           std::to_string(random() % 256);
  };
  // As many established connections as the table is for.
  while (stats.workers[0].flows.active.get() < 4 * flows.buckets()) {
    clients.emplace_back(client(), static_cast<uint16_t>(random()));
    send({.source = clients.back().first.c_str(),
          .source_port = clients.back().second,
          .tcp_flags = wire::kTcpSyn});
    backend_of.push_back(
        send({.source = clients.back().first.c_str(), .source_port = clients.back().second}).backend);
  }
  const uint64_t forwarded_before = stats.workers[0].packets.forwarded.get();
  uint64_t sent = 0;
#ifdef SLUICE_SANITIZED
  const int changes = 2;
#else
  const int changes = 8;
#endif
  int hits = 0;
  for (int change = 0; change < changes; change++) {
    models::edit(model, "web", "b" + std::to_string(1 + change % 4)).weight_override = 1 + random() % 200;
    publish();
    for (uint64_t i = 0; i < flows.buckets(); i++, sent++)
      send({.source = client().c_str(),
            .source_port = static_cast<uint16_t>(random()),
            .tcp_flags = wire::kTcpSyn});
    // One connection of somebody real.
    const std::string somebody = client();
    const FrameSpec opening = {.source = somebody.c_str(), .source_port = 7, .tcp_flags = wire::kTcpSyn};
    send(opening);
    FrameSpec next = opening;
    next.tcp_flags = wire::kTcpAck;
    send(next);
    sent += 3;
    hits += send(next).how == FlowHow::hit;
  }
  EXPECT_EQ(stats.workers[0].packets.forwarded.get() - forwarded_before, sent);
  EXPECT_GE(hits, changes - 1) << "between two buckets of established connections there is no place";
  EXPECT_GT(stats.workers[0].flows.untracked.get(), 0u);
  EXPECT_GT(stats.workers[0].flows.evicted.get(), 0u);
  for (size_t i = 0; i < clients.size(); i++) {
    const Seen seen = send({.source = clients[i].first.c_str(), .source_port = clients[i].second});
    ASSERT_EQ(seen.backend, backend_of[i]);
    // Untracked from the start: at most one of a hundred thousand, and what the lookup table says may change.
    ASSERT_EQ(seen.how, FlowHow::hit);
  }
}

// Proves: whatever a flood consists of, real connections that come afterwards are tracked: single packets,
// and the RSTs with which spoofed hosts answer our backends, confirm nothing.
TEST_F(Tracking, no_flood_fills_the_table_for_good) {
  const std::vector<std::vector<uint8_t>> floods = {{wire::kTcpSyn},
                                                    {wire::kTcpAck},
                                                    {wire::kTcpRst},
                                                    {wire::kTcpFin | wire::kTcpAck},
                                                    {wire::kTcpSyn, wire::kTcpRst}};
  uint32_t next = 0;
  const auto client = [&next] {
    next++;
    return "10." + std::to_string(next >> 16) + "." + std::to_string(next >> 8 & 255) + "." +
           std::to_string(next & 255);
  };
  for (const std::vector<uint8_t>& packets : floods) {
    for (uint64_t i = 0; i < 8 * flows.buckets(); i++) {
      const std::string source = client();
      for (const uint8_t tcp_flags : packets)
        send({.source = source.c_str(), .source_port = 9, .tcp_flags = tcp_flags});
    }
    uint32_t tracked = 0;
    for (int i = 0; i < 1'000; i++) {
      const std::string source = client();
      send({.source = source.c_str(), .source_port = 9, .tcp_flags = wire::kTcpSyn});
      send({.source = source.c_str(), .source_port = 9});
      tracked += send({.source = source.c_str(), .source_port = 9}).how == FlowHow::hit;
    }
    EXPECT_EQ(tracked, 1'000u) << "flood of " << +packets[0];
  }
}

// Proves: connections that open as connections do, many handshakes under way at once, fill the table to what
// it is made for, and at most one of a hundred thousand finds no place.
TEST_F(Tracking, handshakes_fill_the_table_to_its_capacity) {
  for (const uint32_t under_way : {0u, 1'000u, 30'000u}) {
    flows.clear();
    pipeline.tracker().recount();
    const uint64_t count = flows_capacity(kBucketBitsMin);
    const auto address = [](uint64_t i) {
      return "100." + std::to_string(64 + (i >> 16)) + "." + std::to_string(i >> 8 & 255) + "." +
             std::to_string(i & 255);
    };
    for (uint64_t i = 0; i < count + under_way; i++) {
      if (i < count) send({.source = address(i).c_str(), .tcp_flags = wire::kTcpSyn});
      if (i >= under_way) {
        send({.source = address(i - under_way).c_str()});
        send({.source = address(i - under_way).c_str()});
      }
    }
    EXPECT_GE(stats.workers[0].flows.active.get() + count / 100'000 + 1, count) << under_way;
  }
}

// Proves: a batch says of each packet, and leaves in the table, what the same packets one by one would: the
// two first passes, and the second, are as good as the careful way. Connections open, close, come back, away
// from home and at home; backends drain, fail and come back; time passes.
TEST_F(Tracking, batches_and_single_packets_agree) {
  Segment other_memory = Segment::anonymous(kStatsSegment, sizeof(StatsSegment));
  WorkerStats& other = other_memory.as<StatsSegment>().workers[0];
  std::vector<FlowBucket> other_buckets(size_t{1} << kBucketBitsMin);
  FlowTable other_flows(other_buckets.data(), kBucketBitsMin);
  Pipeline one_by_one(other_flows, sessions, other, 1);
  std::mt19937 random(11);
  const uint8_t flags[] = {
      wire::kTcpAck, wire::kTcpAck, wire::kTcpAck, wire::kTcpSyn, wire::kTcpFin | wire::kTcpAck,
      wire::kTcpRst};
  for (int round = 0; round < 4'000; round++) {
    // Few ports: flows come again within a batch; sometimes many: a flood.
    const uint32_t ports = random() % 4 == 0 ? 60'000 : 200;
    std::vector<Frame> together, alone;
    for (uint32_t i = 0; i < limits::kBatchMax; i++) {
      const bool udp = random() % 8 == 0;
      const FrameSpec spec = {.source_port = static_cast<uint16_t>(1 + random() % ports),
                              .destination_port = static_cast<uint16_t>(udp ? 53 : 80),
                              .protocol = udp ? wire::kProtoUdp : wire::kProtoTcp,
                              .tcp_flags = flags[random() % std::size(flags)]};
      together.push_back(make_frame(spec));
      alone.push_back(make_frame(spec));
    }
    Batch batch, single;
    for (Frame& frame : together)
      frame.add_to(batch);
    pipeline.process(batch, publisher.current(), now_s);
    pipeline.account(batch);
    for (uint32_t i = 0; i < batch.count; i++) {
      single.clear();
      alone[i].add_to(single);
      one_by_one.process(single, publisher.current(), now_s);
      one_by_one.account(single);
      ASSERT_EQ(batch.packets[i].verdict, single.packets[0].verdict) << round << ", packet " << i;
      if (single.packets[0].verdict == Verdict::refused) continue;
      ASSERT_EQ(batch.packets[i].how, single.packets[0].how) << round << ", packet " << i;
      ASSERT_EQ(batch.packets[i].backend, single.packets[0].backend) << round << ", packet " << i;
    }
    if (random() % 8 == 0) now_s += random() % 40;
    if (random() % 16 == 0) {
      Backend& backend = models::edit(model, "web", "b" + std::to_string(1 + random() % 4));
      backend.admin = static_cast<Admin>(random() % 3);
      backend.health = random() % 4 == 0 ? Health::down : Health::up;
      publish();
    }
    if (round % 50 != 0) continue;
    sweep();
    one_by_one.tracker().sweep(other_flows.groups(), UINT32_MAX, publisher.current(), now_s);
    ASSERT_EQ(stats.workers[0].flows.active.get(), other.flows.active.get());
    ASSERT_EQ(stats.workers[0].flows.expired.get(), other.flows.expired.get());
    uint64_t seen = 0;
    flows.each([&](FlowTable::Place place) {
      const FlowTable::Place twin = other_flows.find(flows.hash_at(place));
      ASSERT_TRUE(twin);
      ASSERT_EQ(place.backend(), twin.backend());
      ASSERT_EQ(place.state(), twin.state());
      ASSERT_EQ(place.idle_s(now_s), twin.idle_s(now_s));
      seen++;
    });
    ASSERT_EQ(seen, stats.workers[0].flows.active.get());
    for (uint32_t id = 0; id < 64; id++)
      ASSERT_EQ(stats.workers[0].backends[id].flows_active.get(), other.backends[id].flows_active.get());
  }
}

// Proves: ageing goes round once a second, a bounded piece a call, and says when it is behind.
TEST_F(Tracking, ageing_keeps_its_pace_in_bounded_pieces) {
  constexpr uint64_t kTscHz = 1'000'000;
  Pipeline ageing(flows, sessions, stats.workers[0], kTscHz);
  open_connections(2'000);
  now_s += limits::kIdleEstablishedDefault + 1;
  uint64_t tsc = 10 * kTscHz;
  uint64_t most = 0;
  int calls = 0;
  bool behind = true;
  // At first everything is due; a call looks into few groups, and says that there is more.
  for (; stats.workers[0].flows.active.get() != 0 && calls < 1'000'000; calls++) {
    const uint64_t before = stats.workers[0].flows.active.get();
    behind = ageing.age(publisher.current(), now_s, tsc);
    most = std::max(most, before - stats.workers[0].flows.active.get());
    tsc += kTscHz / 100'000;
  }
  EXPECT_EQ(stats.workers[0].flows.active.get(), 0u);
  EXPECT_LE(most, 2u * FlowTable::kGroupBuckets * kBucketFlows);
  EXPECT_GT(calls, 100);
  // Then, with nothing due, it is not behind for long.
  for (int i = 0; i < 100 && behind; i++)
    behind = ageing.age(publisher.current(), now_s, tsc);
  EXPECT_FALSE(behind);
  EXPECT_FALSE(ageing.age(publisher.current(), now_s, tsc)) << "not before its time";
}

// Proves: whatever is in a table that was taken over, nothing outside of the counters is written.
TEST_F(Tracking, a_damaged_table_is_survived) {
  std::mt19937 random(3);
  for (FlowBucket& bucket : buckets) {
    auto* words = reinterpret_cast<uint32_t*>(&bucket);
    for (size_t i = 0; i < sizeof bucket / sizeof *words; i++)
      words[i] = static_cast<uint32_t>(random());
  }
  pipeline.tracker().recount();
  open_connections(20'000);
  for (int i = 0; i < 10; i++) {
    now_s += 100;
    sweep();
  }
  EXPECT_EQ(stats.workers[0].packets.received.get(), stats.workers[0].packets.forwarded.get());
}

}  // namespace
}  // namespace sluice
