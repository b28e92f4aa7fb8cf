// Checks by a command: good when its exit status is 0.
#include <signal.h>

#include <cstdlib>
#include <memory>

#include <string.h>

#include "controlplane/child_process.h"
#include "controlplane/probe_run.h"

namespace sluice {
namespace {

std::vector<std::string> environment_of(const CheckTarget& target) {
  const char* path = std::getenv("PATH");
  return {
      std::string("PATH=") + (path != nullptr ? path : "/usr/local/bin:/usr/bin:/bin"),
      "SLUICE_SERVICE=" + target.service,
      "SLUICE_BACKEND=" + target.backend,
      "SLUICE_ADDRESS=" + target.backend_address.text(),
      "SLUICE_PORT=" + std::to_string(target.port),
      "SLUICE_VIP=" + target.vip.text(),
      "SLUICE_SOURCE=" + (target.config.source.is_set() ? target.config.source.text() : ""),
      "SLUICE_TIMEOUT_MS=" + std::to_string(target.config.timeout.count()),
  };
}

class CommandRun : public ProbeRun {
 public:
  CommandRun(ProbeTools& tools, TargetPtr target, Probe::Handler done)
      : ProbeRun(tools, std::move(target), std::move(done)) {}

 protected:
  void begin() override {
    const std::shared_ptr<uint32_t>& running = tools().commands_running();
    if (*running >= ProbeTools::kCommandsMax)
      return finish(CheckCode::none, "too many commands that do not end");
    ChildProcess::Command command;
    command.arguments = config().command;
    command.environment = environment_of(target());
    command.output_max = kCommandOutputBytesMax;
    // Counted until it is gone, which may be after this check's end.
    Result<std::unique_ptr<ChildProcess>> started = ChildProcess::start(
        tools().io(), command, [me = self<CommandRun>(), running](const ChildProcess::Exit& exit) {
          --*running;
          if (!me->over()) me->ended(exit);
        });
    // Not a verdict: it is this host that lacks the program.
    if (!started) return finish(CheckCode::none, started.error().what);
    ++*running;
    child_ = std::move(*started);
  }

  void close() override { child_.reset(); }

  Verdict when_late() const override {
    return {CheckCode::proctout, "the command did not end, and was killed"};
  }

 private:
  void ended(const ChildProcess::Exit& exit) {
    std::string said = exit.output.substr(0, exit.output.find('\n'));
    if (exit.too_long) return finish(CheckCode::procerr, "it printed more than a mebibyte, and was killed");
    if (exit.signal != 0)
      return finish(CheckCode::procerr, std::string("ended by SIG") + sigabbrev_np(exit.signal));
    if (exit.status == 0) return finish(CheckCode::procok, std::move(said));
    finish(CheckCode::procerr, "exit " + std::to_string(exit.status) + (said.empty() ? "" : ": ") + said);
  }

  std::unique_ptr<ChildProcess> child_;  // while it runs
};

}  // namespace

RunPtr make_command_run(ProbeTools& tools, TargetPtr target, Probe::Handler done) {
  return std::make_shared<CommandRun>(tools, std::move(target), std::move(done));
}

}  // namespace sluice
