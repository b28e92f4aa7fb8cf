// The client of added_latency.py: closed loops over TCP. Each connection, a thread of its own, asks, waits
// for the whole answer, thinks, and asks again; the time is from before the request's send() to after the
// answer's last recv().
//
//   latency_client ADDRESS PORT CONNECTIONS REQUESTS WARM_UP THINK_US
//
// REQUESTS are those of each connection, after WARM_UP that are not counted. It thinks for half to one and a
// half times THINK_US, drawn at random, so that connections do not fall into step. Prints nanoseconds, one
// request a line; anything but "200" is an error. Times are kept in memory until the end; the threads share
// nothing.
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

namespace {

using Clock = std::chrono::steady_clock;

struct Options {
  sockaddr_in server{};
  std::string request;
  int connections, requests, warm_up;
  int64_t think_ns;
};

[[noreturn]] void fail(const char* what) {
  std::fprintf(stderr, "error: %s: %s\n", what, std::strerror(errno));
  std::exit(1);
}

int connect_to(const sockaddr_in& server) {
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const int on = 1;
  const timeval patience{.tv_sec = 5, .tv_usec = 0};
  if (fd < 0 || setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)) != 0 ||
      setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience)) != 0 ||
      setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience)) != 0 ||
      connect(fd, reinterpret_cast<const sockaddr*>(&server), sizeof(server)) != 0)
    fail("connect");
  return fd;
}

// Of the answer whose head is complete in `text`; 0: the head is not complete yet.
size_t answer_size(std::string_view text) {
  const size_t head = text.find("\r\n\r\n");
  if (head == std::string_view::npos) return 0;
  constexpr std::string_view name = "Content-Length: ";
  const size_t length = text.find(name);
  if (!text.starts_with("HTTP/1.1 200 ") || length > head) {
    std::fprintf(stderr, "error: answered \"%.*s\"\n", static_cast<int>(text.find("\r\n")), text.data());
    std::exit(1);
  }
  return head + 4 + static_cast<size_t>(std::atoi(text.data() + length + name.size()));
}

void ask(int fd, std::string_view request) {
  char answer[4096];
  if (send(fd, request.data(), request.size(), MSG_NOSIGNAL) != static_cast<ssize_t>(request.size()))
    fail("send");
  for (size_t received = 0, size = 0; size == 0 || received < size;) {
    const ssize_t more = recv(fd, answer + received, sizeof(answer) - 1 - received, 0);
    if (more <= 0) fail("recv");
    received += static_cast<size_t>(more);
    answer[received] = '\0';
    if (size == 0) size = answer_size({answer, received});
  }
}

void loop(const Options& options, int number, std::vector<int64_t>& times_ns) {
  prctl(PR_SET_TIMERSLACK, 1UL);  // else a sleep is up to 50 us longer
  std::minstd_rand random(static_cast<unsigned>(number + 1));
  std::uniform_int_distribution<int64_t> think_ns(options.think_ns / 2, options.think_ns * 3 / 2);
  const int fd = connect_to(options.server);
  for (int i = -options.warm_up; i < options.requests; ++i) {
    const auto began = Clock::now();
    ask(fd, options.request);
    const auto ended = Clock::now();
    if (i >= 0) times_ns[static_cast<size_t>(i)] = (ended - began).count();
    if (options.think_ns > 0) std::this_thread::sleep_for(std::chrono::nanoseconds(think_ns(random)));
  }
  close(fd);
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  if (argc != 7 || inet_pton(AF_INET, argv[1], &options.server.sin_addr) != 1) {
    std::fprintf(stderr, "usage: latency_client ADDRESS PORT CONNECTIONS REQUESTS WARM_UP THINK_US\n");
    return 2;
  }
  options.server.sin_family = AF_INET;
  options.server.sin_port = htons(static_cast<uint16_t>(std::atoi(argv[2])));
  options.request = "GET / HTTP/1.1\r\nHost: " + std::string(argv[1]) + "\r\n\r\n";
  options.connections = std::atoi(argv[3]);
  options.requests = std::atoi(argv[4]);
  options.warm_up = std::atoi(argv[5]);
  options.think_ns = std::atoll(argv[6]) * 1000;

  std::vector<std::vector<int64_t>> times(static_cast<size_t>(options.connections));
  std::vector<std::thread> threads;
  for (int i = 0; i < options.connections; ++i) {
    auto& mine = times[static_cast<size_t>(i)];
    mine.resize(static_cast<size_t>(options.requests));
    threads.emplace_back([&options, i, &mine] { loop(options, i, mine); });
  }
  for (auto& thread : threads)
    thread.join();
  for (const auto& mine : times)
    for (const int64_t time : mine)
      std::printf("%lld\n", static_cast<long long>(time));
}
