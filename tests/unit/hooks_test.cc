// Notify hooks, with real programs: who is told what, in which order, and what a bad hook may cost.
#include "controlplane/hooks.h"

#include <signal.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <sstream>

#include <gtest/gtest.h>

namespace sluice {
namespace {

using nlohmann::json;
using std::chrono::milliseconds;

constexpr milliseconds kTestLimit{20'000};

class HooksTest : public testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/sluice-hooks-XXXXXX";
    folder_ = mkdtemp(name);
    out_ = folder_ + "/out";
    events_.listen([this](const Event& event) {
      if (event.kind == "hook_failed") failures_.push_back(event.text);
    });
  }
  void TearDown() override {
    hooks_.reset();
    std::filesystem::remove_all(folder_);
  }
  // A hook that runs this script, with the file for its findings as $1.
  HookConfig hook(const std::string& script, std::vector<std::string> events = {"*"}) {
    HookConfig config;
    config.command = {"/bin/sh", "-c", script, "hook", out_};
    config.events = std::move(events);
    return config;
  }
  void follow(const std::vector<HookConfig>& configs) {
    if (!hooks_) hooks_ = std::make_unique<Hooks>(io_, events_);
    hooks_->follow(configs);
  }
  void happen(const std::string& kind, const std::string& backend = "b1",
              Event::Level level = Event::Level::info) {
    Event event;
    event.kind = kind;
    event.level = level;
    event.service = "web";
    event.backend = backend;
    event.text = kind + " happened to " + backend;
    events_.add(std::move(event));
  }
  std::vector<std::string> lines() {
    std::ifstream file(out_);
    std::vector<std::string> all;
    for (std::string line; std::getline(file, line);)
      all.push_back(line);
    return all;
  }
  template <typename Condition>
  bool run_until(const Condition& done) {
    const auto limit = std::chrono::steady_clock::now() + kTestLimit;
    while (!done() && std::chrono::steady_clock::now() < limit) {
      io_.restart();
      io_.run_one_for(milliseconds(10));
    }
    return done();
  }
  void run_for(milliseconds time) {
    io_.restart();
    io_.run_for(time);
  }

