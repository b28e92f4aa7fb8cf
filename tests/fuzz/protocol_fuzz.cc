// Arbitrary bytes on the control socket of a whole sluiced: each line gets one answer, which is JSON and says
// whether it worked; then sluiced still serves others. Never a crash.
//
// Needs no root: the services are on loopback, unchecked, and no data plane runs. Inputs that could make
// sluiced read or write other files, or run commands, are left out: those commands are tested elsewhere.
#include <errno.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include <spdlog/spdlog.h>

#include "controlplane/daemon.h"
#include "controlplane/message.h"

namespace sluice {
namespace {

using nlohmann::json;
using std::chrono::milliseconds;

constexpr const char* kConfig = R"(
[[service]]
name = "web"
vip = "127.0.0.100"
port = 80
protocol = "tcp"
forward = "ipip"
health = { type = "none" }
backend = [ { name = "b1", address = "127.0.0.11" }, { name = "b2", address = "127.0.0.12" } ]
)";
// How long a request may stay without its answer, which nobody waits for: a stream has none.
constexpr int kStepsMax = 200;

void must(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "invariant broken: %s\n", what);
  std::abort();
}

// One for the whole run; removed when the fuzzer ends.
class Target {
 public:
  Target() {
    spdlog::set_level(spdlog::level::off);
    char name[] = "/tmp/sluice-fuzz-XXXXXX";
    must(mkdtemp(name) != nullptr, "there is a folder");
    folder_ = name;
    std::ofstream(folder_ + "/fuzz.toml") << kConfig;
    std::vector<Diagnostic> errors;
    DaemonOptions options;
    options.config_path = folder_ + "/fuzz.toml";
    options.directory = folder_;
    options.state_directory = folder_ + "/state";
    auto started = Daemon::start(io_, options, errors);
    must(errors.empty(), "the configuration is right");
    must(static_cast<bool>(started), "sluiced starts");
    daemon_ = std::move(*started);
    spdlog::set_level(spdlog::level::off);
  }
  ~Target() {
    daemon_.reset();
    std::filesystem::remove_all(folder_);
  }

  // What comes back for these bytes and the end of the requests.
  std::string exchange(std::string_view bytes) {
    const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    std::strncpy(address.sun_path, socket_path(folder_).c_str(), sizeof address.sun_path - 1);
    must(connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0, "sluiced can be connected");
    std::string received;
    bool has_ended = false;
    for (int step = 0; step < kStepsMax && !has_ended; step++) {
      if (!bytes.empty()) {
        const ssize_t sent = send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL);
        if (sent > 0) bytes.remove_prefix(static_cast<size_t>(sent));
        if (sent < 0 && errno != EAGAIN) bytes = {};
        if (bytes.empty()) shutdown(fd, SHUT_WR);
      }
      io_.restart();
      if (io_.poll() == 0) io_.run_one_for(milliseconds(1));
      char part[65'536];
      ssize_t got;
      while ((got = recv(fd, part, sizeof part, 0)) > 0)
        received.append(part, static_cast<size_t>(got));
      has_ended = got == 0 || (got < 0 && errno != EAGAIN);
    }
    close(fd);
    return received;
  }

 private:
  boost::asio::io_context io_{1};
  std::string folder_;
  std::unique_ptr<Daemon> daemon_;
};

bool is_left_out(std::string_view bytes) {
  // Also as JSON's escapes, with which any name could be written.
  for (const char* word : {"apply", "hook", "file", "write", "config.", "\\u"}) {
    if (bytes.find(word) != std::string_view::npos) return true;
  }
  return false;
}

}  // namespace
}  // namespace sluice

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace sluice;
  static Target target;
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  if (is_left_out(bytes)) return 0;
  if (size == 0) return 0;  // an exchange needs a byte
  const std::string received = target.exchange(bytes);
  size_t answers = 0;
  for (size_t at = 0; at < received.size();) {
    const size_t end = received.find('\n', at);
    if (end == std::string::npos) break;  // of a stream that was left
    const json line = json::parse(received.begin() + static_cast<ptrdiff_t>(at),
                                  received.begin() + static_cast<ptrdiff_t>(end), nullptr, false);
    must(line.is_object() && line.value("v", 0) == kProtocolVersion,
         "each line is an object of this version");
    if (const auto ok = line.find("ok"); ok != line.end()) {
      answers++;
      must(ok->is_boolean(), "an answer says whether it worked");
      must(ok->get<bool>() || !line.value("error", "").empty(), "a refusal says why");
    }
    at = end + 1;
  }
  const auto lines = static_cast<size_t>(std::count(bytes.begin(), bytes.end(), '\n'));
  must(answers <= lines + 1, "no line has two answers");
  const std::string other = target.exchange("{\"v\":1,\"cmd\":\"show.services\"}\n");
  must(other.find("\"ok\":true") != std::string::npos, "others are still served");
  return 0;
}
