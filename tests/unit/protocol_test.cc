// The control socket: every request gets one answer, and no client disturbs another, whatever it sends.
#include "controlplane/protocol.h"

#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
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
#include <grp.h>
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
    for (;;) {
      const size_t end = received_.find('\n');
      text.append(received_, 0, end);
      received_.erase(0, end == std::string::npos ? end : end + 1);
      if (end != std::string::npos) return text;
      char part[65'536];
      const ssize_t n = recv(fd_, part, sizeof part, 0);
      if (n <= 0) return text;
      received_.assign(part, static_cast<size_t>(n));
    }
  }
  json response() { return json::parse(line(), nullptr, false); }
  bool is_closed() {
    if (!received_.empty()) return false;
    char c;
    const ssize_t got = recv(fd_, &c, 1, 0);
    // A server that closes with bytes still unread resets, also a unix socket.
    return got == 0 || (got < 0 && errno == ECONNRESET);
  }

 private:
  const int fd_;
  std::string received_;  // not handed out yet
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
          response["role"] = text(reply.client().role);
          if (request["cmd"] == "silent") return;
          if (request["cmd"] == "stream") return stream(reply);
          if (request["cmd"] == "flood") return flood(reply);
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

  // One part, then nothing until finish_streams.
  void stream(const Reply& reply) {
    EXPECT_TRUE(reply.part({{"v", 1}, {"part", 1}}));
    reply.on_close([this] { gone_++; });
    streams_.push_back(reply);
  }
  void finish_streams() {
    for (const Reply& reply : streams_)
      reply(ok_response());
    streams_.clear();
  }
  // As many parts as are taken at once, and when they are read the answer with their number.
  void flood(const Reply& reply) {
    uint64_t sent = 0;
    while (reply.part({{"v", 1}, {"filler", std::string(1000, 'x')}}))
      sent++;
    reply.after_sent([reply, sent] {
      json response = ok_response();
      response["sent"] = sent;
      reply(response);
    });
  }

  std::string directory_;
  boost::asio::io_context io_;
  boost::asio::executor_work_guard<boost::asio::io_context::executor_type> work_{io_.get_executor()};
  std::unique_ptr<ProtocolServer> server_;
  std::thread thread_;
  std::atomic<int> requests_{0};
  std::atomic<int> gone_{0};
  std::vector<Reply> streams_;
};

