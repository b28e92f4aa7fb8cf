// Commands from sluiced to the data plane: done in order, once, answered truthfully, whoever is killed or
// begins anew. The data plane is played by the test: the instance's lock, the `stats` segment, and
// dataplane/commands.h itself.
#include "controlplane/worker_commands.h"

#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <optional>
#include <thread>

#include <gtest/gtest.h>

#include "controlplane/session_registry.h"
#include "dataplane/commands.h"
#include "src/session_key.h"

namespace sluice {
namespace {

constexpr std::chrono::seconds kTestLimit{20};
constexpr ServiceId kWeb{3};

class WorkerCommandsTest : public testing::Test {
 protected:
  WorkerCommandsTest() : lines_(kSessionLinesMin), sessions_(lines_.data(), kSessionLinesMin) {}
  void SetUp() override {
    char name[] = "/dev/shm/sluice-commands-XXXXXX";
    directory_ = mkdtemp(name);
    open_publisher();
    view_.emplace(directory_);
    start_sluiced();
  }
  void TearDown() override { std::filesystem::remove_all(directory_); }

  void open_publisher() {
    Result<Publisher> publisher = Publisher::open(directory_, 1 << 26);
    ASSERT_TRUE(publisher) << publisher.error().text();
    publisher_.emplace(std::move(*publisher));
    publish(3);
  }
  // A generation in which backends 1 to `count` are configured.
  void publish(uint32_t count) {
    ASSERT_TRUE(publisher_->begin());
    ServiceRecord& service = publisher_->edit_service(kWeb);
    service.flags = ServiceRecord::kServed | ServiceRecord::kSessions;
    service.session_idle_s = 100;
    for (uint32_t i = 1; i <= 8; i++) {
      BackendRecord& backend = publisher_->edit_backend(BackendId{i});
      backend.service = kWeb;
      backend.flags = i <= count ? BackendRecord::kConfigured | BackendRecord::kAlive : 0;
    }
    ASSERT_TRUE(publisher_->commit());
  }
  void start_sluiced() {
    Result<std::unique_ptr<WorkerCommands>> commands =
        WorkerCommands::open(io_, directory_, *publisher_, *view_);
    ASSERT_TRUE(commands) << commands.error().text();
    sluiced_ = std::move(*commands);
  }
  // As after SIGKILL: nothing of it but the segments is left.
  void restart_sluiced() {
    sluiced_.reset();
    start_sluiced();
  }

  void start_dataplane() {
    if (!lock_) {
      Result<InstanceLock> lock = InstanceLock::acquire(directory_, kDataplaneLock);
      ASSERT_TRUE(lock) << lock.error().text();
      lock_.emplace(std::move(*lock));
    }
    Result<Segment> opened = Segment::open_writer(directory_, kStatsSegment, sizeof(StatsSegment));
    ASSERT_TRUE(opened) << opened.error().text();
    stats_segment_ = std::move(*opened);
    Result<Segment> commands = Segment::open_reader(directory_, kCommandsSegment);
    ASSERT_TRUE(commands) << commands.error().text();
    commands_segment_ = std::move(*commands);
    worker_.emplace(sessions_, stats().workers[0], stats().commands);
    worker_->use(commands_segment_.base());
    use_tables();
    view_->refresh();
  }
  // The worker takes the tables that are current.
  void use_tables() {
    tables_ = publisher_->current();
    stats().workers[0].acknowledged_incarnation.store(publisher_->header().incarnation);
    stats().workers[0].acknowledged_generation.store(tables_.generation().number);
    tables_incarnation_ = publisher_->header().incarnation;
  }
  void kill_dataplane() {
    worker_.reset();
    lock_.reset();
    view_->refresh();
  }
  StatsSegment& stats() { return stats_segment_.as<StatsSegment>(); }
  CommandsDone& done() { return stats().commands; }

