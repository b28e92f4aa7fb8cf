// Clients that come back, connections that live on, and backends that are added, removed, weighed, drained,
// migrated, maintained, fail and recover: through the real model, compile, publish and the pipelines of two
// workers, each packet shown to the oracle.
//
// Two services of one group with backends of the same names. Time passes with the packets: a connection says
// something once in a round or two (never less than once in four), most end with the next round, one in 192
// lives for some eighty. So a third of the sessions are over before their client comes back.
#pragma once

#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <new>
#include <random>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "controlplane/compile.h"
#include "dataplane/pipeline.h"
#include "src/session_key.h"
#include "src/wire.h"
#include "tests/property/affinity_oracle.h"

namespace sluice {

// On transparent hugepages: most of the time goes to what is looked up here and there.
template <typename T>
struct HugeAllocator {
  using value_type = T;
  static constexpr size_t kPageBytes = 2 << 20;

  T* allocate(size_t count) {
    const size_t bytes = (count * sizeof(T) + kPageBytes - 1) / kPageBytes * kPageBytes;
    void* memory = std::aligned_alloc(kPageBytes, bytes);
    if (memory == nullptr) throw std::bad_alloc();
    madvise(memory, bytes, MADV_HUGEPAGE);
    return static_cast<T*>(memory);
  }
  void deallocate(T* memory, size_t) { std::free(memory); }
  bool operator==(const HugeAllocator&) const { return true; }
};
template <typename T>
using HugeVector = std::vector<T, HugeAllocator<T>>;

struct AffinitySetup {
  uint64_t connections;
  uint32_t clients;
  uint32_t changes;
  uint32_t open;  // connections at a time
  Affinity affinity = Affinity::client;
  Method method = Method::maglev;
  OnFailure on_failure = OnFailure::rehash;
  uint32_t round_s = 10;
};

class AffinityWorld {
 public:
  explicit AffinityWorld(const AffinitySetup& setup)
      : setup_(setup),
        publisher_(Publisher::anonymous()),
        stats_memory_(Segment::anonymous(kStatsSegment, sizeof(StatsSegment))),
        stats_(stats_memory_.as<StatsSegment>()),
        lines_(session_lines_for(setup.clients)),
        sessions_(lines_.data(), lines_.size()),
        workers_{{*this, 0}, {*this, 1}},
        clients_(setup.clients),
        open_(setup.open),
        key_flows_(is_by_key() ? setup.clients * kGroupServices * kWorkers : 0),
        config_(config_of(setup)),
        oracle_(rules_of(setup, config_.services[0]),
                [this](const AffinityOracle::Client& client) { return whose(client); }) {
    for (int i = 0; i < 20; i++)
      add();
    reload();
  }

  void run() {
    const uint64_t between = setup_.connections / (setup_.changes + 1);
    while (made_ < setup_.connections && !has_failed_) {
      step();
      if (made_ < (changes_ + 1) * between || changes_ == setup_.changes) continue;
      change();
      changes_++;
    }
    for (Worker& worker : workers_)
      process(worker);
  }

  // What holds at the end, whatever happened.
  void check_end() {
    EXPECT_EQ(changes_, setup_.changes);
    uint64_t received = 0, forwarded = 0, active = 0, of_backends = 0;
    for (uint32_t i = 0; i < kWorkers; i++) {
      const WorkerStats& worker = stats_.workers[i];
      const PacketSnapshot counted = snapshot(worker);
      EXPECT_GT(counted.received, packets_ / 3);
      received += counted.received;
      forwarded += counted.forwarded;
      EXPECT_EQ(worker.sessions.full.get(), 0u);
      EXPECT_EQ(worker.sessions.keyless.get(), 0u);
      EXPECT_EQ(worker.flows.untracked.get(), 0u);
      active += worker.sessions.active.get();
      for (const Counter& of_backend : worker.sessions_active)
        of_backends += of_backend.get();
    }
    EXPECT_EQ(received, packets_);
    EXPECT_EQ(forwarded, packets_);
    EXPECT_EQ(of_backends, active);
    uint64_t in_table = 0;
    each_session(lines_.data(), lines_.size(), 0, lines_.size(), [&](const SessionSeen&) { in_table++; });
    EXPECT_EQ(in_table, active);
    // None is lost of those whose client has not come back.
    for (const AffinityOracle::Client& client : clients_) {
      if (!oracle_.is_live(client, now_s())) continue;
      live_at_end_++;
      ASSERT_EQ(whose(client), client.home);
    }
  }

