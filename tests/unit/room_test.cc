// Whom `explain` names for a new flow whose backend is full: the one that the packet path takes.
#include "controlplane/room.h"

#include <string>

#include <gtest/gtest.h>

#include "tests/unit/tracking_fixture.h"

namespace sluice {
namespace {

constexpr uint32_t kMost = 1'000'000;

class RoomTest : public test::Tracking {
 protected:
  // Each with its limit, and all but every `every`th full.
  void fill(uint32_t backends, uint32_t every) {
    std::vector<BackendConfig>& all = config.services[0].backends;
    all.clear();
    for (uint32_t i = 1; i <= backends; i++)
      add_backend(config.services[0], static_cast<int>(i));
    for (BackendConfig& backend : all)
      backend.max_flows = backend.max_sessions = kMost;
    apply();
    full.assign(limits::kBackendsMax, false);
    const std::vector<Backend>& those = model.find_service("web")->backends;
    for (uint32_t i = 0; i < backends; i++)
      full[index(those[i].id)] = every == 0 || i % every != 0;
  }
  // Nobody has what was there before. What 300 flows add fills nobody.
  void empty(bool by_session) {
    flows.clear();
    pipeline.tracker().forget_sessions();
    for (const Backend& backend : model.find_service("web")->backends) {
      const uint32_t of_it = full[index(backend.id)] ? kMost : 0;
      stats.workers[0].backends[index(backend.id)].flows_active.set(by_session ? 0 : of_it);
      stats.workers[0].sessions_active[index(backend.id)].set(by_session ? of_it : 0);
    }
  }
  Room foretold(uint64_t hash, uint32_t workers) {
    const TablesView tables = publisher.current();
    const ServiceRecord& service = tables.service(model.find_service("web")->id);
    return find_room(
        tables.select(service, hash), hash,
        [&](uint64_t next) { return std::optional(tables.select(service, next)); }, tables.members(service),
        workers, [&](BackendId id) { return !full[index(id)]; });
  }
  // Asks both of 300 flows. How many went to a next choice, and how many to nobody.
  std::pair<uint32_t, uint32_t> compare(bool by_session, uint32_t workers = 1) {
    Pipeline asked(flows, sessions, stats.workers[0], 1, 0,
                   std::span<const WorkerStats>(stats.workers, workers));
    uint32_t moved = 0, refused = 0;
    empty(by_session);
    for (uint16_t i = 0; i < 300; i++) {
      const std::string client = "198.51." + std::to_string(i / 250) + "." + std::to_string(i % 250 + 1);
      test::Frame frame =
          test::make_frame({.source = client.c_str(), .source_port = 7'000, .tcp_flags = wire::kTcpSyn});
      Batch batch;
      frame.add_to(batch);
      const TablesView tables = publisher.current();
      asked.process(batch, tables, now_s);
      const Packet& packet = batch.packets[0];
      const uint64_t hash = by_session
                                ? client_session(IpAddress::parse(client)->v4_network_order(),
                                                 tables.service(packet.service), tables.generation().secret)
                                : packet.hash;
      const Room room = foretold(hash, workers);
      EXPECT_EQ(packet.verdict == Verdict::forward, room.backend.has_value()) << client;
      if (room.backend) {
        EXPECT_EQ(index(packet.backend), index(*room.backend)) << client;
        moved += room.full.empty() ? 0 : 1;
      } else {
        EXPECT_EQ(packet.reason, Reason::backends_full);
        refused++;
      }
    }
    return {moved, refused};
  }

  std::vector<bool> full;  // by BackendId
};

// Proves: the same choice as a packet's, by the flow's hash and by the session's; where one of few is full,
// where choices by hash run out and the members are asked in turn, and where that ends before all are asked.
TEST_F(RoomTest, is_what_a_packet_finds) {
  for (const bool by_session : {false, true}) {
    config.services[0].affinity = by_session ? Affinity::client : Affinity::connection;
    fill(4, 2);
    const auto [of_few, none_of_few] = compare(by_session);
    EXPECT_GT(of_few, 90u);
    EXPECT_EQ(none_of_few, 0u);
    fill(50, 50);
    const auto [of_many, none_of_many] = compare(by_session);
    EXPECT_GT(of_many, 280u);
    EXPECT_EQ(none_of_many, 0u) << "all members are asked";
    fill(150, 150);
    const auto [moved, refused] = compare(by_session);
    EXPECT_GT(moved, 50u);
    EXPECT_GT(refused, 100u) << "not all are asked";
    const auto [less_moved, more_refused] = compare(by_session, 4);
    EXPECT_LT(less_moved, moved) << "each look costs a counter of each worker";
    EXPECT_GT(more_refused, refused);
    fill(4, 0);
    EXPECT_EQ(compare(by_session), std::pair(0u, 300u));
  }
}

}  // namespace
}  // namespace sluice
