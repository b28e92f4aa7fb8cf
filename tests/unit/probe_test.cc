// TCP and HTTP checks over real loopback sockets: what each kind of server answers, and what is made of it.
#include "controlplane/probe.h"

#include <errno.h>
#include <sys/socket.h>

#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "tests/unit/probe_fixture.h"

namespace sluice {
namespace {

using ProbeTest = ProbeFixture;

TEST_F(ProbeTest, ATcpConnectIsEnoughForATcpCheck) {
  Server server(io_, Server::Kind::says_nothing);
  const CheckResult result = check(target(server.port(), HealthConfig::Type::tcp));
  EXPECT_EQ(result.code, CheckCode::l4ok);
  EXPECT_TRUE(result.is_good());
}

TEST_F(ProbeTest, ARefusedConnectSaysSo) {
  for (const auto type : {HealthConfig::Type::tcp, HealthConfig::Type::http}) {
    const CheckResult result = check(target(refusing_port(), type));
    EXPECT_EQ(result.code, CheckCode::l4con);
    EXPECT_EQ(result.detail, "Connection refused");
    EXPECT_FALSE(result.is_good());
  }
}

// A full accept queue drops SYNs: the same silence as from a host that is gone.
TEST_F(ProbeTest, NoAnswerToTheConnectIsATimeoutOfLayerFour) {
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

TEST_F(ProbeTest, AnExpectedStatusIsGoodAndTheRequestIsWhatTheServiceAsksFor) {
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

TEST_F(ProbeTest, OnlyTheConfiguredStatusRangeIsGood) {
  Server server(io_, Server::Kind::answers, "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n");
  CheckTarget wanted = target(server.port(), HealthConfig::Type::http);
  CheckResult result = check(wanted);
  EXPECT_EQ(result.code, CheckCode::l7sts);
  EXPECT_EQ(result.detail, "HTTP status 503");
  EXPECT_FALSE(result.is_good());
  wanted.config.status = {{503, 503}};
  EXPECT_EQ(check(wanted).code, CheckCode::l7ok);
  wanted.config.status = {{200, 299}, {502, 502}};
  EXPECT_EQ(check(wanted).code, CheckCode::l7sts);
}

TEST_F(ProbeTest, ASilentServerIsATimeoutOfLayerSeven) {
  Server server(io_, Server::Kind::says_nothing);
  EXPECT_EQ(check(target(server.port(), HealthConfig::Type::http)).code, CheckCode::l7tout);
}

TEST_F(ProbeTest, AHeaderThatNeverEndsIsATimeoutOfLayerSeven) {
  Server server(io_, Server::Kind::answers, "HTTP/1.1 200 OK\r\nX-Half: ");
  EXPECT_EQ(check(target(server.port(), HealthConfig::Type::http)).code, CheckCode::l7tout);
}

TEST_F(ProbeTest, GarbageAnOversizedHeaderAndACloseAreInvalidResponses) {
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
TEST_F(ProbeTest, ATimeoutThatIsSeenMuchTooLateIsNoVerdict) {
  Server server(io_, Server::Kind::says_nothing);
  CheckTarget wanted = target(server.port(), HealthConfig::Type::http);
  wanted.config.timeout = Milliseconds(50);
  std::optional<CheckResult> result;
  const auto probe = Probe::start(tools_, std::make_shared<const CheckTarget>(wanted),
                                  [&](const CheckResult& r) { result = r; });
  std::this_thread::sleep_for(std::chrono::milliseconds(200));
  run_until([&] { return result.has_value(); });
  EXPECT_EQ(result->code, CheckCode::none);
  EXPECT_EQ(result->detail, "sluiced was busy");
}

TEST_F(ProbeTest, ADestroyedProbeNeverReports) {
  Server server(io_, Server::Kind::says_nothing);
  int calls = 0;
  auto probe = Probe::start(
      tools_, std::make_shared<const CheckTarget>(target(server.port(), HealthConfig::Type::http)),
      [&](const CheckResult&) { calls++; });
  run_until([&] { return server.connections() == 1; });
  probe.reset();
  // A second check, started later with the same timeout, ends after the first would have.
  check(target(server.port(), HealthConfig::Type::http));
  EXPECT_EQ(calls, 0);
}

TEST_F(ProbeTest, TheBodyMustMatchWhereAPatternIsGiven) {
  const std::string page = "HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\nstatus: ready";
  Server server(io_, Server::Kind::answers, page);
  CheckTarget wanted = target(server.port(), HealthConfig::Type::http);
  wanted.config.body = "^status: (ready|draining)$";
  EXPECT_EQ(check(wanted).code, CheckCode::l7ok);
  wanted.config.body = "^status: up";
  const CheckResult other = check(wanted);
  EXPECT_EQ(other.code, CheckCode::l7rsp);
  EXPECT_EQ(other.detail, "HTTP status 200, but its body does not match");
  // A wrong status is said first.
  wanted.config.status = {{204, 204}};
  EXPECT_EQ(check(wanted).code, CheckCode::l7sts);
}

TEST_F(ProbeTest, ABodyInPiecesOrWithoutALengthIsReadToItsEnd) {
  CheckTarget wanted = target(0, HealthConfig::Type::http);
  wanted.config.body = "in pieces";
  Server chunked(io_, Server::Kind::answers,
                 "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nin \r\n6\r\npieces\r\n0\r\n\r\n");
  wanted.port = chunked.port();
  EXPECT_EQ(check(wanted).code, CheckCode::l7ok);
  Server to_the_end(io_, Server::Kind::answers, "HTTP/1.1 200 OK\r\n\r\nin pieces");
  to_the_end.close_after_answer();
  wanted.port = to_the_end.port();
  EXPECT_EQ(check(wanted).code, CheckCode::l7ok);
  Server cut_off(io_, Server::Kind::answers, "HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nin pieces");
  cut_off.close_after_answer();
  wanted.port = cut_off.port();
  EXPECT_EQ(check(wanted).code, CheckCode::l7rsp);
}

// What is behind the limit is neither kept nor waited for, and a body that never comes is a timeout.
TEST_F(ProbeTest, ABodyIsLookedAtUpToItsLimit) {
  const std::string header = "HTTP/1.1 200 OK\r\nContent-Length: 999999999\r\n\r\n";
  CheckTarget wanted = target(0, HealthConfig::Type::http);
  wanted.config.body = "needle";
  Server inside(io_, Server::Kind::answers, header + std::string(kResponseBodyBytesMax - 6, '.') + "needle");
  wanted.port = inside.port();
  EXPECT_EQ(check(wanted).code, CheckCode::l7ok);
  Server beyond(io_, Server::Kind::answers, header + std::string(kResponseBodyBytesMax, '.') + "needle");
  wanted.port = beyond.port();
  EXPECT_EQ(check(wanted).code, CheckCode::l7rsp);
  Server never(io_, Server::Kind::answers, header + "need");
  wanted.port = never.port();
  const CheckResult late = check(wanted);
  EXPECT_EQ(late.code, CheckCode::l7tout);
  EXPECT_EQ(late.detail, "no end of the HTTP response's body");
}

// Nested repetitions over a text made for them: std::regex would not come back, or come back without a stack.
TEST_F(ProbeTest, AHostileBodyCostsNoMoreThanAnyOther) {
  const std::string page = std::string(kResponseBodyBytesMax, 'a');
  Server server(io_, Server::Kind::answers,
                "HTTP/1.1 200 OK\r\nContent-Length: " + std::to_string(page.size()) + "\r\n\r\n" + page);
  CheckTarget wanted = target(server.port(), HealthConfig::Type::http);
  wanted.config.body = "((a*)*)*b";
  wanted.config.timeout = Milliseconds(5000);
  EXPECT_EQ(check(wanted).code, CheckCode::l7rsp);
}

TEST_F(ProbeTest, MethodAndHeadersAreSentAsConfigured) {
  Server server(io_, Server::Kind::answers, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n");
  CheckTarget wanted = target(server.port(), HealthConfig::Type::http);
  wanted.config.method = "HEAD";
  wanted.config.headers = {{"X-Probe", "sluice 1"}, {"User-Agent", "mine"}};
  EXPECT_EQ(check(wanted).code, CheckCode::l7ok);
  const std::string& request = server.last_request();
  EXPECT_EQ(request.rfind("HEAD / HTTP/1.1\r\n", 0), 0u) << request;
  EXPECT_NE(request.find("\r\nX-Probe: sluice 1\r\n"), std::string::npos) << request;
  EXPECT_NE(request.find("\r\nUser-Agent: mine\r\n"), std::string::npos) << request;
  EXPECT_EQ(request.find("health check"), std::string::npos) << request;
}

// One byte at a time is an answer all the same to a reader that waits for each; the deadline is for all of
// them together.
TEST_F(ProbeTest, ASlowDripRunsIntoTheOneDeadline) {
  tcp::acceptor acceptor(io_, tcp::endpoint(asio::ip::address_v4::loopback(), 0));
  tcp::socket client(io_);
  asio::steady_timer timer(io_);
  const std::string answer = "HTTP/1.1 200 OK\r\nX-Long: " + std::string(1000, 'a');
  size_t sent = 0;
  std::function<void()> drip = [&] {
    timer.expires_after(std::chrono::milliseconds(10));
    timer.async_wait([&](error_code error) {
      if (error) return;
      client.send(asio::buffer(&answer[sent++], 1), 0, error);
      if (!error && sent < answer.size()) drip();
    });
  };
  acceptor.async_accept(client, [&](error_code error) {
    if (!error) drip();
  });
  const CheckResult result = check(target(acceptor.local_endpoint().port(), HealthConfig::Type::http));
  EXPECT_EQ(result.code, CheckCode::l7tout);
  EXPECT_GT(sent, 3u);
  EXPECT_GE(result.duration_us, 300'000u);
}

TEST_F(ProbeTest, TheSourceAddressIsTheConfiguredOne) {
  Server server(io_, Server::Kind::says_nothing);
  CheckTarget wanted = target(server.port(), HealthConfig::Type::tcp);
  wanted.config.source = *IpAddress::parse("127.0.0.9");
  EXPECT_EQ(check(wanted).code, CheckCode::l4ok);
  run_until([&] { return server.connections() > 0; });
  EXPECT_EQ(server.last_client().address().to_string(), "127.0.0.9");
  // Not an address of this host: that says nothing about the backend.
  wanted.config.source = *IpAddress::parse("203.0.113.77");
  const CheckResult impossible = check(wanted);
  EXPECT_EQ(impossible.code, CheckCode::none);
  EXPECT_EQ(impossible.detail, "source 203.0.113.77: Cannot assign requested address");
}

}  // namespace
}  // namespace sluice