  const AffinityOracle& oracle() const { return oracle_; }
  uint64_t made() const { return made_; }
  uint64_t packets() const { return packets_; }
  uint64_t live_at_end() const { return live_at_end_; }
  uint64_t simulated_s() const { return now_us_ / 1'000'000; }
  uint32_t idle_s() const { return config_.services[0].session.idle_s; }

 private:
  static constexpr uint32_t kWorkers = 2;
  static constexpr uint64_t kTscHz = 1'000'000, kTscStart = 3'600 * kTscHz;
  static constexpr uint64_t kAnswerUs = 300'000;  // from a connection's first packet to its second
  static constexpr uint16_t kPorts[kGroupServices] = {80, 443};

  struct Connection {
    AffinityOracle::Flow flow;
    uint32_t client = kNoClient;
    uint16_t port = 0;
    uint8_t service = 0;
    uint8_t worker = 0;
    uint8_t sent = 0;    // packets: 0, 1 or more
    uint8_t left = 0;    // after the first two
    uint8_t silent = 0;  // rounds
  };
  static constexpr uint32_t kNoClient = 0xffffffff;

  struct Worker {
    Worker(AffinityWorld& world, uint32_t number)
        : bits(bucket_bits_for(std::max<uint64_t>(limits::kFlowsPerWorkerMin, world.setup_.open))),
          buckets(size_t{1} << bits),
          flows(buckets.data(), bits),
          pipeline(flows, world.sessions_, world.stats_.workers[number], kTscHz, number,
                   std::span(world.stats_.workers, kWorkers)) {}

    const uint32_t bits;
    HugeVector<FlowBucket> buckets;
    FlowTable flows;
    Pipeline pipeline;
    Batch batch;
    uint32_t batches = 1;
    Connection* of[limits::kBatchMax];
    alignas(64) uint8_t frames[limits::kBatchMax][limits::kHeadroomBytes + 64] = {};
  };

  bool is_by_key() const { return setup_.affinity == Affinity::key; }

  static Config config_of(const AffinitySetup& setup) {
    ServiceConfig web;
    web.name = "web";
    web.vip = *IpAddress::parse("203.0.113.10");
    web.port = kPorts[0];
    web.protocol = setup.affinity == Affinity::key ? wire::kProtoUdp : wire::kProtoTcp;
    web.forward = Forward::ipip;
    web.affinity = setup.affinity;
    web.method = setup.method;
    web.policy.on_failure = setup.on_failure;
    web.health.type = HealthConfig::Type::tcp;
    web.session.group = "site";
    web.session.key_offset = 4;
    web.session.key_bytes = 8;
    // A connection is silent for four rounds at most.
    web.idle_established_s = web.idle_udp_s = setup.round_s * 9 / 2;
    web.idle_syn_s = web.idle_closing_s = setup.round_s < 100 ? 4 : 300;
    web.session.idle_s = setup.round_s * 13;
    ServiceConfig secure = web;
    secure.name = "secure";
    secure.port = kPorts[1];
    Config config;
    config.services = {web, secure};
    return config;
  }
  static AffinityOracle::Rules rules_of(const AffinitySetup& setup, const ServiceConfig& web) {
    const bool is_udp = web.protocol == wire::kProtoUdp;
    return {setup.on_failure,
            is_udp,
            web.session.idle_s,
            refresh_s(web.session.idle_s),
            is_udp ? web.idle_udp_s : web.idle_syn_s,
            is_udp ? web.idle_udp_s : web.idle_established_s,
            Tracker::kOnTrialS};
  }

