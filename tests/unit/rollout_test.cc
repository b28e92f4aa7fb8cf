// Publishing and waiting: who is waited for, what the operator is told, and when memory may be used again.
// The data plane is played by the test: it holds the instance's lock and writes the `stats` segment as
// workers do.
#include "controlplane/rollout.h"

#include <cstdlib>
#include <filesystem>
#include <optional>
#include <string>

#include <boost/asio/io_context.hpp>
#include <gtest/gtest.h>

#include "src/wire.h"

namespace sluice {
namespace {

constexpr std::chrono::seconds kTestLimit{20};

class RolloutTest : public testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/dev/shm/sluice-rollout-XXXXXX";
    directory_ = mkdtemp(name);
    Result<Publisher> publisher = Publisher::open(directory_, 1 << 26);
    ASSERT_TRUE(publisher) << publisher.error().text();
    publisher_.emplace(std::move(*publisher));
    model_.set_secret("test");
    Service& service = model_.edit_all().emplace_back();
    service.id = ServiceId{0};
    service.config.name = "web";
    service.config.vip = *IpAddress::parse("203.0.113.10");
    service.config.port = 80;
    service.config.protocol = wire::kProtoTcp;
    service.config.forward = Forward::ipip;
    service.config.health.type = HealthConfig::Type::none;
    for (uint32_t i = 0; i < 3; i++) {
      Backend& backend = service.backends.emplace_back();
      backend.id = BackendId{i};
      backend.config.name = "b" + std::to_string(i);
      backend.config.address = *IpAddress::parse("10.0.0." + std::to_string(i + 1));
      backend.next_hop.resolved = true;
    }
    view_.emplace(directory_);
    rollout_.emplace(io_, model_, *publisher_, *view_, events_, [this] { settled_++; });
  }
  void TearDown() override { std::filesystem::remove_all(directory_); }

  // A data plane with so many workers starts: holds the lock, has them active, acknowledges nothing yet.
  void start_dataplane(uint32_t workers) {
    Result<InstanceLock> lock = InstanceLock::acquire(directory_, kDataplaneLock);
    ASSERT_TRUE(lock) << lock.error().text();
    lock_ = std::move(*lock);
    Result<Segment> opened = Segment::open_writer(directory_, kStatsSegment, sizeof(StatsSegment));
    ASSERT_TRUE(opened) << opened.error().text();
    stats_segment_ = std::move(*opened);
    for (uint32_t i = 0; i < workers; i++) {
      stats().workers[i].acknowledged_generation.store(0);
      stats().workers[i].active.set(1);
    }
    stats().header.workers_count = workers;
    stats().header.starts.fetch_add(1);
    view_->refresh();
  }
  void kill_dataplane() {
    lock_ = InstanceLock();
    view_->refresh();
  }
  StatsSegment& stats() { return stats_segment_.as<StatsSegment>(); }
  void acknowledge(uint32_t worker, uint64_t generation) {
    stats().workers[worker].acknowledged_incarnation.store(publisher_->header().incarnation);
    stats().workers[worker].acknowledged_generation.store(generation);
  }

  // Changes a weight, and publishes.
  uint64_t change() {
    model_.set_weight({0, 0}, ++weight_);
    const Result<Compiled> compiled = rollout_->publish();
    EXPECT_TRUE(compiled) << compiled.error().text();
    return compiled ? compiled->generation : 0;
  }
  void wait(uint64_t generation, std::optional<Outcome>& outcome) {
    rollout_->wait(generation, monotonic_ns(), [&outcome](const Outcome& o) { outcome = o; });
  }
  template <typename Condition>
  bool run_until(const Condition& done) {
    const auto limit = std::chrono::steady_clock::now() + kTestLimit;
    while (!done() && std::chrono::steady_clock::now() < limit) {
      io_.restart();
      io_.run_one_for(std::chrono::milliseconds(10));
    }
    return done();
  }
  void run_for(std::chrono::milliseconds time) {
    io_.restart();
    io_.run_for(time);
  }

  std::string directory_;
  boost::asio::io_context io_;
  Model model_;
  std::optional<Publisher> publisher_;
  std::optional<DataplaneView> view_;
  Events events_;
  std::optional<Rollout> rollout_;
  InstanceLock lock_;
  Segment stats_segment_;
  uint32_t weight_ = 0;
  int settled_ = 0;
};

TEST_F(RolloutTest, WithoutADataPlaneNobodyIsWaitedForAndTheNoteSaysSo) {
  std::optional<Outcome> outcome;
  wait(change(), outcome);
  ASSERT_TRUE(run_until([&] { return outcome.has_value(); }));
  EXPECT_TRUE(outcome->acknowledged);
  EXPECT_EQ(outcome->workers, 0u);
  EXPECT_EQ(outcome->note, "published as generation 1; no data plane is running");
  EXPECT_EQ(settled_, 1);
  EXPECT_EQ(publisher_->memory().retired_bytes, 0u);
}

