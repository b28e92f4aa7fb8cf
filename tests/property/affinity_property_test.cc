// The promise of affinity under everything at once: clients that come back, connections that live on, and
// backends that are added, removed, weighed, drained, fail and recover. Through the real model, compile,
// publish and pipeline; every packet is looked at.
//
// 10 million connections of a million clients, 1,000 changes; with a sanitizer a twentieth of that.
#include <algorithm>
#include <cstdio>
#include <random>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "controlplane/compile.h"
#include "dataplane/pipeline.h"
#include "src/wire.h"

namespace sluice {
namespace {

struct Size {
  uint64_t connections;
  uint32_t clients;
  uint32_t changes;
  uint32_t open;  // connections at a time
};

constexpr uint32_t kNobody = 0xffffffff;

class World {
 public:
  explicit World(const Size& size)
      : size_(size),
        publisher_(Publisher::anonymous()),
        stats_memory_(Segment::anonymous(kStatsSegment, sizeof(StatsSegment))),
        stats_(stats_memory_.as<StatsSegment>()),
        bits_(bucket_bits_for(std::max(limits::kFlowsPerWorkerMin, size.connections))),
        buckets_(size_t{1} << bits_),
        flows_(buckets_.data(), bits_),
        lines_(session_lines_for(size.clients * 2)),
        sessions_(lines_.data(), lines_.size()),
        pipeline_(flows_, sessions_, stats_.workers[0], kTscHz),
        home_(size.clients, kNobody),
        opened_(size.clients, 0),
        open_(size.open) {
    ServiceConfig web;
    web.name = "web";
    web.vip = *IpAddress::parse("203.0.113.10");
    web.port = 80;
    web.protocol = wire::kProtoTcp;
    web.forward = Forward::ipip;
    web.affinity = Affinity::client;
    web.health.type = HealthConfig::Type::tcp;
    config_.services = {web};
    for (int i = 0; i < 20; i++)
      add();
    reload();
  }

  void run() {
    const uint64_t every = size_.connections * 38 / 10 / size_.changes;  // a connection is 3.9 packets
    uint64_t next_change = every;
    while (made_ < size_.connections) {
      batch();
      if (packets_ >= next_change && changes_ < size_.changes) {
        change();
        changes_++;
        next_change += every;
      }
      if (::testing::Test::HasFailure()) return;
    }
  }
  void finish() {
    EXPECT_EQ(changes_, size_.changes);
    const PacketSnapshot counted = snapshot(stats_.workers[0]);
    EXPECT_EQ(counted.received, counted.forwarded);
    EXPECT_EQ(counted.received, packets_);
    const WorkerStats& worker = stats_.workers[0];
    EXPECT_EQ(worker.sessions.full.get(), 0u);
    EXPECT_EQ(worker.flows.untracked.get(), 0u);
    // Every way was taken.
    EXPECT_GT(moved_flows_, 0u);
    EXPECT_GT(moved_sessions_, 0u);
    EXPECT_GT(kept_on_drained_, 0u);
    uint64_t of_backends = 0;
    for (const Counter& active : worker.sessions_active)
      of_backends += active.get();
    EXPECT_EQ(of_backends, worker.sessions.active.get());
    std::printf(
        "%llu connections of %u clients, %u changes, %llu packets; with their backend's end %llu sessions "
        "and %llu flows moved, none otherwise; %llu connections went to backends in drain or without "
        "weight\n",
        static_cast<unsigned long long>(made_), size_.clients, changes_,
        static_cast<unsigned long long>(packets_), static_cast<unsigned long long>(moved_sessions_),
        static_cast<unsigned long long>(moved_flows_), static_cast<unsigned long long>(kept_on_drained_));
  }

 private:
  static constexpr uint64_t kTscHz = 1'000'000;
  struct Connection {
    uint32_t client = kNobody;
    uint32_t backend = 0;
    uint16_t port = 0;
    uint8_t packets = 0;
  };

  // ---- Backends, by a number that is never used again

