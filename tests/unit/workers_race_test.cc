// Three workers at full speed, each with its flow table, on one session table and one another's counters,
// while weights and drains change under them. Also for ThreadSanitizer.
#include <array>
#include <atomic>
#include <cstdint>
#include <deque>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "controlplane/compile.h"
#include "dataplane/pipeline.h"
#include "tests/unit/frames.h"
#include "tests/unit/models.h"

namespace sluice {
namespace {

constexpr uint32_t kWorkers = 3;
constexpr uint32_t kBackends = 8;
constexpr uint32_t kClients = 240;
constexpr uint32_t kNobody = 0xffffffff;
constexpr uint64_t kTscHz = 1'000'000;
#ifdef SLUICE_SANITIZED
constexpr uint32_t kBatches = 1'500;
#else
constexpr uint32_t kBatches = 15'000;
#endif

// 0: sessions; 1: the same with max_sessions: all clients have room on all backends but one; 2: whoever has
// fewest flows, with max_flows; 3: datagrams, with sessions.
constexpr uint32_t kServices = 4;
constexpr uint32_t kMaxSessions = kClients / (kBackends - 1) + 1;
constexpr uint32_t kMaxFlows = 40;

using Homes = std::array<std::array<std::atomic<uint32_t>, kClients>, kServices>;

class Worker {
 public:
  Worker(uint32_t number, SessionTable& sessions, StatsSegment& stats, const std::byte* tables, Homes& homes)
      : number_(number),
        stats_(stats.workers[number]),
        buckets_(size_t{1} << kBucketBitsMin),
        flows_(buckets_.data(), kBucketBitsMin),
        pipeline_(flows_, sessions, stats_, kTscHz, number, {stats.workers, kWorkers}),
        tables_(tables),
        homes_(homes),
        random_(number) {}

  void run() {
    for (uint32_t i = 0; i < kBatches && fault.empty(); i++)
      batch();
    stats_.acknowledged_generation.store(UINT64_MAX, std::memory_order_release);
  }

  std::string fault;
  uint64_t connections = 0, refused = 0;

 private:
  struct Connection {
    uint32_t service = kNobody;
    uint32_t client = 0;
    uint32_t backend = kNobody;
    uint16_t port = 0;
    uint32_t packets = 0;
  };

