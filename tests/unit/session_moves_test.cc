// What moves a client's session to another backend, and what does not: changes, drains, failures, commands.
#include <algorithm>
#include <cmath>
#include <random>
#include <set>
#include <string>

#include <gtest/gtest.h>

#include "src/session_key.h"
#include "tests/unit/session_fixture.h"

namespace sluice {
namespace {

using test::Sessions;

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

  // Nor to one that had sessions before it became that.
  use([](ServiceConfig& web) {
    web.backends.pop_back();
    web.backends.back().sorry = true;
  });
  for (const auto& [from, home] : homes) {
    const std::string now = connect(from);
    if (home != "b4") {
      EXPECT_EQ(now, home);
    } else {
      EXPECT_NE(now, "b4");
    }
  }
  EXPECT_EQ(sessions_of("web", "b4"), 0u);
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

// Proves: while sessions were moved lately, each packet asks: the next one of a connection of such a session
// is reset, and the next datagram follows; all others stay where they are, and backends that die lose theirs.
TEST_F(Sessions, that_move_are_followed_at_once) {
  config.services[0].affinity = config.services[1].affinity = Affinity::client;
  apply();
  connect_all(400);
  const std::string client = "198.51.100.1";
  const auto segment = [&] { return send({.source_port = 6'000}); };
  const auto datagram = [&] {
    return send({.source_port = 5'000, .destination_port = 53, .protocol = wire::kProtoUdp}).backend;
  };
  send({.source_port = 6'000, .tcp_flags = wire::kTcpSyn});
  const std::string home = segment().backend, dns_home = datagram();
  ASSERT_EQ(datagram(), dns_home);
  const auto move = [&](const char* service, const std::string& from, SessionKind kind) {
    const TablesView tables = publisher.current();
    const ServiceRecord& record = tables.service(model.find_service(service)->id);
    const uint64_t hash = client_session(*IpAddress::parse(client), record, tables.generation().secret);
    SessionTable::Found found = sessions.find(hash);
    ASSERT_TRUE(found);
    SessionValue moved = found.session();
    moved.backend = model.find_backend(service, from == "b1" ? "b2" : "b1")->id;
    moved.kind = kind;
    moved.created = now_s >> kCreatedShift;
    sessions.moved.note(hash, now_s);
    ASSERT_TRUE(SessionTable::change(found, moved));
  };
  // Not an instant later.
  move("web", home, SessionKind::moved_resets);
  EXPECT_EQ(segment().how, FlowHow::reset);
  EXPECT_EQ(connect(client), home == "b1" ? "b2" : "b1");
  move("dns", dns_home, SessionKind::moved);
  EXPECT_EQ(datagram(), dns_home == "b1" ? "b2" : "b1");

  // The first service has id 0, as the records of no backend have.
  ASSERT_EQ(index(model.find_service("web")->id), 0u);
  const auto begin = [&](const std::string& from) {
    send({.source = from.c_str(), .source_port = 7'000, .tcp_flags = wire::kTcpSyn});
    return send({.source = from.c_str(), .source_port = 7'000});
  };
  std::map<std::string, std::string> homes;
  for (int i = 2; i < 100; i++) {
    const std::string from = "198.51.100." + std::to_string(i);
    homes[from] = begin(from).backend;
  }
  for (const auto& [from, at] : homes) {
    const Seen seen = send({.source = from.c_str(), .source_port = 7'000});
    EXPECT_EQ(seen.backend, at);
    EXPECT_EQ(seen.how, FlowHow::hit);
  }
  health("b3", Health::down);
  for (const auto& [from, at] : homes) {
    const std::string now = send({.source = from.c_str(), .source_port = 7'000}).backend;
    EXPECT_EQ(now == at, at != "b3") << now;
    EXPECT_NE(now, "b3");
  }
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
  for (uint32_t passed = 0; passed <= followed_s(web); passed += refresh, now_s += refresh)
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
