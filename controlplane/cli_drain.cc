// sluice backend drain --wait: until the flows are gone, or are reset.
#include <unistd.h>

#include <cstdio>
#include <thread>

#include <fmt/format.h>

#include "controlplane/cli.h"
#include "controlplane/exit_codes.h"
#include "controlplane/message.h"

namespace sluice {
namespace {

using nlohmann::json;
using Clock = std::chrono::steady_clock;

constexpr std::chrono::milliseconds kPoll{500};

// What a backend has by now.
struct Left {
  uint64_t flows = 0;
  uint64_t sessions = 0;
  size_t reset = 0;       // backends that were reset,
  double reset_in_s = 0;  // or will be; 0: nobody will
  std::string ready;      // one that is not drained any more
};

int count_left(const Arguments& arguments, const std::string& name, Left& left) {
  const size_t slash = name.find('/');
  Arguments quiet = arguments;
  quiet.as_json = false;
  return answer(
      quiet,
      {{"cmd", "show.backends"}, {"service", name.substr(0, slash)}, {"backend", name.substr(slash + 1)}},
      [&](const json& response) {
        for (const json& backend : response.at("backends")) {
          left.flows += backend.at("flows_active").get<uint64_t>();
          left.sessions += backend.at("sessions_active").get<uint64_t>();
          left.reset_in_s = std::max(left.reset_in_s, backend.value("reset_in_s", 0.0));
          if (backend.at("admin") == "reset") left.reset++;
          if (backend.at("admin") == "ready") left.ready = name;
        }
        return kExitOk;
      });
}

// One line that is written over, on a terminal; elsewhere nothing: logs are no place for progress.
class Progress {
 public:
  void say(const std::string& line) {
    if (!is_terminal_) return;
    std::fprintf(stderr, "\r%-*s", static_cast<int>(width_), line.c_str());
    std::fflush(stderr);
    width_ = line.size();
  }
  ~Progress() {
    if (is_terminal_ && width_ > 0) std::fprintf(stderr, "\r%-*s\r", static_cast<int>(width_), "");
  }

 private:
  const bool is_terminal_ = isatty(STDERR_FILENO) == 1;
  size_t width_ = 0;
};

std::string flows_text(uint64_t flows) {
  return flows == 1 ? "1 flow" : fmt::format("{} flows", flows);
}

}  // namespace

int wait_until_drained(const Arguments& arguments, const std::vector<std::string>& backends,
                       std::chrono::milliseconds limit) {
  const Clock::time_point began = Clock::now();
  const std::string who =
      backends.size() == 1 ? backends.front() : fmt::format("{} backends", backends.size());
  Progress progress;
  for (;;) {
    Left left;
    for (const std::string& backend : backends) {
      if (const int code = count_left(arguments, backend, left); code != kExitOk) return code;
    }
    const uint64_t flows = left.flows;
    if (!left.ready.empty()) {
      progress.say("");
      complain({left.ready + " is ready again: somebody ended the drain", ""});
      return kExitFailure;
    }
    const auto waited = std::chrono::duration_cast<std::chrono::milliseconds>(Clock::now() - began);
    const double waited_s = static_cast<double>(waited.count()) / 1e3;
    const bool is_reset = flows > 0 && left.reset == backends.size();
    const bool is_late = flows > 0 && !is_reset && waited >= limit;
    if (flows > 0 && !is_reset && !is_late) {
      progress.say(
          fmt::format("{}: {} left after {:.0f} s{}", who, flows_text(flows), waited_s,
                      left.reset_in_s == 0 ? "" : fmt::format(", reset in {:.0f} s", left.reset_in_s)));
      std::this_thread::sleep_for(std::min(kPoll, limit - waited));
      continue;
    }
    if (arguments.as_json) {
      print(to_line({{"v", kProtocolVersion},
                     {"ok", !is_late},
                     {"flows", flows},
                     {"reset", is_reset},
                     {"waited_s", waited_s}}));
    } else if (is_reset) {
      print(fmt::format("{}: reset after {:.1f} s; {} left, whose clients are told with their next packet\n",
                        who, waited_s, flows_text(flows)));
    } else if (!is_late) {
      print(fmt::format("{}: no flows left after {:.1f} s\n", who, waited_s));
    }
    if (!is_late) return kExitOk;
    progress.say("");
    const bool comes_back = left.sessions > 0 && !arguments.migrate;
    complain({fmt::format("{}: {} left after {:.0f} s; {}", who, flows_text(flows), waited_s,
                          comes_back ? fmt::format("clients of {} sessions still come", left.sessions)
                                     : "no new ones come"),
              comes_back ? "send them elsewhere: sluice backend drain --migrate " + backends.front()
                         : "wait again with a longer --timeout, or end them: sluice backend reset " +
                               backends.front()});
    return kExitTimeout;
  }
}

}  // namespace sluice
