// The promise: a tracked flow keeps its backend while that backend lives, whatever changes around it.
// Configuration changes travel the real way (model, compile, publish) between the packets.
#include <map>
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
  Tracker(flows, sessions, stats.workers[0]).recount();
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
