// Slow start: whose weight ramps, how, how often a table is built for it, and what a restart makes of it.
#include <functional>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "tests/unit/models.h"

namespace sluice {
namespace {

using namespace models;
using std::chrono::seconds;

constexpr uint64_t kSecondNs = 1'000'000'000;
constexpr BackendPlace kB0{0, 0}, kB1{0, 1};

class SlowStartTest : public testing::Test {
 protected:
  void SetUp() override {
    config_.services = {service_config("web", 1, 3)};
    config_.services[0].policy.slow_start = seconds(30);
    model_ = model_of(config_, publisher_);
    publish();
  }
  Compiled publish() { return compiled(model_, publisher_); }
  uint32_t in_force(BackendPlace at) const { return model_.backend(at).weight_in_force(); }
  // Weight in the tables.
  uint32_t published(BackendPlace at) const {
    return publisher_.current().backend_cold(model_.backend(at).id).weight;
  }
  void fail_and_return(BackendPlace at) {
    model_.set_health(at, Health::down, now_ns_);
    publish();
    model_.set_health(at, Health::up, now_ns_);
    publish();
  }
  // As sluiced's tick does.
  void pass(uint64_t ms) {
    for (uint64_t i = 0; i < ms; i += 100) {
      now_ns_ += 100'000'000;
      if (model_.advance(now_ns_, 100)) tables_built_ += publish().tables_built;
    }
  }

