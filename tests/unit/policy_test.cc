// Who serves when backends fail: every rule of policy.h, on models whose services are settled and compiled
// the real way.
#include "controlplane/policy.h"

#include <functional>
#include <set>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "tests/unit/models.h"

namespace sluice {
namespace {

using namespace models;
using Names = std::set<std::string>;
using Kinds = std::vector<News::Kind>;
using Kind = News::Kind;
using std::chrono::seconds;

constexpr uint64_t kSecondNs = 1'000'000'000;

// One service of backends b0, b1, ... and what the case adds to it; all up.
class PolicyTest : public testing::Test {
 protected:
  void make(uint32_t backends, const std::function<void(ServiceConfig&)>& edit) {
    config_.services = {service_config("web", 1, backends)};
    config_.services[0].lookup_slots = 251;
    edit(config_.services[0]);
    model_ = model_of(config_, publisher_);
    publish();
    model_.take_news();
  }
  static void add_sorry(ServiceConfig& service) {
    service.backends.push_back({"sorry", v4(0x0a0100ff), 100, Admin::ready, true});
  }
  void publish() { compiled(model_, publisher_); }

  BackendPlace place(const std::string& name) const {
    const std::vector<Backend>& backends = service().backends;
    for (uint32_t i = 0; i < backends.size(); i++) {
      if (backends[i].config.name == name) return {0, i};
    }
    ADD_FAILURE() << "no backend " << name;
    return {0, 0};
  }
  const Service& service() const { return model_.services()[0]; }
  const Backend& backend(const std::string& name) const { return model_.backend(place(name)); }
  void set_health(const std::vector<std::string>& names, Health health) {
    for (const std::string& name : names)
      model_.set_health(place(name), health, now_ns_);
    publish();
  }
  void down(const std::vector<std::string>& names) { set_health(names, Health::down); }
  void up(const std::vector<std::string>& names) { set_health(names, Health::up); }

  // Whom the published table selects.
  Names takers() const {
    const TablesView view = publisher_.current();
    Names names;
    for (const BackendId id : view.members(view.service(service().id)))
      names.insert(view.backend_cold(id).name);
    return names;
  }
  bool has_flag(const std::string& name, uint8_t flag) const {
    return (publisher_.current().backend(backend(name).id).flags & flag) != 0;
  }
  bool keeps_flows(const std::string& name) const { return has_flag(name, BackendRecord::kAlive); }
  Kinds news() {
    Kinds kinds;
    for (const News& one : model_.take_news())
      kinds.push_back(one.kind);
    return kinds;
  }