  void batch() {
    Batch batch;
    std::deque<test::Frame> frames;
    std::vector<Connection*> of;
    const auto first = static_cast<uint32_t>(random_() % open_.size());
    for (uint32_t i = 0; i < 16; i++) {
      Connection& connection = open_[(first + i) % open_.size()];
      test::FrameSpec spec;
      if (connection.service == kNobody) {
        // Each worker has ports of its own: a flow is one worker's, a client is everybody's.
        next_port_ = static_cast<uint16_t>(next_port_ + kWorkers);
        connection = {static_cast<uint32_t>(random_() % kServices),
                      static_cast<uint32_t>(random_() % kClients), kNobody,
                      static_cast<uint16_t>(next_port_ + number_), 0};
        spec.tcp_flags = wire::kTcpSyn;
        connections++;
      } else if (connection.packets > 2 && random_() % 3 == 0) {
        spec.tcp_flags = wire::kTcpAck | wire::kTcpFin;
      }
      const std::string source = "198.51.100." + std::to_string(connection.client + 1);
      const std::string destination = "203.0.113." + std::to_string(connection.service);
      spec.source = source.c_str();
      spec.destination = destination.c_str();
      spec.source_port = connection.port;
      if (connection.service == 3) spec.protocol = wire::kProtoUdp;
      frames.push_back(test::make_frame(spec));
      frames.back().add_to(batch);
      of.push_back(&connection);
    }
    const TablesView tables = TablesView::acquire(tables_);
    // Seconds of a worker's own, as good as alike.
    now_us_ += 5'000;
    const auto now_s = static_cast<uint32_t>(1'000 + now_us_ / 1'000'000);
    pipeline_.process(batch, tables, now_s);
    pipeline_.account(batch);
    for (uint32_t i = 0; i < batch.count; i++)
      look(*of[i], batch.packets[i]);
    stats_.acknowledged_generation.store(tables.generation().number, std::memory_order_release);
    pipeline_.age(tables, now_s, now_us_);
  }

  void look(Connection& connection, const Packet& packet) {
    if (packet.verdict != Verdict::forward) {
      // Only for want of room, and only at the beginning.
      if (packet.reason != Reason::backends_full || connection.packets != 0)
        fault = "a packet is not forwarded: " + std::to_string(static_cast<int>(packet.reason));
      refused++;
      connection.service = kNobody;
      return;
    }
    const uint32_t backend = index(packet.backend);
    if (connection.packets++ == 0) {
      connection.backend = backend;
      uint32_t home = kNobody;
      std::atomic<uint32_t>& of_client = homes_[connection.service][connection.client];
      if (connection.service != 2 && !of_client.compare_exchange_strong(home, backend) && home != backend)
        fault = "client " + std::to_string(connection.client) + " meets another backend";
    } else if (connection.backend != backend) {
      fault = "a flow moves";
    }
    const bool ends = (packet.tcp_flags & wire::kTcpFin) != 0 || connection.packets == 30;
    if (ends) connection.service = kNobody;
  }

  const uint32_t number_;
  WorkerStats& stats_;
  std::vector<FlowBucket> buckets_;
  FlowTable flows_;
  Pipeline pipeline_;
  const std::byte* const tables_;
  Homes& homes_;
  std::mt19937 random_;
  std::array<Connection, 64> open_;
  uint16_t next_port_ = 1'000;
  uint64_t now_us_ = 0;
};

Model make_model(Publisher& publisher) {
  Model model;
  std::vector<Service>& services = model.edit_all();
  for (uint32_t i = 0; i < kServices; i++) {
    Service service;
    service.config = models::service_config("s" + std::to_string(i), i, kBackends);
    service.config.affinity = i == 2 ? Affinity::connection : Affinity::client;
    service.config.method = i == 2 ? Method::weighted_least_connections : Method::maglev;
    if (i == 3) service.config.protocol = wire::kProtoUdp;
    service.config.idle_closing_s = 1;
    for (const BackendConfig& backend : service.config.backends) {
      Backend& one = service.backends.emplace_back();
      one.config = backend;
      one.config.weight = 20 + 40 * static_cast<uint32_t>(service.backends.size());
      if (i == 1) one.config.max_sessions = kMaxSessions;
      if (i == 2) one.config.max_flows = kMaxFlows;
    }
    services.push_back(std::move(service));
  }
  models::bring_up(model);
  EXPECT_TRUE(assign_ids(model, publisher.current(), monotonic_ns(), 0));
  return model;
}

// Proves: whichever worker a client's connections come to, also at the same instant, they meet one backend;
// flows stay; limits hold to one flow or session for each other worker; sums are right, and each packet is
// counted.
TEST(WorkersRace, promises_hold_with_three_of_them) {
  Publisher publisher = Publisher::anonymous();
  Segment memory = Segment::anonymous(kStatsSegment, sizeof(StatsSegment));
  StatsSegment& stats = memory.as<StatsSegment>();
  Model model = make_model(publisher);
  ASSERT_TRUE(compile(model, publisher, &stats));
  std::vector<SessionLine> lines(kSessionLinesMin);
  SessionTable sessions(lines.data(), lines.size());
  const auto homes = std::make_unique<Homes>();
  for (auto& of_service : *homes) {
    for (std::atomic<uint32_t>& home : of_service)
      home = kNobody;
  }
  std::vector<std::unique_ptr<Worker>> workers;
  std::vector<std::thread> threads;
  for (uint32_t number = 0; number < kWorkers; number++)
    workers.push_back(std::make_unique<Worker>(number, sessions, stats, publisher.base(), *homes));
  for (const auto& worker : workers)
    threads.emplace_back([&worker] { worker->run(); });

  // Weights and one drained backend of each service at a time; all flows and sessions stay.
  std::mt19937 random(5);
  const auto least = [&] {
    uint64_t acknowledged = UINT64_MAX;
    for (uint32_t number = 0; number < kWorkers; number++)
      acknowledged = std::min(acknowledged,
                              stats.workers[number].acknowledged_generation.load(std::memory_order_acquire));
    return acknowledged;
  };
  uint64_t changes = 0;
  std::array<uint64_t, 2> most{};
  std::array<uint32_t, kServices> drained{};
  while (least() != UINT64_MAX && !testing::Test::HasFailure()) {
    const auto service = static_cast<uint32_t>(random() % kServices);
    const auto backend = static_cast<uint32_t>(random() % kBackends);
    if (random() % 2 == 0) {
      model.set_weight({service, backend}, 20 + random() % 200);
    } else {
      model.set_admin({service, drained[service]}, Admin::ready, 1);
      model.set_admin({service, backend}, Admin::drain, 1);
      drained[service] = backend;
    }
    const Result<Compiled> compiled = compile(model, publisher, &stats);
    ASSERT_TRUE(compiled) << compiled.error().text();
    changes++;
    while (least() < compiled->generation)
      std::this_thread::yield();
    publisher.reclaim(compiled->generation);
    for (const bool of_flows : {false, true}) {
      for (const Backend& one : model.services()[of_flows ? 2 : 1].backends) {
        uint64_t count = 0;
        for (uint32_t number = 0; number < kWorkers; number++) {
          const WorkerStats& worker = stats.workers[number];
          count += of_flows ? worker.backends[index(one.id)].flows_active.get()
                            : worker.sessions_active[index(one.id)].get();
        }
        most[of_flows] = std::max(most[of_flows], count);
      }
    }
  }
  for (std::thread& thread : threads)
    thread.join();

  uint64_t connections = 0, made = 0, active = 0, full = 0;
  for (uint32_t number = 0; number < kWorkers; number++) {
    EXPECT_EQ(workers[number]->fault, "") << "worker " << number;
    const PacketSnapshot counted = snapshot(stats.workers[number]);
    EXPECT_EQ(counted.received, uint64_t{kBatches} * 16);
    EXPECT_EQ(counted.received, counted.forwarded + workers[number]->refused);
    connections += workers[number]->connections;
    made += stats.workers[number].sessions.made.get();
    active += stats.workers[number].sessions.active.get();
    full += stats.workers[number].sessions.full.get();
  }
  uint64_t clients = 0, there = 0;
  for (const uint32_t service : {0, 1, 3}) {
    for (const std::atomic<uint32_t>& home : (*homes)[service])
      clients += home != kNobody ? 1 : 0;
  }
  each_session(lines.data(), lines.size(), 0, lines.size(), [&](const SessionSeen&) { there++; });
  EXPECT_EQ(there, clients) << "one each";
  EXPECT_EQ(made, clients);
  EXPECT_EQ(active, clients);
  EXPECT_EQ(full, 0u);
  EXPECT_GT(connections, clients * 4) << "they came again";
  EXPECT_GT(changes, 3u);
  // The limits were met, and not passed by more than what others began in the same instant.
  EXPECT_GE(most[0], kMaxSessions);
  EXPECT_LE(most[0], kMaxSessions + kWorkers - 1);
  EXPECT_GE(most[1], kMaxFlows);
  EXPECT_LE(most[1], kMaxFlows + kWorkers - 1);
  RecordProperty("changes", static_cast<int>(changes));
}

}  // namespace
}  // namespace sluice
