#include "controlplane/client.h"

#include <errno.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "controlplane/message.h"

namespace sluice {
namespace {

using nlohmann::json;
using Clock = std::chrono::steady_clock;

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

// Waits until the socket is ready for `events`; false when the deadline has passed.
bool ready(int fd, short events, Clock::time_point deadline) {
  for (;;) {
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(deadline - Clock::now()).count();
    pollfd waiting = {fd, events, 0};
    const int got = poll(&waiting, 1, static_cast<int>(std::max<int64_t>(left, 0)));
    if (got > 0) return true;
    if (got == 0 || errno != EINTR) return false;
  }
}

}  // namespace

Answer ask_daemon(const std::string& directory, const json& request, std::chrono::milliseconds timeout) {
  const std::string path = socket_path(directory);
  const Clock::time_point deadline = Clock::now() + timeout;
  const Answer too_late =
      failed(kExitTimeout, "sluiced did not answer within " + std::to_string(timeout.count()) + " ms",
             "give a longer --timeout");
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path) return unreachable(path, ENAMETOOLONG);
  std::memcpy(address.sun_path, path.c_str(), path.size());
  const Connection connection;
  if (connect(connection.fd(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    return unreachable(path, errno);
  }

  const std::string line = to_line(request);
  for (size_t sent = 0; sent < line.size();) {
    if (!ready(connection.fd(), POLLOUT, deadline)) return too_late;
    const ssize_t n =
        send(connection.fd(), line.data() + sent, line.size() - sent, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n < 0 && errno != EAGAIN && errno != EINTR) return unreachable(path, errno);
    if (n > 0) sent += static_cast<size_t>(n);
  }
  std::string received;
  while (received.empty() || received.back() != '\n') {
    if (!ready(connection.fd(), POLLIN, deadline)) return too_late;
    char part[16 * 1024];
    const ssize_t n = recv(connection.fd(), part, sizeof part, MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) continue;
    if (n <= 0) return unreachable(path, n == 0 ? ECONNRESET : errno);
    received.append(part, static_cast<size_t>(n));
  }
  Answer answer;
  answer.response = json::parse(received, nullptr, /*allow_exceptions=*/false);
  if (!answer.response.is_object() || answer.response.value("v", 0) != kProtocolVersion) {
    return failed(kExitFailure, "the answer on " + path + " is not of this version's protocol",
                  "use the sluice and sluiced of one build");
  }
  return answer;
}

}  // namespace sluice
