// Checks by a command: its exit status, its output, and that nothing of it outlives its check.
#include <signal.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

#include "controlplane/child_process.h"
#include "tests/unit/probe_fixture.h"

namespace sluice {
namespace {

class CommandTest : public ProbeFixture {
 protected:
  CommandTest() {
    char name[] = "/tmp/sluice-command-XXXXXX";
    folder_ = mkdtemp(name);
  }
  ~CommandTest() override { std::filesystem::remove_all(folder_); }

  static CheckTarget shell(const std::string& script) {
    CheckTarget wanted = target(8080, HealthConfig::Type::command);
    wanted.config.command = {"/bin/sh", "-c", script};
    wanted.config.timeout = Milliseconds(10'000);
    wanted.service = "web";
    wanted.backend = "b1";
    wanted.backend_address = *IpAddress::parse("2001:db8::7");
    wanted.vip = *IpAddress::parse("203.0.113.10");
    return wanted;
  }
  pid_t pid_in(const std::string& name) const {
    pid_t pid = 0;
    std::ifstream(folder_ / name) >> pid;
    return pid;
  }
  // A zombie that its new parent has not waited for yet is gone as well.
  static bool is_gone(pid_t pid) {
    std::ifstream status("/proc/" + std::to_string(pid) + "/status");
    for (std::string line; std::getline(status, line);) {
      if (line.starts_with("State:")) return line.find('Z') != std::string::npos;
    }
    return true;
  }

  std::filesystem::path folder_;
};

TEST_F(CommandTest, TheExitStatusDecidesAndTheFirstLineIsTheDetail) {
  const CheckResult good = check(shell("echo fine; echo more; exit 0"));
  EXPECT_EQ(good.code, CheckCode::procok);
  EXPECT_EQ(good.detail, "fine");
  EXPECT_TRUE(good.is_good());
  const CheckResult bad = check(shell("echo 'disk full' >&2; exit 3"));
  EXPECT_EQ(bad.code, CheckCode::procerr);
  EXPECT_EQ(bad.detail, "exit 3: disk full");
  const CheckResult killed = check(shell("kill -SEGV $$"));
  EXPECT_EQ(killed.code, CheckCode::procerr);
  EXPECT_EQ(killed.detail, "ended by SIGSEGV");
}

TEST_F(CommandTest, ItIsToldWhatToCheckAndGetsNothingElse) {
  setenv("SECRET_OF_THE_DAEMON", "x", 1);
  constexpr int kOfTheDaemon = 200;  // a descriptor without close-on-exec, as some libraries open them
  ASSERT_EQ(dup2(STDERR_FILENO, kOfTheDaemon), kOfTheDaemon);
  const CheckResult result = check(shell(
      "test -e /proc/$$/fd/200 && echo inherited; "
      "echo $SLUICE_SERVICE $SLUICE_BACKEND $SLUICE_ADDRESS $SLUICE_PORT $SLUICE_VIP $SLUICE_TIMEOUT_MS "
      "[$SECRET_OF_THE_DAEMON] $(wc -c)"));
  close(kOfTheDaemon);
  EXPECT_EQ(result.detail, "web b1 2001:db8::7 8080 203.0.113.10 10000 [] 0");
}

TEST_F(CommandTest, ArgumentsReachItAsTheyAre) {
  CheckTarget wanted = shell("");
  wanted.config.command = {"/bin/echo", "a b", "$HOME", "*", "'"};
  EXPECT_EQ(check(wanted).detail, "a b $HOME * '");
}

TEST_F(CommandTest, OneThatHangsIsEndedWithAllItsChildrenWhateverTheyIgnore) {
  CheckTarget wanted =
      shell("trap '' TERM INT HUP; (trap '' TERM HUP; echo $$; exec sleep 1000) & echo $! > " +
            (folder_ / "child").string() + "; echo $$ > " + (folder_ / "self").string() +
            "; while :; do sleep 1; done");
  wanted.config.timeout = Milliseconds(500);
  const CheckResult result = check(wanted);
  EXPECT_EQ(result.code, CheckCode::proctout);
  ASSERT_GT(pid_in("self"), 0);
  ASSERT_GT(pid_in("child"), 0);
  run_until([&] { return is_gone(pid_in("self")) && is_gone(pid_in("child")); });
  run_until([&] { return *tools_.commands_running() == 0; });
}

TEST_F(CommandTest, WhatItLeavesRunningDoesNotOutliveItNorDelayIt) {
  CheckTarget wanted = shell("sleep 1000 & echo $! > " + (folder_ / "child").string() + "; exit 0");
  EXPECT_EQ(check(wanted).code, CheckCode::procok);
  ASSERT_GT(pid_in("child"), 0);
  run_until([&] { return is_gone(pid_in("child")); });
}

TEST_F(CommandTest, ACheckThatIsCalledOffEndsItsCommand) {
  auto probe = Probe::start(tools_,
                            std::make_shared<const CheckTarget>(
                                shell("echo $$ > " + (folder_ / "self").string() + "; exec sleep 1000")),
                            [](const CheckResult&) { FAIL(); });
  run_until([&] { return pid_in("self") > 0; });
  probe.reset();
  run_until([&] { return is_gone(pid_in("self")); });
  run_until([&] { return *tools_.commands_running() == 0; });
}

TEST_F(CommandTest, MuchOutputIsReadAndForgottenAndTooMuchEndsIt) {
  const CheckResult much = check(shell("echo first; head -c 900000 /dev/zero; exit 0"));
  EXPECT_EQ(much.code, CheckCode::procok);
  EXPECT_EQ(much.detail, "first");
  const CheckResult too_much = check(shell("yes"));
  EXPECT_EQ(too_much.code, CheckCode::procerr);
  EXPECT_EQ(too_much.detail, "it printed more than a mebibyte, and was killed");
}

TEST_F(CommandTest, WhatIsPrintedCannotBreakATableOrALog) {
  const CheckResult result = check(shell("printf 'a\\033[31m\\tb'; head -c 2000 /dev/zero | tr '\\0' x"));
  EXPECT_EQ(result.detail.substr(0, 8), "a?[31m?b");
  EXPECT_EQ(result.detail.size(), kCheckDetailBytesMax);
}

// It says nothing about the backend that this host lacks the program.
TEST_F(CommandTest, AProgramThatIsNotThereIsNoVerdict) {
  CheckTarget wanted = shell("");
  wanted.config.command = {"/nonexistent/check"};
  const CheckResult result = check(wanted);
  EXPECT_EQ(result.code, CheckCode::none);
  EXPECT_EQ(result.detail, "cannot run /nonexistent/check: No such file or directory");
}

}  // namespace
}  // namespace sluice
