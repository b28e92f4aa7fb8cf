// When a service is said to need more backends, or fewer: at its thresholds, once, and not at every flow
// around them.
#include "controlplane/scale_watch.h"

#include <gtest/gtest.h>

#include "tests/unit/models.h"

namespace sluice {
namespace {

class Scale : public ::testing::Test {
 protected:
  Scale()
      : memory_(Segment::anonymous(kStatsSegment, sizeof(StatsSegment))), stats_(memory_.as<StatsSegment>()) {
    ServiceConfig web;
    web.name = "web";
    web.vip = *IpAddress::parse("203.0.113.10");
    web.port = 80;
    web.protocol = wire::kProtoTcp;
    web.forward = Forward::ipip;
    web.health.type = HealthConfig::Type::none;
    web.scale_up_percent = 80;
    web.scale_down_percent = 20;
    for (int i = 0; i < 4; i++)
      web.backends.push_back({"b" + std::to_string(i), IpAddress::v4(net32(0x0a000001 + i)), 100});
    for (BackendConfig& backend : web.backends) {
      backend.max_flows = 100;
      backend.max_sessions = 1'000;
    }
    Config config;
    config.services = {web};
    reconcile(model_, config);
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
  std::vector<ScaleWatch::State> look() {
    std::vector<ScaleWatch::State> states;
    for (const ScaleWatch::Change& change : watch_.look(model_, stats_))
      states.push_back(change.state);
    return states;
  }

  using State = ScaleWatch::State;
  using States = std::vector<State>;
  Segment memory_;
  StatsSegment& stats_;
  Model model_;
  ScaleWatch watch_;
};

TEST_F(Scale, tells_once_and_with_hysteresis) {
  flows(50);
  EXPECT_EQ(look(), States{});
  flows(40, 40);  // over all workers
  EXPECT_EQ(look(), States{State::up});
  EXPECT_EQ(look(), States{});
  flows(76);
  EXPECT_EQ(look(), States{}) << "within the hysteresis";
  flows(74);
  EXPECT_EQ(look(), States{State::ok});
  flows(20);
  EXPECT_EQ(look(), States{State::down});
  flows(24);
  EXPECT_EQ(look(), States{});
  flows(26);
  EXPECT_EQ(look(), States{State::ok});
  flows(90);
  EXPECT_EQ(look(), States{State::up});
  flows(5);
  EXPECT_EQ(look(), States{State::down}) << "from one to the other at once";
}

TEST_F(Scale, a_small_threshold_ends_as_well) {
  model_.edit_all()[0].config.scale_up_percent = 4;
  model_.edit_all()[0].config.scale_down_percent = 0;
  flows(4);
  EXPECT_EQ(look(), States{State::up});
  flows(2);
  EXPECT_EQ(look(), States{});
  flows(1);
  EXPECT_EQ(look(), States{State::ok});
}

TEST_F(Scale, by_what_is_scarcer_and_by_who_may_serve) {
  flows(50);
  // 3,400 of 4,000 sessions, one worker below zero.
  stats_.workers[0].sessions_active[0].set(3'500);
  stats_.workers[1].sessions_active[0].set(~uint64_t{0} - 99);
  EXPECT_DOUBLE_EQ(*fill_percent(model_.services()[0], stats_), 85);
  EXPECT_EQ(look(), States{State::up});
  stats_.workers[0].sessions_active[0].set(0);
  stats_.workers[1].sessions_active[0].set(0);
  EXPECT_EQ(look(), States{State::ok});
  // Half of them drain: what is left has to do.
  flows(85);
  stats_.workers[0].backends[2].flows_active.set(0);
  stats_.workers[0].backends[3].flows_active.set(0);
  EXPECT_EQ(look(), States{});
  model_.set_admin({0, 2}, Admin::drain, 1);
  model_.set_admin({0, 3}, Admin::drain, 1);
  EXPECT_EQ(look(), States{State::up});
}

// Each state is told once, also when meanwhile nobody serves.
TEST_F(Scale, who_drains_all_changes_no_state) {
  const auto all = [&](Admin admin) {
    for (uint32_t b = 0; b < 4; b++)
      model_.set_admin({0, b}, admin, 1);
  };
  flows(90);
  EXPECT_EQ(look(), States{State::up});
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
  EXPECT_EQ(look(), States{State::ok}) << "what was told ends";
  // Who is asked no more has no state.
  flows(90);
  EXPECT_EQ(look(), States{State::up});
  model_.edit_all()[0].config.scale_up_percent = model_.edit_all()[0].config.scale_down_percent = 0;
  EXPECT_EQ(look(), States{});
  model_.edit_all()[0].config.scale_up_percent = 80;
  EXPECT_EQ(look(), States{State::up});
}

}  // namespace
}  // namespace sluice
