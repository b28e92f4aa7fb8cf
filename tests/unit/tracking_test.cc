// The promise: a tracked flow keeps its backend while that backend lives, whatever changes around it.
// Configuration changes travel the real way (model, compile, publish) between the packets.
#include <map>
#include <memory>
#include <random>
#include <vector>

#include <gtest/gtest.h>

#include "controlplane/compile.h"
#include "dataplane/pipeline.h"
#include "tests/unit/frames.h"
#include "tests/unit/models.h"

namespace sluice {
namespace {

using test::Frame;
using test::FrameSpec;
using test::make_frame;

class Tracking : public ::testing::Test {
 protected:
  Tracking()
      : publisher(Publisher::anonymous()),
        stats_memory(Segment::anonymous(kStatsSegment, sizeof(StatsSegment))),
        stats(stats_memory.as<StatsSegment>()),
        buckets(size_t{1} << kBucketBitsMin),
        flows(buckets.data(), kBucketBitsMin),
        pipeline(flows, stats.workers[0], 1) {
    ServiceConfig web;
    web.name = "web";
    web.vip = *IpAddress::parse("203.0.113.10");
    web.port = 80;
    web.protocol = wire::kProtoTcp;
    web.forward = Forward::ipip;
    for (int i = 1; i <= 4; i++)
      add_backend(web, i);
    ServiceConfig dns = web;
    dns.name = "dns";
    dns.port = 53;
    dns.protocol = wire::kProtoUdp;
    config.services = {web, dns};
    apply();
  }

  static void add_backend(ServiceConfig& service, int i) {
    service.backends.push_back(
        {"b" + std::to_string(i), *IpAddress::parse("10.0.1." + std::to_string(i)), 100});
  }

  // Configuration and model to a new generation; new backends are up and reachable.
  void apply() {
    reconcile(model, config);
    ASSERT_TRUE(assign_ids(model, publisher.current(), monotonic_ns()));
    for (Service& service : model.edit_all()) {
      for (Backend& backend : service.backends) {
        if (backend.health == Health::unknown) backend.health = Health::up;
        backend.next_hop.resolved = true;
        backend.next_hop.source = *IpAddress::parse("10.0.0.1");
      }
    }
    publish();
  }
  void publish() {
    const Result<Compiled> compiled = compile(model, publisher, &stats);
    ASSERT_TRUE(compiled) << compiled.error().text();
    publisher.reclaim(compiled->generation);
  }

