// When a service is said to need more backends, or fewer: at its thresholds, once, and not at every flow
// around them.
#include "controlplane/scale_watch.h"

#include <gtest/gtest.h>

#include "tests/unit/models.h"

namespace sluice {
namespace {

class ScaleTest : public ::testing::Test {
 protected:
  ScaleTest()
      : memory_(Segment::anonymous(kStatsSegment, sizeof(StatsSegment))), stats_(memory_.as<StatsSegment>()) {
    ServiceConfig web;
    web.name = "web";
    web.vip = *IpAddress::parse("203.0.113.10");
    web.port = 80;
    web.protocol = wire::kProtoTcp;
    web.forward = Forward::ipip;
    web.health.type = HealthConfig::Type::none;
    web.affinity = Affinity::client;
    web.scale_up_percent = 80;
    web.scale_down_percent = 20;
    for (int i = 0; i < 4; i++)
      web.backends.push_back({"b" + std::to_string(i), IpAddress::v4(net32(0x0a000001 + i)), 100});
    for (BackendConfig& backend : web.backends) {
      backend.max_flows = 100;
      backend.max_sessions = 1'000;
    }
    config_.services = {web};
    reconcile(model_, config_);
    uint32_t id = 0;
    for (Backend& backend : model_.edit_all()[0].backends) {
      backend.id = BackendId{id++};
      backend.next_hop.resolved = true;
    }
    model_.settle();
    stats_.workers[0].loops.add(1);
    stats_.workers[1].loops.add(1);
  }
  // Of each backend.
  void flows(uint64_t of_one, uint64_t of_other = 0) {
    for (uint32_t i = 0; i < 4; i++) {
      stats_.workers[0].backends[i].flows_active.set(of_one);
      stats_.workers[1].backends[i].flows_active.set(of_other);
    }
  }
  using States = std::vector<Scale>;
  States look() {
    States states;
    for (const ScaleChange& change : watch_scale(model_, stats_))
      states.push_back(change.state);
    return states;
  }

