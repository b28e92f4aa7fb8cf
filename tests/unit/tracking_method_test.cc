// The methods that decide in the data plane, each against its definition; and what goes by the lookup table
// all the same.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <map>
#include <numeric>
#include <set>
#include <string>
#include <vector>

#include "dataplane/classify.h"
#include "dataplane/parse.h"
#include "tests/unit/tracking_fixture.h"

namespace sluice::test {
namespace {

using models::edit;

using Counts = std::map<std::string, int>;

std::string dotted(uint32_t address) {
  return std::to_string(address >> 24) + "." + std::to_string(address >> 16 & 255) + "." +
         std::to_string(address >> 8 & 255) + "." + std::to_string(address & 255);
}

class Methods : public Tracking {
 protected:
  void use(Method method, const std::vector<uint32_t>& weights = {}) {
    ServiceConfig& web = config.services[0];
    web.method = method;
    for (size_t i = 0; i < weights.size(); i++)
      web.backends[i].weight = weights[i];
    apply();
  }
  FrameSpec syn() { return {.source_port = next_port_++, .tcp_flags = wire::kTcpSyn}; }
  std::string open() { return send(syn()).backend; }
  std::vector<std::string> open(size_t count) {
    std::vector<std::string> backends;
    for (size_t i = 0; i < count; i++)
      backends.push_back(open());
    return backends;
  }
  static Counts count(const std::vector<std::string>& backends) {
    Counts counts;
    for (const std::string& backend : backends)
      counts[backend]++;
    return counts;
  }
  // As if the first worker had so many active flows.
  void elsewhere(const std::string& backend, uint64_t count) {
    stats.workers[0].backends[index(model.find_backend("web", backend)->id)].flows_active.set(count);
  }
  BackendId by_table(const FrameSpec& spec) {
    Frame frame = make_frame(spec);
    Batch batch;
    frame.add_to(batch);
    parse(batch);
    classify(batch, publisher.current(), flows);
    const TablesView tables = publisher.current();
    return tables.select(tables.service(batch.packets[0].service), batch.packets[0].hash);
  }
  std::string by_table_name(const FrameSpec& spec) {
    return publisher.current().backend_cold(by_table(spec)).name;
  }

