// Sessions: a client's connections go where its first one went, whatever changes around them. In
// docs/affinity.md words.
#include <algorithm>
#include <random>
#include <set>
#include <string>

#include <gtest/gtest.h>

#include "src/session_key.h"
#include "tests/unit/tracking_fixture.h"

namespace sluice {
namespace {

using test::Frame;
using test::FrameSpec;
using test::make_frame;
using test::Tracking;

class Sessions : public Tracking {
 protected:
  Sessions() {
    use([](ServiceConfig& web) { web.affinity = Affinity::client; });
  }

  template <typename Edit>
  void use(Edit&& edit) {
    edit(config.services[0]);
    apply();
  }
  static std::string client(uint32_t number) {
    return "198.51." + std::to_string(number / 250) + "." + std::to_string(number % 250 + 1);
  }
  // A connection of its own, by its first packet.
  std::string connect(const std::string& from, uint16_t port = 80) {
    next_port_ = next_port_ == 65'000 ? 1'024 : static_cast<uint16_t>(next_port_ + 1);
    return send({.source = from.c_str(),
                 .source_port = next_port_,
                 .destination_port = port,
                 .tcp_flags = wire::kTcpSyn})
        .backend;
  }
  std::map<std::string, std::string> connect_all(uint32_t clients) {
    std::map<std::string, std::string> homes;
    for (uint32_t i = 0; i < clients; i++)
      homes[client(i)] = connect(client(i));
    return homes;
  }
  void health(const std::string& name, Health health) {
    for (Service& service : model.edit_all()) {
      for (Backend& backend : service.backends) {
        if (backend.config.name == name) backend.health = health;
      }
    }
    publish();
  }
  void checked() {
    use([](ServiceConfig& web) { web.health.type = HealthConfig::Type::tcp; });
  }
  Backend& backend(const std::string& service, const std::string& name) {
    for (Service& found : model.edit_all()) {
      for (Backend& candidate : found.backends) {
        if (found.config.name == service && candidate.config.name == name) return candidate;
      }
    }
    throw std::logic_error("no such backend");
  }
  SessionCounters& counters() { return stats.workers[0].sessions; }
  uint64_t sessions_of(const std::string& service, const std::string& name) {
    return stats.workers[0].sessions_active[index(model.find_backend(service, name)->id)].get();
  }
  // Every session in the table, by the name of its backend.
  std::map<std::string, uint64_t> in_table() {
    std::map<std::string, uint64_t> count;
    each_session(session_lines.data(), kSessionLinesMin, 0, kSessionLinesMin, [&](const SessionSeen& seen) {
      count[publisher.current().backend_cold(seen.session.backend).name]++;
    });
    return count;
  }
  void expect_gauges_true() {
    uint64_t sum = 0;
    for (const auto& [name, count] : in_table()) {
      EXPECT_EQ(sessions_of("web", name), count) << name;
      sum += count;
    }
    EXPECT_EQ(counters().active.get(), sum);
  }
  void sweep_all_sessions() {
    pipeline.tracker().sweep_sessions(kSessionLinesMin, publisher.current(), now_s);
  }