  void add() {
    const uint32_t number = static_cast<uint32_t>(up_.size());
    config_.services[0].backends.push_back(
        {"b" + std::to_string(number), IpAddress::v4(net32(0x0a000001 + number)), 100});
    up_.push_back(true);
    takes_new_.push_back(true);
  }
  void reload() {
    reconcile(model_, config_);
    ASSERT_TRUE(assign_ids(model_, publisher_.current(), monotonic_ns(), 0));
    for (Backend& backend : model_.edit_all()[0].backends) {
      if (backend.health == Health::unknown) backend.health = Health::up;
      backend.next_hop.resolved = true;
      backend.next_hop.source = *IpAddress::parse("10.255.0.1");
    }
    publish();
  }
  void publish() {
    const Result<Compiled> compiled = compile(model_, publisher_, &stats_);
    ASSERT_TRUE(compiled) << compiled.error().text();
    publisher_.reclaim(compiled->generation);
    number_of_.assign(limits::kBackendsMax, kNobody);
    for (const Backend& backend : model_.services()[0].backends) {
      const auto number = static_cast<uint32_t>(std::stoul(backend.config.name.substr(1)));
      number_of_[index(backend.id)] = number;
      up_[number] = model_.services()[0].counts_as_up(backend);
      takes_new_[number] = model_.services()[0].takes_new(backend);
    }
  }
  void change() {
    const auto& backends = model_.services()[0].backends;
    const auto position = static_cast<uint32_t>(random_() % backends.size());
    const BackendPlace place{0, position};
    const auto up = std::count_if(backends.begin(), backends.end(),
                                  [](const Backend& b) { return b.health == Health::up; });
    switch (random_() % 6) {
      case 0:
        if (backends.size() < 40) add();
        return reload();
      case 1: {
        if (backends.size() <= 12 || (up <= 8 && backends[position].health == Health::up))
          return add(), reload();
        const auto number = static_cast<uint32_t>(std::stoul(backends[position].config.name.substr(1)));
        config_.services[0].backends.erase(config_.services[0].backends.begin() + position);
        up_[number] = takes_new_[number] = false;
        return reload();
      }
      case 2:
        model_.set_weight(place, random_() % 5 == 0 ? 0 : static_cast<uint32_t>(1 + random_() % 400));
        break;
      case 3:
        model_.set_admin(place, backends[position].admin == Admin::drain ? Admin::ready : Admin::drain, 1);
        break;
      case 4:
        if (up > 8) model_.set_health(place, Health::down, 1);
        break;
      default:
        model_.set_health(place, Health::up, 1);
    }
    // Somebody always takes new flows.
    const auto& now = model_.services()[0];
    if (std::none_of(now.backends.begin(), now.backends.end(),
                     [&](const Backend& b) { return now.takes_new(b); })) {
      for (uint32_t i = 0; i < now.backends.size(); i++) {
        model_.set_admin({0, i}, Admin::ready, 1);
        model_.set_weight({0, i}, 100);
      }
    }
    publish();
  }

  // ---- Packets

  void write(uint32_t i, const Connection& connection, uint8_t flags) {
    uint8_t* at = frames_[i] + limits::kHeadroomBytes;
    std::memset(at, 0, 54);
    reinterpret_cast<wire::Ethernet*>(at)->ether_type = net16(wire::kEtherIpv4);
    auto& ip = *reinterpret_cast<wire::Ipv4*>(at + 14);
    ip.version_ihl = 0x45;
    ip.total_length = net16(40);
    ip.ttl = 64;
    ip.protocol = wire::kProtoTcp;
    ip.source = net32(0x14000000 + connection.client);
    ip.destination = net32(0xcb00710a);
    auto& tcp = *reinterpret_cast<wire::Tcp*>(at + 34);
    tcp.source_port = net16(connection.port);
    tcp.destination_port = net16(80);
    tcp.data_offset = 5 << 4;
    tcp.flags = flags;
    batch_.add(at, 60, 60, limits::kHeadroomBytes, 0);
  }

