// Health checks a second that one thread makes, against servers on the loopback interface that run as another
// process on the other CPUs: name/checks a second/seconds. Items are checks.
//
//   cpu_percent   of one CPU, all of this process; the kernel's work for a connect on the loopback interface,
//                 the server's half of the handshake included, is part of it
//   late_max_us   the most that a check began after its time
//   missed        places in time without a check
//   good, bad     verdicts
//
// `dead_tenth`: every tenth backend takes the connection and never answers, until the timeout of 500 ms.
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sched.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cassert>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <string>
#include <string_view>

#include <benchmark/benchmark.h>
#include <boost/asio/io_context.hpp>

#include "controlplane/health.h"
#include "perf/cpus.h"

namespace sluice {
namespace {

using Type = HealthConfig::Type;
constexpr uint32_t kConcurrentMax = 16'384;  // as sluiced's

void allow_descriptors() {
  rlimit limit = {};
  getrlimit(RLIMIT_NOFILE, &limit);
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
}

// A port on all loopback addresses.
int listen_somewhere(uint16_t& port) {
  const int descriptor = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  socklen_t bytes = sizeof address;
  [[maybe_unused]] int failed = bind(descriptor, reinterpret_cast<sockaddr*>(&address), bytes);
  failed |= listen(descriptor, 4096);
  failed |= getsockname(descriptor, reinterpret_cast<sockaddr*>(&address), &bytes);
  assert(descriptor >= 0 && failed == 0);
  port = ntohs(address.sin_port);
  return descriptor;
}

// Accepts everything, answers each request on one of the two ports, and lets go of what the client lets go
// of.
class Servers {
 public:
  Servers() {
    const int answering = listen_somewhere(answering_port_);
    const int silent = listen_somewhere(silent_port_);
    child_ = fork();
    if (child_ == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      sched_setaffinity(0, sizeof(cpu_set_t), &perf::other_cpus());
      serve(answering, silent);
    }
    close(answering);
    close(silent);
  }
  ~Servers() {
    kill(child_, SIGKILL);
    waitpid(child_, nullptr, 0);
  }
  uint16_t answering_port() const { return answering_port_; }
  uint16_t silent_port() const { return silent_port_; }

 private:
  [[noreturn]] static void serve(int answering, int silent) {
    const int epoll = epoll_create1(EPOLL_CLOEXEC);
    const auto add = [epoll](int descriptor) {
      epoll_event event = {};
      event.events = EPOLLIN;
      event.data.fd = descriptor;
      epoll_ctl(epoll, EPOLL_CTL_ADD, descriptor, &event);
    };
    add(answering);
    add(silent);
    for (;;) {
      epoll_event events[256];
      const int count = epoll_wait(epoll, events, 256, -1);
      for (int i = 0; i < count; i++) {
        const int ready = events[i].data.fd;
        if (ready != answering && ready != silent) {
          answer(ready);
          continue;
        }
        for (int client; (client = accept4(ready, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0;) {
          if (ready == answering) add(client);  // else: never looked at again
        }
      }
    }
  }
  static void answer(int client) {
    static constexpr std::string_view kAnswer = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    char request[1024];
    if (recv(client, request, sizeof request, 0) <= 0 ||
        send(client, kAnswer.data(), kAnswer.size(), MSG_NOSIGNAL) < 0)
      close(client);
  }

  uint16_t answering_port_ = 0, silent_port_ = 0;
  pid_t child_ = -1;
};

double cpu_seconds() {
  timespec time = {};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) / 1e9;
}

struct Verdicts {
  uint64_t good = 0, bad = 0, impossible = 0;
};

// As many backends as checks a second, each checked once a second.
void checks(benchmark::State& state, Type type, bool dead_tenth) {
  allow_descriptors();
  const Servers servers;
  boost::asio::io_context io(1);
  Verdicts seen;
  HealthChecker checker(io, kConcurrentMax, [&](BackendId, const CheckResult& result, Health) {
    (result.code == CheckCode::none ? seen.impossible : result.is_good() ? seen.good : seen.bad)++;
  });
  CheckTarget target;
  target.config.type = type;
  target.config.host = "203.0.113.10";
  target.config.interval = target.config.fast_interval = std::chrono::seconds(1);
  target.config.timeout = Milliseconds(500);
  const auto backends = static_cast<uint32_t>(state.range(0));
  for (uint32_t i = 0; i < backends; i++) {
    const bool dead = dead_tenth && i % 10 == 0;
    target.address = IpAddress::v4(htonl(0x7f010000 + i));
    target.port = dead ? servers.silent_port() : servers.answering_port();
    checker.watch(BackendId{i}, target, dead ? Health::down : Health::up);
  }
  // The first checks, all at once, are another question.
  io.run_for(std::chrono::milliseconds(2500));

  const auto seconds = static_cast<uint32_t>(state.range(1));
  for ([[maybe_unused]] auto _ : state) {
    const Verdicts seen_before = seen;
    const CheckerTotals before = checker.totals();
    checker.forget_late_max();
    const double cpu_before = cpu_seconds();
    io.run_for(std::chrono::seconds(seconds));
    const double cpu = cpu_seconds() - cpu_before;
    const CheckerTotals after = checker.totals();
    const auto started = static_cast<double>(after.started - before.started);
    state.counters["checks_per_s"] = started / seconds;
    state.counters["cpu_percent"] = 100 * cpu / seconds;
    state.counters["cpu_us_per_check"] = 1e6 * cpu / started;
    state.counters["late_max_us"] = static_cast<double>(after.late_max_us);
    state.counters["missed"] = static_cast<double>(after.missed - before.missed);
    state.counters["good"] = static_cast<double>(seen.good - seen_before.good);
    state.counters["bad"] = static_cast<double>(seen.bad - seen_before.bad);
    state.counters["no_verdict"] = static_cast<double>(seen.impossible - seen_before.impossible);
    // Every place in time had its check, or is counted.
    const uint64_t places = after.started - before.started + after.missed - before.missed;
    const uint64_t expected = uint64_t{backends} * seconds;
    if (places + backends / 20 < expected || places > expected + backends / 20)
      state.SkipWithError("places in time were lost");
    if (seen.good == seen_before.good) state.SkipWithError("no check was good");
  }
}

void sizes(benchmark::internal::Benchmark* benchmark) {
  benchmark->Args({200, 1})->Args({1'000, 5})->Args({10'000, 10})->Iterations(1)->UseRealTime();
}
BENCHMARK_CAPTURE(checks, tcp, Type::tcp, false)->Apply(sizes);
BENCHMARK_CAPTURE(checks, http_dead_tenth, Type::http, true)->Apply(sizes);
BENCHMARK_CAPTURE(checks, http, Type::http, false)->Apply(sizes);

}  // namespace
}  // namespace sluice