  uint16_t next_port_ = 1'024;
};

// Proves: the first connection's backend is the lookup table's for the hash of the client alone, as any other
// balancer with the same secret chooses; the later ones follow it.
TEST_F(Sessions, the_first_choice_is_a_pure_hash_of_the_client) {
  std::set<std::string> used;
  const TablesView tables = publisher.current();
  const ServiceRecord& service = tables.service(model.find_service("web")->id);
  for (uint32_t i = 0; i < 200; i++) {
    const uint64_t hash = client_session(*IpAddress::parse(client(i)), service, tables.generation().secret);
    const std::string home = tables.backend_cold(tables.select(service, hash)).name;
    for (int connection = 0; connection < 3; connection++)
      EXPECT_EQ(connect(client(i)), home);
    used.insert(home);
  }
  EXPECT_EQ(used.size(), 4u);
  EXPECT_EQ(counters().made.get(), 200u);
  expect_gauges_true();
}

// Proves: no change of others, and none of its own backend that leaves it alive, moves a client's new
// connections; a backend's removal moves only its own.
TEST_F(Sessions, nothing_but_its_backends_end_moves_a_session) {
  auto homes = connect_all(300);
  std::mt19937 random(3);
  for (int change = 0; change < 60; change++) {
    const std::string name = "b" + std::to_string(random() % 4 + 1);
    switch (random() % 4) {
      case 0:
        backend("web", name).weight_override = random() % 3 == 0 ? 0 : 1 + random() % 500;
        publish();
        break;
      case 1:
        backend("web", name).admin = random() % 2 == 0 ? Admin::drain : Admin::ready;
        publish();
        break;
      case 2:
        if (config.services[0].backends.size() < 12) add_backend(config.services[0], 5 + change);
        apply();
        break;
      default: {
        auto& backends = config.services[0].backends;
        if (backends.size() <= 4) break;
        const std::string gone = backends.back().name;
        backends.pop_back();
        apply();
        for (auto& [from, home] : homes) {
          if (home == gone) home = connect(from);
        }
      }
    }
    for (uint32_t i = 0; i < 40; i++) {
      const uint32_t of = random() % 400;
      const std::string home = connect(client(of));
      const auto known = homes.emplace(client(of), home);
      ASSERT_EQ(home, known.first->second) << "client " << of << " after change " << change;
    }
  }
  EXPECT_GT(homes.size(), 300u);
  expect_gauges_true();
}

// Proves: services of a group share the decision, by name, although each has its own backends and weights;
// another service with the same client does not.
TEST_F(Sessions, services_of_a_group_share_the_decision) {
  ServiceConfig tls = config.services[0];
  tls.name = "tls";
  tls.port = 443;
  ServiceConfig other = config.services[0];
  other.name = "other";
  other.port = 8080;
  config.services[0].session.group = tls.session.group = "shop";
  config.services.push_back(tls);
  config.services.push_back(other);
  apply();
  std::map<std::string, std::string> homes;
  for (uint32_t i = 0; i < 200; i++)
    homes[client(i)] = connect(client(i), i % 2 == 0 ? 80 : 443);
  // New clients of each would go elsewhere now; those that have a session do not.
  backend("tls", "b1").weight_override = 0;
  backend("web", "b2").weight_override = 0;
  publish();
  int elsewhere = 0;
  for (const auto& [from, home] : homes) {
    EXPECT_EQ(connect(from, 443), home);
    EXPECT_EQ(connect(from, 80), home);
    elsewhere += connect(from, 8080) != home;
  }
  EXPECT_GT(elsewhere, 50);
  // A backend that only one of them has: its clients are chosen anew in the other, and stay.
  add_backend(config.services[0], 9);
  config.services[0].backends.back().weight = 10'000;
  apply();
  const std::string from = "192.0.2.77";
  EXPECT_EQ(connect(from, 80), "b9");
  const std::string in_tls = connect(from, 443);
  EXPECT_NE(in_tls, "b9");
  EXPECT_EQ(connect(from, 443), in_tls);
  EXPECT_EQ(connect(from, 80), "b9") << "and where it has one, it keeps that";
}

// Proves: clients of one network are one with `prefix`, and only those.
TEST_F(Sessions, a_prefix_is_one_client) {
  use([](ServiceConfig& web) {
    web.affinity = Affinity::prefix;
    web.session.prefix_v4 = 20;
  });
  std::set<std::string> in_same, in_others;
  for (int i = 0; i < 60; i++) {
    in_same.insert(connect("10.1." + std::to_string(16 + i % 16) + "." + std::to_string(i)));
    in_others.insert(connect("10.2." + std::to_string(i * 4 % 256 / 16 * 16) + "." + std::to_string(i)));
  }
  EXPECT_EQ(in_same.size(), 1u);
  EXPECT_GT(in_others.size(), 1u);
  EXPECT_EQ(counters().made.get(), 1u + 15u);
}

// Proves: a session ends when nothing was heard for its idle time, not before; a connection that goes on
// keeps it; a lifetime ends it all the same.
TEST_F(Sessions, idle_time_and_lifetime) {
  use([](ServiceConfig& web) {
    web.idle_established_s = 600;
    web.session.idle_s = 600;
  });
  const std::string home = connect(client(1));
  // Away from there for new clients, so that a session that is chosen anew shows.
  backend("web", home).admin = Admin::drain;
  publish();
  now_s += 600;
  EXPECT_EQ(connect(client(1)), home);
  // A packet now and then of one connection, no new ones.
  send({.source = client(1).c_str(), .source_port = 7'777, .tcp_flags = wire::kTcpSyn});
  for (int minutes = 0; minutes < 60; minutes++) {
    now_s += 60;
    EXPECT_EQ(send({.source = client(1).c_str(), .source_port = 7'777}).backend, home);
    sweep();
    sweep_all_sessions();
  }
  EXPECT_EQ(connect(client(1)), home);
  EXPECT_EQ(sessions_of("web", home), 1u);
  now_s += 600 + refresh_s(600) + 1;
  sweep_all_sessions();
  EXPECT_EQ(counters().active.get(), 0u);
  EXPECT_EQ(counters().ended.get(), 1u);
  EXPECT_NE(connect(client(1)), home);

  // Its lifetime: the next connection is chosen anew, whatever goes on.
  use([](ServiceConfig& web) { web.session.life_s = 1'800; });
  const std::string second = connect(client(2));
  backend("web", second).admin = Admin::drain;
  publish();
  int connections = 0;
  for (; connections < 100 && connect(client(2)) == second; connections++)
    now_s += 60;
  EXPECT_GE(connections * 60, 1'800);
  EXPECT_LE(connections * 60, 1'800 + 128 + 60);
  expect_gauges_true();
}

// Proves: whenever its packets come, a connection that may still go on has its session: the client's next
// connection goes there, and nobody takes it for quiet. With timeouts in seconds, and in units of 128.
TEST_F(Sessions, last_as_long_as_their_connections_may_rest) {
  std::mt19937 random(4);
  for (const uint32_t idle_s : {900u, 10'800u}) {
    use([&](ServiceConfig& web) { web.idle_established_s = web.session.idle_s = idle_s; });
    // Whoever is chosen for anew goes elsewhere.
    backend("web", "b1").admin = Admin::drain;
    publish();
    const TablesView tables = publisher.current();
    const ServiceRecord& web = tables.service(model.find_service("web")->id);
    for (uint32_t i = 0; i < 300; i++) {
      now_s += random() % 1'000;
      const std::string from = client(idle_s + i);
      const uint64_t hash = client_session(*IpAddress::parse(from), web, tables.generation().secret);
      const BackendId b1 = model.find_backend("web", "b1")->id;
      ASSERT_TRUE(
          sessions.find_or_make(hash, {b1, SessionKind::learnt, 0, now_s, now_s >> kCreatedShift}).made);
      now_s += random() % 200;
      const auto packet = [&](uint32_t tcp_flags) {
        return send({.source = from.c_str(),
                     .source_port = 7'777,
                     .tcp_flags = static_cast<uint8_t>(tcp_flags)})
            .backend;
      };
      ASSERT_EQ(packet(wire::kTcpSyn), "b1");
      for (uint32_t packets = random() % 40; packets > 0; packets--) {
        ASSERT_EQ(packet(wire::kTcpAck), "b1");
        now_s += random() % 8 == 0 ? idle_s - random() % 3 : 1 + random() % 90;
      }
      ASSERT_EQ(packet(wire::kTcpAck), "b1");
      now_s += idle_s - random() % 3;
      ASSERT_LE(since_s(sessions.find(hash).session().last_s, now_s), quiet_s(web)) << "client " << i;
      ASSERT_EQ(connect(from), "b1") << "client " << i;
    }
  }
}

// Proves: rehash moves the sessions of the failed backend and no others, in proportion to the weights of the
// rest, for good.
TEST_F(Sessions, rehash_moves_those_of_the_failed_backend_for_good) {
  checked();
  backend("web", "b2").weight_override = 300;
  publish();
  const auto homes = connect_all(3'000);
  health("b1", Health::down);
  std::map<std::string, int> taken;
  std::map<std::string, std::string> after;
  for (const auto& [from, home] : homes) {
    after[from] = connect(from);
    if (home == "b1") {
      taken[after[from]]++;
    } else {
      EXPECT_EQ(after[from], home);
    }
  }
  const int moved = taken["b2"] + taken["b3"] + taken["b4"];
  EXPECT_EQ(taken.count("b1"), 0u);
  EXPECT_EQ(counters().moved.get(), static_cast<uint64_t>(moved));
  // 300 : 100 : 100; five standard deviations.
  EXPECT_NEAR(taken["b2"], moved * 0.6, 5 * std::sqrt(moved * 0.24));
  EXPECT_NEAR(taken["b3"], moved * 0.2, 5 * std::sqrt(moved * 0.16));
  health("b1", Health::up);
  for (const auto& [from, home] : after)
    EXPECT_EQ(connect(from), home);
  expect_gauges_true();
}

// Proves: keep sends a client's new connections to its failed backend, and nobody else's; maintenance only
// lends it to others.
TEST_F(Sessions, keep_waits) {
  checked();
  use([](ServiceConfig& web) { web.policy.on_failure = OnFailure::keep; });
  const auto homes = connect_all(200);
  health("b1", Health::down);
  for (const auto& [from, home] : homes)
    EXPECT_EQ(connect(from), home);
  for (uint32_t i = 1'000; i < 1'200; i++)
    EXPECT_NE(connect(client(i)), "b1");
  backend("web", "b1").admin = Admin::maint;
  publish();
  for (const auto& [from, home] : homes)
    EXPECT_EQ(connect(from) == home, home != "b1");
  backend("web", "b1").admin = Admin::ready;
  health("b1", Health::up);
  for (const auto& [from, home] : homes)
    EXPECT_EQ(connect(from), home);
  EXPECT_EQ(counters().moved.get(), 0u);
}

// Proves: return lends a client to its next choice, and gives it back when the backend is well.
TEST_F(Sessions, return_comes_back) {
  checked();
  use([](ServiceConfig& web) { web.policy.on_failure = OnFailure::comes_back; });
  const auto homes = connect_all(200);
  health("b1", Health::down);
  std::map<std::string, std::string> lent;
  for (const auto& [from, home] : homes) {
    lent[from] = connect(from);
    EXPECT_EQ(lent[from] == home, home != "b1");
    EXPECT_EQ(connect(from), lent[from]);
  }
  health("b1", Health::up);
  for (const auto& [from, home] : homes)
    EXPECT_EQ(connect(from), home);
  EXPECT_EQ(counters().moved.get(), 0u);
}

// Proves: a backend that is drained keeps its sessions; one that migrates loses them, each with its next
// connection, but no connection, and no pin.
TEST_F(Sessions, migrate_moves_sessions_and_no_connection) {
  const auto homes = connect_all(200);
  const std::string pinned =
      std::find_if(homes.begin(), homes.end(), [](const auto& home) { return home.second == "b1"; })->first;
  const TablesView tables = publisher.current();
  SessionTable::Found found = sessions.find(client_session(
      *IpAddress::parse(pinned), tables.service(model.find_service("web")->id), tables.generation().secret));
  ASSERT_TRUE(found);
  SessionValue pin = found.session();
  pin.kind = SessionKind::pinned;
  ASSERT_TRUE(SessionTable::change(found, pin));
  send({.source = client(7).c_str(), .source_port = 9'999, .tcp_flags = wire::kTcpSyn});
  backend("web", "b1").admin = Admin::migrate;
  publish();
  EXPECT_EQ(send({.source = client(7).c_str(), .source_port = 9'999}).backend, homes.at(client(7)));
  for (const auto& [from, home] : homes) {
    const std::string now = connect(from);
    EXPECT_EQ(now == home, home != "b1" || from == pinned) << from;
    EXPECT_EQ(connect(from), now);
  }
  EXPECT_EQ(sessions_of("web", "b1"), 1u);
  backend("web", "b1").admin = Admin::ready;
  publish();
  expect_gauges_true();
}

// Proves: who was only told sorry is not tied to that.
TEST_F(Sessions, nobody_is_tied_to_the_sorry_backend) {
  checked();
  use([](ServiceConfig& web) {
    BackendConfig sorry{"apology", *IpAddress::parse("10.0.1.99"), 100};
    sorry.sorry = true;
    web.backends.push_back(sorry);
    web.policy.quorum.is_set = true;
  });
  const auto homes = connect_all(50);
  for (int i = 1; i <= 4; i++)
    health("b" + std::to_string(i), Health::down);
  for (uint32_t i = 0; i < 100; i++)
    EXPECT_EQ(connect(client(i)), "apology");
  EXPECT_EQ(counters().moved.get(), 0u);
  for (int i = 1; i <= 4; i++)
    health("b" + std::to_string(i), Health::up);
  for (const auto& [from, home] : homes)
    EXPECT_EQ(connect(from), home);
}

// Proves: bytes of the payload name the session: from any address and port the same backend, also through
// changes; other bytes are others; a packet that ends before the key is tracked as a connection is, and
// counted.
TEST_F(Sessions, a_key_in_the_payload) {
  ServiceConfig& dns = config.services[1];
  dns.affinity = Affinity::key;
  dns.session.key_offset = 3;
  dns.session.key_bytes = 4;
  apply();
  const auto datagram = [&](const std::string& from, uint16_t port, uint32_t key, uint32_t bytes = 20) {
    Frame frame = make_frame({.source = from.c_str(),
                              .source_port = port,
                              .destination_port = 53,
                              .protocol = wire::kProtoUdp,
                              .payload_bytes = bytes});
    if (bytes >= 7) std::memcpy(frame.start() + 14 + 20 + 8 + 3, &key, 4);
    Batch batch;
    frame.add_to(batch);
    pipeline.process(batch, publisher.current(), now_s);
    pipeline.account(batch);
    return std::string(publisher.current().backend_cold(batch.packets[0].backend).name);
  };
  std::map<uint32_t, std::string> homes;
  for (uint32_t key = 0; key < 100; key++)
    homes[key] = datagram("192.0.2.1", 4'000, key);
  EXPECT_EQ(in_table().size(), 4u);
  std::set<std::string> used;
  for (uint32_t key = 0; key < 100; key++) {
    EXPECT_EQ(datagram(client(key), static_cast<uint16_t>(5'000 + key), key), homes[key]);
    used.insert(homes[key]);
  }
  EXPECT_EQ(used.size(), 4u);
  backend("dns", "b1").weight_override = 1;
  publish();
  now_s += 1'000;  // flows are over, sessions not
  sweep();
  for (uint32_t key = 0; key < 100; key++)
    EXPECT_EQ(datagram("192.0.2.9", 999, key), homes[key]);
  EXPECT_EQ(counters().keyless.get(), 0u);
  // Just too short, and just long enough.
  const uint64_t made = counters().made.get();
  const std::string as_connection = datagram("192.0.2.9", 999, 0, 6);
  EXPECT_EQ(datagram("192.0.2.9", 999, 0, 6), as_connection);
  EXPECT_EQ(counters().keyless.get(), 2u);
  EXPECT_EQ(counters().made.get(), made);
  EXPECT_EQ(datagram("192.0.2.9", 999, 5, 7), homes[5]);
  EXPECT_EQ(counters().keyless.get(), 2u);
}

// Proves: without a place the hash decides, which is the same each time, and that is counted.
TEST_F(Sessions, a_full_table_leaves_it_to_the_hash) {
  // Every slot taken, by sessions of others.
  for (SessionLine& line : session_lines) {
    for (uint32_t slot = 0; slot < kLineSessions; slot++) {
      line.tag_low[slot].store(12'345);
      line.value[slot].store(pack({BackendId{0}, SessionKind::pinned, 0, 0, 0}));
    }
  }
  const std::string home = connect(client(1));
  EXPECT_NE(home, "");
  EXPECT_EQ(connect(client(1)), home);
  EXPECT_EQ(counters().full.get(), 2u);
  EXPECT_EQ(counters().made.get(), 0u);
}

// Proves: a successor finds every session, and counts them right.
TEST_F(Sessions, survive_their_process) {
  const auto homes = connect_all(500);
  // What a kill may leave.
  session_lines[5].tag_low[3].store(99);
  session_lines[6].tag_low[3].store(kTagDying);
  session_lines[6].value[3].store(kDead);
  std::fill(flows.home_of(0).tag_low, flows.home_of(0).tag_low + 1, 0);
  flows.clear();
  Pipeline successor(flows, sessions, stats.workers[1], 1);
  successor.tracker().recover_sessions();
  EXPECT_EQ(stats.workers[1].sessions.active.get(), 500u);
  EXPECT_EQ(session_lines[5].tag_low[3].load(), 0u);
  EXPECT_EQ(session_lines[6].value[3].load(), 0u);
  backend("web", "b3").admin = Admin::drain;
  publish();
  for (const auto& [from, home] : homes)
    EXPECT_EQ(connect(from), home);
}

// Proves: a removed backend's sessions are gone with the next round of the sweep, whoever comes.
TEST_F(Sessions, end_with_their_backend) {
  connect_all(400);
  const uint64_t of_b4 = sessions_of("web", "b4");
  ASSERT_GT(of_b4, 0u);
  config.services[0].backends.pop_back();
  apply();
  sweep_all_sessions();
  EXPECT_EQ(counters().active.get(), 400 - of_b4);
  EXPECT_EQ(in_table().count("b4"), 0u);
}

// Proves: before the sweep as after it, the clients of a removed backend are chosen for as new ones, so that
// every balancer makes the same choice.
TEST_F(Sessions, begin_anew_when_their_backend_is_removed) {
  const auto homes = connect_all(400);
  config.services[0].backends.pop_back();
  apply();
  const TablesView tables = publisher.current();
  const ServiceRecord& web = tables.service(model.find_service("web")->id);
  uint64_t moved = 0;
  for (const auto& [from, home] : homes) {
    const uint64_t hash = client_session(*IpAddress::parse(from), web, tables.generation().secret);
    const std::string anew = tables.backend_cold(tables.select(web, hash)).name;
    EXPECT_EQ(connect(from), home == "b4" ? anew : home);
    moved += home == "b4" ? 1 : 0;
  }
  EXPECT_EQ(counters().made.get(), 400 + moved);
  EXPECT_EQ(counters().moved.get(), 0u);
  expect_gauges_true();
}

// Proves: of an address exactly the first bits count, in either family; and a service is not a group of its
// name.
TEST(SessionKey, the_first_bits_of_an_address) {
  ServiceRecord service{};
  const HashSecret secret = HashSecret::from_text("a");
  const auto same = [&](const char* one, const char* other) {
    return client_session(*IpAddress::parse(one), service, secret) ==
           client_session(*IpAddress::parse(other), service, secret);
  };
  service.client_bits[0] = 32;
  service.client_bits[1] = 128;
  EXPECT_FALSE(same("10.0.0.1", "10.0.0.0"));
  EXPECT_FALSE(same("2001:db8::1", "2001:db8::"));
  service.client_bits[0] = 20;
  service.client_bits[1] = 56;
  EXPECT_TRUE(same("10.0.31.1", "10.0.16.255"));
  EXPECT_FALSE(same("10.0.31.1", "10.0.32.1"));
  EXPECT_TRUE(same("2001:db8:0:1::1", "2001:db8:0:ff:1::"));
  EXPECT_FALSE(same("2001:db8:0:1::1", "2001:db8:0:100::1"));
  service.client_bits[1] = 72;
  EXPECT_TRUE(same("2001:db8::1", "2001:db8::ff:1:1"));
  EXPECT_FALSE(same("2001:db8::1", "2001:db8:0:0:100::1"));
  service.client_bits[0] = service.client_bits[1] = 1;
  EXPECT_TRUE(same("127.1.2.3", "1.1.1.1"));
  EXPECT_FALSE(same("127.1.2.3", "128.1.1.1"));
  EXPECT_NE(session_salt("service web"), session_salt("group web"));
}

// Proves: services of a group share a key's session, and each has its own flow of it: packets of one, then
// the other, go on with their flows.
TEST_F(Sessions, a_key_in_a_group) {
  ServiceConfig& dns = config.services[1];
  dns.affinity = Affinity::key;
  dns.session.key_bytes = 4;
  dns.session.group = "game";
  ServiceConfig voice = dns;
  voice.name = "voice";
  voice.port = 54;
  config.services.push_back(voice);
  apply();
  const auto datagram = [&](uint16_t port, uint32_t key) {
    Frame frame = make_frame({.destination_port = port, .protocol = wire::kProtoUdp, .payload_bytes = 20});
    std::memcpy(frame.start() + 14 + 20 + 8, &key, 4);
    Batch batch;
    frame.add_to(batch);
    pipeline.process(batch, publisher.current(), now_s);
    pipeline.account(batch);
    return std::string(publisher.current().backend_cold(batch.packets[0].backend).name);
  };
  for (uint32_t key = 0; key < 50; key++) {
    const std::string home = datagram(53, key);
    for (int i = 0; i < 3; i++) {
      EXPECT_EQ(datagram(54, key), home);
      EXPECT_EQ(datagram(53, key), home);
    }
  }
  EXPECT_EQ(counters().made.get(), 50u);
  EXPECT_EQ(stats.workers[0].flows.inserted.get(), 100u);
  EXPECT_EQ(stats.workers[0].flows.reselected.get(), 0u);
}

// ---- The table itself

// Proves: the SSE2 comparison says what the plain loop says.
TEST(SessionTable, both_comparisons_agree) {
  std::mt19937 random(11);
  for (int round = 0; round < 20'000; round++) {
    SessionLine line{};
    for (uint32_t slot = 0; slot < kLineSessions; slot++) {
      line.tag_low[slot].store(random() % 3 << 31 | random() % 3);
      line.tag_high[slot].store(static_cast<uint16_t>(random() % 3 << 15 | random() % 3));
    }
    const auto low = static_cast<uint32_t>(random() % 3 << 31 | random() % 3);
    const auto high = static_cast<uint16_t>(random() % 3 << 15 | random() % 3);
    ASSERT_EQ(matching_sessions(line, low, high), portable::matching_sessions(line, low, high));
  }
}

// Proves: place and entry give the hash back, wherever a session lives; and at capacity (two a line) next to
// none is without a place, a lookup hardly looks further than one line, and a session costs 32 bytes.
TEST(SessionTable, at_capacity) {
  constexpr uint64_t kLines = kSessionLinesMin + 38;
  std::vector<SessionLine> lines(kLines);
  SessionTable table(lines.data(), kLines);
  std::mt19937_64 random(12);
  std::set<uint64_t> hashes;
  uint64_t without = 0;
  for (uint64_t i = 0; i < sessions_capacity(kLines); i++) {
    const uint64_t hash = random();
    const auto made = table.find_or_make(hash, {BackendId{7}, SessionKind::learnt, 0, 5, 6});
    without += !made.found;
    if (made.made) hashes.insert(session_identity(hash));
  }
  EXPECT_EQ(without, 0u);
  EXPECT_EQ(sizeof(SessionLine) * kLines, 32 * sessions_capacity(kLines));
  std::set<uint64_t> seen;
  uint64_t away = 0, homes_with_away = 0;
  each_session(lines.data(), kLines, 0, kLines, [&](const SessionSeen& session) {
    seen.insert(session.hash);
    away += session.session.distance != 0;
    EXPECT_EQ(session.session.last_s, 5u);
    EXPECT_EQ(session.session.created, 6u);
  });
  EXPECT_EQ(seen, hashes);
  for (const SessionLine& line : lines)
    homes_with_away += line.away.load() != 0;
  EXPECT_LT(away, hashes.size() / 14);
  EXPECT_LT(homes_with_away, kLines / 12);
  for (const uint64_t hash : hashes) {
    SessionTable::Found found = table.find(hash);
    ASSERT_TRUE(found);
    ASSERT_TRUE(table.remove(hash, found));
  }
  for (const SessionLine& line : lines)
    ASSERT_EQ(line.away.load(), 0u);
}

// Proves: the datagrams of a session that was moved follow it within refresh_s, to a backend that is well,
// and never for a moment to nobody; connections stay where they are.
TEST_F(Sessions, datagrams_follow_a_session_that_was_moved_and_connections_do_not) {
  config.services[0].affinity = config.services[1].affinity = Affinity::client;
  config.services[0].session.group = config.services[1].session.group = "both";
  apply();
  const auto datagram = [&] {
    return send({.source_port = 5'000, .destination_port = 53, .protocol = wire::kProtoUdp}).backend;
  };
  const auto segment = [&] { return send({.source_port = 6'000}).backend; };
  const std::string home = connect("198.51.100.1");
  send({.source_port = 6'000, .tcp_flags = wire::kTcpSyn});
  ASSERT_EQ(datagram(), home);
  ASSERT_EQ(segment(), home);
  const std::string other = home == "b1" ? "b2" : "b1";
  const TablesView tables = publisher.current();
  SessionTable::Found found = sessions.find(client_session(*IpAddress::parse("198.51.100.1"),
                                                           tables.service(model.find_service("web")->id),
                                                           tables.generation().secret));
  ASSERT_TRUE(found);
  SessionValue moved = found.session();
  moved.backend = model.find_backend("web", other)->id;
  // By a command of another kind nothing follows.
  ASSERT_TRUE(SessionTable::change(found, moved));
  const uint32_t refresh = refresh_s(tables.service(model.find_service("dns")->id).session_idle_s);
  for (uint32_t passed = 0; passed <= refresh; passed += 8, now_s += 8)
    ASSERT_EQ(datagram(), home);
  moved.kind = SessionKind::moved;
  found = sessions.find(client_session(*IpAddress::parse("198.51.100.1"),
                                       tables.service(model.find_service("web")->id),
                                       tables.generation().secret));
  ASSERT_TRUE(SessionTable::change(found, moved));
  std::set<std::string> seen;
  for (uint32_t passed = 0; passed <= refresh; passed += 8, now_s += 8) {
    seen.insert(datagram());
    EXPECT_EQ(segment(), home);
  }
  EXPECT_EQ(seen, (std::set<std::string>{home, other}));
  EXPECT_EQ(datagram(), other);
  EXPECT_EQ(active("dns", other), 1u);
  EXPECT_EQ(active("dns", home), 0u);
  EXPECT_EQ(connect("198.51.100.1"), other) << "a new connection goes there as well";
}

// Proves: of a session that was moved with its connections, each of these is reset within refresh_s when it
// is elsewhere, never to a backend that is down or full, and the client's next one goes where the session
// is.
TEST_F(Sessions, connections_are_reset_of_a_session_that_was_moved_so) {
  const std::string home = connect("198.51.100.1"), other = home == "b1" ? "b2" : "b1";
  const auto begin = [&](uint16_t port) {
    send({.source_port = port, .tcp_flags = wire::kTcpSyn});
    return send({.source_port = port}).backend;
  };
  ASSERT_EQ(begin(6'000), home);
  ASSERT_EQ(begin(6'001), home);
  const TablesView tables = publisher.current();
  const ServiceRecord& web = tables.service(model.find_service("web")->id);
  const uint32_t refresh = refresh_s(web.session_idle_s);
  SessionTable::Found found =
      sessions.find(client_session(*IpAddress::parse("198.51.100.1"), web, tables.generation().secret));
  ASSERT_TRUE(found);
  SessionValue moved = found.session();
  moved.backend = model.find_backend("web", other)->id;
  moved.kind = SessionKind::moved_resets;
  moved.created = now_s >> kCreatedShift;
  ASSERT_TRUE(SessionTable::change(found, moved));

  // It cannot go there: it stays.
  backend("web", other).admin = Admin::maint;
  publish();
  now_s += refresh;
  EXPECT_EQ(send({.source_port = 6'000}).backend, home);
  backend("web", other).admin = Admin::ready;
  publish();
  now_s += refresh;
  // A reset or a SYN is not answered by one.
  EXPECT_EQ(send({.source_port = 6'001, .tcp_flags = wire::kTcpRst}).verdict, Verdict::forward);
  const uint64_t active_before = active("web", home);
  const Seen ended = send({.source_port = 6'000});
  EXPECT_EQ(ended.verdict, Verdict::answer);
  EXPECT_EQ(ended.how, FlowHow::reset);
  EXPECT_EQ(active("web", home), active_before - 1);
  EXPECT_EQ(begin(6'002), other);
  now_s += refresh;
  EXPECT_EQ(send({.source_port = 6'002}).verdict, Verdict::forward) << "it is where it belongs";

  // What is elsewhere since then was lent, and is let alone: no connection from before can be left.
  checked();
  use([](ServiceConfig& service) { service.policy.on_failure = OnFailure::comes_back; });
  for (uint32_t passed = 0; passed <= resets_s(web); passed += refresh, now_s += refresh)
    ASSERT_EQ(send({.source_port = 6'002}).backend, other);
  health(other, Health::down);
  const std::string lent = begin(6'003);
  ASSERT_NE(lent, other);
  health(other, Health::up);
  for (int i = 0; i < 3; i++, now_s += refresh)
    EXPECT_EQ(send({.source_port = 6'003}).backend, lent);
  EXPECT_EQ(connect("198.51.100.1"), other);
}

}  // namespace
}  // namespace sluice
