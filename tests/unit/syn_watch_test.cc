// A hint only when one backend's clients repeat their SYNs and the others' do not.
#include "controlplane/syn_watch.h"

#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "src/segment.h"
#include "tests/unit/models.h"

namespace sluice {
namespace {

using namespace models;

class SynWatchTest : public testing::Test {
 protected:
  void SetUp() override {
    Config config;
    config.services = {service_config("web", 1, 4), service_config("one", 2, 1)};
    model_ = model_of(config, publisher_);
    stats_.workers[0].loops.set(1);
    stats_.workers[3].loops.set(1);
    // As a data plane that ran for long leaves them.
    for (uint32_t b = 0; b < 4; b++)
      count({0, b}, 1'000'000, 5'000);
    look();
  }
  void count(BackendPlace at, uint64_t flows, uint64_t repeated, uint32_t worker = 0) {
    const uint32_t id = index(model_.backend(at).id);
    stats_.workers[worker].backends[id].flows.add(flows);
    stats_.workers[worker].syns_repeated[id].add(repeated);
  }
  std::vector<std::string> look() {
    std::vector<std::string> seen;
    for (const SynWatch::Change& change : watch_.look(model_, stats_)) {
      model_.note_suspect(change.place, change.suspect);
      seen.push_back((change.suspect ? "+" : "-") + model_.backend(change.place).config.name);
    }
    return seen;
  }
  using Seen = std::vector<std::string>;

  Publisher publisher_ = Publisher::anonymous();
  Model model_;
  Segment stats_memory_ = Segment::anonymous(kStatsSegment, sizeof(StatsSegment));
  StatsSegment& stats_ = stats_memory_.as<StatsSegment>();
  SynWatch watch_;
};

TEST_F(SynWatchTest, WhatWasCountedBeforeSaysNothing) {
  EXPECT_EQ(look(), Seen{});
}

TEST_F(SynWatchTest, OneBackendThatDoesNotAnswerIsSuspectUntilItDoes) {
  for (uint32_t b = 0; b < 4; b++)
    count({0, b}, 100, 0);
  EXPECT_EQ(look(), Seen{});
  for (uint32_t b = 0; b < 4; b++)
    count({0, b}, 100, b == 2 ? 60 : 1, b % 2 == 0 ? 3 : 0);
  EXPECT_EQ(look(), Seen{"+b2"});
  count({0, 2}, 100, 90);
  EXPECT_EQ(look(), Seen{}) << "told once";
  Seen seen;
  for (int second = 0; second < 6; second++) {
    count({0, 2}, 100, 0);
    for (const std::string& one : look())
      seen.push_back(one);
  }
  EXPECT_EQ(seen, Seen{"-b2"});
}

TEST_F(SynWatchTest, RepeatsEverywhereAreAFloodOrALossAndNobodysFault) {
  for (int second = 0; second < 5; second++) {
    for (uint32_t b = 0; b < 4; b++)
      count({0, b}, 100, 60 + 10 * b);
    EXPECT_EQ(look(), Seen{});
  }
}

TEST_F(SynWatchTest, ALittleLossIsNone) {
  for (int second = 0; second < 20; second++) {
    for (uint32_t b = 0; b < 4; b++)
      count({0, b}, 1'000, b == 1 ? 40 : 2);
    EXPECT_EQ(look(), Seen{}) << "4 % of its SYNs";
  }
}

TEST_F(SynWatchTest, ASlowServiceIsSeenAfterSomeSeconds) {
  Seen seen;
  for (int second = 0; second < 5; second++) {
    count({0, 0}, 1, 0);
    count({0, 1}, 1, 3);
    for (const std::string& one : look())
      seen.push_back(one);
  }
  EXPECT_EQ(seen, Seen{"+b1"});
}

TEST_F(SynWatchTest, ASingleBackendCountsAsItIs) {
  count({1, 0}, 10, 9);
  EXPECT_EQ(look(), Seen{"+b0"});
}

TEST_F(SynWatchTest, CountersOfAnotherSegmentGoBackAndSayNothing) {
  const uint32_t id = index(model_.backend({0, 0}).id);
  stats_.workers[0].backends[id].flows.set(3);
  stats_.workers[0].syns_repeated[id].set(3);
  EXPECT_EQ(look(), Seen{});
}

}  // namespace
}  // namespace sluice