  void batch() {
    batch_.clear();
    Connection* of[limits::kBatchMax];
    const auto first = static_cast<uint32_t>(random_() % size_.open);
    for (uint32_t i = 0; i < limits::kBatchMax; i++) {
      Connection& connection = open_[(first + i) % size_.open];
      of[i] = &connection;
      uint8_t flags = wire::kTcpAck;
      if (connection.client == kNobody) {
        connection.client = static_cast<uint32_t>(random_() % size_.clients);
        connection.port = static_cast<uint16_t>(1'024 + opened_[connection.client]++);
        connection.packets = 0;
        flags = wire::kTcpSyn;
        made_++;
      } else if (connection.packets >= 2 && random_() % 2 == 0) {
        flags = wire::kTcpAck | wire::kTcpFin;
      }
      write(i, connection, flags);
    }
    // A connection has a packet each second or so: it is never forgotten.
    now_us_ += 1'000'000ull * limits::kBatchMax / size_.open;
    const auto now_s = static_cast<uint32_t>(1'000 + now_us_ / 1'000'000);
    pipeline_.process(batch_, publisher_.current(), now_s);
    pipeline_.account(batch_);
    pipeline_.age(publisher_.current(), now_s, now_us_);
    packets_ += limits::kBatchMax;
    for (uint32_t i = 0; i < limits::kBatchMax; i++)
      look(*of[i], batch_.packets[i]);
  }

  void look(Connection& connection, const Packet& packet) {
    ASSERT_EQ(packet.verdict, Verdict::forward);
    const uint32_t backend = number_of_[index(packet.backend)];
    ASSERT_NE(backend, kNobody);
    uint32_t& home = home_[connection.client];
    if (connection.packets == 0) {
      if (home == kNobody) {
        ASSERT_TRUE(takes_new_[backend]);
      } else if (up_[home]) {
        ASSERT_EQ(backend, home) << "a live session's connection, after change " << changes_;
        kept_on_drained_ += !takes_new_[home];
      } else {
        ASSERT_TRUE(takes_new_[backend]);
        moved_sessions_++;
      }
      home = backend;
    } else if (up_[connection.backend]) {
      ASSERT_EQ(backend, connection.backend) << "a live flow's packet, after change " << changes_;
    } else {
      ASSERT_TRUE(up_[backend]);
      moved_flows_++;
      // Its session went the same way, or goes with this packet.
      if (!up_[home]) home = backend;
      ASSERT_EQ(backend, home);
    }
    connection.backend = backend;
    const bool ends = (packet.tcp_flags & wire::kTcpFin) != 0;
    connection.packets++;
    if (ends) connection.client = kNobody;
  }

  const Size size_;
  Config config_;
  Model model_;
  Publisher publisher_;
  Segment stats_memory_;
  StatsSegment& stats_;
  uint32_t bits_;
  std::vector<FlowBucket> buckets_;
  FlowTable flows_;
  std::vector<SessionLine> lines_;
  SessionTable sessions_;
  Pipeline pipeline_;
  Batch batch_;
  alignas(64) uint8_t frames_[limits::kBatchMax][limits::kHeadroomBytes + 64] = {};
  std::mt19937_64 random_{1};

  std::vector<bool> up_, takes_new_;  // by number
  std::vector<uint32_t> number_of_;   // by BackendId
  std::vector<uint32_t> home_;        // of each client
  std::vector<uint16_t> opened_;      // of each client: how many connections
  std::vector<Connection> open_;
  uint64_t now_us_ = 0, packets_ = 0, made_ = 0;
  uint64_t moved_flows_ = 0, moved_sessions_ = 0, kept_on_drained_ = 0;
  uint32_t changes_ = 0;
};

// Proves: no packet of a live flow and no connection of a live session goes to another backend than before,
// as long as that one is configured and healthy; whoever loses his backend gets one that takes new flows, all
// his connections the same; and every packet is forwarded and counted.
TEST(Affinity, nothing_moves_but_with_its_backends_end) {
#ifdef SLUICE_SANITIZED
  const Size size = {500'000, 50'000, 200, 20'000};
#else
  const Size size = {10'000'000, 1'000'000, 1'000, 200'000};
#endif
  const auto world = std::make_unique<World>(size);
  world->run();
  world->finish();
}

}  // namespace
}  // namespace sluice
