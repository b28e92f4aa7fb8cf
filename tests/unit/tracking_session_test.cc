// Sessions: a client's connections go where its first one went. Who is one client, and how long that holds.
// In docs/affinity.md words.
#include <algorithm>
#include <cstring>
#include <set>
#include <string>

#include <gtest/gtest.h>

#include "src/session_key.h"
#include "tests/unit/session_fixture.h"

namespace sluice {
namespace {

using test::Frame;
using test::make_frame;
using test::Sessions;

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

// Proves: a packet that nothing follows holds its session no longer than a SYN's flow, however often it
// comes; a connection that goes on has it for its time.
TEST_F(Sessions, one_packet_proves_nothing) {
  const TablesView tables = publisher.current();
  const ServiceRecord& web = tables.service(model.find_service("web")->id);
  const uint32_t trial_s = web.idle_s[ServiceRecord::kSyn] + refresh_s(web.session_idle_s);
  ASSERT_LT(trial_s * 4, web.session_idle_s);
  const auto packet = [&](uint32_t from, uint16_t port, uint8_t tcp_flags) {
    return send({.source = client(from).c_str(), .source_port = port, .tcp_flags = tcp_flags}).backend;
  };
  for (uint32_t passed = 0; passed < 2 * trial_s; passed += 10, now_s += 10) {
    packet(1, 1'000, wire::kTcpSyn);
    packet(2, static_cast<uint16_t>(1'000 + passed), wire::kTcpSyn);
    packet(3, static_cast<uint16_t>(1'000 + passed), wire::kTcpAck);
  }
  EXPECT_EQ(counters().made.get(), 5u) << "of the two that open connections anew it was over, and made again";
  for (const uint8_t first : {wire::kTcpSyn, wire::kTcpAck}) {
    const uint32_t from = first == wire::kTcpSyn ? 4 : 5;
    packet(from, 1'000, first);
    packet(from, 1'000, wire::kTcpAck);
  }
  now_s += trial_s + 1;
  sweep_all_sessions();
  EXPECT_EQ(counters().active.get(), 2u);
  now_s += web.session_idle_s - trial_s - 1;
  sweep_all_sessions();
  EXPECT_EQ(counters().active.get(), 2u);
  expect_gauges_true();
}

// Proves: nor does one datagram; a second one does, of the same flow or of another.
TEST_F(Sessions, one_datagram_proves_nothing) {
  config.services[1].affinity = Affinity::client;
  apply();
  const TablesView tables = publisher.current();
  const ServiceRecord& dns = tables.service(model.find_service("dns")->id);
  const auto datagram = [&](uint32_t from, uint16_t port) {
    const std::string source = client(from);
    send(
        {.source = source.c_str(), .source_port = port, .destination_port = 53, .protocol = wire::kProtoUdp});
  };
  datagram(1, 1'000);
  datagram(2, 1'000);
  datagram(2, 1'000);
  datagram(3, 1'000);
  datagram(3, 1'001);
  EXPECT_EQ(counters().made.get(), 3u);
  now_s += dns.idle_s[ServiceRecord::kUdp] + refresh_s(dns.session_idle_s) + 1;
  ASSERT_LT(now_s, 1'000 + dns.session_idle_s);
  sweep_all_sessions();
  EXPECT_EQ(counters().active.get(), 2u);
  now_s += refresh_s(dns.session_idle_s) + dns.session_idle_s;
  sweep_all_sessions();
  EXPECT_EQ(counters().active.get(), 0u);
}

// Proves: a session that its backend's failure moves is as old as it was, and has been heard of as lately:
// one whose client falls silent then stays where it went, for the rest of its time and no longer.
TEST_F(Sessions, that_move_keep_their_times) {
  checked();
  use([](ServiceConfig& web) { web.session.life_s = 10 * web.session.idle_s; });
  const uint32_t idle_s = model.find_service("web")->config.session.idle_s;
  const std::string from = client(1);
  const std::string home = connect(from);
  const uint32_t begun_s = now_s;
  now_s += 10;
  health(home, Health::down);
  // An old connection's packet, and nothing after it: its new backend ended it.
  const std::string next = send({.source = from.c_str(), .source_port = next_port_}).backend;
  ASSERT_NE(next, home);
  health(home, Health::up);
  now_s = begun_s + idle_s;
  sweep_all_sessions();
  ASSERT_EQ(counters().active.get(), 1u);
  EXPECT_EQ(send({.source = from.c_str(), .source_port = 9, .tcp_flags = wire::kTcpSyn}).backend, next);
  now_s = begun_s + idle_s + refresh_s(idle_s) + 1;
  sweep_all_sessions();
  EXPECT_EQ(counters().active.get(), 0u);

  // Its lifetime goes on as well: nobody lives for ever by failures.
  std::string at = connect(from);
  const uint32_t made_s = now_s;
  for (; now_s < made_s + 9 * idle_s; now_s += idle_s / 2) {
    health(at, Health::down);
    const std::string moved = connect(from);
    ASSERT_NE(moved, at);
    health(at, Health::up);
    at = moved;
  }
  const uint64_t made = counters().made.get();
  for (; now_s < made_s + 11 * idle_s; now_s += idle_s / 2)
    connect(from);
  EXPECT_EQ(counters().made.get(), made + 1);
}

// Proves: a connection that goes on long after its session was over, as it was not proven, has one again; so
// has one whose session found no place.
TEST_F(Sessions, are_made_by_connections_that_go_on) {
  const std::string from = client(1);
  const auto packet = [&] { return send({.source = from.c_str(), .source_port = 7'777}).backend; };
  const std::string home = packet();  // it began elsewhere
  now_s += 300;
  sweep_all_sessions();
  ASSERT_EQ(counters().active.get(), 0u);
  EXPECT_EQ(packet(), home);
  EXPECT_EQ(counters().active.get(), 1u);
  backend("web", home).admin = Admin::drain;
  publish();
  EXPECT_EQ(connect(from), home);
  expect_gauges_true();
}

// Proves: a connection whose first packet still finds the session has it for its time, also when that is over
// before the second packet; whether the sweep came by or not.
TEST_F(Sessions, do_not_end_between_two_packets) {
  const uint32_t idle_s = model.find_service("web")->config.session.idle_s;
  for (const bool swept : {false, true}) {
    const std::string from = client(swept ? 1 : 2);
    const std::string home = connect(from);
    // Whoever is chosen for anew goes elsewhere.
    backend("web", home).admin = Admin::drain;
    publish();
    now_s += idle_s + refresh_s(idle_s);
    const auto packet = [&](uint8_t tcp_flags) {
      return send({.source = from.c_str(), .source_port = 7'777, .tcp_flags = tcp_flags}).backend;
    };
    ASSERT_EQ(packet(wire::kTcpSyn), home);
    now_s += 2;
    if (swept) sweep_all_sessions();
    EXPECT_EQ(packet(wire::kTcpAck), home);
    now_s += idle_s;
    EXPECT_EQ(connect(from), home) << swept;
    backend("web", home).admin = Admin::ready;
    publish();
  }
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
  successor.tracker().recover_sessions(stats.workers);
  EXPECT_EQ(stats.workers[0].sessions.active.get() + stats.workers[1].sessions.active.get(), 500u);
  EXPECT_EQ(session_lines[5].tag_low[3].load(), 0u);
  EXPECT_EQ(session_lines[6].value[3].load(), 0u);
  backend("web", "b3").admin = Admin::drain;
  publish();
  for (const auto& [from, home] : homes)
    EXPECT_EQ(connect(from), home);
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

}  // namespace
}  // namespace sluice
