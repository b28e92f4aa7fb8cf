// Health checks over real loopback sockets: what each kind of server answers, and what rise and fall make of
// it.
#include "controlplane/health.h"

#include <errno.h>
#include <sys/socket.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/read_until.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/write.hpp>
#include <gtest/gtest.h>

#include "controlplane/probe.h"

namespace sluice {
namespace {

namespace asio = boost::asio;
using asio::ip::tcp;
using boost::system::error_code;

constexpr std::chrono::seconds kTestLimit{20};  // far beyond what any of them takes: a hang ends as a failure

// Answers every connection with the same text, after reading the request; or never, or closes at once.
class Server {
 public:
  enum class Kind { answers, says_nothing, closes };

  Server(asio::io_context& io, Kind kind, std::string answer = "")
      : acceptor_(io, tcp::endpoint(asio::ip::address_v4::loopback(), 0)),
        kind_(kind),
        answer_(std::move(answer)) {
    accept();
  }
  uint16_t port() const { return acceptor_.local_endpoint().port(); }
  const std::string& last_request() const { return last_request_; }
  int connections() const { return connections_; }
  void say(std::string answer) { answer_ = std::move(answer); }

 private:
  struct Client {
    explicit Client(tcp::socket s) : socket(std::move(s)) {}
    tcp::socket socket;
    std::string input;
    std::string output;
  };

  void accept() {
    acceptor_.async_accept([this](error_code error, tcp::socket socket) {
      if (error) return;
      connections_++;
      auto client = std::make_shared<Client>(std::move(socket));
      if (kind_ != Kind::closes) open_.push_back(client);
      if (kind_ == Kind::answers) answer(client);
      accept();
    });
  }
  void answer(const std::shared_ptr<Client>& client) {
    asio::async_read_until(client->socket, asio::dynamic_buffer(client->input), "\r\n\r\n",
                           [this, client](error_code error, size_t) {
                             if (error) return;
                             last_request_ = client->input;
                             client->output = answer_;
                             asio::async_write(client->socket, asio::buffer(client->output),
                                               [client](error_code, size_t) {});
                           });
  }

  tcp::acceptor acceptor_;
  const Kind kind_;
  std::string answer_;
  std::string last_request_;
  int connections_ = 0;
  std::vector<std::shared_ptr<Client>> open_;  // no connection ends before the check does
};

class HealthTest : public testing::Test {
 protected:
  static CheckTarget target(uint16_t port, HealthConfig::Type type) {
    CheckTarget target;
    target.address = *IpAddress::parse("127.0.0.1");
    target.port = port;
    target.config.type = type;
    target.config.host = "203.0.113.10";
    target.config.timeout = Milliseconds(300);
    target.config.interval = Milliseconds(20);
    return target;
  }

  // Runs the loop until `done()`, or fails the test.
  template <typename Condition>
  void run_until(const Condition& done) {
    const auto limit = std::chrono::steady_clock::now() + kTestLimit;
    while (!done() && std::chrono::steady_clock::now() < limit) {
      io_.restart();
      io_.run_one_for(std::chrono::milliseconds(100));
    }
    ASSERT_TRUE(done());
  }

  CheckResult check(const CheckTarget& target) {
    std::optional<CheckResult> result;
    const auto probe = Probe::start(io_, target, [&](const CheckResult& r) { result = r; });
    EXPECT_FALSE(result) << "called from inside start()";
    run_until([&] { return result.has_value(); });
    return result.value_or(CheckResult{});
  }

  // A port on which nobody listens: bound, so that nobody else gets it, but not listening.
  uint16_t refusing_port() {
    refusing_.emplace(io_, tcp::endpoint(asio::ip::address_v4::loopback(), 0));
    return refusing_->local_endpoint().port();
  }

