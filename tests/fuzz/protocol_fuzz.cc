// Arbitrary bytes, in arbitrary pieces, on the control socket: each line gets one answer, in order, which is
// JSON and says whether it worked; then others are still served. Never a crash.
//
// The server alone, with a few commands of ours: they answer at once, later, in parts, or never. What the
// real commands do with wrong arguments is tested against a whole sluiced (tests/system/test_daemon.py).
//
// The first byte says how many bytes are sent at a time.
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
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>

#include "controlplane/protocol.h"

namespace sluice {
namespace {

using nlohmann::json;

constexpr int kRestsMax = 3;  // times in a row that nothing happens: then nothing will
constexpr int kPartsMax = 5;

void must(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "invariant broken: %s\n", what);
  std::abort();
}

json echo(const json& request) {
  json response = ok_response();
  response["echo"] = request;
  return response;
}

// One for the whole run; removed when the fuzzer ends.
class Target {
 public:
  Target() {
    char name[] = "/tmp/sluice-fuzz-XXXXXX";
    must(mkdtemp(name) != nullptr, "there is a folder");
    folder_ = name;
    auto listening = ProtocolServer::listen(
        io_, socket_path(folder_),
        [this](const json& request, uint64_t, const Reply& reply) { handle(request, reply); });
    must(static_cast<bool>(listening), "the server listens");
    server_ = std::move(*listening);
  }
  ~Target() {
    server_.reset();
    std::filesystem::remove_all(folder_);
  }

  // What comes back for these bytes and the end of the requests.
  std::string exchange(std::string_view bytes, size_t at_a_time) {
    const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    std::strncpy(address.sun_path, socket_path(folder_).c_str(), sizeof address.sun_path - 1);
    must(connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0, "one can connect");
    std::string received;
    bool has_ended = false, is_shut = false;
    for (int rests = 0; rests < kRestsMax && !has_ended;) {
      if (!bytes.empty()) {
        const ssize_t sent = send(fd, bytes.data(), std::min(bytes.size(), at_a_time), MSG_NOSIGNAL);
        if (sent > 0) bytes.remove_prefix(static_cast<size_t>(sent));
        if (sent < 0 && errno != EAGAIN) bytes = {};
      } else if (!is_shut) {
        shutdown(fd, SHUT_WR);
        is_shut = true;
      }
      io_.restart();
      const size_t did = io_.poll();
      char part[65'536];
      ssize_t got;
      size_t all = 0;
      while ((got = recv(fd, part, sizeof part, 0)) > 0) {
        received.append(part, static_cast<size_t>(got));
        all += static_cast<size_t>(got);
      }
      has_ended = got == 0 || (got < 0 && errno != EAGAIN);
      rests = bytes.empty() && did == 0 && all == 0 ? rests + 1 : 0;
    }
    close(fd);
    io_.restart();
    io_.poll();  // it sees that we are gone
    must(server_->clients() == 0, "nobody stays who has gone");
    return received;
  }

 private:
  void handle(const json& request, const Reply& reply) {
    const auto command = request.at("cmd").get<std::string>();
    if (command == "later") {
      boost::asio::post(io_, [request, reply] { reply(echo(request)); });
    } else if (command == "parts") {
      for (int i = 0; i < kPartsMax; i++)
        must(reply.part({{"v", kProtocolVersion}, {"part", i}}), "so little waits for anybody");
      reply.after_sent([request, reply] { reply(echo(request)); });
    } else if (command == "watch") {
      reply.part({{"v", kProtocolVersion}, {"kind", "watching"}});
      reply.on_close([reply] { reply(ok_response()); });
    } else {
      reply(echo(request));
      reply(ok_response());  // a second one is nobody's
    }
  }

  boost::asio::io_context io_{1};
  std::string folder_;
  std::unique_ptr<ProtocolServer> server_;
};

// The answers that these lines must get; a watch has none, and ends them.
std::vector<json> expected(std::string_view bytes) {
  std::vector<json> answers;
  while (!bytes.empty()) {
    const size_t end = bytes.find('\n');
    const ParsedRequest parsed = parse_request(bytes.substr(0, end));
    if (!parsed.refusal.is_null()) {
      answers.push_back(parsed.refusal);
    } else if (parsed.request.at("cmd") == "watch") {
      break;
    } else {
      answers.push_back(echo(parsed.request));
    }
    if (end == std::string_view::npos) break;
    bytes.remove_prefix(end + 1);
  }
  return answers;
}

}  // namespace
}  // namespace sluice

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace sluice;
  static Target target;
  if (size == 0) return 0;
  const size_t at_a_time = data[0] == 0 ? size : data[0];
  const std::string_view bytes(reinterpret_cast<const char*>(data) + 1, size - 1);
  const std::string received = target.exchange(bytes, at_a_time);
  must(received.empty() || received.back() == '\n', "an answer is a whole line");
  std::vector<json> answers;
  for (size_t at = 0; at < received.size();) {
    const size_t end = received.find('\n', at);
    json line = json::parse(received.begin() + static_cast<ptrdiff_t>(at),
                            received.begin() + static_cast<ptrdiff_t>(end), nullptr, false);
    must(line.is_object() && line.value("v", 0) == kProtocolVersion,
         "each line is an object of this version");
    if (line.contains("ok")) answers.push_back(std::move(line));
    at = end + 1;
  }
  const std::vector<json> wanted = expected(bytes);
  must(answers.size() == wanted.size(), "each line has one answer");
  for (size_t i = 0; i < answers.size(); i++)
    must(to_line(answers[i]) == to_line(wanted[i]), "the answers are in the order of the lines");
  must(target.exchange("{\"v\":1,\"cmd\":\"now\"}\n", 64).find("\"ok\":true") != std::string::npos,
       "others are still served");
  return 0;
}
