#include "controlplane/client.h"

#include <errno.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <optional>
#include <thread>

#include <limits.h>

#include "controlplane/message.h"

namespace sluice {
namespace {

using nlohmann::json;
using Clock = std::chrono::steady_clock;

constexpr std::chrono::milliseconds kBusyPause{50};

class Connection {
 public:
  Connection() : fd_(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)) {}
  ~Connection() { close(fd_); }
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;
  int fd() const { return fd_; }

 private:
  const int fd_;
};

Answer failed(int exit_code, std::string what, std::string remedy) {
  return {exit_code, nullptr, {std::move(what), std::move(remedy)}};
}

Answer unreachable(const std::string& path, int code) {
  const std::string what = "no sluiced answers on " + path + ": " + std::strerror(code);
  if (code == EACCES || code == EPERM) return failed(kExitUnreachable, what, "run sluice with sudo");
  return failed(kExitUnreachable, what, "start it: sluiced CONFIG (with the same --dir), or give its --dir");
}

// Waits until the socket is ready for `events`; false when the deadline (max(): none) has passed.
bool ready(int fd, short events, Clock::time_point deadline) {
  for (;;) {
    int wait_ms = -1;
    if (deadline != Clock::time_point::max()) {
      const auto left =
          std::chrono::duration_cast<std::chrono::milliseconds>(deadline - Clock::now()).count();
      wait_ms = static_cast<int>(std::clamp<int64_t>(left, 0, INT_MAX));
    }
    pollfd waiting = {fd, events, 0};
    const int got = poll(&waiting, 1, wait_ms);
    if (got > 0) return true;
    if (got == 0 || errno != EINTR) return false;
  }
}

using LineHandler = std::function<bool(const json&)>;

class Exchange {
 public:
  Exchange(const std::string& path, std::chrono::milliseconds timeout)
      : path_(path), timeout_(timeout), deadline_(Clock::now() + timeout) {}

  // Nothing when all of it was sent, or when sluiced has answered before it had read all.
  std::optional<Answer> send_line(const std::string& line) {
    sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    if (path_.size() >= sizeof address.sun_path) return unreachable(path_, ENAMETOOLONG);
    std::memcpy(address.sun_path, path_.c_str(), path_.size());
    // Connecting waits while sluiced has no time to accept.
    const timeval limit = {timeout_.count() / 1000, timeout_.count() % 1000 * 1000 + 1};
    setsockopt(connection_.fd(), SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
    if (connect(connection_.fd(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0)
      return errno == EAGAIN ? too_late() : unreachable(path_, errno);
    for (size_t sent = 0; sent < line.size();) {
      if (!ready(connection_.fd(), POLLOUT, deadline_)) return too_late();
      const ssize_t n =
          send(connection_.fd(), line.data() + sent, line.size() - sent, MSG_NOSIGNAL | MSG_DONTWAIT);
      if (n < 0 && errno == EPIPE) return std::nullopt;
      if (n < 0 && errno != EAGAIN && errno != EINTR) return unreachable(path_, errno);
      if (n > 0) sent += static_cast<size_t>(n);
    }
    return std::nullopt;
  }

  // The next line, as the response.
  Answer receive(bool has_limit) {
    size_t end;
    while ((end = received_.find('\n', searched_)) == std::string::npos) {
      searched_ = received_.size();
      if (!ready(connection_.fd(), POLLIN, has_limit ? deadline_ : Clock::time_point::max()))
        return too_late();
      char part[64 * 1024];
      const ssize_t n = recv(connection_.fd(), part, sizeof part, MSG_DONTWAIT);
      if (n < 0 && (errno == EAGAIN || errno == EINTR)) continue;
      if (n <= 0) return unreachable(path_, n == 0 ? ECONNRESET : errno);
      received_.append(part, static_cast<size_t>(n));
    }
    Answer answer;
    answer.response =
        json::parse(std::string_view(received_).substr(0, end), nullptr, /*allow_exceptions=*/false);
    received_.erase(0, end + 1);
    searched_ = 0;
    if (!answer.response.is_object() || answer.response.value("v", 0) != kProtocolVersion) {
      return failed(kExitFailure, "the answer on " + path_ + " is not of this version's protocol",
                    "use the sluice and sluiced of one build");
    }
    return answer;
  }

 private:
  Answer too_late() const {
    return failed(kExitTimeout, "sluiced did not answer within " + std::to_string(timeout_.count()) + " ms",
                  "give a longer --timeout");
  }

  const std::string path_;
  const std::chrono::milliseconds timeout_;
  const Clock::time_point deadline_;
  const Connection connection_;
  std::string received_;
  size_t searched_ = 0;
};

Answer exchange(const std::string& path, const std::string& line, std::chrono::milliseconds timeout,
                const LineHandler& on_line) {
  Exchange exchange(path, timeout);
  if (std::optional<Answer> fault = exchange.send_line(line)) return *std::move(fault);
  for (bool is_first = true;; is_first = false) {
    Answer answer = exchange.receive(is_first);
    if (answer.exit_code != kExitOk || answer.response.contains("ok")) return answer;
    if (!on_line(answer.response)) return Answer();
  }
}

}  // namespace

Answer follow_daemon(const std::string& directory, const json& request, std::chrono::milliseconds timeout,
                     const LineHandler& on_line) {
  const std::string path = socket_path(directory);
  const std::string line = to_line(request);
  const Clock::time_point deadline = Clock::now() + timeout;
  for (;;) {
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(deadline - Clock::now());
    Answer answer = exchange(path, line, std::max(left, std::chrono::milliseconds(1)), on_line);
    const bool is_busy = answer.exit_code == kExitOk && answer.response.is_object() &&
                         answer.response.value("code", "") == kCodeBusy;
    if (!is_busy || Clock::now() + kBusyPause >= deadline) return answer;
    std::this_thread::sleep_for(kBusyPause);
  }
}

Answer ask_daemon(const std::string& directory, const json& request, std::chrono::milliseconds timeout) {
  return follow_daemon(directory, request, timeout, [](const json&) { return true; });
}

}  // namespace sluice
