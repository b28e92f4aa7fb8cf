// What changes of one backend mean, and that the model notes each of them, once, and no others.
#include "controlplane/model.h"

#include <gtest/gtest.h>

#include "tests/unit/models.h"

namespace sluice {
namespace {

using namespace models;
using Places = std::set<BackendPlace>;

constexpr BackendPlace kPlace{1, 0};

class ModelTest : public testing::Test {
 protected:
  void SetUp() override {
    model_ = model_of(small_config(), publisher_);
    compiled(model_, publisher_);
  }
  const Backend& backend() const { return model_.backend(kPlace); }

  Publisher publisher_ = Publisher::anonymous();
  Model model_;
};

TEST_F(ModelTest, EveryChangeOfABackendIsNotedOnce) {
  const auto noted = [&](const auto& change) {
    compiled(model_, publisher_);
    EXPECT_TRUE(model_.changed().empty());
    change();
    change();
    return model_.changed();
  };
  const Backend before = backend();
  EXPECT_EQ(noted([&] { model_.set_weight(kPlace, 7); }), Places{kPlace});
  EXPECT_EQ(noted([&] { model_.set_admin(kPlace, Admin::drain, 1); }), Places{kPlace});
  EXPECT_EQ(noted([&] { model_.set_health(kPlace, Health::down, 1); }), Places{kPlace});
  EXPECT_EQ(noted([&] { model_.set_next_hop(kPlace, NextHop{}); }), Places{kPlace});
  EXPECT_EQ(noted([&] { model_.put_back(kPlace, before); }), Places{kPlace});
  EXPECT_EQ(noted([&] { model_.set_scale(kPlace.service, Scale::up); }), Places{kPlace});
  EXPECT_EQ(noted([&] { model_.note_check(kPlace, "L4OK", "", 5); }), Places{}) << "no part of the tables";
  EXPECT_EQ(backend().check_result, "L4OK");
}

TEST_F(ModelTest, WhatChangesEverythingRefersToNoGeneration) {
  const Model::Base base = model_.base();
  EXPECT_EQ(base, (Model::Base{publisher_.header().incarnation, 1}));
  const uint64_t edition = model_.edition();
  model_.set_weight(kPlace, 7);
  EXPECT_EQ(model_.edition(), edition) << "the same services and backends";
  EXPECT_EQ(model_.base(), base);
  model_.edit_all();
  EXPECT_NE(model_.edition(), edition);
  EXPECT_EQ(model_.base(), Model::Base{});
  EXPECT_TRUE(model_.changed().empty()) << "the places may be others'";
}

TEST_F(ModelTest, TheFilesOwnWeightIsNoOverride) {
  model_.set_weight(kPlace, 7);
  EXPECT_EQ(backend().weight_override, 7u);
  model_.set_weight(kPlace, backend().config.weight);
  EXPECT_EQ(backend().weight_override, std::nullopt);
}

TEST_F(ModelTest, MaintenanceForgetsWhatTheChecksSawAndDrainDoesNot) {
  model_.note_check(kPlace, "L7STS", "HTTP status 503", 900);
  model_.set_health(kPlace, Health::down, 11);
  model_.set_admin(kPlace, Admin::drain, 12);
  EXPECT_EQ(backend().health, Health::down);
  EXPECT_EQ(backend().health_since_ns, 11u);
  EXPECT_EQ(backend().check_detail, "HTTP status 503");
  model_.set_admin(kPlace, Admin::maint, 13);
  EXPECT_EQ(backend().health, Health::unknown);
  EXPECT_EQ(backend().health_since_ns, 13u);
  EXPECT_EQ(backend().check_result, "");
  EXPECT_EQ(backend().check_detail, "");
  EXPECT_EQ(backend().check_duration_us, 0u);
  model_.set_admin(kPlace, Admin::maint, 14);
  EXPECT_EQ(backend().health_since_ns, 13u) << "it was in maintenance already";
}

}  // namespace
}  // namespace sluice