  using Answer = std::optional<WorkerCommands::Outcome>;
  void send(std::vector<CommandEntry> commands, Answer& answer) {
    sluiced_->run(std::move(commands), [&answer](const WorkerCommands::Outcome& o) { answer = o; });
  }
  template <typename Condition>
  bool run_until(const Condition& is_done, bool worker_runs = true) {
    const auto limit = std::chrono::steady_clock::now() + kTestLimit;
    while (!is_done() && std::chrono::steady_clock::now() < limit) {
      if (worker_runs) worker_->run(tables_, tables_incarnation_, now_s_);
      io_.restart();
      io_.run_one_for(std::chrono::milliseconds(1));
    }
    return is_done();
  }
  WorkerCommands::Outcome ask(std::vector<CommandEntry> commands) {
    Answer answer;
    send(std::move(commands), answer);
    EXPECT_TRUE(run_until([&] { return answer.has_value(); }));
    return answer.value_or(WorkerCommands::Outcome());
  }
  CommandResult result_of(const CommandEntry& command) { return ask({command}).last; }

  static CommandEntry pin(uint64_t hash, uint32_t backend) {
    CommandEntry command{};
    command.kind = CommandKind::pin;
    command.hash = hash;
    command.backend = BackendId{backend};
    command.session = SessionKind::pinned;
    return command;
  }
  static CommandEntry unpin(uint64_t hash) {
    CommandEntry command{};
    command.kind = CommandKind::unpin;
    command.hash = hash;
    return command;
  }
  CommandEntry import(uint64_t hash, uint32_t backend, SessionKind kind = SessionKind::learnt) const {
    CommandEntry command = pin(hash, backend);
    command.kind = CommandKind::import;
    command.session = kind;
    command.last_s = now_s_ - 7;
    command.created = (now_s_ - 640) >> kCreatedShift;
    return command;
  }
  static CommandEntry move(uint64_t hash, uint32_t from, uint32_t to, SessionKind kind = SessionKind::moved) {
    CommandEntry command = pin(hash, to);
    command.kind = CommandKind::move;
    command.session = kind;
    command.from = BackendId{from};
    return command;
  }
  // What the table says, found as sluiced finds it; and the gauges must agree with the table.
  uint32_t backend_of(uint64_t hash) {
    std::map<uint32_t, uint64_t> counts;
    each_session(lines_.data(), lines_.size(), 0, lines_.size(),
                 [&](const SessionSeen& seen) { counts[index(seen.session.backend)]++; });
    uint64_t total = 0;
    for (uint32_t i = 0; i <= 8; i++) {
      EXPECT_EQ(stats().workers[0].sessions_active[i].get(), counts[i]) << "backend " << i;
      total += counts[i];
    }
    EXPECT_EQ(stats().workers[0].sessions.active.get(), total);
    const std::optional<SessionSeen> seen = find_session(lines_.data(), lines_.size(), hash);
    return seen ? index(seen->session.backend) : 0;
  }

