// Limits of backends: max_flows and max_sessions hold exactly, and who is turned away goes to a next choice.
#include <algorithm>
#include <string>

#include <gtest/gtest.h>

#include "tests/unit/tracking_fixture.h"

namespace sluice {
namespace {

using test::Tracking;

class Caps : public Tracking {
 protected:
  void limit(uint32_t max_flows, uint32_t max_sessions = 0) {
    for (BackendConfig& backend : config.services[0].backends) {
      backend.max_flows = max_flows;
      backend.max_sessions = max_sessions;
    }
    apply();
  }
  Seen connect(uint32_t client, uint16_t port = 1'000) {
    const std::string from =
        "198.51." + std::to_string(client / 250) + "." + std::to_string(client % 250 + 1);
    return send({.source = from.c_str(), .source_port = port, .tcp_flags = wire::kTcpSyn});
  }
  uint64_t sessions_of(const std::string& name) {
    return stats.workers[0].sessions_active[index(model.find_backend("web", name)->id)].get();
  }
  uint64_t overflowed() { return stats.workers[0].flows.overflowed.get(); }
};

// Proves: as many flows as they may have are placed, each of them on a backend with room; one more is refused
// by name, until one has ended; flows that go on, and such as began elsewhere, are not refused.
TEST_F(Caps, max_flows_is_exact) {
  limit(25);
  std::map<std::string, int> count;
  for (uint32_t i = 0; i < 100; i++) {
    const Seen seen = connect(i);
    ASSERT_EQ(seen.verdict, Verdict::forward) << i;
    count[seen.backend]++;
  }
  for (const auto& [name, open] : count)
    EXPECT_EQ(open, 25) << name;
  EXPECT_EQ(count.size(), 4u);
  EXPECT_GT(overflowed(), 0u);
  const Seen refused = connect(100);
  EXPECT_EQ(refused.verdict, Verdict::refused);
  EXPECT_EQ(refused.reason, Reason::backends_full);
  EXPECT_EQ(stats.workers[0].flows.active.get(), 100u);
  EXPECT_EQ(connect(3).verdict, Verdict::forward) << "its own SYN again";
  EXPECT_EQ(send({.source = "192.0.2.9", .tcp_flags = wire::kTcpAck}).verdict, Verdict::forward)
      << "no new one";
  // A SYN is forgotten after 30 s: all have room again.
  now_s += 40;
  sweep();
  EXPECT_EQ(connect(100).verdict, Verdict::forward);
  const PacketSnapshot counted = snapshot(stats.workers[0]);
  EXPECT_EQ(counted.received,
            counted.forwarded + counted.by_reason[static_cast<size_t>(Reason::backends_full)]);
}

// Proves: who goes to a next choice is counted once, also where the flow table has no place at home for the
// flow.
TEST_F(Caps, an_overflow_is_counted_once) {
  uint64_t elsewhere = 0;
  for (uint32_t i = 0; i < 1'000; i++)
    elsewhere += connect(i).backend != "b4" ? 1 : 0;
  flows.clear();
  pipeline.tracker().recount();
  limit(1);
  config.services[0].backends[3].max_flows = 0;
  apply();
  for (uint32_t i = 0; stats.workers[0].flows.active.get() < 4 * flows.buckets(); i++) {
    const std::string from =
        "10." + std::to_string(i >> 16) + "." + std::to_string(i >> 8 & 255) + "." + std::to_string(i & 255);
    send({.source = from.c_str(), .destination_port = 53, .protocol = wire::kProtoUdp});
  }
  for (const char* name : {"b1", "b2", "b3"})
    stats.workers[0].backends[index(model.find_backend("web", name)->id)].flows_active.set(1);
  ASSERT_EQ(overflowed(), 0u);
  for (uint32_t i = 0; i < 1'000; i++)
    ASSERT_EQ(connect(i).backend, "b4");
  EXPECT_EQ(overflowed(), elsewhere);
}

// Proves: a worker counts what the others have.
TEST_F(Caps, over_all_workers) {
  limit(10);
  Pipeline second(flows, sessions, stats.workers[0], 1, 0, std::span<const WorkerStats>(stats.workers, 2));
  const auto b1 = index(model.find_backend("web", "b1")->id);
  stats.workers[1].backends[b1].flows_active.set(10);
  for (uint16_t port = 1; port <= 30; port++) {
    test::Frame frame = test::make_frame({.source_port = port, .tcp_flags = wire::kTcpSyn});
    Batch batch;
    frame.add_to(batch);
    second.process(batch, publisher.current(), now_s);
    ASSERT_EQ(batch.packets[0].verdict, Verdict::forward);
    ASSERT_NE(index(batch.packets[0].backend), b1);
  }
}

// Proves: what one worker has taken away, and another has not counted yet, is none, not all that there may
// be.
TEST_F(Caps, a_sum_below_zero_is_none) {
  config.services[0].affinity = Affinity::client;
  limit(0, 10);
  Pipeline second(flows, sessions, stats.workers[0], 1, 0, std::span<const WorkerStats>(stats.workers, 2));
  for (const Backend& backend : model.find_service("web")->backends)
    stats.workers[1].sessions_active[index(backend.id)].set(~uint64_t{0});
  test::Frame frame = test::make_frame({.tcp_flags = wire::kTcpSyn});
  Batch batch;
  frame.add_to(batch);
  second.process(batch, publisher.current(), now_s);
  EXPECT_EQ(batch.packets[0].verdict, Verdict::forward);
  EXPECT_EQ(overflowed(), 0u);
  EXPECT_EQ(stats.workers[0].sessions.made.get(), 1u);
}

// Proves: which other one it is depends on the flow alone, not on who came before.
TEST_F(Caps, the_second_choice_is_deterministic) {
  limit(1'000'000);
  const auto b1 = index(model.find_backend("web", "b1")->id);
  std::map<uint32_t, std::string> first, second;
  for (uint32_t i = 0; i < 200; i++)
    first[i] = connect(i).backend;
  flows.clear();
  stats.workers[0].backends[b1].flows_active.set(1'000'000);
  std::map<std::string, int> taken;
  for (uint32_t i = 200; i-- > 0;) {
    second[i] = connect(i).backend;
    if (first[i] == "b1") taken[second[i]]++;
    EXPECT_EQ(second[i] == first[i], first[i] != "b1");
  }
  EXPECT_EQ(taken.size(), 3u) << "not all to the same";
  flows.clear();
  for (uint32_t i = 0; i < 200; i++)
    EXPECT_EQ(connect(i).backend, second[i]);
}

// Proves: a backend with all its sessions gets no client more, and keeps those that it has; a client that was
// turned away stays where it went.
TEST_F(Caps, max_sessions_is_exact) {
  config.services[0].affinity = Affinity::client;
  limit(0, 20);
  std::map<uint32_t, std::string> homes;
  for (uint32_t i = 0; i < 80; i++) {
    const Seen seen = connect(i);
    ASSERT_EQ(seen.verdict, Verdict::forward);
    homes[i] = seen.backend;
  }
  for (int i = 1; i <= 4; i++)
    EXPECT_EQ(sessions_of("b" + std::to_string(i)), 20u);
  EXPECT_EQ(connect(80).reason, Reason::backends_full);
  for (const auto& [client, home] : homes)
    EXPECT_EQ(connect(client, 2'000).backend, home);
  EXPECT_EQ(stats.workers[0].sessions.active.get(), 80u);
}

// Proves: sessions keep to it whatever packet would make or move one. What is not a beginning is never
// refused for it.
TEST_F(Caps, max_sessions_is_exact_for_packets_from_the_middle) {
  ServiceConfig& web = config.services[0];
  web.affinity = Affinity::client;
  web.health.type = HealthConfig::Type::tcp;
  limit(0, 20);
  const auto packet = [&](uint32_t client) {
    const std::string from = "198.51.7." + std::to_string(client + 1);
    return send({.source = from.c_str(), .source_port = 5'000}).verdict;
  };
  const auto expect_kept = [&] {
    for (int i = 1; i <= 4; i++)
      EXPECT_LE(sessions_of("b" + std::to_string(i)), 20u) << i;
  };
  // Twice: the second packet confirms each flow.
  for (int round = 0; round < 2; round++) {
    for (uint32_t client = 0; client < 150; client++)
      ASSERT_EQ(packet(client), Verdict::forward);
    expect_kept();
  }
  EXPECT_GT(stats.workers[0].sessions.active.get(), 60u);
  // Live connections of a backend that fails.
  for (Backend& backend : model.edit_all()[0].backends)
    backend.health = backend.config.name == "b1" ? Health::down : Health::up;
  publish();
  for (int round = 0; round < 2; round++) {
    for (uint32_t client = 0; client < 150; client++)
      ASSERT_EQ(packet(client), Verdict::forward);
    expect_kept();
  }
  // A refresh later.
  now_s += 256;
  for (uint32_t client = 0; client < 150; client++)
    ASSERT_EQ(packet(client), Verdict::forward);
  expect_kept();
}

// Proves: a connection of a client whose backend has all its flows is lent to another; its session is not.
TEST_F(Caps, a_connection_too_many_is_lent) {
  config.services[0].affinity = Affinity::client;
  limit(0);
  const std::string home = connect(1).backend;
  limit(3);
  std::map<std::string, int> count;
  for (uint16_t port = 2'000; port < 2'005; port++)
    count[connect(1, port).backend]++;
  EXPECT_EQ(count[home], 2);
  EXPECT_EQ(sessions_of(home), 1u);
  now_s += 40;
  sweep();
  EXPECT_EQ(connect(1, 3'000).backend, home);
}

// Proves: what is lent because its backend is down counts as well: nobody gets more than he may have.
TEST_F(Caps, what_is_lent_keeps_the_limits) {
  ServiceConfig& web = config.services[0];
  web.affinity = Affinity::client;
  web.policy.on_failure = OnFailure::comes_back;
  web.health.type = HealthConfig::Type::tcp;
  limit(0);
  std::vector<uint32_t> of_b1;
  for (uint32_t i = 0; i < 200; i++) {
    if (connect(i).backend == "b1") of_b1.push_back(i);
  }
  ASSERT_GT(of_b1.size(), 30u);
  now_s += 40;
  sweep();
  limit(5);
  for (Backend& backend : model.edit_all()[0].backends) {
    if (backend.config.name == "b1") backend.health = Health::down;
  }
  publish();
  std::map<std::string, int> count;
  for (const uint32_t client : of_b1)
    count[connect(client, 3'000).backend]++;
  EXPECT_EQ(count["b2"], 5);
  EXPECT_EQ(count["b3"], 5);
  EXPECT_EQ(count["b4"], 5);
  EXPECT_EQ(count["b1"], 0);
  EXPECT_EQ(sessions_of("b1"), of_b1.size());
}

// Proves: methods that look at more than the packet keep the limits as well, and leave nothing of a flow that
// is refused.
TEST_F(Caps, of_other_methods) {
  for (const Method method : {Method::least_connections, Method::round_robin, Method::random}) {
    flows.clear();
    pipeline.tracker().recount();
    config.services[0].method = method;
    limit(25);
    for (uint32_t i = 0; i < 100; i++)
      ASSERT_EQ(connect(i).verdict, Verdict::forward) << i;
    for (int i = 1; i <= 4; i++)
      EXPECT_EQ(active("web", "b" + std::to_string(i)), 25u);
    EXPECT_EQ(connect(100).reason, Reason::backends_full);
    EXPECT_EQ(stats.workers[0].flows.active.get(), 100u);
    uint64_t in_table = 0;
    flows.each([&](FlowTable::Place) { in_table++; });
    EXPECT_EQ(in_table, 100u);
  }
}

}  // namespace
}  // namespace sluice