  Segment memory_;
  StatsSegment& stats_;
  Config config_;
  Model model_;
};

TEST_F(ScaleTest, tells_once_and_with_hysteresis) {
  flows(50);
  EXPECT_EQ(look(), States{});
  flows(40, 40);  // over all workers
  EXPECT_EQ(look(), States{Scale::up});
  EXPECT_EQ(look(), States{});
  flows(76);
  EXPECT_EQ(look(), States{}) << "within the hysteresis";
  flows(74);
  EXPECT_EQ(look(), States{Scale::ok});
  flows(20);
  EXPECT_EQ(look(), States{Scale::down});
  flows(24);
  EXPECT_EQ(look(), States{});
  flows(26);
  EXPECT_EQ(look(), States{Scale::ok});
  flows(90);
  EXPECT_EQ(look(), States{Scale::up});
  flows(5);
  EXPECT_EQ(look(), States{Scale::down}) << "from one to the other at once";
}

TEST_F(ScaleTest, a_small_threshold_ends_as_well) {
  model_.edit_all()[0].config.scale_up_percent = 4;
  model_.edit_all()[0].config.scale_down_percent = 0;
  flows(4);
  EXPECT_EQ(look(), States{Scale::up});
  flows(2);
  EXPECT_EQ(look(), States{});
  flows(1);
  EXPECT_EQ(look(), States{Scale::ok});
}

TEST_F(ScaleTest, by_what_is_scarcer_and_by_who_may_serve) {
  flows(50);
  // 3,400 of 4,000 sessions, one worker below zero.
  stats_.workers[0].sessions_active[0].set(3'500);
  stats_.workers[1].sessions_active[0].set(~uint64_t{0} - 99);
  EXPECT_DOUBLE_EQ(*fill_percent(model_.services()[0], stats_), 85);
  EXPECT_EQ(look(), States{Scale::up});
  // One was taken away, and whoever made it has not counted it yet: none, not 2^64 - 1.
  stats_.workers[0].sessions_active[0].set(0);
  stats_.workers[1].sessions_active[0].set(~uint64_t{0});
  EXPECT_DOUBLE_EQ(*fill_percent(model_.services()[0], stats_), 50);
  EXPECT_EQ(look(), States{Scale::ok});
  stats_.workers[1].sessions_active[0].set(0);
  // Half of them drain: what is left has to do.
  flows(85);
  stats_.workers[0].backends[2].flows_active.set(0);
  stats_.workers[0].backends[3].flows_active.set(0);
  EXPECT_EQ(look(), States{});
  model_.set_admin({0, 2}, Admin::drain, 1);
  model_.set_admin({0, 3}, Admin::drain, 1);
  EXPECT_EQ(look(), States{Scale::up});
}

// What limits nothing is no share of anything: neither empty nor full.
TEST_F(ScaleTest, sessions_count_where_there_are_some) {
  ServiceConfig& web = model_.edit_all()[0].config;
  stats_.workers[0].sessions_active[0].set(3'600);
  flows(50);
  EXPECT_DOUBLE_EQ(*fill_percent(model_.services()[0], stats_), 90);
  web.affinity = Affinity::connection;
  EXPECT_DOUBLE_EQ(*fill_percent(model_.services()[0], stats_), 50);
  for (Backend& backend : model_.edit_all()[0].backends)
    backend.config.max_flows = 0;
  EXPECT_EQ(fill_percent(model_.services()[0], stats_), std::nullopt);
  EXPECT_EQ(look(), States{}) << "no scale_down";
  model_.edit_all()[0].config.affinity = Affinity::client;
  EXPECT_EQ(look(), States{Scale::up});
}

// Each state is told once, also when meanwhile nobody serves.
TEST_F(ScaleTest, who_drains_all_changes_no_state) {
  const auto all = [&](Admin admin) {
    for (uint32_t b = 0; b < 4; b++)
      model_.set_admin({0, b}, admin, 1);
  };
  flows(90);
  EXPECT_EQ(look(), States{Scale::up});
  all(Admin::drain);
  flows(0);
  EXPECT_EQ(look(), States{});
  all(Admin::ready);
  flows(78);
  EXPECT_EQ(look(), States{}) << "as before, with its hysteresis";
  all(Admin::maint);
  EXPECT_EQ(look(), States{});
  all(Admin::ready);
  flows(50);
  EXPECT_EQ(look(), States{Scale::ok}) << "what was told ends";
  // Who is asked no more has no state.
  flows(90);
  EXPECT_EQ(look(), States{Scale::up});
  model_.edit_all()[0].config.scale_up_percent = model_.edit_all()[0].config.scale_down_percent = 0;
  EXPECT_EQ(look(), States{});
  model_.edit_all()[0].config.scale_up_percent = 80;
  EXPECT_EQ(look(), States{Scale::up});
}

// A reload knows what was told, and so does a successor: neither tells it again, each tells its end.
TEST_F(ScaleTest, what_was_told_outlives_sluiced) {
  Publisher publisher = Publisher::anonymous();
  models::assign(model_, publisher);
  models::compiled(model_, publisher);
  for (const auto& [busy, state] : {std::pair(90, Scale::up), std::pair(5, Scale::down)}) {
    flows(static_cast<uint64_t>(busy));
    EXPECT_EQ(look(), States{state});
    const uint64_t before = publisher.current().generation().number;
    EXPECT_EQ(models::compiled(model_, publisher).generation, before + 1) << "there is something to publish";
    reconcile(model_, config_);
    EXPECT_EQ(look(), States{});

    Model successor;
    reconcile(successor, config_);
    models::assign(successor, publisher);
    model_ = std::move(successor);
    EXPECT_EQ(look(), States{}) << "told already";
    EXPECT_EQ(models::compiled(model_, publisher).generation, before + 1);
    flows(50);
    EXPECT_EQ(look(), States{Scale::ok});
    models::compiled(model_, publisher);
  }
  Model successor;
  reconcile(successor, config_);
  models::assign(successor, publisher);
  model_ = std::move(successor);
  EXPECT_EQ(look(), States{}) << "neither is the end of it told twice";
}

}  // namespace
}  // namespace sluice