TEST_F(RolloutTest, TheAnswerComesWhenTheLastActiveWorkerHasAcknowledged) {
  start_dataplane(2);
  std::optional<Outcome> outcome;
  const uint64_t generation = change();
  wait(generation, outcome);
  acknowledge(0, generation);
  run_for(std::chrono::milliseconds(30));
  EXPECT_FALSE(outcome) << "worker 1 has not acknowledged";
  EXPECT_EQ(settled_, 0);
  acknowledge(1, generation);
  ASSERT_TRUE(run_until([&] { return outcome.has_value(); }));
  EXPECT_TRUE(outcome->acknowledged);
  EXPECT_EQ(outcome->workers, 2u);
  EXPECT_EQ(outcome->note, "");
  EXPECT_GT(outcome->elapsed_ns, 0u);
  EXPECT_EQ(settled_, 1);
}

TEST_F(RolloutTest, ALateWorkerIsNamedAndItsMemoryIsKeptUntilItFollows) {
  start_dataplane(1);
  acknowledge(0, change());
  ASSERT_TRUE(run_until([&] { return settled_ == 1; }));
  std::optional<Outcome> outcome;
  const uint64_t generation = change();
  wait(generation, outcome);
  ASSERT_TRUE(run_until([&] { return outcome.has_value(); }));
  EXPECT_FALSE(outcome->acknowledged);
  EXPECT_EQ(outcome->note.rfind("published as generation 2; worker 0 has not acknowledged for 1.", 0), 0u)
      << outcome->note;
  EXPECT_GT(publisher_->memory().retired_bytes, 0u) << "worker 0 may be reading generation 1";
  acknowledge(0, generation);
  EXPECT_TRUE(run_until([&] { return publisher_->memory().retired_bytes == 0; }));
}

// It may have read any generation before its workers say that they run.
TEST_F(RolloutTest, AStartingDataPlaneIsWaitedForAndKeepsMemory) {
  start_dataplane(1);
  acknowledge(0, change());
  ASSERT_TRUE(run_until([&] { return settled_ == 1; }));
  stats().workers[0].active.set(0);
  std::optional<Outcome> outcome;
  wait(change(), outcome);
  run_for(std::chrono::milliseconds(30));
  EXPECT_FALSE(outcome);
  EXPECT_GT(publisher_->memory().retired_bytes, 0u);
}

TEST_F(RolloutTest, AnAcknowledgementOfAnotherTablesSegmentDoesNotCount) {
  start_dataplane(1);
  std::optional<Outcome> outcome;
  wait(change(), outcome);
  stats().workers[0].acknowledged_incarnation.store(publisher_->header().incarnation + 1);
  stats().workers[0].acknowledged_generation.store(1000);
  run_for(std::chrono::milliseconds(30));
  EXPECT_FALSE(outcome);
}

TEST_F(RolloutTest, ADataPlaneThatDiesWhileWaitedForEndsTheWaiting) {
  start_dataplane(1);
  std::optional<Outcome> outcome;
  wait(change(), outcome);
  run_for(std::chrono::milliseconds(5));
  EXPECT_FALSE(outcome);
  kill_dataplane();
  ASSERT_TRUE(run_until([&] { return outcome.has_value(); }));
  EXPECT_TRUE(outcome->acknowledged);
  EXPECT_NE(outcome->note.find("no data plane is running"), std::string::npos);
}

TEST_F(RolloutTest, ChangesThatNobodyWaitsForShareAGeneration) {
  const uint64_t before = change();
  for (uint32_t weight = 10; weight < 20; weight++) {
    model_.set_weight({0, 1}, weight);
    rollout_->publish_soon();
  }
  EXPECT_EQ(publisher_->current().generation().number, before) << "not at once";
  ASSERT_TRUE(run_until([&] { return publisher_->current().generation().number > before; }));
  run_for(std::chrono::milliseconds(20));
  EXPECT_EQ(publisher_->current().generation().number, before + 1);
  EXPECT_EQ(publisher_->current().backend_cold(BackendId{1}).weight, 19u);
}

// No operator waits for a failed health check or a new MAC: nobody else would repeat it.
TEST_F(RolloutTest, AChangeThatNobodyWaitsForIsPublishedWhenThereIsRoomAgain) {
  start_dataplane(1);
  acknowledge(0, change());
  ASSERT_TRUE(run_until([&] { return settled_ == 1; }));
  // A worker that stands still holds every generation, until the segment is full.
  const auto publish_next_weight = [&] {
    model_.set_weight({0, 0}, ++weight_);
    return static_cast<bool>(rollout_->publish());
  };
  for (int i = 0; i < 10'000 && publish_next_weight(); i++) {
  }
  const uint64_t newest = publisher_->current().generation().number;
  model_.set_admin({0, 1}, Admin::drain, monotonic_ns());
  rollout_->publish_soon();
  run_for(std::chrono::milliseconds(20));
  ASSERT_FALSE(publish_next_weight()) << "full; and an operator's failed change takes nothing off the list";
  ASSERT_EQ(publisher_->current().generation().number, newest);

  acknowledge(0, newest);
  ASSERT_TRUE(run_until([&] { return publisher_->current().generation().number > newest; }));
  EXPECT_EQ(publisher_->current().backend_cold(BackendId{1}).admin, Admin::drain);
}

TEST_F(RolloutTest, NothingChangedIsTheSameGeneration) {
  const uint64_t generation = change();
  const Result<Compiled> again = rollout_->publish();
  ASSERT_TRUE(again);
  EXPECT_EQ(again->generation, generation);
}

}  // namespace
}  // namespace sluice
