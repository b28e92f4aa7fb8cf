// What the data plane does with the flows of a backend that failed, for each on_failure; and what it counts
// of connections that do not come about.
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "tests/unit/tracking_fixture.h"

namespace sluice {
namespace {

using test::Frame;
using test::FrameSpec;
using test::make_frame;
using test::Tracking;

class TrackingFailure : public Tracking {
 protected:
  void on_failure(OnFailure what) {
    for (ServiceConfig& service : config.services)
      service.policy.on_failure = what;
    apply();
  }
  void fail(const std::string& service, const std::string& backend) {
    models::edit(model, service, backend).health = Health::down;
    publish();
  }
  const FlowCounters& counters() const { return stats.workers[0].flows; }
  uint64_t repeated(const std::string& backend) {
    return stats.workers[0].syns_repeated[index(model.find_backend("web", backend)->id)].get();
  }
  uint64_t sum_of_active() {
    uint64_t sum = 0;
    for (const BackendCounters& backend : stats.workers[0].backends)
      sum += backend.flows_active.get();
    return sum;
  }
};

TEST_F(TrackingFailure, a_reset_backend_tells_its_clients_whatever_the_service_says) {
  const auto backend_of_port = open_connections(200);
  models::edit(model, "web", "b2").admin = Admin::reset;
  publish();
  for (const auto& [port, backend] : backend_of_port) {
    const Seen seen = send({.source_port = port});
    EXPECT_EQ(seen.verdict == Verdict::answer, backend == "b2");
    if (backend != "b2") {
      EXPECT_EQ(seen.backend, backend);
    }
  }
  EXPECT_EQ(active("web", "b2"), 0u);
  EXPECT_NE(send({.source_port = 50'000, .tcp_flags = wire::kTcpSyn}).backend, "b2");
}

TEST_F(TrackingFailure, reset_tells_the_clients_of_a_failed_backend_once_and_no_others) {
  on_failure(OnFailure::reset);
  const auto backend_of_port = open_connections(400);
  fail("web", "b1");
  uint64_t lost = 0;
  for (const auto& [port, backend] : backend_of_port) {
    const Seen seen = send({.source_port = port});
    if (backend != "b1") {
      ASSERT_EQ(seen.backend, backend);
      continue;
    }
    lost++;
    ASSERT_EQ(seen.verdict, Verdict::answer);
    ASSERT_EQ(seen.how, FlowHow::reset);
    // It is forgotten. What was under way goes as an unknown connection's, and leaves nothing behind.
    for (int i = 0; i < 3; i++) {
      const Seen next = send({.source_port = port});
      ASSERT_EQ(next.how, FlowHow::untracked);
      ASSERT_NE(next.backend, "b1");
    }
  }
  EXPECT_GT(lost, 50u);
  EXPECT_EQ(counters().active.get(), backend_of_port.size() - lost);
  EXPECT_EQ(counters().untracked.get(), 0u) << "those found no place";
  EXPECT_EQ(counters().reset.get(), lost);
  EXPECT_EQ(counters().reselected.get(), 0u);
  EXPECT_EQ(snapshot(stats.workers[0]).answered, lost);
  EXPECT_EQ(sum_of_active(), backend_of_port.size() - lost);
  EXPECT_EQ(active("web", "b1"), 0u);
  // By then it is any unknown connection.
  now_s += 129;
  const auto one = std::find_if(backend_of_port.begin(), backend_of_port.end(),
                                [](const auto& flow) { return flow.second == "b1"; });
  EXPECT_EQ(send({.source_port = one->first}).how, FlowHow::created);
}

TEST_F(TrackingFailure, reset_holds_for_removal_and_maintenance_and_without_any_other_backend) {
  on_failure(OnFailure::reset);
  const auto backend_of_port = open_connections(200);
  models::edit(model, "web", "b2").admin = Admin::maint;
  publish();
  config.services[0].backends.erase(config.services[0].backends.begin());
  apply();
  for (const auto& [port, backend] : backend_of_port) {
    if (backend == "b1" || backend == "b2") {
      ASSERT_EQ(send({.source_port = port}).how, FlowHow::reset) << backend;
    }
  }
  fail("web", "b3");
  fail("web", "b4");
  for (const auto& [port, backend] : backend_of_port) {
    if (backend == "b3" || backend == "b4") {
      ASSERT_EQ(send({.source_port = port}).how, FlowHow::reset) << backend;
    }
  }
  EXPECT_EQ(counters().active.get(), 0u);
}

// RFC 9293 3.10.7.1: never a reset for a reset. A SYN opens a connection elsewhere.
TEST_F(TrackingFailure, neither_a_reset_nor_a_syn_is_answered) {
  on_failure(OnFailure::reset);
  const auto backend_of_port = open_connections(200);
  fail("web", "b1");
  for (const auto& [port, backend] : backend_of_port) {
    if (backend != "b1") continue;
    const uint8_t tcp_flags = port % 2 == 0 ? wire::kTcpSyn : wire::kTcpRst | wire::kTcpAck;
    const Seen seen = send({.source_port = port, .tcp_flags = tcp_flags});
    ASSERT_EQ(seen.verdict, Verdict::forward);
    ASSERT_EQ(seen.how, FlowHow::reselected);
    ASSERT_NE(seen.backend, "b1");
  }
  EXPECT_EQ(counters().reset.get(), 0u);
}

TEST_F(TrackingFailure, datagrams_are_selected_afresh_under_reset) {
  on_failure(OnFailure::reset);
  std::map<uint16_t, std::string> backend_of_port;
  for (uint16_t port = 1'000; port < 1'100; port++) {
    backend_of_port[port] =
        send({.source_port = port, .destination_port = 53, .protocol = wire::kProtoUdp}).backend;
  }
  fail("dns", "b1");
  uint64_t moved = 0;
  for (const auto& [port, backend] : backend_of_port) {
    const Seen seen = send({.source_port = port, .destination_port = 53, .protocol = wire::kProtoUdp});
    ASSERT_EQ(seen.verdict, Verdict::forward);
    moved += seen.how == FlowHow::reselected ? 1 : 0;
  }
  EXPECT_GT(moved, 0u);
  EXPECT_EQ(counters().reselected.get(), moved);
}

// Several packets of lost and living flows in one batch: each as if it were alone.
TEST_F(TrackingFailure, a_reset_in_a_batch_disturbs_nobody) {
  on_failure(OnFailure::reset);
  const auto backend_of_port = open_connections(30);
  fail("web", "b1");
  std::vector<Frame> frames;
  for (const auto& [port, backend] : backend_of_port) {
    for (int i = 0; i < 2; i++)
      frames.push_back(make_frame({.source_port = port}));
  }
  Batch batch;
  for (Frame& frame : frames)
    frame.add_to(batch);
  pipeline.process(batch, publisher.current(), now_s);
  pipeline.account(batch);
  uint32_t i = 0;
  for (const auto& [port, backend] : backend_of_port) {
    const bool lost = backend == "b1";
    EXPECT_EQ(batch.packets[i].how, lost ? FlowHow::reset : FlowHow::hit);
    EXPECT_EQ(batch.packets[i + 1].how, lost ? FlowHow::untracked : FlowHow::hit);
    EXPECT_EQ(batch.packets[i + 1].verdict, Verdict::forward);
    i += 2;
  }
}

TEST_F(TrackingFailure, keep_leaves_flows_where_they_are_and_opens_none_there) {
  on_failure(OnFailure::keep);
  const auto backend_of_port = open_connections(400);
  // One that has sent a SYN and nothing else.
  std::map<uint16_t, std::string> half_open;
  for (uint16_t port = 30'000; port < 30'100; port++)
    half_open[port] = send({.source_port = port, .tcp_flags = wire::kTcpSyn}).backend;
  fail("web", "b1");
  for (const auto& [port, backend] : backend_of_port)
    ASSERT_EQ(send({.source_port = port}).backend, backend);
  for (const auto& [port, backend] : half_open) {
    const Seen seen = send({.source_port = port, .tcp_flags = wire::kTcpSyn});
    ASSERT_NE(seen.backend, "b1");
    ASSERT_EQ(seen.how, backend == "b1" ? FlowHow::reused : FlowHow::hit);
  }
  for (uint16_t port = 20'000; port < 20'400; port++)
    ASSERT_NE(send({.source_port = port, .tcp_flags = wire::kTcpSyn}).backend, "b1");
}

// A connection on the very ports of an old one is opened on a backend that lives.
TEST_F(TrackingFailure, under_keep_a_reused_port_leaves_the_failed_backend) {
  on_failure(OnFailure::keep);
  const auto backend_of_port = open_connections(200);
  fail("web", "b1");
  for (const auto& [port, backend] : backend_of_port) {
    const Seen seen = send({.source_port = port, .tcp_flags = wire::kTcpSyn});
    ASSERT_NE(seen.backend, "b1");
  }
}

TEST_F(TrackingFailure, syns_that_are_repeated_without_progress_are_counted_and_nothing_else_is) {
  const std::string backend = send({.source_port = 5, .tcp_flags = wire::kTcpSyn}).backend;
  EXPECT_EQ(repeated(backend), 0u);
  send({.source_port = 5, .tcp_flags = wire::kTcpSyn});
  send({.source_port = 5, .tcp_flags = wire::kTcpSyn});
  EXPECT_EQ(repeated(backend), 2u);
  send({.source_port = 5, .tcp_flags = wire::kTcpRst});
  EXPECT_EQ(repeated(backend), 2u);
  send({.source_port = 5});
  send({.source_port = 5, .tcp_flags = wire::kTcpSyn});
  send({.source_port = 5});
  EXPECT_EQ(repeated(backend), 2u) << "it went on: a late copy says nothing";
}

// A disabled service is nobody's: its packets pass like those of any other address, its flows rest, and go on
// when it is enabled in time.
TEST_F(TrackingFailure, a_disabled_service_passes_its_packets_on_and_keeps_its_flows) {
  const auto backend_of_port = open_connections(50);
  config.services[0].enabled = false;
  apply();
  for (const auto& [port, backend] : backend_of_port)
    ASSERT_EQ(send({.source_port = port}).reason, Reason::no_service);
  const Seen dns = send({.destination_port = 53, .protocol = wire::kProtoUdp});
  EXPECT_EQ(dns.verdict, Verdict::forward) << "another service on the same VIP";
  now_s += 100;
  sweep();
  config.services[0].enabled = true;
  apply();
  for (const auto& [port, backend] : backend_of_port) {
    const Seen seen = send({.source_port = port});
    ASSERT_EQ(seen.backend, backend);
    ASSERT_EQ(seen.how, FlowHow::hit);
  }
}

// Proves: a connection that its backend's failure moves, and that its new backend ends, is gone soon: it
// takes no room for a quarter of an hour. One that goes on rests as others do.
TEST_F(TrackingFailure, what_moves_is_unproven) {
  const std::map<uint16_t, std::string> homes = open_connections(200);
  on_failure(OnFailure::rehash);
  fail("web", "b1");
  uint64_t moved = 0;
  for (const auto& [port, home] : homes) {
    if (home != "b1") continue;
    EXPECT_NE(send({.source_port = port}).backend, "b1");
    moved++;
    if (moved % 2 == 0) send({.source_port = port});
  }
  ASSERT_GT(moved, 20u);
  EXPECT_EQ(stats.workers[0].flows.active.get(), 200u);
  now_s += 40;
  sweep();
  EXPECT_EQ(stats.workers[0].flows.active.get(), 200 - (moved + 1) / 2);
  // What says itself that it ends is gone as soon as others.
  fail("web", "b2");
  uint64_t ended = 0;
  for (const auto& [port, home] : homes) {
    if (home != "b2") continue;
    send({.source_port = port});
    send({.source_port = port, .tcp_flags = wire::kTcpRst | wire::kTcpAck});
    ended++;
  }
  const ServiceRecord& web = publisher.current().service(model.find_service("web")->id);
  now_s += web.idle_s[ServiceRecord::kClosing] + 1;
  sweep();
  EXPECT_EQ(stats.workers[0].flows.active.get(), 200 - (moved + 1) / 2 - ended);
}

}  // namespace
}  // namespace sluice