  Publisher publisher_ = Publisher::anonymous();
  Config config_;
  Model model_;
  uint64_t now_ns_ = 1'000 * kSecondNs;
  uint32_t tables_built_ = 0;
};

TEST_F(SlowStartTest, TheWeightGrowsWithTimeInAFewTables) {
  fail_and_return(kB0);
  EXPECT_EQ(in_force(kB0), 10u);
  EXPECT_EQ(published(kB0), 10u);
  EXPECT_EQ(in_force(kB1), 100u);
  uint32_t before = 10;
  for (int s = 1; s <= 33; s++) {
    pass(1'000);
    EXPECT_GE(in_force(kB0), before);
    EXPECT_LE(in_force(kB0), static_cast<uint32_t>(10 + s * 100 / 30)) << "never ahead of time";
    before = in_force(kB0);
    EXPECT_EQ(published(kB0), before);
  }
  EXPECT_EQ(in_force(kB0), 100u);
  EXPECT_LE(tables_built_, kRampSteps + 1);
  EXPECT_GE(tables_built_, kRampSteps - 1);
  pass(60'000);
  EXPECT_LE(tables_built_, kRampSteps + 1) << "it is over";
}

TEST_F(SlowStartTest, TheOperatorsWeightHoldsDuringARamp) {
  fail_and_return(kB0);
  pass(15'000);
  model_.set_weight(kB0, 1'000);
  const uint32_t permille = model_.backend(kB0).ramp_permille;
  EXPECT_EQ(in_force(kB0), permille);
  model_.set_weight(kB0, 0);
  publish();
  EXPECT_EQ(in_force(kB0), 0u) << "0 is 0, not 1";
  EXPECT_FALSE(model_.services()[0].takes_new(model_.backend(kB0)));
  model_.set_weight(kB0, 1);
  EXPECT_EQ(in_force(kB0), 1u) << "and a part of 1 is 1";
  pass(18'000);
  EXPECT_EQ(model_.backend(kB0).weight(), 1u);
}

TEST_F(SlowStartTest, WhoFailsAgainBeginsAgain) {
  fail_and_return(kB0);
  pass(20'000);
  EXPECT_GT(in_force(kB0), 50u);
  fail_and_return(kB0);
  EXPECT_EQ(in_force(kB0), 10u);
}

TEST_F(SlowStartTest, FromMaintenanceItRampsFromDrainItDoesNot) {
  model_.set_admin(kB0, Admin::maint, now_ns_);
  model_.set_admin(kB0, Admin::ready, now_ns_);
  model_.set_health(kB0, Health::up, now_ns_);
  EXPECT_EQ(in_force(kB0), 10u);
  model_.set_admin(kB1, Admin::drain, now_ns_);
  model_.set_admin(kB1, Admin::ready, now_ns_);
  EXPECT_EQ(in_force(kB1), 100u);
  // Up again while it drained: it ramps when it is let in.
  model_.set_admin(kB1, Admin::drain, now_ns_);
  model_.set_health(kB1, Health::down, now_ns_);
  model_.set_health(kB1, Health::up, now_ns_);
  EXPECT_EQ(in_force(kB1), 100u);
  model_.set_admin(kB1, Admin::ready, now_ns_);
  EXPECT_EQ(in_force(kB1), 10u);
}

TEST_F(SlowStartTest, ABackendAddedToOthersRampsAndANewServiceDoesNot) {
  config_.services[0].backends.push_back({"new", v4(0x0a010099), 100});
  config_.services.push_back(service_config("other", 2, 2));
  config_.services[1].policy.slow_start = seconds(30);
  config_.services[1].initially_up = true;
  reconcile(model_, config_);
  assign(model_, publisher_);
  model_.begin_ramps(now_ns_);
  EXPECT_EQ(in_force({0, 3}), 100u) << "not up yet";
  model_.set_health({0, 3}, Health::up, now_ns_);
  EXPECT_EQ(in_force({0, 3}), 10u);
  EXPECT_EQ(in_force(kB0), 100u);
  EXPECT_EQ(in_force({1, 0}), 100u);
  model_.set_health({1, 0}, Health::up, now_ns_);
  EXPECT_EQ(in_force({1, 0}), 100u);
}

TEST_F(SlowStartTest, AnUncheckedBackendThatIsAddedRampsAtOnce) {
  config_.services[0].health.type = HealthConfig::Type::none;
  config_.services[0].backends.push_back({"new", v4(0x0a010099), 100});
  reconcile(model_, config_);
  assign(model_, publisher_);
  model_.begin_ramps(now_ns_);
  EXPECT_EQ(in_force({0, 3}), 10u);
  EXPECT_EQ(in_force(kB0), 100u);
}

TEST_F(SlowStartTest, PanicGivesTheWholeShareAndARecoveryInItTakesNothingAway) {
  config_.services[0].policy.min_healthy = {2, false};
  reconcile(model_, config_);
  assign(model_, publisher_);
  model_.set_health(kB0, Health::down, now_ns_);
  model_.set_health(kB1, Health::down, now_ns_);
  publish();
  EXPECT_EQ(published(kB0), 100u);
  model_.set_health(kB0, Health::up, now_ns_);
  publish();
  EXPECT_EQ(published(kB0), 100u);
}

TEST_F(SlowStartTest, WhatAHoldEndsRampsToo) {
  config_.services[0].policy.flap = {2, seconds(60), seconds(10), seconds(10)};
  reconcile(model_, config_);
  assign(model_, publisher_);
  publish();
  fail_and_return(kB0);
  fail_and_return(kB0);
  EXPECT_TRUE(model_.backend(kB0).flaps.held());
  pass(10'100);
  EXPECT_FALSE(model_.backend(kB0).flaps.held());
  EXPECT_EQ(published(kB0), 10u);
}

// ---- Restart
// -----------------------------------------------------------------------------------------------

TEST_F(SlowStartTest, ASuccessorGoesOnWithTheRampAndStartsNone) {
  fail_and_return(kB0);
  pass(15'000);
  const uint32_t reached = published(kB0);
  ASSERT_GT(reached, 30u);
  ASSERT_LT(reached, 60u);
  model_ = Model();
  reconcile(model_, config_);
  assign(model_, publisher_, now_ns_);
  model_.begin_ramps(now_ns_);
  for (Backend& backend : model_.edit_all()[0].backends)
    backend.next_hop = next_hop();
  EXPECT_EQ(publish().tables_built, 0u) << "the very same table";
  EXPECT_EQ(in_force(kB0), reached);
  EXPECT_EQ(in_force(kB1), 100u);
  pass(18'000);
  EXPECT_EQ(in_force(kB0), 100u);
}

// ---- Many
// --------------------------------------------------------------------------------------------------

// A thousand backends come back at once, each at its own millisecond: the service's ramps move together.
TEST(SlowStart, AThousandAtOnceCostAsManyTablesAsOne) {
  Publisher publisher = Publisher::anonymous();
  Config config;
  config.services = {service_config("web", 1, 1'000)};
  config.services[0].policy.slow_start = seconds(20);
  Model model = model_of(config, publisher);
  compiled(model, publisher);
  uint64_t now_ns = 1'000 * kSecondNs;
  for (uint32_t i = 0; i < 1'000; i++)
    model.set_health({0, i}, Health::down, now_ns);
  compiled(model, publisher);
  for (uint32_t i = 0; i < 1'000; i++)
    model.set_health({0, i}, Health::up, now_ns + i * 1'000'000);
  uint32_t tables = compiled(model, publisher).tables_built;
  for (int tick = 0; tick < 300; tick++) {
    now_ns += 100'000'000;
    if (model.advance(now_ns, 20)) tables += compiled(model, publisher).tables_built;
  }
  EXPECT_LE(tables, kRampSteps + 3);
  for (const Backend& backend : model.services()[0].backends)
    EXPECT_FALSE(backend.ramps());
}

// More services ramp than a tick may build for: all get their turn, none is stuck.
TEST(SlowStart, TheLimitOfATickDelaysAndForgetsNobody) {
  Publisher publisher = Publisher::anonymous();
  Config config;
  for (uint32_t i = 0; i < 30; i++) {
    config.services.push_back(service_config("s" + std::to_string(i), i, 2));
    config.services[i].lookup_slots = 251;
    config.services[i].policy.slow_start = seconds(1);
  }
  Model model = model_of(config, publisher);
  compiled(model, publisher);
  uint64_t now_ns = 1'000 * kSecondNs;
  for (uint32_t i = 0; i < 30; i++) {
    model.set_health({i, 0}, Health::down, now_ns);
    model.set_health({i, 0}, Health::up, now_ns);
  }
  for (int tick = 0; tick < 40; tick++) {
    now_ns += 100'000'000;
    model.advance(now_ns, 2);
    EXPECT_LE(compiled(model, publisher).tables_built, tick == 0 ? 30u : 2u);
  }
  for (const Service& service : model.services())
    EXPECT_FALSE(service.backends[0].ramps()) << service.config.name;
}

}  // namespace
}  // namespace sluice