  asio::io_context io_;
  std::optional<tcp::socket> refusing_;
};

TEST_F(HealthTest, ATcpConnectIsEnoughForATcpCheck) {
  Server server(io_, Server::Kind::says_nothing);
  const CheckResult result = check(target(server.port(), HealthConfig::Type::tcp));
  EXPECT_EQ(result.code, CheckCode::l4ok);
  EXPECT_TRUE(result.is_good());
}

TEST_F(HealthTest, ARefusedConnectSaysSo) {
  for (const auto type : {HealthConfig::Type::tcp, HealthConfig::Type::http}) {
    const CheckResult result = check(target(refusing_port(), type));
    EXPECT_EQ(result.code, CheckCode::l4con);
    EXPECT_EQ(result.detail, "Connection refused");
    EXPECT_FALSE(result.is_good());
  }
}

// A full accept queue drops SYNs: the same silence as from a host that is gone.
TEST_F(HealthTest, NoAnswerToTheConnectIsATimeoutOfLayerFour) {
  tcp::acceptor full(io_, tcp::endpoint(asio::ip::address_v4::loopback(), 0));
  full.listen(0);
  std::vector<tcp::socket> fillers;
  for (int i = 0; i < 8; i++) {
    fillers.emplace_back(io_, tcp::v4());
    fillers.back().native_non_blocking(true);
    const tcp::endpoint to = full.local_endpoint();
    const int begun = connect(fillers.back().native_handle(), to.data(), static_cast<socklen_t>(to.size()));
    ASSERT_TRUE(begun == 0 || errno == EINPROGRESS);
  }
  const CheckResult result = check(target(full.local_endpoint().port(), HealthConfig::Type::tcp));
  EXPECT_EQ(result.code, CheckCode::l4tout);
  EXPECT_GE(result.duration_us, 300'000u);
}

TEST_F(HealthTest, AnExpectedStatusIsGoodAndTheRequestIsWhatTheServiceAsksFor) {
  Server server(io_, Server::Kind::answers, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
  CheckTarget wanted = target(server.port(), HealthConfig::Type::http);
  wanted.config.path = "/alive?deep=1";
  const CheckResult result = check(wanted);
  EXPECT_EQ(result.code, CheckCode::l7ok);
  EXPECT_EQ(result.detail, "HTTP status 200");
  EXPECT_EQ(server.last_request().rfind("GET /alive?deep=1 HTTP/1.1\r\n", 0), 0u) << server.last_request();
  EXPECT_NE(server.last_request().find("Host: 203.0.113.10\r\n"), std::string::npos);
  EXPECT_NE(server.last_request().find("Connection: close\r\n"), std::string::npos);
}

TEST_F(HealthTest, OnlyTheConfiguredStatusRangeIsGood) {
  Server server(io_, Server::Kind::answers, "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n");
  CheckTarget wanted = target(server.port(), HealthConfig::Type::http);
  CheckResult result = check(wanted);
  EXPECT_EQ(result.code, CheckCode::l7sts);
  EXPECT_EQ(result.detail, "HTTP status 503");
  EXPECT_FALSE(result.is_good());
  wanted.config.status_min = wanted.config.status_max = 503;
  EXPECT_EQ(check(wanted).code, CheckCode::l7ok);
  wanted.config.status_min = wanted.config.status_max = 502;
  EXPECT_EQ(check(wanted).code, CheckCode::l7sts);
}

TEST_F(HealthTest, ASilentServerIsATimeoutOfLayerSeven) {
  Server server(io_, Server::Kind::says_nothing);
  EXPECT_EQ(check(target(server.port(), HealthConfig::Type::http)).code, CheckCode::l7tout);
}

TEST_F(HealthTest, AHeaderThatNeverEndsIsATimeoutOfLayerSeven) {
  Server server(io_, Server::Kind::answers, "HTTP/1.1 200 OK\r\nX-Half: ");
  EXPECT_EQ(check(target(server.port(), HealthConfig::Type::http)).code, CheckCode::l7tout);
}

TEST_F(HealthTest, GarbageAnOversizedHeaderAndACloseAreInvalidResponses) {
  for (const std::string& answer :
       {std::string("SSH-2.0-OpenSSH_9.2\r\n\r\n"), std::string("\0\1\2\3\r\n\r\n", 8),
        "HTTP/1.1 200 OK\r\nX-Long: " + std::string(kResponseHeaderBytesMax * 4, 'a')}) {
    Server server(io_, Server::Kind::answers, answer);
    const CheckResult result = check(target(server.port(), HealthConfig::Type::http));
    EXPECT_EQ(result.code, CheckCode::l7rsp) << result.detail;
    EXPECT_FALSE(result.detail.empty());
  }
  Server closing(io_, Server::Kind::closes);
  EXPECT_EQ(check(target(closing.port(), HealthConfig::Type::http)).code, CheckCode::l7rsp);
}

// The loop stands still past the deadline: an answer may lie unread, the silence proves nothing.
TEST_F(HealthTest, ATimeoutThatIsSeenMuchTooLateIsNoVerdict) {
  Server server(io_, Server::Kind::says_nothing);
  CheckTarget wanted = target(server.port(), HealthConfig::Type::http);
  wanted.config.timeout = Milliseconds(50);
  std::optional<CheckResult> result;
  const auto probe = Probe::start(io_, wanted, [&](const CheckResult& r) { result = r; });
  std::this_thread::sleep_for(std::chrono::milliseconds(200));
  run_until([&] { return result.has_value(); });
  EXPECT_EQ(result->code, CheckCode::none);
  EXPECT_EQ(result->detail, "sluiced was busy");
}

TEST_F(HealthTest, ADestroyedProbeNeverReports) {
  Server server(io_, Server::Kind::says_nothing);
  int calls = 0;
  auto probe = Probe::start(io_, target(server.port(), HealthConfig::Type::http),
                            [&](const CheckResult&) { calls++; });
  run_until([&] { return server.connections() == 1; });
  probe.reset();
  // A second check, started later with the same timeout, ends after the first would have.
  check(target(server.port(), HealthConfig::Type::http));
  EXPECT_EQ(calls, 0);
}

// ---- rise and fall ----

TEST(HealthCounterTest, TheFirstVerdictDecidesAtOnce) {
  HealthCounter good, bad;
  EXPECT_TRUE(good.record(true, 3, 3));
  EXPECT_EQ(good.health, Health::up);
  EXPECT_TRUE(bad.record(false, 3, 3));
  EXPECT_EQ(bad.health, Health::down);
}

TEST(HealthCounterTest, WhereUnknownCountsAsUpOnlyFallBadOnesInARowTakeItDown) {
  HealthCounter counter{Health::unknown, 0, 0, true};
  EXPECT_FALSE(counter.record(false, 2, 3));
  EXPECT_FALSE(counter.record(false, 2, 3));
  EXPECT_EQ(counter.health, Health::unknown);
  EXPECT_TRUE(counter.record(false, 2, 3));
  EXPECT_EQ(counter.health, Health::down);

  HealthCounter good{Health::unknown, 0, 0, true};
  EXPECT_FALSE(good.record(false, 2, 3));
  EXPECT_TRUE(good.record(true, 2, 3));
  EXPECT_EQ(good.health, Health::up);
}

TEST(HealthCounterTest, FallBadOnesInARowTakeItDownAndAGoodOneStartsTheCountAgain) {
  HealthCounter counter{Health::up};
  for (int round = 0; round < 5; round++) {
    EXPECT_FALSE(counter.record(false, 2, 3));
    EXPECT_FALSE(counter.record(false, 2, 3));
    EXPECT_FALSE(counter.record(true, 2, 3));
  }
  EXPECT_EQ(counter.health, Health::up);
  counter.record(false, 2, 3);
  counter.record(false, 2, 3);
  EXPECT_TRUE(counter.record(false, 2, 3));
  EXPECT_EQ(counter.health, Health::down);
}

TEST(HealthCounterTest, RiseGoodOnesInARowBringItUpAndABadOneStartsTheCountAgain) {
  HealthCounter counter{Health::down};
  EXPECT_FALSE(counter.record(true, 2, 3));
  EXPECT_FALSE(counter.record(false, 2, 3));
  EXPECT_FALSE(counter.record(true, 2, 3));
  EXPECT_TRUE(counter.record(true, 2, 3));
  EXPECT_EQ(counter.health, Health::up);
}

// ---- the checker ----

struct Seen {
  std::vector<Health> healths;
  std::vector<CheckCode> codes;
};

TEST_F(HealthTest, TheCheckerFollowsABackendDownAndUp) {
  Server server(io_, Server::Kind::answers, "HTTP/1.1 200 OK\r\n\r\n");
  Seen seen;
  HealthChecker checker(io_, 10, [&](BackendId id, const CheckResult& result, Health health) {
    EXPECT_EQ(id, BackendId{7});
    seen.codes.push_back(result.code);
    seen.healths.push_back(health);
  });
  CheckTarget wanted = target(server.port(), HealthConfig::Type::http);
  wanted.config.rise = 2;
  wanted.config.fall = 2;
  checker.watch(BackendId{7}, wanted, Health::unknown);
  run_until([&] { return !seen.healths.empty(); });
  EXPECT_EQ(seen.healths.front(), Health::up);
  server.say("HTTP/1.1 500 Oops\r\n\r\n");
  run_until([&] { return seen.healths.back() == Health::down; });
  const auto bad = std::count(seen.codes.begin(), seen.codes.end(), CheckCode::l7sts);
  EXPECT_EQ(bad, 2) << "fall = 2";
  server.say("HTTP/1.1 200 OK\r\n\r\n");
  run_until([&] { return seen.healths.back() == Health::up; });
}

TEST_F(HealthTest, ATakenOverHealthNeedsFallToChange) {
  Seen seen;
  HealthChecker checker(
      io_, 10, [&](BackendId, const CheckResult&, Health health) { seen.healths.push_back(health); });
  CheckTarget wanted = target(refusing_port(), HealthConfig::Type::tcp);
  wanted.config.fall = 3;
  checker.watch(BackendId{1}, wanted, Health::up);
  run_until([&] { return seen.healths.size() >= 3; });
  EXPECT_EQ(seen.healths[0], Health::up);
  EXPECT_EQ(seen.healths[1], Health::up);
  EXPECT_EQ(seen.healths[2], Health::down);
}

TEST_F(HealthTest, ABackendThatCountsAsUpBeforeItsFirstCheckNeedsFallToChange) {
  Seen seen;
  HealthChecker checker(
      io_, 10, [&](BackendId, const CheckResult&, Health health) { seen.healths.push_back(health); });
  CheckTarget wanted = target(refusing_port(), HealthConfig::Type::tcp);
  wanted.config.fall = 3;
  checker.watch(BackendId{1}, wanted, Health::unknown, true);
  run_until([&] { return seen.healths.size() >= 3; });
  EXPECT_EQ(seen.healths[0], Health::unknown);
  EXPECT_EQ(seen.healths[1], Health::unknown);
  EXPECT_EQ(seen.healths[2], Health::down);
}

TEST_F(HealthTest, AForgottenBackendIsNotReportedAndAnotherAddressStartsAfresh) {
  Server server(io_, Server::Kind::says_nothing);
  Seen seen;
  HealthChecker checker(
      io_, 10, [&](BackendId, const CheckResult&, Health health) { seen.healths.push_back(health); });
  const CheckTarget bad = target(refusing_port(), HealthConfig::Type::tcp);
  checker.watch(BackendId{1}, bad, Health::unknown);
  run_until([&] { return seen.healths.size() == 1; });
  EXPECT_EQ(seen.healths[0], Health::down);
  const CheckTarget good = target(server.port(), HealthConfig::Type::tcp);
  checker.watch(BackendId{1}, good, Health::unknown);
  run_until([&] { return seen.healths.size() == 2; });
  EXPECT_EQ(seen.healths[1], Health::up) << "one good check decides: nothing was known of this server";
  checker.forget(BackendId{1});
  EXPECT_FALSE(checker.watches(BackendId{1}));
  const size_t before = seen.healths.size();
  check(target(server.port(), HealthConfig::Type::http));  // the loop runs on for its 300 ms
  EXPECT_EQ(seen.healths.size(), before);
}

// More backends than may be checked at a time, among them ones that never answer: each gets its turn, never
// too many at once, and the others' results do not wait for the silent ones' for ever.
TEST_F(HealthTest, AtMostSoManyChecksRunAtATimeAndAllGetTheirTurn) {
  constexpr uint32_t kBackends = 60;
  Server answering(io_, Server::Kind::answers, "HTTP/1.1 200 OK\r\n\r\n");
  Server silent(io_, Server::Kind::says_nothing);
  std::vector<std::optional<Health>> health(kBackends);
  HealthChecker checker(io_, 4, [&](BackendId id, const CheckResult& result, Health h) {
    if (result.code != CheckCode::none) health[index(id)] = h;  // none: this machine was busy
  });
  for (uint32_t i = 0; i < kBackends; i++) {
    CheckTarget wanted = target((i % 10 == 0 ? silent : answering).port(), HealthConfig::Type::http);
    wanted.config.timeout = Milliseconds(50);
    checker.watch(BackendId{i}, wanted, Health::unknown);
  }
  run_until(
      [&] { return std::all_of(health.begin(), health.end(), [](const auto& h) { return h.has_value(); }); });
  for (uint32_t i = 0; i < kBackends; i++) {
    EXPECT_EQ(health[i], i % 10 == 0 ? Health::down : Health::up) << i;
  }
}

}  // namespace
}  // namespace sluice
