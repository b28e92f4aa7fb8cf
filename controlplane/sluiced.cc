// sluiced: the control plane daemon. See controlplane/daemon.h for what it does.
#include <signal.h>
#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <future>
#include <map>
#include <string>
#include <thread>
#include <vector>

#include <CLI/CLI.hpp>
#include <boost/asio/io_context.hpp>
#include <spdlog/async.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include "controlplane/config.h"
#include "controlplane/daemon.h"
#include "controlplane/exit_codes.h"
#include "controlplane/state_file.h"
#include "src/segment.h"

namespace sluice {
namespace {

constexpr const char* kStateLock = "state";
constexpr rlim_t kDescriptorsWanted = 65'536;
constexpr rlim_t kDescriptorsKept = 1024;  // for clients, segments and logs, beside the checks' sockets

// As many descriptors as the system lets us have; says how many checks may run at once with them.
uint32_t raise_descriptor_limit() {
  rlimit limit = {};
  getrlimit(RLIMIT_NOFILE, &limit);
  const rlim_t wanted = std::min<rlim_t>(limit.rlim_max, kDescriptorsWanted);
  if (limit.rlim_cur < wanted) {
    limit.rlim_cur = wanted;
    setrlimit(RLIMIT_NOFILE, &limit);
    getrlimit(RLIMIT_NOFILE, &limit);
  }
  const rlim_t spare =
      limit.rlim_cur > 2 * kDescriptorsKept ? limit.rlim_cur - kDescriptorsKept : limit.rlim_cur / 2;
  return static_cast<uint32_t>(std::min<rlim_t>(spare, DaemonOptions().checks_at_a_time));
}

// Who reads the log may stand still (a full pipe, a disk that does not answer). A thread waits for it, and
// lines that find no place in its queue push out the oldest: checks and changes never wait. `sluice show
// events` has them.
constexpr size_t kLogLinesQueued = 8192;
constexpr std::chrono::seconds kLogPatienceAtEnd{1};

void begin_log() {
  spdlog::init_thread_pool(kLogLinesQueued, 1);
  spdlog::set_default_logger(spdlog::create_async_nb<spdlog::sinks::stderr_sink_st>("sluiced"));
  spdlog::flush_on(spdlog::level::debug);
}

// Does not return: static destructors would wait for that thread.
[[noreturn]] void exit_when_logged(int status) {
  std::promise<void> done;
  std::future<void> is_done = done.get_future();
  std::thread([done = std::move(done)]() mutable {
    spdlog::shutdown();
    done.set_value();
  }).detach();
  is_done.wait_for(kLogPatienceAtEnd);
  std::_Exit(status);
}

int fail(const Error& error) {
  std::fprintf(stderr, "sluiced: %s\n", error.text().c_str());
  return kExitFailure;
}

std::string state_directory(const std::string& option, const std::string& directory) {
  if (!option.empty()) return option;
  if (const char* from_environment = std::getenv("SLUICE_STATE");
      from_environment != nullptr && *from_environment)
    return from_environment;
  return std::string("/var/lib/sluice/") +
         (directory == kDefaultDirectory ? "default" : instance_name(directory));
}

int run(const std::string& config_path, const std::string& directory, const std::string& state,
        Events::LogFormat log_format, Event::Level log_least) {
  if (const Result<Done> made = make_instance_directory(directory); !made) return fail(made.error());
  const Result<InstanceLock> lock = InstanceLock::acquire(directory, kDaemonLock);
  if (!lock) return fail(lock.error());
  // Without a lock where it cannot be written: that is told later, and the instance runs.
  (void)make_state_directory(state);
  const Result<InstanceLock> state_lock = InstanceLock::acquire(state, kStateLock);
  if (!state_lock && InstanceLock::is_held(state, kStateLock))
    return fail(
        {"another sluiced keeps its state in " + state, "give this one a directory of its own with --state"});
  signal(SIGPIPE, SIG_IGN);  // a log reader that goes away must not end the daemon
  boost::asio::io_context io(1);
  DaemonOptions options{std::filesystem::absolute(config_path).lexically_normal().string(), directory, state,
                        raise_descriptor_limit()};
  options.log_format = log_format;
  options.log_least = log_least;
  std::vector<Diagnostic> errors;
  const Result<std::unique_ptr<Daemon>> daemon = Daemon::start(io, options, errors);
  for (const Diagnostic& error : errors)
    std::fprintf(stderr, "%s\n", error.text().c_str());
  if (!errors.empty()) return exit_code_of(errors);
  if (!daemon) return fail(daemon.error());
  io.run();
  return kExitOk;
}

}  // namespace
}  // namespace sluice

int main(int argc, char** argv) {
  CLI::App app("sluiced, the control plane of the Sluice load balancer", "sluiced");
  std::string config_path, directory, state;
  app.add_option("CONFIG", config_path, "configuration file (TOML)")->required();
  app.add_option("--dir", directory, "directory of the instance (default: $SLUICE_DIR or /dev/shm/sluice)");
  app.add_option(
      "--state", state,
      "directory for what is kept over a reboot (default: $SLUICE_STATE or below /var/lib/sluice)");
  auto log_format = sluice::Events::LogFormat::text;
  app.add_option("--log-format", log_format, "text, or json: one event a line")
      ->transform(CLI::CheckedTransformer(std::map<std::string, sluice::Events::LogFormat>{
          {"text", sluice::Events::LogFormat::text}, {"json", sluice::Events::LogFormat::json}}))
      ->option_text("text|json");
  auto log_least = sluice::Event::Level::info;
  app.add_option("--log-level", log_least, "what is logged from here on: debug has each check's result")
      ->transform(CLI::CheckedTransformer(
          std::map<std::string, sluice::Event::Level>{{"debug", sluice::Event::Level::debug},
                                                      {"info", sluice::Event::Level::info},
                                                      {"warning", sluice::Event::Level::warning},
                                                      {"error", sluice::Event::Level::error}}))
      ->option_text("debug|info|warning|error");
  app.set_version_flag("--version", std::string("sluiced " SLUICE_VERSION));
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? sluice::kExitOk : sluice::kExitUsage;
  }
  sluice::begin_log();
  directory = sluice::instance_directory(directory);
  sluice::exit_when_logged(
      sluice::run(config_path, directory, sluice::state_directory(state, directory), log_format, log_least));
}
