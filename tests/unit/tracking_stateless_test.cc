// A service without affinity: its packets go by the lookup table alone, and leave nothing behind.
#include <map>
#include <string>

#include <gtest/gtest.h>

#include "tests/unit/tracking_fixture.h"

namespace sluice {
namespace {

using test::Tracking;

class TrackingStateless : public Tracking {
 protected:
  void affinity(Affinity what) {
    for (ServiceConfig& service : config.services)
      service.affinity = what;
    apply();
  }
  const FlowCounters& counters() const { return stats.workers[0].flows; }
};

TEST_F(TrackingStateless, every_packet_is_selected_and_none_is_remembered) {
  const auto tracked = open_connections(400);  // what the lookup table says of these
  flows.each([&](FlowTable::Place place) { flows.erase(place); });
  pipeline.tracker().recount();
  const uint64_t inserted = counters().inserted.get();
  affinity(Affinity::none);
  for (const auto& [port, backend] : tracked) {
    for (const uint8_t flags : {wire::kTcpSyn, wire::kTcpAck, wire::kTcpFin, wire::kTcpRst}) {
      const Seen seen = send({.source_port = port, .tcp_flags = flags});
      ASSERT_EQ(seen.how, FlowHow::stateless);
      ASSERT_EQ(seen.backend, backend);
    }
    ASSERT_EQ(send({.source_port = port, .destination_port = 53, .protocol = wire::kProtoUdp}).how,
              FlowHow::stateless);
  }
  EXPECT_EQ(counters().inserted.get(), inserted);
  EXPECT_EQ(counters().active.get(), 0u);
}

TEST_F(TrackingStateless, a_drained_or_failed_backend_gets_nothing_more) {
  affinity(Affinity::none);
  const auto before = open_connections(400);
  models::edit(model, "web", "b1").admin = Admin::drain;
  models::edit(model, "web", "b2").health = Health::down;
  publish();
  for (const auto& [port, backend] : before) {
    const Seen seen = send({.source_port = port});
    ASSERT_TRUE(seen.backend == "b3" || seen.backend == "b4") << seen.backend;
    if (backend == "b3" || backend == "b4") {
      ASSERT_EQ(seen.how, FlowHow::stateless);
    }
  }
  for (const char* backend : {"b3", "b4"})
    models::edit(model, "web", backend).health = Health::down;
  publish();
  const Seen nobody = send({.source_port = 10'000});
  EXPECT_EQ(nobody.verdict, Verdict::refused);
  EXPECT_EQ(nobody.reason, Reason::no_backend);
}

// Beside a service with affinity, packets of both in one batch's worth of turns: each by its own rule.
TEST_F(TrackingStateless, is_each_services_own) {
  config.services[1].affinity = Affinity::none;
  apply();
  const auto tracked = open_connections(100);
  models::edit(model, "web", "b1").admin = Admin::drain;
  models::edit(model, "dns", "b1").admin = Admin::drain;
  publish();
  uint32_t kept = 0;
  for (const auto& [port, backend] : tracked) {
    const Seen datagram = send({.source_port = port, .destination_port = 53, .protocol = wire::kProtoUdp});
    ASSERT_EQ(datagram.how, FlowHow::stateless);
    ASSERT_NE(datagram.backend, "b1");
    const Seen seen = send({.source_port = port});
    ASSERT_EQ(seen.how, FlowHow::hit);
    ASSERT_EQ(seen.backend, backend);
    kept += backend == "b1";
  }
  EXPECT_GT(kept, 0u);
}

// What was tracked before ages out; what comes back to affinity is tracked again, by the lookup table.
TEST_F(TrackingStateless, is_taken_up_and_given_up_under_traffic) {
  const auto tracked = open_connections(200);
  affinity(Affinity::none);
  for (const auto& [port, backend] : tracked)
    ASSERT_EQ(send({.source_port = port}).backend, backend);
  now_s += limits::kIdleEstablishedDefault + 1;
  sweep();
  EXPECT_EQ(counters().active.get(), 0u);
  affinity(Affinity::connection);
  for (const auto& [port, backend] : tracked) {
    const Seen seen = send({.source_port = port});
    ASSERT_EQ(seen.how, FlowHow::created);
    ASSERT_EQ(seen.backend, backend);
  }
  EXPECT_EQ(counters().active.get(), tracked.size());
}

}  // namespace
}  // namespace sluice
