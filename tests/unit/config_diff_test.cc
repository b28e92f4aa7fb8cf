// What a diff says moves is what moves.
#include "controlplane/config_diff.h"

#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "tests/unit/models.h"

namespace sluice {
namespace {

using namespace models;
using nlohmann::json;

Config thousand(uint32_t first_weight) {
  Config config;
  config.services = {service_config("web", 1, 1000), service_config("other", 2, 10)};
  config.services[0].backends[0].weight = first_weight;
  return config;
}

Model after(const Model& model, const Config& config, const Publisher& publisher) {
  Model next = model;
  reconcile(next, config);
  assign(next, publisher);
  return next;
}

// The diff of going from the published model to another configuration; then that is published, and counted
// slot by slot with other means.
json diff_and_do(Model& model, Publisher& publisher, const Config& config, double& counted_percent) {
  const auto owners = [&] {
    std::vector<std::string> names;
    const TablesView view = publisher.current();
    const ServiceRecord& service = view.service(model.services()[0].id);
    for (const uint16_t position : view.lookup(service))
      names.emplace_back(view.backend_cold(view.members(service)[position]).name);
    return names;
  };
  Model next = after(model, config, publisher);
  const json flows = diff_flows(model, next, publisher.current(), nullptr);
  const std::vector<std::string> before = owners();
  bring_up(next);
  model = next;
  compiled(model, publisher);
  const std::vector<std::string> now = owners();
  size_t moved = 0;
  for (size_t i = 0; i < now.size(); i++)
    moved += before[i] != now[i];
  counted_percent = 100.0 * static_cast<double>(moved) / static_cast<double>(now.size());
  return flows;
}

// Another method moves what it moves, though nobody's share changes.
TEST(ConfigDiff, AnotherMethodMovesWhatItMoves) {
  Publisher publisher = Publisher::anonymous();
  Config config;
  config.services = {service_config("web", 1, 10)};
  Model model = model_of(config, publisher);
  compiled(model, publisher);
  config.services[0].method = Method::minimal;
  double counted = 0;
  const json flows = diff_and_do(model, publisher, config, counted);
  ASSERT_EQ(flows.size(), 1u);
  EXPECT_DOUBLE_EQ(flows[0]["hash_space_moved_percent"], counted);
  EXPECT_GT(counted, 50);
  EXPECT_EQ(flows[0]["ideal_percent"], 0);
}

// Proves the requirement on a change of one weight among a thousand (at most ten times the ideal, of 65,537
// slots), and that the figure is the true one.
TEST(ConfigDiff, OneWeightInAThousandMovesLittle) {
  Publisher publisher = Publisher::anonymous();
  Model model = model_of(thousand(100), publisher);
  compiled(model, publisher);
  double counted = 0;
  const json flows = diff_and_do(model, publisher, thousand(90), counted);
  ASSERT_EQ(flows.size(), 1u) << "the other service is not touched";
  const double moved = flows[0]["hash_space_moved_percent"], ideal = flows[0]["ideal_percent"];
  EXPECT_DOUBLE_EQ(moved, counted);
  EXPECT_NEAR(ideal, 100 * (100.0 / 100'000 - 90.0 / 99'990), 1e-9);
  EXPECT_LE(moved, 10 * ideal);
  EXPECT_GT(moved, 0);
  RecordProperty("moved_percent", std::to_string(moved));
  RecordProperty("ideal_percent", std::to_string(ideal));
}

// Proves the figure for a backend that goes, one that comes (it counts as up), a service that goes, and that
// what is the same moves nothing.
TEST(ConfigDiff, CountsWhatMoves) {
  Publisher publisher = Publisher::anonymous();
  Config config = small_config();
  Model model = model_of(config, publisher);
  compiled(model, publisher);
  EXPECT_TRUE(diff_flows(model, after(model, config, publisher), publisher.current(), nullptr).empty());

  double counted = 0;
  config.services[0].backends.push_back({"b9", v4(0x0a0100f0), 100});
  json flows = diff_and_do(model, publisher, config, counted);
  ASSERT_EQ(flows.size(), 1u);
  EXPECT_DOUBLE_EQ(flows[0]["hash_space_moved_percent"], counted);
  EXPECT_NEAR(flows[0]["ideal_percent"], 25, 1e-9);

  config.services[0].backends.erase(config.services[0].backends.begin());
  flows = diff_and_do(model, publisher, config, counted);
  EXPECT_DOUBLE_EQ(flows[0]["hash_space_moved_percent"], counted);
  EXPECT_NEAR(flows[0]["ideal_percent"], 25, 1e-9);

  config.services.pop_back();
  flows = diff_flows(model, after(model, config, publisher), publisher.current(), nullptr);
  ASSERT_EQ(flows.size(), 1u);
  EXPECT_EQ(flows[0]["service"], "api");
  EXPECT_EQ(flows[0]["hash_space_moved_percent"], 100.0);
}

TEST(ConfigDiff, CountsWhatAServiceWithoutAffinityForgets) {
  Publisher publisher = Publisher::anonymous();
  Config config = small_config();
  Model model = model_of(config, publisher);
  compiled(model, publisher);
  Segment memory = Segment::anonymous(kStatsSegment, sizeof(StatsSegment));
  auto& stats = memory.as<StatsSegment>();
  stats.workers[0].loops.add(1);
  stats.workers[0].backends[index(model.services()[0].backends[0].id)].flows_active.set(10);
  stats.workers[0].backends[index(model.services()[0].backends[1].id)].flows_active.set(5);
  config.services[0].affinity = Affinity::none;
  json flows = diff_flows(model, after(model, config, publisher), publisher.current(), &stats);
  ASSERT_EQ(flows.size(), 1u);
  EXPECT_EQ(flows[0]["flows_forgotten"], 15u);
  EXPECT_EQ(flows[0]["hash_space_moved_percent"], 0.0);
  EXPECT_EQ(flows[0]["flows_moved"], 0u);
}

// Proves that the sorry backend moves flows when it serves, and only then: another one, none, or the
// backends' weights, which count for nobody meanwhile.
TEST(ConfigDiff, TheSorryBackendCountsWhileItServes) {
  Publisher publisher = Publisher::anonymous();
  const BackendConfig sorry{"apology", v4(0x0a0100ff), 100, Admin::ready, true};
  BackendConfig another = sorry;
  another.name = "regret";
  another.address = v4(0x0a0100fe);
  Config config = small_config();
  config.services[0].backends.push_back(sorry);
  Model model = model_of(config, publisher);
  model.settle();
  compiled(model, publisher);
  const auto moves = [&](const Config& next) {
    return diff_flows(model, after(model, next, publisher), publisher.current(), nullptr);
  };
  Config other_sorry = config, no_sorry = config, other_weight = config;
  other_sorry.services[0].backends.back() = another;
  no_sorry.services[0].backends.pop_back();
  other_weight.services[0].backends[0].weight = 10;
  EXPECT_TRUE(moves(other_sorry).empty());
  EXPECT_TRUE(moves(no_sorry).empty());
  ASSERT_EQ(moves(other_weight).size(), 1u);
  EXPECT_LT(moves(other_weight)[0]["hash_space_moved_percent"], 50.0);

  for (const char* name : {"b0", "b1", "b2"})
    edit(model, "web", name).health = Health::down;
  model.settle();
  compiled(model, publisher);
  ASSERT_TRUE(model.services()[0].standing.sorry_serves);
  EXPECT_TRUE(moves(config).empty());
  EXPECT_TRUE(moves(other_weight).empty()) << "the sorry backend has it all";
  for (const Config& next : {other_sorry, no_sorry}) {
    const json flows = moves(next);
    ASSERT_EQ(flows.size(), 1u);
    EXPECT_EQ(flows[0]["service"], "web");
    EXPECT_EQ(flows[0]["hash_space_moved_percent"], 100.0);
    EXPECT_EQ(flows[0]["ideal_percent"], 100.0);
  }
}

// Proves that a table of another size is compared by hash space, not by slot numbers: nobody's share changes
// by much.
TEST(ConfigDiff, ComparesTablesOfTwoSizes) {
  Publisher publisher = Publisher::anonymous();
  Config config = small_config();
  Model model = model_of(config, publisher);
  compiled(model, publisher);
  config.services[0].lookup_slots = limits::kLookupSlotsLarge;
  const json flows = diff_flows(model, after(model, config, publisher), publisher.current(), nullptr);
  ASSERT_EQ(flows.size(), 1u);
  EXPECT_EQ(flows[0]["ideal_percent"], 0.0);
  EXPECT_NEAR(flows[0]["hash_space_moved_percent"], 100 * 2.0 / 3, 2)
      << "another table: each slot's owner is drawn anew";
}

// Proves what is shown of the texts: keys that came, went, changed; objects that came or went; never the
// secret.
TEST(ConfigDiff, ShowsKeysAsWritten) {
  const WrittenConfig from = {{{"", ""}, {{"secret", "\"a\""}}},
                              {{"web", ""}, {{"vip", "\"1\""}, {"health.interval", "\"1s\""}}},
                              {{"web", "b1"}, {{"weight", "1"}}}};
  WrittenConfig to = from;
  to[{"", ""}]["secret"] = "\"b\"";
  to[{"web", ""}].erase("health.interval");
  to[{"web", ""}]["port"] = "80";
  to.erase({"web", "b1"});
  to[{"web", "b2"}] = {{"weight", "2"}};
  const json diff = diff_written(from, to);
  EXPECT_EQ(diff, json::parse(R"([
    {"service":"","backend":"","change":"changed","keys":[{"key":"secret","from":"...","to":"..."}]},
    {"service":"web","backend":"","change":"changed",
     "keys":[{"key":"health.interval","from":"\"1s\"","to":""},{"key":"port","from":"","to":"80"}]},
    {"service":"web","backend":"b1","change":"removed","keys":[{"key":"weight","from":"1","to":""}]},
    {"service":"web","backend":"b2","change":"added","keys":[{"key":"weight","from":"","to":"2"}]}])"))
      << diff.dump(1);
  EXPECT_TRUE(diff_written(from, from).empty());
}

}  // namespace
}  // namespace sluice