  std::string folder_, out_;
  boost::asio::io_context io_;
  Events events_;
  std::unique_ptr<Hooks> hooks_;
  std::vector<std::string> failures_;
};

TEST_F(HooksTest, TheEventIsInTheEnvironmentAndOnStandardInput) {
  follow({hook(
      R"(read line; echo "$SLUICE_EVENT_KIND|$SLUICE_SERVICE|$SLUICE_BACKEND|$SLUICE_EVENT_LEVEL|$SLUICE_EVENT_NUMBER|$SLUICE_COALESCED|$SLUICE_EVENT_TEXT|$HOME" >> $1; echo "$line" >> $1)")});
  happen("backend_down", "b1", Event::Level::warning);
  ASSERT_TRUE(run_until([&] { return lines().size() == 2; }));
  EXPECT_EQ(lines()[0], "backend_down|web|b1|warning|1|0|backend_down happened to b1|");
  const json event = json::parse(lines()[1]);
  EXPECT_EQ(event["kind"], "backend_down");
  EXPECT_EQ(event["backend"], "b1");
  EXPECT_EQ(event["coalesced"], 0);
  EXPECT_TRUE(failures_.empty());
}

TEST_F(HooksTest, OnlyTheKindsItAsksForAndNothingOfLevelDebug) {
  follow({hook("echo $SLUICE_EVENT_KIND >> $1", {"backend_*", "service_panic"})});
  happen("config_applied");
  happen("backend_up");
  happen("backend_check", "b1", Event::Level::debug);
  happen("service_panic");
  ASSERT_TRUE(run_until([&] { return lines().size() == 2; }));
  run_for(milliseconds(100));
  EXPECT_EQ(lines(), (std::vector<std::string>{"backend_up", "service_panic"}));
}

TEST_F(HooksTest, RunsAreOneAtATimeAndInOrder) {
  HookConfig config = hook("echo begin $SLUICE_BACKEND >> $1; sleep 0.02; echo end $SLUICE_BACKEND >> $1");
  follow({config});
  std::vector<std::string> expected;
  for (int i = 0; i < 5; i++) {
    happen("x", "b" + std::to_string(i));
    expected.push_back("begin b" + std::to_string(i));
    expected.push_back("end b" + std::to_string(i));
  }
  ASSERT_TRUE(run_until([&] { return lines().size() == 10; }));
  EXPECT_EQ(lines(), expected);
}

TEST_F(HooksTest, BeyondTheBurstOnlyTheNewestIsToldWithHowManyItStandsFor) {
  HookConfig config = hook("echo $SLUICE_BACKEND $SLUICE_COALESCED >> $1");
  config.burst = 3;
  config.per = milliseconds(1500);
  follow({config});
  for (int i = 0; i < 1000; i++)
    happen("x", "b" + std::to_string(i));
  ASSERT_TRUE(run_until([&] { return lines().size() == 4; }));
  EXPECT_EQ(lines(), (std::vector<std::string>{"b0 0", "b1 0", "b2 0", "b999 996"}));
  run_for(milliseconds(700));
  EXPECT_EQ(lines().size(), 4u) << "all have been told of";
  happen("x", "again");
  ASSERT_TRUE(run_until([&] { return lines().size() == 5; }));
  EXPECT_EQ(lines().back(), "again 0");
}

TEST_F(HooksTest, AHookThatHangsIsKilledWithAllThatItStarted) {
  HookConfig config = hook("trap '' TERM; sleep 1000 & echo $! >> $1; wait");
  config.timeout = milliseconds(300);
  follow({config});
  happen("x");
  ASSERT_TRUE(run_until([&] { return failures_.size() == 1; }));
  EXPECT_NE(failures_[0].find("within 300 ms"), std::string::npos) << failures_[0];
  ASSERT_EQ(lines().size(), 1u);
  const pid_t grandchild = std::stoi(lines()[0]);
  EXPECT_TRUE(run_until([&] {
    std::ifstream stat("/proc/" + std::to_string(grandchild) + "/stat");
    std::string pid, name, state;
    return !(stat >> pid >> name >> state) || state == "Z";
  })) << "its child is gone, too";
}

TEST_F(HooksTest, AFailureIsAnEventThatNoHookIsToldOf) {
  follow({hook("echo $SLUICE_EVENT_KIND >> $1; echo it is broken; exit 3")});
  happen("x");
  ASSERT_TRUE(run_until([&] { return failures_.size() == 1; }));
  EXPECT_NE(failures_[0].find("status 3: it is broken"), std::string::npos) << failures_[0];
  run_for(milliseconds(200));
  EXPECT_EQ(lines(), std::vector<std::string>{"x"});
  EXPECT_EQ(failures_.size(), 1u);
}

TEST_F(HooksTest, ACommandThatIsNotThereIsAnEvent) {
  HookConfig config;
  config.command = {"/nowhere/to/be/found"};
  config.events = {"*"};
  follow({config});
  happen("x");
  happen("y");
  ASSERT_TRUE(run_until([&] { return failures_.size() == 2; }));
  EXPECT_NE(failures_[0].find("/nowhere/to/be/found"), std::string::npos);
}

TEST_F(HooksTest, AHookThatReadsNothingAndOneThatPrintsMuchHarmNobody) {
  HookConfig loud = hook("yes", {"loud"});
  follow({hook("exec < /dev/null; echo $SLUICE_EVENT_KIND >> $1", {"quiet"}), loud});
  happen("loud");
  happen("quiet");
  ASSERT_TRUE(run_until([&] { return failures_.size() == 1 && lines().size() == 1; }));
  EXPECT_NE(failures_[0].find("printed more than"), std::string::npos) << failures_[0];
}

TEST_F(HooksTest, AnotherConfigurationEndsWhatIsGoneAndKeepsWhatStays) {
  const HookConfig stays = hook("sleep 0.3; echo stays >> $1", {"a"});
  const HookConfig goes = hook("sleep 0.3; echo goes >> $1", {"a"});
  follow({stays, goes});
  happen("a");
  run_for(milliseconds(100));
  follow({stays});
  ASSERT_TRUE(run_until([&] { return lines().size() == 1; }));
  run_for(milliseconds(400));
  EXPECT_EQ(lines(), std::vector<std::string>{"stays"});
  follow({});
  happen("a");
  run_for(milliseconds(100));
  EXPECT_EQ(lines().size(), 1u);
}

}  // namespace
}  // namespace sluice