  // ---- Backends

  static uint16_t number_of(const std::string& name) {
    return static_cast<uint16_t>(std::stoul(name.substr(1)));
  }
  void add() {
    const uint32_t number = backends_made_++;
    for (ServiceConfig& service : config_.services)
      service.backends.push_back(
          {"b" + std::to_string(number), IpAddress::v4(net32(0x0a000001 + number)), 100});
  }
  void reload() {
    reconcile(model_, config_);
    ASSERT_TRUE(assign_ids(model_, publisher_.current(), monotonic_ns(), 0));
    for (Service& service : model_.edit_all()) {
      for (Backend& backend : service.backends) {
        if (backend.health == Health::unknown && !is_out(backend.admin)) backend.health = Health::up;
        backend.next_hop.resolved = true;
        backend.next_hop.source = *IpAddress::parse("10.255.0.1");
      }
    }
    publish();
  }
  void publish() {
    const Result<Compiled> compiled = compile(model_, publisher_, &stats_);
    ASSERT_TRUE(compiled) << compiled.error().text();
    publisher_.reclaim(compiled->generation);
    oracle_.begin_epoch();
    for (uint32_t i = 0; i < kGroupServices; i++) {
      const Service& service = model_.services()[i];
      for (const Backend& backend : service.backends) {
        const uint16_t number = number_of(backend.config.name);
        if (number_of_.size() <= index(backend.id)) number_of_.resize(index(backend.id) + 1);
        number_of_[index(backend.id)] = number;
        const bool keeps = service.keeps_flows(backend);
        oracle_.set(i, number,
                    {true, keeps, keeps && service.counts_as_up(backend), service.takes_new(backend),
                     backend.admin == Admin::migrate, backend.weight()});
      }
    }
  }
  void change() {
    const auto first = static_cast<uint32_t>(random_() % kGroupServices);
    const Service& service = model_.services()[first];
    const auto position = static_cast<uint32_t>(random_() % service.backends.size());
    const Backend& backend = service.backends[position];
    const uint64_t draw = random_();
    switch (random_() % 12) {
      case 0:
        if (service.backends.size() < 40) add();
        return reload();
      case 1:
        if (service.backends.size() <= 12) return add(), reload();
        for (ServiceConfig& of : config_.services)
          of.backends.erase(of.backends.begin() + position);
        return reload();
      case 2:
      case 3:
      case 4:
        model_.set_weight({first, position}, draw % 5 == 0 ? 0 : static_cast<uint32_t>(1 + draw % 400));
        break;
      case 5:
      case 6:
      case 7: {
        constexpr Admin kOut[] = {Admin::drain, Admin::migrate, Admin::migrate, Admin::maint};
        const bool stays_out = backend.admin == Admin::ready && draw % 8 < 4;
        model_.set_admin({first, position}, stays_out ? kOut[draw % 4] : Admin::ready, 1);
        break;
      }
      default: {
        // Half of the failures are the host's: of both services.
        const Health health = backend.health == Health::up && draw % 8 < 4 ? Health::down : Health::up;
        for (uint32_t i = 0; i < kGroupServices; i++)
          if (i == first || draw % 2 == 0) model_.set_health({i, position}, health, 1);
      }
    }
    // Some always take new flows.
    for (uint32_t i = 0; i < kGroupServices; i++) {
      const auto takes = [&](const Backend& b) { return model_.services()[i].takes_new(b); };
      for (uint32_t b = 0; b < model_.services()[i].backends.size(); b++) {
        const auto& now = model_.services()[i].backends;
        if (std::count_if(now.begin(), now.end(), takes) >= 4) break;
        model_.set_admin({i, b}, Admin::ready, 1);
        model_.set_health({i, b}, Health::up, 1);
        model_.set_weight({i, b}, 100);
      }
    }
    publish();
  }

  // ---- Packets