  struct Seen {
    Verdict verdict;
    Reason reason;
    std::string backend;  // when forwarded
    FlowHow how;
  };
  Seen send(const FrameSpec& spec) {
    Frame frame = make_frame(spec);
    Batch batch;
    frame.add_to(batch);
    pipeline.process(batch, publisher.current(), now_s);
    pipeline.account(batch);
    const Packet& packet = batch.packets[0];
    Seen seen{packet.verdict, packet.reason, "", packet.how};
    if (packet.verdict == Verdict::forward)
      seen.backend = publisher.current().backend_cold(packet.backend).name;
    return seen;
  }
  std::map<uint16_t, std::string> open_connections(uint16_t count) {
    std::map<uint16_t, std::string> backend_of_port;
    for (uint16_t i = 0; i < count; i++) {
      const auto port = static_cast<uint16_t>(10'000 + i);
      send({.source_port = port, .tcp_flags = wire::kTcpSyn});
      backend_of_port[port] = send({.source_port = port}).backend;
    }
    return backend_of_port;
  }
  void sweep() { pipeline.tracker().sweep(flows.groups(), UINT32_MAX, publisher.current(), now_s); }
  uint64_t active(const std::string& service, const std::string& backend) {
    return stats.workers[0].backends[index(model.find_backend(service, backend)->id)].flows_active.get();
  }

  Config config;
  Model model;
  Publisher publisher;
  Segment stats_memory;
  StatsSegment& stats;
  std::vector<FlowBucket> buckets;
  FlowTable flows;
  Pipeline pipeline;
  uint32_t now_s = 1'000;
};

// Proves: no packet of an established flow changes its backend over a thousand random additions, removals of
// others, drains and reweightings; only the flows of a removed backend move, and those at once to a live one.
TEST_F(Tracking, established_flows_stay_through_any_change_around_them) {
  auto backend_of_port = open_connections(2'000);
  std::mt19937 random(7);
  int next_backend = 5;
  for (int change = 0; change < 300; change++) {
    ServiceConfig& web = config.services[0];
    const size_t which = random() % web.backends.size();
    const std::string name = web.backends[which].name;
    std::string removed;
    switch (random() % 5) {
      case 0:
        add_backend(web, next_backend++);
        break;
      case 1:
        web.backends[which].weight = random() % 200;
        break;
      case 2:
        if (web.backends.size() > 3) {
          web.backends.erase(web.backends.begin() + static_cast<long>(which));
          removed = name;
        }
        break;
      case 3:
        models::edit(model, "web", name).admin = Admin::drain;
        break;
      default:
        models::edit(model, "web", name).admin = Admin::ready;
        break;
    }
    if (next_backend > 250) break;
    // Somebody must be able to take flows, or those of a removed backend have nowhere to go.
    web.backends[0].weight = 100;
    models::edit(model, "web", web.backends[0].name).admin = Admin::ready;
    apply();
    for (auto& [port, backend] : backend_of_port) {
      const Seen seen = send({.source_port = port});
      ASSERT_EQ(seen.verdict, Verdict::forward);
      if (backend == removed) {
        ASSERT_NE(seen.backend, removed);
        ASSERT_EQ(seen.how, FlowHow::reselected);
        backend = seen.backend;
      } else {
        ASSERT_EQ(seen.backend, backend) << "after change " << change;
      }
    }
  }
}

// Proves: draining stops new flows and keeps old ones; a failed backend and one in maintenance lose both.
TEST_F(Tracking, drain_keeps_old_flows_and_failure_loses_both) {
  const auto backend_of_port = open_connections(400);
  models::edit(model, "web", "b1").admin = Admin::drain;
  publish();
  for (const auto& [port, backend] : backend_of_port)
    ASSERT_EQ(send({.source_port = port}).backend, backend);
  for (uint16_t port = 20'000; port < 20'400; port++) {
    ASSERT_NE(send({.source_port = port, .tcp_flags = wire::kTcpSyn}).backend, "b1");
  }
  for (const bool failed : {true, false}) {
    Backend& b1 = models::edit(model, "web", "b1");
    b1.admin = failed ? Admin::ready : Admin::maint;
    b1.health = failed ? Health::down : Health::up;
    publish();
    for (const auto& [port, backend] : backend_of_port) {
      const Seen seen = send({.source_port = port});
      ASSERT_NE(seen.backend, "b1");
      if (backend != "b1") {
        ASSERT_EQ(seen.backend, backend);
      }
    }
  }
  EXPECT_EQ(active("web", "b1"), 0u);
}

// Proves: a client that reuses a port gets no new connection on a draining backend, although the server's
// RST, which never passes here, left the old one established; on a backend that takes new flows it stays.
TEST_F(Tracking, a_new_connection_on_an_old_port_leaves_a_draining_backend) {
  const auto backend_of_port = open_connections(200);
  models::edit(model, "web", "b1").admin = Admin::drain;
  publish();
  for (const auto& [port, backend] : backend_of_port) {
    const Seen seen = send({.source_port = port, .tcp_flags = wire::kTcpSyn});
    if (backend == "b1") {
      ASSERT_NE(seen.backend, "b1");
      ASSERT_EQ(seen.how, FlowHow::reused);
    } else {
      ASSERT_EQ(seen.backend, backend);
    }
  }
}

// Proves: what is sent to a service without any backend is dropped by that name, and its flows come back
// afterwards.
TEST_F(Tracking, no_backend_is_a_named_drop) {
  const auto backend_of_port = open_connections(50);
  for (Backend& backend : model.edit_all()[0].backends)
    backend.health = Health::down;
  publish();
  for (const auto& [port, backend] : backend_of_port) {
    const Seen seen = send({.source_port = port});
    ASSERT_EQ(seen.verdict, Verdict::refused);
    ASSERT_EQ(seen.reason, Reason::no_backend);
  }
  for (Backend& backend : model.edit_all()[0].backends)
    backend.health = Health::up;
  publish();
  for (const auto& [port, backend] : backend_of_port)
    ASSERT_EQ(send({.source_port = port}).backend, backend);
}

// Proves: the life of a connection in states: SYN, confirmed, closing; a port reused after FIN or RST selects
// afresh, a repeated SYN of a live connection does not.
TEST_F(Tracking, a_port_reused_after_its_connection_ended_selects_afresh) {
  for (const uint8_t last : {wire::kTcpFin, wire::kTcpRst}) {
    const auto port = static_cast<uint16_t>(30'000 + last);
    EXPECT_EQ(send({.source_port = port, .tcp_flags = wire::kTcpSyn}).how, FlowHow::created);
    EXPECT_EQ(send({.source_port = port, .tcp_flags = wire::kTcpSyn}).how, FlowHow::hit);
    EXPECT_EQ(send({.source_port = port}).how, FlowHow::hit);
    EXPECT_EQ(send({.source_port = port, .tcp_flags = wire::kTcpSyn}).how, FlowHow::hit);
    EXPECT_EQ(send({.source_port = port, .tcp_flags = static_cast<uint8_t>(last | wire::kTcpAck)}).how,
              FlowHow::hit);
    EXPECT_EQ(send({.source_port = port}).how, FlowHow::hit);
    EXPECT_EQ(send({.source_port = port, .tcp_flags = wire::kTcpSyn}).how, FlowHow::reused);
    EXPECT_EQ(send({.source_port = port}).how, FlowHow::hit);
  }
  EXPECT_EQ(stats.workers[0].flows.active.get(), 2u);
}

// Proves: each state's idle timeout holds to the second, on lookup and by the sweep alike, and the gauges
// follow.
TEST_F(Tracking, idle_flows_are_forgotten_by_their_state) {
  struct Case {
    FrameSpec first, then;
    bool two;
    uint32_t timeout_s;
  };
  const Case cases[] = {
      {{.source_port = 1, .tcp_flags = wire::kTcpSyn}, {}, false, limits::kIdleSynDefault},
      {{.source_port = 2, .tcp_flags = wire::kTcpSyn},
       {.source_port = 2},
       true,
       limits::kIdleEstablishedDefault},
      {{.source_port = 3}, {.source_port = 3, .tcp_flags = wire::kTcpRst}, true, limits::kIdleClosingDefault},
      {{.source_port = 4, .destination_port = 53, .protocol = wire::kProtoUdp},
       {},
       false,
       limits::kIdleUdpDefault},
  };
  for (const Case& one : cases) {
    send(one.first);
    if (one.two) send(one.then);
    ASSERT_EQ(stats.workers[0].flows.active.get(), 1u);
    now_s += one.timeout_s;
    sweep();
    ASSERT_EQ(stats.workers[0].flows.active.get(), 1u) << "idle for exactly the timeout: " << one.timeout_s;
    now_s += 1;
    FrameSpec again = one.first;
    again.tcp_flags = wire::kTcpAck;
    ASSERT_EQ(send(again).how, FlowHow::created) << "one second more: a new flow";
    now_s += limits::kIdleEstablishedDefault + 1;
    sweep();
    ASSERT_EQ(stats.workers[0].flows.active.get(), 0u);
  }
  for (const char* backend : {"b1", "b2", "b3", "b4"}) {
    EXPECT_EQ(active("web", backend), 0u);
    EXPECT_EQ(active("dns", backend), 0u);
  }
}

// Proves: a service whose connections may rest for days keeps them for days and not much longer; a timeout
// that is made long keeps those that are there, one that is made short ends them.
TEST_F(Tracking, connections_may_rest_for_days) {
  constexpr uint32_t kDayS = 86'400;
  config.services[0].idle_established_s = 3 * kDayS;
  apply();
  const auto backend_of_port = open_connections(50);
  for (uint32_t rest_s = 0; rest_s < 3 * kDayS - 500; rest_s += 500) {
    now_s += 500;
    sweep();
  }
  ASSERT_EQ(stats.workers[0].flows.active.get(), 50u);
  for (const auto& [port, backend] : backend_of_port) {
    const Seen seen = send({.source_port = port});
    ASSERT_EQ(seen.how, FlowHow::hit);
    ASSERT_EQ(seen.backend, backend);
  }
  for (uint32_t rest_s = 0; rest_s <= 3 * kDayS + 2 * 128; rest_s += 500) {
    now_s += 500;
    sweep();
  }
  ASSERT_EQ(stats.workers[0].flows.active.get(), 0u);

  config.services[0].idle_established_s = 900;
  apply();
  open_connections(50);
  now_s += 800;
  config.services[0].idle_established_s = 10 * kDayS;
  apply();
  for (uint32_t rest_s = 0; rest_s < 9 * kDayS; rest_s += 250) {
    now_s += 250;
    sweep();
  }
  ASSERT_EQ(stats.workers[0].flows.active.get(), 50u) << "the seconds of the shorter timeout did not wrap";
  config.services[0].idle_established_s = 900;
  apply();
  now_s += FlowTable::kRescanMax;
  sweep();
  ASSERT_EQ(stats.workers[0].flows.active.get(), 0u);
}

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
  int hits = 0;
  for (int change = 0; change < 8; change++) {
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
  EXPECT_GE(hits, 7) << "between two buckets of established connections there is no place";
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
  Pipeline one_by_one(other_flows, other, 1);
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
  Pipeline ageing(flows, stats.workers[0], kTscHz);
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

// Proves: the gauge follows within a second also where a confirmed flow may rest for less long than a new
// one.
TEST_F(Tracking, a_confirmed_flow_may_end_before_a_new_one) {
  config.services[0].idle_syn_s = 200;
  config.services[0].idle_established_s = 5;
  apply();
  send({.source_port = 5, .tcp_flags = wire::kTcpSyn});
  sweep();
  send({.source_port = 5});
  sweep();
  now_s += 6;
  sweep();
  EXPECT_EQ(stats.workers[0].flows.active.get(), 0u);
}

// Proves: a table that nobody swept for long is swept all the same: its groups' seconds do not mislead.
TEST_F(Tracking, a_long_pause_of_the_sweep_hides_nothing) {
  open_connections(100);
  sweep();
  now_s += 33'500;
  sweep();
  now_s += 1;
  sweep();
  // 13 bits of seconds are ambiguous after so long, so flows may rest once more, and no longer.
  for (int i = 0; i < 8; i++) {
    now_s += limits::kIdleEstablishedDefault / 4;
    sweep();
  }
  EXPECT_EQ(stats.workers[0].flows.active.get(), 0u);
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

// Proves: packets of one connection in one batch take effect in their order.
TEST_F(Tracking, a_batch_keeps_the_order_of_a_flow) {
  std::vector<Frame> frames;
  for (const uint8_t tcp_flags :
       {uint8_t{wire::kTcpSyn}, uint8_t{wire::kTcpAck}, uint8_t{wire::kTcpFin | wire::kTcpAck},
        uint8_t{wire::kTcpSyn}, uint8_t{wire::kTcpAck}}) {
    frames.push_back(make_frame({.source_port = 77, .tcp_flags = tcp_flags}));
  }
  Batch batch;
  for (Frame& frame : frames)
    frame.add_to(batch);
  pipeline.process(batch, publisher.current(), now_s);
  pipeline.account(batch);
  const FlowHow expected[] = {FlowHow::created, FlowHow::hit, FlowHow::hit, FlowHow::reused, FlowHow::hit};
  for (uint32_t i = 0; i < batch.count; i++)
    EXPECT_EQ(batch.packets[i].how, expected[i]) << "packet " << i;
  EXPECT_EQ(stats.workers[0].flows.active.get(), 1u);
}

// Proves: the sum of the gauges is the number of tracked flows, also after their backends changed, and a
// successor that takes the table over counts the same.
TEST_F(Tracking, active_flows_per_backend_add_up) {
  open_connections(1'000);
  models::edit(model, "web", "b2").health = Health::down;
  publish();
  for (uint16_t port = 10'000; port < 11'000; port++)
    send({.source_port = port});
  const auto sum = [&] {
    return active("web", "b1") + active("web", "b2") + active("web", "b3") + active("web", "b4");
  };
  EXPECT_EQ(active("web", "b2"), 0u);
  EXPECT_EQ(sum(), 1'000u);
  EXPECT_EQ(stats.workers[0].flows.active.get(), 1'000u);
  const uint64_t b1 = active("web", "b1");
  Tracker(flows, stats.workers[0]).recount();
  EXPECT_EQ(active("web", "b1"), b1);
  EXPECT_EQ(sum(), 1'000u);
}

// Proves: received = forwarded + answered + passed + dropped, whatever comes, before and after a
// configuration.
TEST_F(Tracking, every_packet_is_accounted_for) {
  std::mt19937 random(3);
  for (int round = 0; round < 200; round++) {
    std::vector<Frame> frames;
    Batch batch;
    for (uint32_t i = 0; i < limits::kBatchMax; i++) {
      frames.push_back(make_frame({.source_port = static_cast<uint16_t>(random()),
                                   .destination_port = static_cast<uint16_t>(random() % 2 ? 80 : 81),
                                   .payload_bytes = static_cast<uint32_t>(random() % 1'600)}));
      if (random() % 3 == 0) frames.back().start()[random() % 40] ^= static_cast<uint8_t>(1 << random() % 8);
    }
    for (Frame& frame : frames)
      frame.add_to(batch);
    pipeline.process(batch, round < 10 ? TablesView() : publisher.current(), now_s);
    pipeline.account(batch);
  }
  const PacketSnapshot counted = snapshot(stats.workers[0]);
  uint64_t sum = counted.forwarded + counted.answered;
  for (const uint64_t reason : counted.by_reason)
    sum += reason;
  EXPECT_EQ(counted.received, 200u * limits::kBatchMax);
  EXPECT_EQ(sum, counted.received);
  EXPECT_GT(counted.forwarded, 0u);
  EXPECT_GT(counted.answered, 0u);
  EXPECT_GT(counted.by_reason[static_cast<size_t>(Reason::no_generation)], 0u);
  EXPECT_GT(counted.by_reason[static_cast<size_t>(Reason::no_service)], 0u);
}

}  // namespace
}  // namespace sluice