  Publisher publisher_ = Publisher::anonymous();
  Config config_;
  Model model_;
  uint64_t now_ns_ = 1'000 * kSecondNs;
};

// ---- min_healthy
// -------------------------------------------------------------------------------------------

TEST_F(PolicyTest, BelowMinHealthyAllCountAsHealthyAndItIsTold) {
  make(5, [](ServiceConfig& web) { web.policy.min_healthy = {3, false}; });
  down({"b0", "b1"});
  EXPECT_EQ(takers(), (Names{"b2", "b3", "b4"}));
  EXPECT_EQ(news(), Kinds{});
  down({"b2"});
  EXPECT_EQ(takers(), (Names{"b0", "b1", "b2", "b3", "b4"}));
  EXPECT_TRUE(keeps_flows("b0"));
  EXPECT_EQ(news(), Kinds{Kind::panic});
  up({"b1"});
  EXPECT_EQ(takers(), (Names{"b1", "b3", "b4"}));
  EXPECT_FALSE(keeps_flows("b0"));
  EXPECT_EQ(news(), Kinds{Kind::panic_over});
}

TEST_F(PolicyTest, PanicSparesDrainAndMaintenanceAndLooksAtTheReadyOnesOnly) {
  make(10, [](ServiceConfig& web) { web.policy.min_healthy = {30, true}; });
  for (const char* name : {"b0", "b1", "b2", "b3", "b4", "b5"})
    model_.set_admin(place(name), Admin::maint, now_ns_);
  model_.set_admin(place("b6"), Admin::drain, now_ns_);
  publish();
  EXPECT_EQ(news(), Kinds{}) << "an operator's doing is no failure";
  down({"b7", "b8"});
  EXPECT_EQ(takers(), Names{"b9"}) << "one of three ready ones is 30 %";
  down({"b9"});
  EXPECT_EQ(takers(), (Names{"b7", "b8", "b9"}));
  EXPECT_FALSE(keeps_flows("b0"));
}

TEST_F(PolicyTest, ABackendWithoutVerdictNeitherBeginsPanicNorEndsIt) {
  make(2, [](ServiceConfig& web) { web.policy.min_healthy = {1, false}; });
  for (Backend& backend : model_.edit_all()[0].backends)
    backend.health = Health::unknown;
  publish();
  EXPECT_EQ(takers(), Names{}) << "unchecked backends take nothing at the start";
  EXPECT_EQ(news(), Kinds{});
  down({"b0"});
  EXPECT_EQ(news(), Kinds{}) << "b1 may yet be healthy";
  down({"b1"});
  EXPECT_EQ(news(), Kinds{Kind::panic});
  set_health({"b1"}, Health::unknown);
  EXPECT_EQ(takers(), (Names{"b0", "b1"}));
  EXPECT_EQ(news(), Kinds{});
  up({"b1"});
  EXPECT_EQ(takers(), Names{"b1"});
}

// What comes down together is judged together.
TEST_F(PolicyTest, OneGenerationKnowsNoPanicInBetween) {
  make(3, [](ServiceConfig& web) { web.policy.min_healthy = {2, false}; });
  model_.set_health(place("b0"), Health::down, now_ns_);
  model_.set_health(place("b1"), Health::down, now_ns_);
  model_.set_health(place("b0"), Health::up, now_ns_);
  publish();
  EXPECT_EQ(news(), Kinds{});
  EXPECT_EQ(takers(), (Names{"b0", "b2"}));
}

// ---- quorum, sorry
// -----------------------------------------------------------------------------------------

TEST_F(PolicyTest, QuorumIsLostBelowAndHadAgainAboveItsHysteresis) {
  make(4, [](ServiceConfig& web) { web.policy.quorum = {{2, false}, true, false, 1}; });
  down({"b0", "b1", "b2"});
  EXPECT_EQ(news(), Kinds{}) << "1 is quorum less hysteresis";
  down({"b3"});
  EXPECT_EQ(news(), Kinds{Kind::quorum_down});
  up({"b0", "b1"});
  EXPECT_EQ(takers(), (Names{"b0", "b1"})) << "without a sorry backend it is only told";
  EXPECT_EQ(news(), Kinds{});
  up({"b2"});
  EXPECT_EQ(news(), Kinds{Kind::quorum_up});
}

TEST_F(PolicyTest, QuorumByWeightFollowsTheOperatorsWeights) {
  make(3, [](ServiceConfig& web) { web.policy.quorum = {{50, true}, true, true, 0}; });  // of 300
  down({"b0"});
  EXPECT_EQ(news(), Kinds{});
  model_.set_weight(place("b1"), 10);  // 110 of 210: still
  publish();
  EXPECT_EQ(news(), Kinds{});
  model_.set_weight(place("b2"), 50);  // 60 of 160
  publish();
  EXPECT_EQ(news(), Kinds{Kind::quorum_down});
}

TEST_F(PolicyTest, SorryTakesNewFlowsWhileQuorumIsLostAndTheOldOnesStay) {
  make(4, [](ServiceConfig& web) {
    web.policy.quorum = {{2, false}, true, false, 0};
    add_sorry(web);
  });
  EXPECT_EQ(takers(), (Names{"b0", "b1", "b2", "b3"}));
  down({"b0", "b1", "b2"});
  EXPECT_EQ(takers(), Names{"sorry"});
  EXPECT_TRUE(keeps_flows("b3"));
  EXPECT_FALSE(keeps_flows("b0"));
  EXPECT_EQ(news(), (Kinds{Kind::quorum_down, Kind::sorry}));
  up({"b0"});
  EXPECT_EQ(takers(), (Names{"b0", "b3"}));
  EXPECT_TRUE(keeps_flows("sorry")) << "what was opened there ends there";
  EXPECT_EQ(news(), (Kinds{Kind::quorum_up, Kind::sorry_over}));
}

TEST_F(PolicyTest, SorryServesWithoutAQuorumKeyWhenNobodyElseCan) {
  make(2, add_sorry);
  down({"b0"});
  EXPECT_EQ(takers(), Names{"b1"});
  down({"b1"});
  EXPECT_EQ(takers(), Names{"sorry"});
  up({"b1"});
  model_.set_weight(place("b1"), 0);
  publish();
  EXPECT_EQ(takers(), Names{"sorry"}) << "healthy, and may take none";
  model_.set_weight(place("b1"), 100);
  model_.set_next_hop(place("b1"), NextHop{});
  publish();
  EXPECT_EQ(takers(), Names{"sorry"}) << "healthy, and cannot be reached";
  model_.set_next_hop(place("b1"), next_hop());
  publish();
  EXPECT_EQ(takers(), Names{"b1"});
}

// What is known to answer comes before what is hoped to; and nothing is dropped while anybody might serve.
TEST_F(PolicyTest, SorryComesBeforePanicAndPanicServesWhenSorryCannot) {
  make(4, [](ServiceConfig& web) {
    web.policy.min_healthy = {2, false};
    web.policy.quorum = {{2, false}, true, false, 0};
    add_sorry(web);
  });
  down({"b0", "b1", "b2"});
  EXPECT_EQ(takers(), Names{"sorry"});
  EXPECT_TRUE(keeps_flows("b0")) << "panic: they count as healthy";
  down({"sorry"});
  EXPECT_EQ(takers(), (Names{"b0", "b1", "b2", "b3"}));
  up({"sorry"});
  EXPECT_EQ(takers(), Names{"sorry"});
  model_.set_admin(place("sorry"), Admin::maint, now_ns_);
  publish();
  EXPECT_EQ(takers(), (Names{"b0", "b1", "b2", "b3"}));
}

TEST_F(PolicyTest, AFailedSorryBackendIsNoChoice) {
  make(2, add_sorry);
  down({"sorry"});
  EXPECT_EQ(takers(), (Names{"b0", "b1"}));
  down({"b0", "b1"});
  EXPECT_EQ(takers(), Names{});
}

// ---- on_failure
// --------------------------------------------------------------------------------------------

TEST_F(PolicyTest, KeepLeavesFlowsWithAFailedBackendButNotInMaintenance) {
  make(2, [](ServiceConfig& web) { web.policy.on_failure = OnFailure::keep; });
  down({"b0"});
  EXPECT_TRUE(keeps_flows("b0"));
  EXPECT_TRUE(has_flag("b0", BackendRecord::kFailed));
  EXPECT_FALSE(has_flag("b1", BackendRecord::kFailed));
  EXPECT_EQ(takers(), Names{"b1"});
  model_.set_admin(place("b0"), Admin::maint, now_ns_);
  publish();
  EXPECT_FALSE(keeps_flows("b0"));
}

// ---- flap
// --------------------------------------------------------------------------------------------------

FlapConfig flap_config() {
  return {3, seconds(60), seconds(10), seconds(35)};
}

class FlapTest : public PolicyTest {
 protected:
  void SetUp() override {
    make(3, [](ServiceConfig& web) { web.policy.flap = flap_config(); });
  }
  void flap_once(const std::string& name) {
    now_ns_ += kSecondNs;
    down({name});
    now_ns_ += kSecondNs;
    up({name});
  }
  void wait(uint64_t for_s) {
    now_ns_ += for_s * kSecondNs;
    model_.advance(now_ns_, 100);
    publish();
  }
};

TEST_F(FlapTest, IsHeldAfterCountFailuresAndComesBackWhenTheHoldEnds) {
  flap_once("b0");
  flap_once("b0");
  EXPECT_EQ(takers(), (Names{"b0", "b1", "b2"}));
  flap_once("b0");
  EXPECT_EQ(takers(), (Names{"b1", "b2"})) << "its checks say up, and it is held";
  EXPECT_EQ(news(), Kinds{Kind::flapping});
  wait(8);
  EXPECT_EQ(takers(), (Names{"b1", "b2"}));
  wait(1);
  EXPECT_EQ(takers(), (Names{"b0", "b1", "b2"}));
  EXPECT_EQ(news(), Kinds{Kind::stable});
}

TEST_F(FlapTest, TheHoldGrowsToItsMostAndAQuietTimeMakesItShortAgain) {
  const std::vector<uint64_t> holds_s = {10, 20, 35, 35};
  for (const uint64_t hold_s : holds_s) {
    for (int i = 0; i < 3; i++)
      flap_once("b0");
    EXPECT_EQ(backend("b0").flaps.held_until_ns - now_ns_, (hold_s - 1) * kSecondNs);
    wait(hold_s);
  }
  wait(36);
  for (int i = 0; i < 3; i++)
    flap_once("b0");
  EXPECT_EQ(backend("b0").flaps.held_until_ns - now_ns_, 9 * kSecondNs);
}

TEST_F(FlapTest, FailuresFarApartAreForgotten) {
  for (int i = 0; i < 10; i++) {
    flap_once("b0");
    wait(30);  // three of them take longer than a minute
  }
  EXPECT_EQ(news(), Kinds{});
  EXPECT_LE(backend("b0").flaps.downs_ns.size(), 3u);
}

TEST_F(FlapTest, ABackendThatIsDownWhenItsHoldEndsIsStableOnlyOnceItIsUp) {
  for (int i = 0; i < 3; i++)
    flap_once("b0");
  down({"b0"});
  wait(10);
  EXPECT_EQ(news(), Kinds{Kind::flapping});
  up({"b0"});
  EXPECT_EQ(news(), Kinds{Kind::stable});
  EXPECT_TRUE(service().takes_new(backend("b0")));
}

TEST_F(FlapTest, HoldsAreIgnoredWhenNobodyElseCanServe) {
  for (int i = 0; i < 3; i++)
    flap_once("b0");
  down({"b1", "b2"});
  EXPECT_EQ(takers(), Names{"b0"});
  EXPECT_TRUE(keeps_flows("b0"));
  up({"b1"});
  EXPECT_EQ(takers(), Names{"b1"});
}

TEST_F(FlapTest, MaintenanceForgetsIt) {
  for (int i = 0; i < 3; i++)
    flap_once("b0");
  model_.set_admin(place("b0"), Admin::maint, now_ns_);
  model_.set_admin(place("b0"), Admin::ready, now_ns_);
  up({"b0"});
  EXPECT_TRUE(service().takes_new(backend("b0")));
  wait(60);
  EXPECT_EQ(news(), Kinds{Kind::flapping}) << "nothing is left to end";
}

// ---- --force
// -----------------------------------------------------------------------------------------------

TEST_F(PolicyTest, SaysWhatAChangeWouldLeave) {
  make(5, [](ServiceConfig& web) {
    web.policy.min_healthy = {60, true};
    add_sorry(web);
  });
  EXPECT_FALSE(usable_without(service(), {0, 1}).crosses_min_healthy());
  const Usable usable = usable_without(service(), {0, 1, 2});
  EXPECT_EQ(usable.now, 5u);
  EXPECT_EQ(usable.after, 2u);
  EXPECT_EQ(usable.floor, 3u);
  EXPECT_TRUE(usable.crosses_min_healthy());
  down({"b0", "b1", "b2"});
  EXPECT_FALSE(usable_without(service(), {0, 1}).crosses_min_healthy()) << "what is down takes nothing away";
  EXPECT_TRUE(usable_without(service(), {3}).crosses_min_healthy()) << "panic serves nobody well";
  EXPECT_FALSE(usable_without(service(), {place("sorry").backend}).crosses_min_healthy());
  model_.set_admin(place("b3"), Admin::drain, now_ns_);
  EXPECT_FALSE(usable_without(service(), {3}).crosses_min_healthy());
}

TEST_F(PolicyTest, WithoutMinHealthyNothingIsCrossed) {
  make(1, [](ServiceConfig&) {});
  EXPECT_FALSE(usable_without(service(), {0}).crosses_min_healthy());
}

}  // namespace
}  // namespace sluice