  // Begins where session times wrap soon.
  uint32_t now_s() const { return static_cast<uint32_t>(kSessionTimeMask - 500 + now_us_ / 1'000'000); }

  static uint64_t mix(uint64_t x) { return next_choice(x + 1) * 0x9e3779b97f4a7c15ULL >> 32; }
  uint32_t first_source(uint32_t client) const {
    return 0x14000000 + (setup_.affinity == Affinity::prefix ? client << 8 : is_by_key() ? 0 : client);
  }
  // Of a prefix any address; whoever names a key, too.
  uint32_t source(const Connection& of) const {
    const uint64_t any = mix(uint64_t{of.client} << 16 | of.port);
    const uint32_t first = first_source(of.client);
    return setup_.affinity == Affinity::client ? first : first + (any & (is_by_key() ? 0xffffff : 0xff));
  }
  static uint64_t key_of(uint32_t client) { return client * 0x9e3779b97f4a7c15ULL; }

  // The time of one slot: who has waited for the answer to a first packet goes on, and then the next slot.
  void step() {
    now_us_ += uint64_t{setup_.round_s} * 1'000'000 / setup_.open;
    while (!answered_.empty() && answered_.front().at_us <= now_us_) {
      send(*answered_.front().to);
      answered_.pop_front();
    }
    Connection& connection = open_[cursor_];
    cursor_ = (cursor_ + 1) % setup_.open;
    if (connection.client == kNoClient) {
      begin(connection);
    } else if (connection.sent < 2) {
      return;
    } else if (connection.silent < 3 && random_() % 4 == 0) {
      connection.silent++;
      return;
    }
    send(connection);
  }
  void begin(Connection& connection) {
    const uint64_t draw = random_();
    connection = {};
    connection.client = static_cast<uint32_t>((draw & 0xffffffff) * setup_.clients >> 32);
    connection.port = static_cast<uint16_t>(1'024 + clients_[connection.client].opened++);
    connection.service = draw >> 32 & 1;
    connection.left = (draw >> 33) % 16 == 0    ? 0  // a first packet, and no more
                      : (draw >> 37) % 192 == 0 ? 64
                      : (draw >> 45) % 8 == 0   ? 2
                                                : 1;
    // As the NIC would say.
    connection.worker = mix(uint64_t{source(connection)} << 16 | connection.port) & 1;
    made_++;
  }
  void send(Connection& connection) {
    __builtin_prefetch(&clients_[connection.client], 1);
    Worker& worker = workers_[connection.worker];
    AffinityOracle::Client& client = clients_[connection.client];
    // In which order a batch's flows ask for their session is the tracker's business.
    if (client.in_batch[connection.worker] == worker.batches && !oracle_.is_settled(client, now_s()))
      process(worker);
    client.in_batch[connection.worker] = worker.batches;
    const uint32_t i = worker.batch.count;
    worker.of[i] = &connection;
    uint8_t* at = worker.frames[i] + limits::kHeadroomBytes;
    std::memset(at, 0, 54);
    reinterpret_cast<wire::Ethernet*>(at)->ether_type = net16(wire::kEtherIpv4);
    auto& ip = *reinterpret_cast<wire::Ipv4*>(at + 14);
    ip.version_ihl = 0x45;
    ip.total_length = net16(40);
    ip.ttl = 64;
    ip.protocol = config_.services[0].protocol;
    ip.source = net32(source(connection));
    ip.destination = net32(0xcb00710a);
    if (is_by_key()) {
      auto& udp = *reinterpret_cast<wire::Udp*>(at + 34);
      udp.source_port = net16(connection.port);
      udp.destination_port = net16(kPorts[connection.service]);
      udp.length = net16(20);
      const uint64_t key = key_of(connection.client);
      std::memcpy(at + 34 + 8, &connection.port, 2);  // in front of the key: says nothing
      std::memcpy(at + 34 + 8 + 4, &key, 8);
    } else {
      auto& tcp = *reinterpret_cast<wire::Tcp*>(at + 34);
      tcp.source_port = net16(connection.port);
      tcp.destination_port = net16(kPorts[connection.service]);
      tcp.data_offset = 5 << 4;
      const bool is_last = connection.sent == 2 && connection.left == 1;
      tcp.flags = connection.sent == 0 ? wire::kTcpSyn : wire::kTcpAck | (is_last ? wire::kTcpFin : 0);
    }
    worker.batch.add(at, 60, 60, limits::kHeadroomBytes, 0);
    if (worker.batch.count == limits::kBatchMax) process(worker);
  }
  void process(Worker& worker) {
    worker.pipeline.process(worker.batch, publisher_.current(), now_s());
    worker.pipeline.account(worker.batch);
    // A worker comes round far more often than with a full batch.
    for (uint32_t i = 0; i <= 30'000 / setup_.open; i++)
      worker.pipeline.age(publisher_.current(), now_s(), kTscStart + now_us_);
    packets_ += worker.batch.count;
    for (uint32_t i = 0; i < worker.batch.count; i++)
      look(*worker.of[i], worker.batch.packets[i]);
    worker.batch.clear();
    worker.batches++;
    has_failed_ = ::testing::Test::HasFailure();
  }
  void look(Connection& connection, const Packet& packet) {
    ASSERT_EQ(packet.verdict, Verdict::forward);
    const uint16_t backend = number_of_[index(packet.backend)];
    AffinityOracle::Client& client = clients_[connection.client];
    const AffinityOracle::Where where{connection.service, connection.worker};
    // A key's flow is of all who name it, with each worker that they reach.
    AffinityOracle::Flow& flow =
        is_by_key()
            ? key_flows_[(connection.client * kGroupServices + where.service) * kWorkers + where.worker]
            : connection.flow;
    if (connection.sent == 0) {
      oracle_.begins(client, flow, where, backend, now_s());
      connection.sent = 1;
      if (connection.left == 0) {
        connection.client = kNoClient;
      } else {
        answered_.push_back({now_us_ + kAnswerUs, &connection});
      }
      return;
    }
    oracle_.goes_on(client, flow, where, backend, now_s());
    connection.silent = 0;
    if (connection.sent == 1) {
      connection.sent = 2;
    } else if (--connection.left == 0) {
      connection.client = kNoClient;
    }
  }

  // The backend that the client's session names, if there is one in force.
  uint16_t whose(const AffinityOracle::Client& of) const {
    const auto client = static_cast<uint32_t>(&of - clients_.data());
    const TablesView tables = publisher_.current();
    const ServiceRecord& web = tables.service(model_.services()[0].id);
    const HashSecret& secret = tables.generation().secret;
    const uint64_t key = key_of(client);
    const uint64_t hash =
        is_by_key() ? session_hash(payload_key({reinterpret_cast<const uint8_t*>(&key), 8}, web), secret)
                    : client_session(net32(first_source(client)), web, secret);
    const SessionTable::Found found = sessions_.find(hash);
    if (!found || !is_in_force(found.session(), tables, now_s())) return kNoNumber;
    return number_of_[index(found.session().backend)];
  }

  struct Answer {
    uint64_t at_us;
    Connection* to;
  };

  const AffinitySetup setup_;
  Model model_;
  Publisher publisher_;
  Segment stats_memory_;
  StatsSegment& stats_;
  HugeVector<SessionLine> lines_;
  SessionTable sessions_;
  Worker workers_[kWorkers];
  std::mt19937_64 random_{1};

  HugeVector<AffinityOracle::Client> clients_;
  std::vector<Connection> open_;
  std::vector<AffinityOracle::Flow> key_flows_;
  std::deque<Answer> answered_;
  Config config_;
  AffinityOracle oracle_;
  std::vector<uint16_t> number_of_;  // by BackendId
  bool has_failed_ = false;
  uint32_t backends_made_ = 0, cursor_ = 0, changes_ = 0;
  uint64_t now_us_ = 0, packets_ = 0, made_ = 0, live_at_end_ = 0;
};

}  // namespace sluice