TEST_F(ProtocolTest, WithoutGroupsOnlyTheOwnerMayConnect) {
  serve();
  struct stat status;
  ASSERT_EQ(stat(path().c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0600u);
  Access access;
  access.read_group = 4711;
  ASSERT_TRUE(server_->set_access(access));
  ASSERT_EQ(stat(path().c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0666u) << "the daemon decides, by what the kernel says of the peer";
}

// What a process of this user and these groups is answered; "" when it cannot even connect.
std::string answer_to(const std::string& path, const std::string& request, uid_t uid,
                      std::vector<gid_t> groups) {
  int answer[2];
  EXPECT_EQ(pipe(answer), 0);
  const pid_t child = fork();
  if (child == 0) {
    // Only system calls here: other threads' locks may be held.
    sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    std::strncpy(address.sun_path, path.c_str(), sizeof address.sun_path - 1);
    if (setgroups(groups.size(), groups.data()) != 0 || setgid(60'000) != 0 || setuid(uid) != 0) _exit(1);
    const int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    if (connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) _exit(2);
    char buffer[4096];
    for (size_t sent = 0; sent < request.size();) {
      const ssize_t n = ::send(fd, request.data() + sent, request.size() - sent, MSG_NOSIGNAL);
      if (n <= 0) break;
      sent += static_cast<size_t>(n);
    }
    shutdown(fd, SHUT_WR);
    ssize_t n;
    while ((n = recv(fd, buffer, sizeof buffer, 0)) > 0) {
      if (write(answer[1], buffer, static_cast<size_t>(n)) != n) break;
    }
    _exit(0);
  }
  close(answer[1]);
  std::string text;
  char buffer[4096];
  ssize_t n;
  while ((n = read(answer[0], buffer, sizeof buffer)) > 0)
    text.append(buffer, static_cast<size_t>(n));
  close(answer[0]);
  int status = 0;
  waitpid(child, &status, 0);
  EXPECT_NE(WEXITSTATUS(status), 1) << "the child has another user";
  return text;
}

TEST_F(ProtocolTest, TheKernelSaysWhoAClientIsAndGroupsGiveRoles) {
  if (geteuid() != 0) GTEST_SKIP() << "needs root, to be others";
  ASSERT_EQ(chmod(directory_.c_str(), 0755), 0);
  ProtocolServer::Options options;
  options.access.admin_group = 60'001;
  options.access.read_group = 60'002;
  options.access.read_group_name = "readers";
  serve(options);
  const auto role_of = [&](uid_t uid, std::vector<gid_t> groups) {
    return json::parse(answer_to(path(), "{\"v\":1,\"cmd\":\"x\"}\n", uid, std::move(groups)), nullptr,
                       false);
  };
  EXPECT_EQ(role_of(0, {})["role"], "admin");
  EXPECT_EQ(role_of(60'000, {60'001})["role"], "admin");
  EXPECT_EQ(role_of(60'000, {60'002, 60'003})["role"], "read");
  EXPECT_EQ(role_of(60'000, {60'002, 60'001})["role"], "admin");
  const json stranger = role_of(60'000, {60'003});
  EXPECT_EQ(stranger["code"], kCodeDenied);
  EXPECT_NE(stranger["error"].get<std::string>().find("uid 60000"), std::string::npos);
  EXPECT_NE(stranger["remedy"].get<std::string>().find("'readers'"), std::string::npos);

  // A reader's lines are short, an administrator's may be a configuration.
  const std::string longer = "{\"v\":1,\"cmd\":\"x\",\"pad\":\"" + std::string(kLineBytesMax, 'p') + "\"}\n";
  EXPECT_EQ(json::parse(answer_to(path(), longer, 60'000, {60'002}), nullptr, false)["code"],
            kCodeBadRequest);
  EXPECT_EQ(json::parse(answer_to(path(), longer, 60'000, {60'001}), nullptr, false)["ok"], true);
  expect_healthy();
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

std::string nested(size_t depth) {
  return std::string(depth, '[') + std::string(depth, ']');
}

TEST_F(ProtocolTest, MalformedRequestsGetAnErrorAndTheConnectionGoesOn) {
  serve();
  Client client(path());
  for (const std::string& bad :
       {std::string("hello"), std::string(""), std::string("[]"), std::string("{\"v\":1}"),
        std::string("{\"cmd\":\"x\"}"), std::string("{\"v\":2,\"cmd\":\"x\"}"),
        std::string("{\"v\":\"1\",\"cmd\":\"x\"}"), std::string("{\"v\":1,\"cmd\":7}"),
        std::string("{\"v\":1,\"cmd\":\"\xff\xfe\"}"), std::string("\0\1\2", 3), std::string(30'000, '['),
        std::string("{\"v\":1,\"cmd\":\"x\""), "{\"v\":1,\"cmd\":\"x\",\"y\":" + nested(64) + "}",
        "{\"v\":1,\"cmd\":\"x\",\"y\":" + nested(2'000'000) + "}"}) {
    client.send(bad + "\n");
    const json response = client.response();
    ASSERT_TRUE(response.is_object()) << bad.substr(0, 80);
    EXPECT_EQ(response["ok"], false) << bad.substr(0, 80);
    EXPECT_EQ(response["code"], kCodeBadRequest) << bad.substr(0, 80);
    EXPECT_FALSE(response["error"].get<std::string>().empty());
  }
  EXPECT_EQ(requests_, 0);
  for (const std::string& fine : {std::string("1"), nested(63), "\"" + std::string(100, '[') + "\\\"[\""}) {
    client.send("{\"v\":1,\"cmd\":\"fine\",\"y\":" + fine + "}\n");
    EXPECT_EQ(client.response()["ok"], true) << fine;
  }
}

TEST_F(ProtocolTest, TheLongestLineIsServedAndALongerOneEndsTheConnectionWithAnError) {
  serve();
  const std::string prefix = "{\"v\":1,\"cmd\":\"x\",\"pad\":\"", suffix = "\"}";
  const auto line_of = [&](size_t bytes) {
    return prefix + std::string(bytes - prefix.size() - suffix.size(), 'p') + suffix + "\n";
  };
  Client longest(path());
  longest.send(line_of(kAdminLineBytesMax));
  EXPECT_EQ(longest.response()["ok"], true);
  for (const size_t bytes : {kAdminLineBytesMax + 1, kAdminLineBytesMax * 2}) {
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

TEST_F(ProtocolTest, HalfOpenClientsGiveTheirPlaceToThoseWhoAsk) {
  ProtocolServer::Options options;
  options.clients_max = 8;
  options.seat_safe = std::chrono::milliseconds(0);
  serve(options);
  std::vector<std::unique_ptr<Client>> half_open;
  for (int i = 0; i < 40; i++) {
    half_open.push_back(std::make_unique<Client>(path()));
    if (i % 2 == 0) half_open.back()->send("{\"v\":1,");
    expect_healthy();
  }
  EXPECT_TRUE(half_open.front()->is_closed());
}

TEST_F(ProtocolTest, AClientWhoseRequestIsAtWorkKeepsItsPlace) {
  ProtocolServer::Options options;
  options.clients_max = 2;
  options.seat_safe = std::chrono::milliseconds(0);
  serve(options);
  Client first(path()), second(path());
  for (Client* client : {&first, &second}) {
    client->send("{\"v\":1,\"cmd\":\"stream\"}\n");
    EXPECT_EQ(client->response()["part"], 1);
  }
  Client refused(path());
  EXPECT_EQ(refused.response()["code"], kCodeBusy);
  boost::asio::post(io_, [this] { finish_streams(); });
  EXPECT_EQ(first.response()["ok"], true);
  EXPECT_EQ(second.response()["ok"], true);
}

TEST_F(ProtocolTest, AStreamTellsTheOtherSideWhenItsClientIsGone) {
  serve();
  {
    Client client(path());
    client.send("{\"v\":1,\"cmd\":\"stream\"}\n");
    EXPECT_EQ(client.response()["part"], 1);
    EXPECT_EQ(gone_, 0);
  }
  for (int i = 0; i < 500 && gone_ == 0; i++)
    usleep(10'000);
  EXPECT_EQ(gone_, 1);
}

TEST_F(ProtocolTest, AStreamThatIsNotReadIsBoundedAndEndsWithItsAnswer) {
  serve();
  Client client(path());
  client.send("{\"v\":1,\"cmd\":\"flood\"}\n");
  uint64_t parts = 0;
  json line;
  for (line = client.response(); line.is_object() && !line.contains("ok"); line = client.response())
    parts++;
  EXPECT_EQ(line["sent"], parts) << "what part() took is what arrives";
  EXPECT_GT(parts, kStreamBytesMax / 2 / 1000);
  EXPECT_LT(parts, 3 * kStreamBytesMax / 1000);
  client.send("{\"v\":1,\"cmd\":\"after\"}\n");
  EXPECT_EQ(client.response()["echo"]["cmd"], "after");
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
  EXPECT_EQ(refused.response()["code"], kCodeBusy);
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
