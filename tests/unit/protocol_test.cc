// The control socket: every request gets one answer, and no client disturbs another, whatever it sends.
#include "controlplane/protocol.h"

#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <gtest/gtest.h>

#include "controlplane/client.h"

namespace sluice {
namespace {

using nlohmann::json;

// A blocking client whose reads give up after a while.
class Client {
 public:
  explicit Client(const std::string& path) : fd_(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    std::strncpy(address.sun_path, path.c_str(), sizeof address.sun_path - 1);
    EXPECT_EQ(connect(fd_, reinterpret_cast<sockaddr*>(&address), sizeof address), 0) << std::strerror(errno);
    const timeval limit = {10, 0};
    setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
  }
  ~Client() { close(fd_); }
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  void send(const std::string& text) {
    for (size_t done = 0; done < text.size();) {
      const ssize_t n = ::send(fd_, text.data() + done, text.size() - done, MSG_NOSIGNAL);
      if (n <= 0) return;  // the server has closed: the reading side will tell
      done += static_cast<size_t>(n);
    }
  }
  void end_of_requests() { shutdown(fd_, SHUT_WR); }
  // Without its newline; empty at the end of the connection.
  std::string line() {
    std::string text;
    char c;
    while (recv(fd_, &c, 1, 0) == 1) {
      if (c == '\n') return text;
      text += c;
    }
    return text;
  }
  json response() { return json::parse(line(), nullptr, false); }
  bool is_closed() {
    char c;
    const ssize_t got = recv(fd_, &c, 1, 0);
    // A server that closes with bytes still unread resets, also a unix socket.
    return got == 0 || (got < 0 && errno == ECONNRESET);
  }

 private:
  const int fd_;
};

// The server on a thread of its own; echoes requests, and answers "later" ones after other work.
class ProtocolTest : public testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/sluice-protocol-XXXXXX";
    directory_ = mkdtemp(name);
  }
  void serve(ProtocolServer::Options options = {}) {
    auto server = ProtocolServer::listen(
        io_, socket_path(directory_),
        [this](const json& request, uint64_t, const ProtocolServer::Reply& reply) {
          requests_++;
          json response = ok_response();
          response["echo"] = request;
          if (request["cmd"] == "silent") return;
          if (request["cmd"] == "big") response["filler"] = std::string(1 << 20, 'x');
          if (request["cmd"] != "later") return reply(response);
          boost::asio::post(io_, [reply, response] { reply(response); });
        },
        options);
    ASSERT_TRUE(server) << server.error().text();
    server_ = std::move(*server);
    thread_ = std::thread([this] { io_.run(); });
  }
  void TearDown() override {
    io_.stop();
    if (thread_.joinable()) thread_.join();
    server_.reset();
    rmdir(directory_.c_str());
  }
  std::string path() const { return socket_path(directory_); }
  // Proof that the server still serves others.
  void expect_healthy() {
    Client client(path());
    client.send("{\"v\":1,\"cmd\":\"ping\"}\n");
    EXPECT_EQ(client.response()["echo"]["cmd"], "ping");
  }

  std::string directory_;
  boost::asio::io_context io_;
  boost::asio::executor_work_guard<boost::asio::io_context::executor_type> work_{io_.get_executor()};
  std::unique_ptr<ProtocolServer> server_;
  std::thread thread_;
  std::atomic<int> requests_{0};
};

