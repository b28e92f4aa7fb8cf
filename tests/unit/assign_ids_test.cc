// Identity: a backend keeps its id, and what was decided and seen of it, through reloads and restarts of
// sluiced; an id is not handed out again while flows may name it.
#include <memory>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "controlplane/compile.h"
#include "controlplane/totals.h"
#include "tests/unit/models.h"

namespace sluice {
namespace {

using namespace models;

// ---- Reload ----------------------------------------------------------------------------------------------

// Proves that a reload keeps ids and run-time state by name, whatever the order, and gives new names new ids.
TEST(Reload, KeepsIdsAndState) {
  Publisher publisher = Publisher::anonymous();
  Config config = small_config();
  Model model = model_of(config, publisher);
  compiled(model, publisher);
  const Model before = model;
  edit(model, "web", "b1").admin = Admin::drain;
  edit(model, "web", "b1").weight_override = 7;
  edit(model, "web", "b2").health = Health::down;
  edit(model, "web", "b2").check_result = "L4CON";

  std::swap(config.services[0], config.services[1]);
  ServiceConfig& web = config.services[1];
  std::swap(web.backends[0], web.backends[2]);
  web.backends.push_back({"new", v4(0x0a010099), 100});
  reconcile(model, config);
  assign(model, publisher);

  for (const Service& service : before.services()) {
    EXPECT_EQ(model.find_service(service.config.name)->id, service.id);
    for (const Backend& backend : service.backends) {
      EXPECT_EQ(model.find_backend(service.config.name, backend.config.name)->id, backend.id);
    }
  }
  EXPECT_EQ(model.services()[1].backends[0].config.name, "b2") << "in the file's order";
  EXPECT_EQ(model.find_backend("web", "b1")->admin, Admin::drain);
  EXPECT_EQ(model.find_backend("web", "b1")->weight(), 7u);
  EXPECT_EQ(model.find_backend("web", "b1")->next_hop, next_hop());
  EXPECT_EQ(model.find_backend("web", "b2")->health, Health::down);
  EXPECT_EQ(model.find_backend("web", "b2")->check_result, "L4CON");
  const Backend& added = *model.find_backend("web", "new");
  EXPECT_EQ(added.health, Health::unknown);
  for (const Service& service : before.services()) {
    for (const Backend& backend : service.backends)
      EXPECT_NE(added.id, backend.id);
  }
  EXPECT_EQ(model.find_backend("web", "nobody"), nullptr);
  EXPECT_EQ(model.find_backend("nobody", "b1"), nullptr);
}

// Proves that the file's weight wins exactly when it changes, and the operator's stays otherwise.
TEST(Reload, AWeightChangedInTheFileClearsTheOverride) {
  Publisher publisher = Publisher::anonymous();
  Config config = small_config();
  Model model = model_of(config, publisher);
  Backend& backend = edit(model, "web", "b0");
  backend.weight_override = 0;
  reconcile(model, config);
  EXPECT_EQ(model.find_backend("web", "b0")->weight(), 0u);
  config.services[0].backends[0].weight = 50;
  reconcile(model, config);
  EXPECT_EQ(model.find_backend("web", "b0")->weight(), 50u);
}

// Proves that turning checks on does not take an unchecked service down until the first check; a new address
// does.
TEST(Reload, NewChecksDoNotInterruptANewAddressDoes) {
  Publisher publisher = Publisher::anonymous();
  Config config = small_config();
  config.services[0].health.type = HealthConfig::Type::none;
  Model model;
  reconcile(model, config);
  assign(model, publisher);
  for (Backend& backend : model.edit_all()[0].backends)
    backend.next_hop = next_hop();
  ASSERT_EQ(model.services()[0].backends[0].health, Health::unknown);
  ASSERT_TRUE(model.services()[0].takes_new(model.services()[0].backends[0]));

  config.services[0].health.type = HealthConfig::Type::http;
  config.services[0].backends[1].address = v4(0x0a0100aa);
  reconcile(model, config);
  const Service& web = model.services()[0];
  EXPECT_TRUE(web.takes_new(web.backends[0]));
  EXPECT_FALSE(web.takes_new(web.backends[1])) << "another machine, unchecked";
  EXPECT_FALSE(web.backends[1].next_hop.resolved);
  EXPECT_NE(web.backends[1].id, kUnassignedBackend) << "the name is the identity";
  config.services[0].backends.push_back({"new", v4(0x0a0100ab), 100});
  reconcile(model, config);
  EXPECT_FALSE(model.services()[0].counts_as_up(model.services()[0].backends.back()));
}

// ---- Restart of sluiced ----------------------------------------------------------------------------------

// Proves a takeover that nobody notices: a successor which knows only the file and the tables arrives at the
// very same generation, builds no table, and knows what its predecessor knew.
TEST(Restart, TakesOverWithoutAChange) {
  Publisher publisher = Publisher::anonymous();
  const Config config = small_config();
  Model predecessor = model_of(config, publisher);
  edit(predecessor, "web", "b0").admin = Admin::maint;
  edit(predecessor, "web", "b1").weight_override = 7;
  edit(predecessor, "api", "b0").health = Health::down;
  edit(predecessor, "api", "b1").next_hop.port = 2;
  predecessor.set_scale(0, Scale::down);
  EXPECT_EQ(compiled(predecessor, publisher).generation, 1u);

  Model successor;
  reconcile(successor, config);
  assign(successor, publisher);
  for (const Service& service : predecessor.services()) {
    EXPECT_EQ(successor.find_service(service.config.name)->id, service.id);
    EXPECT_EQ(successor.find_service(service.config.name)->scale, service.scale);
    for (const Backend& known : service.backends) {
      const Backend& restored = *successor.find_backend(service.config.name, known.config.name);
      EXPECT_EQ(restored.id, known.id);
      EXPECT_EQ(restored.admin, known.admin);
      EXPECT_EQ(restored.health, known.health);
      EXPECT_EQ(restored.weight_override, known.weight_override);
      EXPECT_EQ(restored.next_hop, known.next_hop);
    }
  }
  const Compiled done = compiled(successor, publisher);
  EXPECT_EQ(done.generation, 1u) << "nothing to publish";
  EXPECT_EQ(done.tables_built, 0u);

  edit(successor, "web", "b2").weight_override = 1;
  EXPECT_EQ(compiled(successor, publisher).tables_built, 1u)
      << "and a change costs what it would have cost before";
}

// Proves what a file edited while sluiced was down does: a changed weight beats the operator's, a changed
// address is another machine, a removed backend is gone, and none of them moves an id.
TEST(Restart, TheFileChangedMeanwhile) {
  Publisher publisher = Publisher::anonymous();
  Config config = small_config();
  Model predecessor = model_of(config, publisher);
  for (Backend& backend : predecessor.edit_all()[0].backends)
    backend.weight_override = 7;
  compiled(predecessor, publisher);

  config.services[0].backends[0].weight = 55;
  config.services[0].backends[1].address = v4(0x0a0100aa);
  config.services.pop_back();
  Model successor;
  reconcile(successor, config);
  assign(successor, publisher);
  const auto& backends = successor.services()[0].backends;
  EXPECT_EQ(backends[0].weight(), 55u);
  EXPECT_EQ(backends[0].health, Health::up);
  EXPECT_EQ(backends[1].weight(), 7u);
  EXPECT_EQ(backends[1].health, Health::unknown);
  EXPECT_FALSE(backends[1].next_hop.resolved);
  EXPECT_EQ(backends[2].weight(), 7u);
  for (size_t i = 0; i < backends.size(); i++)
    EXPECT_EQ(backends[i].id, predecessor.services()[0].backends[i].id);

  compiled(successor, publisher);
  const BackendId gone = predecessor.services()[1].backends[0].id;
  EXPECT_EQ(publisher.current().backend(gone).flags, 0);
  EXPECT_NE(publisher.current().backend_cold(gone).removed_ns, 0u);
}

// ---- Ids that come free ----------------------------------------------------------------------------------

// Proves that a removed backend's id stays unused to the last nanosecond of the quarantine, also for a
// successor that knows of it from the tables only, and is used again after it.
TEST(Ids, RespectTheQuarantine) {
  Publisher publisher = Publisher::anonymous();
  Config config = small_config();
  Model model = model_of(config, publisher);
  compiled(model, publisher);
  const BackendId old = model.services()[0].backends[0].id;
  config.services[0].backends.erase(config.services[0].backends.begin());
  reconcile(model, config);
  assign(model, publisher);
  compiled(model, publisher);
  const uint64_t removed_ns = publisher.current().backend_cold(old).removed_ns;
  ASSERT_NE(removed_ns, 0u);

  config.services[0].backends.push_back({"new", v4(0x0a010099), 100});
  const auto id_of_new = [&](uint64_t now_ns, uint64_t dataplane_since_ns = 0) {
    Model successor;
    reconcile(successor, config);
    assign(successor, publisher, now_ns, dataplane_since_ns);
    return successor.find_backend("web", "new")->id;
  };
  EXPECT_NE(id_of_new(removed_ns), old);
  EXPECT_NE(id_of_new(removed_ns + kQuarantineNs - 1), old);
  EXPECT_EQ(id_of_new(removed_ns + kQuarantineNs), old);
  // While no data plane runs, its flows and sessions go on to name it: for as long again after one starts.
  const uint64_t day_ns = 86'400'000'000'000;
  EXPECT_NE(id_of_new(removed_ns + day_ns, kNoDataplane), old);
  EXPECT_NE(id_of_new(removed_ns + day_ns + kQuarantineNs - 1, removed_ns + day_ns), old);
  EXPECT_EQ(id_of_new(removed_ns + day_ns + kQuarantineNs, removed_ns + day_ns), old);
  EXPECT_GT(kQuarantineNs, uint64_t{2 * limits::kSweepPeriodMax} * 1'000'000'000);

  // The same name again, too soon: its old id may still be named by flows that were told to go elsewhere.
  config.services[0].backends.back() = {"b0", v4(0x0a010001), 100};
  Model again;
  reconcile(again, config);
  assign(again, publisher, removed_ns + 1);
  EXPECT_NE(again.find_backend("web", "b0")->id, old);
}

// Proves that the id of a backend which the same reload removes is not given to one that it adds.
TEST(Ids, AreNotReusedWithinOneReload) {
  Publisher publisher = Publisher::anonymous();
  Config config = small_config();
  Model model = model_of(config, publisher);
  compiled(model, publisher);
  const BackendId old = model.services()[0].backends[0].id;
  config.services[0].backends[0].name = "renamed";
  reconcile(model, config);
  assign(model, publisher);
  EXPECT_NE(model.find_backend("web", "renamed")->id, old);
}

// Proves that running out of ids is an error with a remedy that leaves the model as it was.
TEST(Ids, RunningOutIsAnError) {
  Publisher publisher = Publisher::anonymous();
  Config config;
  config.services.resize(limits::kServicesMax + 1);
  for (size_t i = 0; i < config.services.size(); i++)
    config.services[i].name = "s" + std::to_string(i);
  Model model;
  reconcile(model, config);
  Result<Done> assigned = assign_ids(model, publisher.current(), 1, 0);
  ASSERT_FALSE(assigned);
  EXPECT_NE(assigned.error().what.find("'s16384'"), std::string::npos) << assigned.error().what;
  EXPECT_FALSE(assigned.error().remedy.empty());
  EXPECT_EQ(model.services()[0].id, kNoService);

  config.services.resize(9);
  for (ServiceConfig& service : config.services)
    service.backends.resize(limits::kBackendsPerServiceMax, {"x", {}, 1});
  reconcile(model, config);
  assigned = assign_ids(model, publisher.current(), 1, 0);
  ASSERT_FALSE(assigned);
  EXPECT_NE(assigned.error().what.find("131072"), std::string::npos) << assigned.error().what;
  EXPECT_EQ(model.services()[0].backends[0].id, kUnassignedBackend);
}

// Proves that an id's new owner starts at zero: its base is what the counters stand at, over all workers that
// ever ran.
TEST(Ids, NewOwnersStartCountingAtZero) {
  Publisher publisher = Publisher::anonymous();
  const Segment segment = Segment::anonymous(kStatsSegment, sizeof(StatsSegment));
  auto& stats = segment.as<StatsSegment>();
  stats.workers[0].active.set(1);
  stats.workers[5].loops.set(1);  // of an earlier data plane with more workers
  for (const uint32_t worker : {0u, 5u}) {
    stats.workers[worker].backends[0].packets.set(10);
    stats.workers[worker].backends[0].bytes.set(1000);
    stats.workers[worker].backends[0].flows.set(3);
    stats.workers[worker].services[0].packets.set(20);
    stats.workers[worker].services[0].flows.set(4);
  }
  Model model = model_of(small_config(), publisher);
  ASSERT_EQ(index(model.services()[0].backends[0].id), 0u);
  ASSERT_EQ(index(model.services()[0].id), 0u);
  compiled(model, publisher, &stats);
  const auto base = [&] { return publisher.current().backend_cold(BackendId{0}); };
  EXPECT_EQ(base().base_packets, 20u);
  EXPECT_EQ(base().base_bytes, 2000u);
  EXPECT_EQ(base().base_flows, 6u);
  EXPECT_EQ(publisher.current().service_cold(ServiceId{0}).base_packets, 40u);
  EXPECT_EQ(publisher.current().service_cold(ServiceId{0}).base_flows, 8u);
  EXPECT_EQ(publisher.current().backend_cold(BackendId{1}).base_packets, 0u);

  // It stays what it was while the owner stays.
  stats.workers[0].backends[0].packets.set(500);
  model.edit_all()[0].backends[0].weight_override = 1;
  compiled(model, publisher, &stats);
  EXPECT_EQ(base().base_packets, 20u);
  EXPECT_EQ(totals(stats, BackendId{0}).packets - base().base_packets, 490u);
}

}  // namespace
}  // namespace sluice