  uint16_t next_port_ = 2'000;
};

// Another worker on the same tables and stats.
struct Second {
  Second(StatsSegment& stats, SessionTable& sessions)
      : buckets(size_t{1} << kBucketBitsMin),
        flows(buckets.data(), kBucketBitsMin),
        pipeline(flows, sessions, stats.workers[1], 1, 1, {stats.workers, 2}) {}
  std::vector<FlowBucket> buckets;
  FlowTable flows;
  Pipeline pipeline;
};

TEST_F(Methods, RoundRobinIsAnExactCycle) {
  use(Method::round_robin, {1, 1'000, 30, 100});  // which it ignores
  const std::vector<std::string> opened = open(400);
  EXPECT_EQ((std::set<std::string>(opened.begin(), opened.begin() + 4)),
            (std::set<std::string>{"b1", "b2", "b3", "b4"}));
  for (size_t i = 4; i < opened.size(); i++)
    ASSERT_EQ(opened[i], opened[i - 4]) << i;
}

// Around the end of the table, which is no multiple of a round: nobody's turn is left out.
TEST_F(Methods, NoTurnIsLostWhereTheTableEnds) {
  ServiceConfig& web = config.services[0];
  web.lookup_slots = 251;
  for (const Method method : {Method::round_robin, Method::weighted_round_robin}) {
    use(method, {50, 20, 20, 10});
    const size_t round = method == Method::round_robin ? 4 : 10;
    ASSERT_NE(web.lookup_slots % round, 0u);
    const std::vector<std::string> opened = open(4 * web.lookup_slots);
    for (size_t i = round; i < opened.size(); i++)
      ASSERT_EQ(opened[i], opened[i - round]) << i;
  }
}

// A round that is longer than the table is the table's: all of its slots are turns.
TEST_F(Methods, ARoundLongerThanTheTableIsTheTable) {
  config.services[0].lookup_slots = 251;
  use(Method::weighted_round_robin, {997, 500, 251, 3});
  const std::vector<std::string> opened = open(4 * 251);
  for (size_t i = 251; i < opened.size(); i++)
    ASSERT_EQ(opened[i], opened[i - 251]) << i;
  // 143, 71.7, 36 and 0.4 of 251 slots.
  EXPECT_EQ(count(opened), (Counts{{"b1", 4 * 143}, {"b2", 4 * 72}, {"b3", 4 * 36}}));
}

// Only whose connection is new is a turn: its later packets, and others' in the middle, are none.
TEST_F(Methods, WhatIsTrackedIsNoTurn) {
  use(Method::round_robin);
  std::vector<std::string> opened;
  for (int i = 0; i < 40; i++) {
    const FrameSpec first = syn();
    opened.push_back(send(first).backend);
    for (int again = 0; again < 3; again++)
      EXPECT_EQ(send(first).backend, opened.back());
    EXPECT_EQ(send({.source_port = first.source_port}).backend, opened.back());
    send({.source_port = static_cast<uint16_t>(30'000 + i)});  // of a connection that began elsewhere
  }
  for (size_t i = 4; i < opened.size(); i++)
    ASSERT_EQ(opened[i], opened[i - 4]) << i;
}

TEST_F(Methods, RoundRobinGoesOnWithoutWhoIsGone) {
  use(Method::round_robin);
  open(5);
  edit(model, "web", "b3").admin = Admin::drain;
  publish();
  const std::vector<std::string> opened = open(30);
  EXPECT_EQ(count(opened), (Counts{{"b1", 10}, {"b2", 10}, {"b4", 10}}));
}

// In slow start, at a quarter of its weight: a quarter of the turns.
TEST_F(Methods, RoundRobinRespectsSlowStart) {
  use(Method::round_robin);
  edit(model, "web", "b4").ramp_permille = kRampWhole / 4;
  publish();
  EXPECT_EQ(count(open(130)), (Counts{{"b1", 40}, {"b2", 40}, {"b3", 40}, {"b4", 10}}));
}

TEST_F(Methods, WeightedRoundRobinIsExactInEachCycle) {
  use(Method::weighted_round_robin, {50, 20, 20, 10});
  for (int cycle = 0; cycle < 20; cycle++)
    ASSERT_EQ(count(open(10)), (Counts{{"b1", 5}, {"b2", 2}, {"b3", 2}, {"b4", 1}}));
}

// And spread over it: b1 is every second one.
TEST_F(Methods, WeightedRoundRobinIsSmooth) {
  use(Method::weighted_round_robin, {50, 20, 20, 10});
  const std::vector<std::string> opened = open(100);
  int b1 = 0;
  for (size_t i = 0; i < opened.size(); i++) {
    b1 += opened[i] == "b1";
    ASSERT_LT(std::abs(b1 - static_cast<double>(i + 1) / 2), 1);
  }
}

// Chi-square of 20,000 draws by weight, three degrees of freedom: below the 99.9 % point. The seed is fixed.
TEST_F(Methods, RandomIsByWeight) {
  use(Method::random, {100, 200, 300, 400});
  const Counts counts = count(open(20'000));
  double chi_square = 0;
  for (int i = 1; i <= 4; i++) {
    const double expected = 2'000.0 * i;
    const double off = counts.at("b" + std::to_string(i)) - expected;
    chi_square += off * off / expected;
  }
  std::printf("random: chi-square %.2f of 3 degrees of freedom\n", chi_square);
  EXPECT_LT(chi_square, 16.27);
}

// One after the other independent: what follows on a backend is as it is at any time.
TEST_F(Methods, RandomHasNoMemory) {
  use(Method::random);
  const std::vector<std::string> opened = open(20'000);
  std::map<std::pair<std::string, std::string>, int> pairs;
  for (size_t i = 1; i < opened.size(); i++)
    pairs[{opened[i - 1], opened[i]}]++;
  double chi_square = 0;
  for (const auto& [pair, times] : pairs)
    chi_square += (times - 1'249.94) * (times - 1'249.94) / 1'249.94;
  EXPECT_EQ(pairs.size(), 16u);
  EXPECT_LT(chi_square, 37.7);  // 99.9 % of 15 degrees of freedom
}

TEST_F(Methods, LeastConnectionsPicksTheLeast) {
  use(Method::least_connections, {1, 1'000, 30, 100});  // which it ignores
  for (int i = 0; i < 200; i++) {
    std::map<std::string, uint64_t> before;
    for (const char* backend : {"b1", "b2", "b3", "b4"})
      before[backend] = active("web", backend);
    const uint64_t least = std::min_element(before.begin(), before.end(), [](auto& a, auto& b) {
                             return a.second < b.second;
                           })->second;
    ASSERT_EQ(before.at(open()), least) << i;
  }
  EXPECT_EQ(active("web", "b1"), 50u);
}

// Those that end make room: the next ones go there.
TEST_F(Methods, LeastConnectionsFillsUpWhatEnds) {
  use(Method::least_connections);
  std::map<uint16_t, std::string> backend_of_port;
  for (int i = 0; i < 40; i++) {
    const FrameSpec first = syn();
    backend_of_port[first.source_port] = send(first).backend;
    send({.source_port = first.source_port});
  }
  for (const auto& [port, backend] : backend_of_port)
    if (backend == "b2") send({.source_port = port, .tcp_flags = wire::kTcpFin | wire::kTcpAck});
  now_s += 120;  // the closing ones are over
  for (const auto& [port, backend] : backend_of_port)
    if (backend != "b2") send({.source_port = port});
  sweep();
  ASSERT_EQ(active("web", "b2"), 0u);
  EXPECT_EQ(count(open(10)), (Counts{{"b2", 10}}));
}

TEST_F(Methods, WeightedLeastConnectionsIsByWeight) {
  use(Method::weighted_least_connections, {100, 200, 300, 400});
  EXPECT_EQ(count(open(1'000)), (Counts{{"b1", 100}, {"b2", 200}, {"b3", 300}, {"b4", 400}}));
}

// The flows of all workers count, at once.
TEST_F(Methods, LeastConnectionsCountsEveryWorker) {
  use(Method::least_connections);
  Second second(stats, sessions);
  elsewhere("b1", 30);
  elsewhere("b2", 20);
  elsewhere("b3", 10);
  Counts counts;
  for (int i = 0; i < 60; i++) {
    Frame frame = make_frame(syn());
    Batch batch;
    frame.add_to(batch);
    second.pipeline.process(batch, publisher.current(), now_s);
    counts[publisher.current().backend_cold(batch.packets[0].backend).name]++;
  }
  // 60 and 60 more: 30 each.
  EXPECT_EQ(counts, (Counts{{"b2", 10}, {"b3", 20}, {"b4", 30}}));
}

// Two workers go their rounds from different places, so that not all of them begin with the first backend.
TEST_F(Methods, WorkersBeginApart) {
  use(Method::round_robin);
  Second second(stats, sessions);
  const std::string first = open();
  Frame frame = make_frame(syn());
  Batch batch;
  frame.add_to(batch);
  second.pipeline.process(batch, publisher.current(), now_s);
  EXPECT_NE(publisher.current().backend_cold(batch.packets[0].backend).name, first);
}

// More members than are looked at: each gets some, and more evenly than by chance.
TEST_F(Methods, LeastConnectionsOfThousands) {
  ServiceConfig& web = config.services[0];
  for (int i = 5; i <= 3'000; i++)
    web.backends.push_back(
        {"b" + std::to_string(i), *IpAddress::parse(dotted(0x0a010000 + static_cast<uint32_t>(i))), 100});
  use(Method::least_connections);
  const Counts counts = count(open(15'000));
  ASSERT_EQ(counts.size(), 3'000u);
  const auto most =
      std::max_element(counts.begin(), counts.end(), [](auto& a, auto& b) { return a.second < b.second; });
  EXPECT_LE(most->second, 7);  // 5 on average; by chance it would be 14 or so
}

// How far the fullest of many backends is above the mean: by two choices far less than by one.
TEST_F(Methods, TwoChoicesBalanceBetterThanOne) {
  ServiceConfig& web = config.services[0];
  for (int i = 5; i <= 500; i++)
    web.backends.push_back(
        {"b" + std::to_string(i), *IpAddress::parse(dotted(0x0a010000 + static_cast<uint32_t>(i))), 100});
  std::map<Method, int> most;
  for (const Method method : {Method::random, Method::power_of_two}) {
    use(method);
    if (method == Method::power_of_two) {
      // From nothing, too.
      now_s += 3'600;
      sweep();
    }
    for (const auto& [backend, times] : count(open(10'000)))
      most[method] = std::max(most[method], times);
  }
  std::printf("10,000 flows on 500 backends: the fullest has %d by chance, %d by two choices\n",
              most[Method::random], most[Method::power_of_two]);
  EXPECT_GE(most[Method::random], 30);
  EXPECT_LE(most[Method::power_of_two], 24);  // 20 on average
}

TEST_F(Methods, TwoChoicesAreByWeight) {
  use(Method::power_of_two, {100, 200, 300, 400});
  const Counts counts = count(open(10'000));
  for (int i = 1; i <= 4; i++)
    EXPECT_NEAR(counts.at("b" + std::to_string(i)), 1'000 * i, 30) << i;
}

TEST_F(Methods, SourceHashKeepsAClientTogether) {
  use(Method::source_hash);
  const std::vector<std::string> opened = open(200);
  EXPECT_EQ(count(opened).size(), 1u);
  std::set<std::string> of_clients;
  for (uint32_t client = 1; client <= 50; client++) {
    std::set<std::string> backends;
    const std::string address = dotted(0xc6336400 + client);
    for (uint16_t port = 1'000; port < 1'010; port++)
      backends.insert(
          send({.source = address.c_str(), .source_port = port, .tcp_flags = wire::kTcpSyn}).backend);
    EXPECT_EQ(backends.size(), 1u);
    // Also in the middle of a connection, as another balancer would have it.
    backends.insert(send({.source = address.c_str(), .source_port = 5'000}).backend);
    EXPECT_EQ(backends.size(), 1u);
    of_clients.insert(*backends.begin());
  }
  EXPECT_EQ(of_clients.size(), 4u);
}

TEST_F(Methods, SourceHashNeedsNoFlowTable) {
  config.services[0].affinity = Affinity::none;
  use(Method::source_hash);
  EXPECT_EQ(count(open(100)).size(), 1u);
  EXPECT_EQ(stats.workers[0].flows.active.get(), 0u);
}

// A packet in the middle of a connection that began elsewhere goes where every balancer would send it.
TEST_F(Methods, TheMiddleOfAConnectionGoesByTheTable) {
  for (const Method method :
       {Method::round_robin, Method::weighted_round_robin, Method::random, Method::least_connections,
        Method::weighted_least_connections, Method::power_of_two}) {
    use(method);
    for (int i = 0; i < 50; i++) {
      const FrameSpec middle = {.source_port = next_port_++};
      ASSERT_EQ(send(middle).backend, by_table_name(middle)) << name_of(method);
    }
  }
}

// So do a flow's packets while it finds no place: all of them alike.
TEST_F(Methods, WhoHasNoPlaceGoesByTheTable) {
  use(Method::random);
  // Confirmed flows do not give way: they fill the table.
  uint32_t untracked = 0;
  for (uint32_t client = 1; untracked < 200 && client < 600; client++) {
    const std::string address = dotted(0x0b000000 + client);
    for (uint32_t port = 1; port < 1'000; port++) {
      const FrameSpec first = {
          .source = address.c_str(), .source_port = static_cast<uint16_t>(port), .tcp_flags = wire::kTcpSyn};
      FrameSpec next = first;
      next.tcp_flags = wire::kTcpAck;
      const Seen seen = send(first);
      if (seen.how == FlowHow::untracked) {
        untracked++;
        ASSERT_EQ(seen.backend, by_table_name(first));
        ASSERT_EQ(send(next).backend, seen.backend);
      } else {
        send(next);
      }
    }
  }
  EXPECT_GE(untracked, 200u);
}

// When the backend of a flow is gone: a SYN begins anew, by the method; data in the middle goes by the table.
TEST_F(Methods, AFlowWhoseBackendIsGone) {
  use(Method::least_connections);
  std::map<uint16_t, std::string> backend_of_port;
  for (int i = 0; i < 40; i++) {
    const FrameSpec first = syn();
    backend_of_port[first.source_port] = send(first).backend;
    send({.source_port = first.source_port});
  }
  edit(model, "web", "b1").admin = Admin::maint;
  publish();
  int n = 0;
  for (const auto& [port, backend] : backend_of_port) {
    if (backend != "b1") continue;
    const FrameSpec spec = {.source_port = port,
                            .tcp_flags = static_cast<uint8_t>(n % 2 == 0 ? wire::kTcpSyn : wire::kTcpAck)};
    const uint64_t least = std::min({active("web", "b2"), active("web", "b3"), active("web", "b4")});
    std::map<std::string, uint64_t> before = {
        {"b2", active("web", "b2")}, {"b3", active("web", "b3")}, {"b4", active("web", "b4")}};
    const Seen seen = send(spec);
    EXPECT_EQ(seen.how, FlowHow::reselected);
    if (n % 2 == 0) {
      EXPECT_EQ(before.at(seen.backend), least);
    } else {
      EXPECT_EQ(seen.backend, by_table_name(spec));
    }
    n++;
  }
  EXPECT_EQ(n, 10);
  EXPECT_EQ(active("web", "b1"), 0u);
  EXPECT_EQ(active("web", "b2") + active("web", "b3") + active("web", "b4"), 40u);
}

TEST_F(Methods, NobodyTakesNewFlows) {
  for (const auto& [name, method] : kMethods) {
    use(method, {0, 0, 0, 0});
    EXPECT_EQ(send(syn()).reason, Reason::no_backend) << name;
  }
}

}  // namespace
}  // namespace sluice::test