TEST_F(ProtocolTest, OnlyOwnerAndGroupMayConnect) {
  serve();
  struct stat status;
  ASSERT_EQ(stat(path().c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0660u);
}

TEST_F(ProtocolTest, RequestsOfOneConnectionAreAnsweredInOrder) {
  serve();
  Client client(path());
  client.send(
      "{\"v\":1,\"cmd\":\"later\",\"n\":1}\n{\"v\":1,\"cmd\":\"now\",\"n\":2}\n{\"v\":1,\"cmd\":\"later\","
      "\"n\":3}\n");
  for (int n = 1; n <= 3; n++)
    EXPECT_EQ(client.response()["echo"]["n"], n);
}

TEST_F(ProtocolTest, ARequestInPiecesIsOneRequest) {
  serve();
  Client client(path());
  for (const char c : std::string("{\"v\":1,\"cmd\":\"slow\"}\n"))
    client.send(std::string(1, c));
  EXPECT_EQ(client.response()["echo"]["cmd"], "slow");
}

TEST_F(ProtocolTest, MalformedRequestsGetAnErrorAndTheConnectionGoesOn) {
  serve();
  Client client(path());
  for (const std::string& bad :
       {std::string("hello"), std::string(""), std::string("[]"), std::string("{\"v\":1}"),
        std::string("{\"cmd\":\"x\"}"), std::string("{\"v\":2,\"cmd\":\"x\"}"),
        std::string("{\"v\":\"1\",\"cmd\":\"x\"}"), std::string("{\"v\":1,\"cmd\":7}"),
        std::string("{\"v\":1,\"cmd\":\"\xff\xfe\"}"), std::string("\0\1\2", 3), std::string(30'000, '['),
        std::string("{\"v\":1,\"cmd\":\"x\"")}) {
    client.send(bad + "\n");
    const json response = client.response();
    ASSERT_TRUE(response.is_object()) << bad;
    EXPECT_EQ(response["ok"], false) << bad;
    EXPECT_EQ(response["code"], kCodeBadRequest) << bad;
    EXPECT_FALSE(response["error"].get<std::string>().empty());
  }
  EXPECT_EQ(requests_, 0);
  client.send("{\"v\":1,\"cmd\":\"fine\"}\n");
  EXPECT_EQ(client.response()["ok"], true);
}

TEST_F(ProtocolTest, TheLongestLineIsServedAndALongerOneEndsTheConnectionWithAnError) {
  serve();
  const std::string prefix = "{\"v\":1,\"cmd\":\"x\",\"pad\":\"", suffix = "\"}";
  const auto line_of = [&](size_t bytes) {
    return prefix + std::string(bytes - prefix.size() - suffix.size(), 'p') + suffix + "\n";
  };
  Client longest(path());
  longest.send(line_of(kLineBytesMax));
  EXPECT_EQ(longest.response()["ok"], true);
  for (const size_t bytes : {kLineBytesMax + 1, kLineBytesMax * 40}) {
    Client client(path());
    client.send(line_of(bytes));
    const json response = client.response();
    EXPECT_EQ(response["code"], kCodeBadRequest);
    EXPECT_TRUE(client.is_closed());
    expect_healthy();
  }
}

TEST_F(ProtocolTest, AClientThatOnlyShutDownItsSideIsAnswered) {
  serve();
  Client client(path());
  client.send("{\"v\":1,\"cmd\":\"later\"}");  // not even a newline
  client.end_of_requests();
  EXPECT_EQ(client.response()["echo"]["cmd"], "later");
  EXPECT_TRUE(client.is_closed());
}

TEST_F(ProtocolTest, AClientThatLeavesBeforeItsAnswerDisturbsNobody) {
  serve();
  for (int i = 0; i < 50; i++) {
    Client client(path());
    client.send("{\"v\":1,\"cmd\":\"big\"}\n{\"v\":1,\"cmd\":\"later\"}\n");
  }
  expect_healthy();
}

TEST_F(ProtocolTest, AnIdleOrHalfSentClientIsClosedAfterAWhile) {
  ProtocolServer::Options options;
  options.idle_timeout = std::chrono::milliseconds(50);
  serve(options);
  Client idle(path()), half(path()), deaf(path());
  half.send("{\"v\":1,");
  deaf.send("{\"v\":1,\"cmd\":\"big\"}\n");  // and reads nothing: a MiB does not fit the socket
  EXPECT_TRUE(idle.is_closed());
  EXPECT_TRUE(half.is_closed());
  expect_healthy();
}

TEST_F(ProtocolTest, BeyondTheMostClientsNewOnesAreTurnedAwayAndOldOnesServed) {
  ProtocolServer::Options options;
  options.clients_max = 3;
  serve(options);
  std::vector<std::unique_ptr<Client>> clients;
  for (int i = 0; i < 3; i++) {
    clients.push_back(std::make_unique<Client>(path()));
    clients.back()->send("{\"v\":1,\"cmd\":\"hold\"}\n");
    EXPECT_EQ(clients.back()->response()["ok"], true);
  }
  Client refused(path());
  EXPECT_EQ(refused.response()["code"], kCodeFailed);
  EXPECT_TRUE(refused.is_closed());
  clients.back()->send("{\"v\":1,\"cmd\":\"still\"}\n");
  EXPECT_EQ(clients.back()->response()["echo"]["cmd"], "still");
}

TEST_F(ProtocolTest, ManyClientsAtOnceEachGetTheirOwnAnswers) {
  serve();
  constexpr int kThreads = 16, kConnections = 10, kRequests = 10;
  std::atomic<int> right{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; t++) {
    threads.emplace_back([&, t] {
      for (int c = 0; c < kConnections; c++) {
        Client client(path());
        for (int r = 0; r < kRequests; r++) {
          const int mark = (t * kConnections + c) * kRequests + r;
          const json request = {{"v", 1}, {"cmd", r % 2 == 0 ? "now" : "later"}, {"mark", mark}};
          client.send(request.dump() + "\n");
          if (client.response()["echo"]["mark"] == mark) right++;
        }
      }
    });
  }
  for (std::thread& thread : threads)
    thread.join();
  EXPECT_EQ(right, kThreads * kConnections * kRequests);
}

TEST_F(ProtocolTest, ASocketLeftByADeadPredecessorIsReplaced) {
  // Bound and never removed, as after SIGKILL.
  const int left = socket(AF_UNIX, SOCK_STREAM, 0);
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  std::strncpy(address.sun_path, path().c_str(), sizeof address.sun_path - 1);
  ASSERT_EQ(bind(left, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  close(left);
  serve();
  expect_healthy();
}

// ---- the command line's side ----

TEST_F(ProtocolTest, TheClientSaysUnreachableTimeoutOrTheAnswer) {
  const std::chrono::milliseconds limit(5'000);
  const Answer nobody = ask_daemon(directory_, {{"v", 1}, {"cmd", "x"}}, limit);
  EXPECT_EQ(nobody.exit_code, kExitUnreachable);
  EXPECT_FALSE(nobody.error.remedy.empty());
  serve();
  const Answer answer = ask_daemon(directory_, {{"v", 1}, {"cmd", "big"}}, limit);
  ASSERT_EQ(answer.exit_code, kExitOk);
  EXPECT_EQ(answer.response["filler"].get<std::string>().size(), 1u << 20);
}

TEST(MessageTest, WhatIsNotUtf8IsReplacedNotThrown) {
  const std::string line = to_line(error_response(kCodeFailed, {"bad byte: \xff", ""}));
  EXPECT_EQ(line.back(), '\n');
  EXPECT_TRUE(json::parse(line, nullptr, false).is_object());
}

}  // namespace
}  // namespace sluice