  std::string directory_;
  boost::asio::io_context io_;
  std::optional<Publisher> publisher_;
  std::optional<DataplaneView> view_;
  std::unique_ptr<WorkerCommands> sluiced_;
  std::optional<InstanceLock> lock_;
  Segment stats_segment_, commands_segment_;
  std::vector<SessionLine> lines_;
  SessionTable sessions_;
  std::optional<Commands> worker_;
  TablesView tables_;
  uint64_t tables_incarnation_ = 0;
  uint32_t now_s_ = 1'000'000;
};

constexpr uint64_t kHash = 0x123456789abcdef0;

TEST_F(WorkerCommandsTest, each_is_done_and_answered_as_it_was_done) {
  start_dataplane();
  EXPECT_EQ(result_of(unpin(kHash)), CommandResult::absent);
  EXPECT_EQ(result_of(pin(kHash, 1)), CommandResult::made);
  EXPECT_EQ(backend_of(kHash), 1u);
  const WorkerCommands::Outcome changed = ask({pin(kHash, 2)});
  EXPECT_EQ(changed.last, CommandResult::changed);
  EXPECT_EQ(index(unpack(changed.before).backend), 1u);
  EXPECT_EQ(backend_of(kHash), 2u);
  EXPECT_EQ(result_of(pin(kHash, 4)), CommandResult::gone) << "it is not configured";
  EXPECT_EQ(backend_of(kHash), 2u);
  EXPECT_EQ(result_of(import(kHash, 3)), CommandResult::other) << "what is pinned stays";
  EXPECT_EQ(result_of(move(kHash, 2, 3)), CommandResult::other);
  EXPECT_EQ(backend_of(kHash), 2u);
  const WorkerCommands::Outcome removed = ask({unpin(kHash)});
  EXPECT_EQ(removed.last, CommandResult::removed);
  EXPECT_TRUE(sessions_.moved.may_have(kHash)) << "a connection that goes on ties the client again";
  EXPECT_EQ(index(unpack(removed.before).backend), 2u);
  EXPECT_EQ(backend_of(kHash), 0u);

  EXPECT_EQ(result_of(import(kHash, 3)), CommandResult::made);
  const std::optional<SessionSeen> seen = find_session(lines_.data(), lines_.size(), kHash);
  ASSERT_TRUE(seen);
  EXPECT_EQ(since_s(seen->session.last_s, now_s_), 7u) << "as old as it was";
  EXPECT_GE(age_s(seen->session, now_s_), 640u - 127);
  EXPECT_EQ(result_of(unpin(kHash)), CommandResult::other) << "learnt";
  EXPECT_EQ(result_of(import(kHash, 1)), CommandResult::other) << "learnt here is newer";
  EXPECT_EQ(result_of(move(kHash, 1, 2)), CommandResult::other) << "not there";
  EXPECT_EQ(backend_of(kHash), 3u);
  EXPECT_EQ(result_of(move(kHash, 3, 2)), CommandResult::changed);
  EXPECT_TRUE(sessions_.moved.may_have(kHash)) << "flows that go on ask at once";
  EXPECT_TRUE(sessions_.moved.any(now_s_ + 128 + 2));
  EXPECT_FALSE(sessions_.moved.any(now_s_ + 128 + 8)) << "since then they have asked";
  EXPECT_EQ(find_session(lines_.data(), lines_.size(), kHash)->session.kind, SessionKind::moved);
  EXPECT_EQ(result_of(move(kHash, 2, 3, SessionKind::moved_resets)), CommandResult::changed);
  EXPECT_EQ(find_session(lines_.data(), lines_.size(), kHash)->session.kind, SessionKind::moved_resets);
  EXPECT_EQ(result_of(move(kHash, 3, 2)), CommandResult::changed);
  EXPECT_EQ(backend_of(kHash), 2u);
  EXPECT_EQ(result_of(import(kHash, 1, SessionKind::pinned)), CommandResult::changed) << "a pin is an order";
  EXPECT_EQ(backend_of(kHash), 1u);
}

TEST_F(WorkerCommandsTest, what_is_over_counts_as_none) {
  start_dataplane();
  CommandEntry pinned = pin(kHash, 1);
  pinned.session = SessionKind::pinned_until;
  pinned.last_s = now_s_ + 10;
  EXPECT_EQ(result_of(pinned), CommandResult::made);
  now_s_ += 11;
  EXPECT_EQ(result_of(unpin(kHash)), CommandResult::absent);
  EXPECT_EQ(result_of(import(kHash, 2)), CommandResult::made);
  now_s_ += 1000;
  EXPECT_EQ(result_of(move(kHash, 2, 3)), CommandResult::absent);
  const WorkerCommands::Outcome outcome = ask({pin(kHash, 3)});
  EXPECT_EQ(outcome.last, CommandResult::made);
  EXPECT_EQ(outcome.before, 0u);
  EXPECT_EQ(backend_of(kHash), 3u);
}

TEST_F(WorkerCommandsTest, a_full_neighbourhood_is_said) {
  start_dataplane();
  std::vector<CommandEntry> commands;
  // All of one home: as many as its lines hold, and one more.
  for (uint64_t i = 0; i <= kReach * kLineSessions; i++)
    commands.push_back(pin(kHash + 2 * i, 1));
  const WorkerCommands::Outcome outcome = ask(commands);
  EXPECT_EQ(outcome.count(CommandResult::made), kReach * kLineSessions);
  EXPECT_EQ(outcome.count(CommandResult::no_place), 1u);
  EXPECT_EQ(outcome.last, CommandResult::no_place);
}

TEST_F(WorkerCommandsTest, more_than_the_ring_holds_in_order_with_a_worker_beside) {
  start_dataplane();
  std::atomic<bool> is_over{false};
  std::thread worker([&] {
    while (!is_over.load())
      worker_->run(tables_, tables_incarnation_, now_s_);
  });
  constexpr uint32_t kCount = 5 * kCommandsMax + 7;
  std::vector<CommandEntry> commands;
  for (uint32_t i = 0; i < kCount; i++)
    commands.push_back(pin(kHash, 1 + i % 2));
  Answer answer, second;
  send(commands, answer);
  send({unpin(kHash), unpin(kHash)}, second);
  EXPECT_TRUE(run_until([&] { return second.has_value(); }, false));
  is_over = true;
  worker.join();
  ASSERT_TRUE(answer && second);
  EXPECT_EQ(answer->count(CommandResult::made), 1u);
  EXPECT_EQ(answer->count(CommandResult::changed), kCount - 1);
  EXPECT_EQ(index(unpack(answer->before).backend), 1 + (kCount - 2) % 2) << "the last but one";
  EXPECT_EQ(second->count(CommandResult::removed), 1u);
  EXPECT_EQ(second->count(CommandResult::absent), 1u);
  EXPECT_EQ(backend_of(kHash), 0u);
}

TEST_F(WorkerCommandsTest, without_a_data_plane_nothing_is_done_and_that_is_said) {
  Answer answer;
  send({pin(kHash, 1)}, answer);
  ASSERT_TRUE(answer);
  EXPECT_NE(answer->fault.what.find("no data plane runs"), std::string::npos) << answer->fault.what;
  start_dataplane();
  EXPECT_EQ(result_of(unpin(kHash)), CommandResult::absent);
}

TEST_F(WorkerCommandsTest, a_worker_that_hangs_is_said_and_does_it_later) {
  start_dataplane();
  Answer answer;
  send({pin(kHash, 1)}, answer);
  ASSERT_TRUE(run_until([&] { return answer.has_value(); }, false));
  EXPECT_EQ(answer->under_way, 1u);
  EXPECT_NE(answer->fault.what.find("will be done"), std::string::npos) << answer->fault.what;
  // Answers of before are not taken for those of now.
  EXPECT_EQ(result_of(unpin(kHash)), CommandResult::removed);
}

// The worker is killed between any two of its steps at one command: its successor ends it.
TEST_F(WorkerCommandsTest, a_data_plane_killed_at_a_command_leaves_it_to_its_successor) {
  start_dataplane();
  for (const bool was_changed : {false, true}) {
    Answer answer;
    send({pin(kHash, 1)}, answer);
    const uint64_t at = done().done.load();
    if (was_changed) {
      worker_->run(tables_, tables_incarnation_, now_s_);
      done().done.store(at);  // before the answer
    } else {
      done().begun.store(at + 1);
    }
    kill_dataplane();
    start_dataplane();
    ASSERT_TRUE(run_until([&] { return answer.has_value(); }));
    ASSERT_TRUE(answer->is_whole()) << answer->fault.what;
    EXPECT_EQ(answer->last, was_changed ? CommandResult::repeated : CommandResult::made);
    EXPECT_EQ(backend_of(kHash), 1u);

    Answer unpinned;
    send({unpin(kHash), pin(kHash + 2, 2)}, unpinned);
    const uint64_t next = done().done.load();
    if (was_changed) {
      worker_->run(tables_, tables_incarnation_, now_s_);
      done().done.store(next);
      done().begun.store(next + 1);
    }
    kill_dataplane();
    start_dataplane();
    ASSERT_TRUE(run_until([&] { return unpinned.has_value(); }));
    EXPECT_EQ(unpinned->count(was_changed ? CommandResult::repeated : CommandResult::removed), 1u)
        << "gone, and nobody says that it was not there";
    EXPECT_EQ(backend_of(kHash), 0u);
    EXPECT_EQ(backend_of(kHash + 2), 2u);
  }
}

TEST_F(WorkerCommandsTest, what_a_killed_sluiced_wrote_is_done_and_its_successor_hears_its_own_answers) {
  start_dataplane();
  Answer lost, answer;
  send({pin(kHash, 1), pin(kHash + 2, 2)}, lost);
  restart_sluiced();
  send({unpin(kHash)}, answer);
  ASSERT_TRUE(run_until([&] { return answer.has_value(); }));
  EXPECT_EQ(answer->last, CommandResult::removed);
  EXPECT_FALSE(lost);
  EXPECT_EQ(backend_of(kHash + 2), 2u);
}

TEST_F(WorkerCommandsTest, other_tables_void_what_was_meant_for_the_old_ones) {
  start_dataplane();
  Answer answer;
  send({pin(kHash, 1)}, answer);
  publisher_.reset();
  std::filesystem::remove(directory_ + "/tables");
  open_publisher();
  use_tables();
  ASSERT_TRUE(run_until([&] { return answer.has_value(); }));
  EXPECT_EQ(answer->last, CommandResult::stale);
  EXPECT_EQ(backend_of(kHash), 0u);
  EXPECT_EQ(result_of(pin(kHash, 1)), CommandResult::made);
}

TEST_F(WorkerCommandsTest, a_command_waits_for_the_generation_that_has_its_backend) {
  start_dataplane();
  publish(4);  // the worker does not use it yet
  Answer answer;
  send({pin(kHash, 4)}, answer);
  for (int i = 0; i < 10; i++)
    worker_->run(tables_, tables_incarnation_, now_s_);
  EXPECT_EQ(backend_of(kHash), 0u);
  use_tables();
  ASSERT_TRUE(run_until([&] { return answer.has_value(); }));
  EXPECT_EQ(answer->last, CommandResult::made);
}

// Nobody knows any more what was taken: passed over, and said.
TEST_F(WorkerCommandsTest, new_statistics_pass_over_what_was_under_way) {
  start_dataplane();
  EXPECT_EQ(result_of(pin(kHash, 1)), CommandResult::made);
  Answer answer;
  send({unpin(kHash)}, answer);
  kill_dataplane();
  std::filesystem::remove(directory_ + "/stats");
  start_dataplane();
  ASSERT_TRUE(run_until([&] { return answer.has_value(); }));
  EXPECT_EQ(answer->last, CommandResult::none);
  EXPECT_TRUE(find_session(lines_.data(), lines_.size(), kHash));
  EXPECT_EQ(result_of(pin(kHash, 2)), CommandResult::changed);
}

TEST_F(WorkerCommandsTest, a_new_commands_segment_starts_its_own_count) {
  start_dataplane();
  EXPECT_EQ(ask({pin(kHash, 1), pin(kHash, 2), pin(kHash, 3)}).last, CommandResult::changed);
  sluiced_.reset();
  std::filesystem::remove(directory_ + "/commands");
  start_sluiced();
  Answer answer;
  send({unpin(kHash)}, answer);
  worker_->run(tables_, tables_incarnation_, now_s_);
  EXPECT_EQ(backend_of(kHash), 3u) << "the data plane has not seen the new segment yet";
  Result<Segment> commands = Segment::open_reader(directory_, kCommandsSegment);
  ASSERT_TRUE(commands);
  worker_->use(commands->base());
  ASSERT_TRUE(run_until([&] { return answer.has_value(); }));
  EXPECT_EQ(answer->last, CommandResult::removed);
}

}  // namespace
}  // namespace sluice
