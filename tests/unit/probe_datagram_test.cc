// UDP, DNS and ICMP echo checks over real loopback sockets, and what is made of each kind of answer.
#include <unistd.h>

#include <functional>
#include <string>
#include <vector>

#include <boost/asio/ip/udp.hpp>

#include "controlplane/dns_message.h"
#include "controlplane/echo_message.h"
#include "tests/unit/probe_fixture.h"

namespace sluice {
namespace {

using asio::ip::udp;
using DatagramTest = ProbeFixture;
using Type = HealthConfig::Type;

// Answers each datagram with what `answers` makes of it: any number of datagrams.
class UdpServer {
 public:
  using Answers = std::function<std::vector<std::string>(const std::string&)>;
  UdpServer(asio::io_context& io, Answers answers)
      : socket_(io, udp::endpoint(asio::ip::address_v4::loopback(), 0)), answers_(std::move(answers)) {
    receive();
  }
  uint16_t port() const { return socket_.local_endpoint().port(); }
  const std::string& last() const { return last_; }
  const udp::endpoint& client() const { return client_; }

 private:
  void receive() {
    socket_.async_receive_from(asio::buffer(input_), client_, [this](error_code error, size_t bytes) {
      if (error) return;
      last_.assign(input_, bytes);
      for (const std::string& answer : answers_(last_))
        socket_.send_to(asio::buffer(answer), client_);
      receive();
    });
  }

  udp::socket socket_;
  Answers answers_;
  udp::endpoint client_;
  char input_[2048];
  std::string last_;
};

std::vector<std::string> nothing(const std::string&) {
  return {};
}

TEST_F(DatagramTest, AUdpAnswerMustHoldWhatIsExpected) {
  UdpServer echo(io_, [](const std::string& asked) { return std::vector{"you said " + asked}; });
  CheckTarget wanted = target(echo.port(), Type::udp);
  wanted.config.send = std::string("pi\0ng", 5);
  wanted.config.expect = std::string("pi\0", 3);
  EXPECT_EQ(check(wanted).code, CheckCode::l7ok);
  EXPECT_EQ(echo.last(), wanted.config.send);
  wanted.config.expect = "pong";
  const CheckResult other = check(wanted);
  EXPECT_EQ(other.code, CheckCode::l7rsp);
  EXPECT_EQ(other.detail, "14 bytes, but not what is expected");
  wanted.config.expect = "";
  EXPECT_EQ(check(wanted).code, CheckCode::l7ok) << "any answer";
}

TEST_F(DatagramTest, SilenceIsATimeoutOnlyWhereAnAnswerIsExpected) {
  UdpServer silent(io_, nothing);
  CheckTarget wanted = target(silent.port(), Type::udp);
  wanted.config.timeout = Milliseconds(50);
  EXPECT_EQ(check(wanted).code, CheckCode::l4ok);
  wanted.config.expect = "pong";
  EXPECT_EQ(check(wanted).code, CheckCode::l7tout);
}

TEST_F(DatagramTest, AClosedUdpPortIsNoticedByItsIcmpError) {
  uint16_t port = 0;
  {
    UdpServer gone(io_, nothing);
    port = gone.port();
  }
  for (const Type type : {Type::udp, Type::dns}) {
    const CheckResult result = check(target(port, type));
    EXPECT_EQ(result.code, CheckCode::l4con);
    EXPECT_EQ(result.detail, "port closed (ICMP port unreachable)");
  }
}

TEST_F(DatagramTest, TheSourceAddressOfADatagramIsTheConfiguredOne) {
  UdpServer echo(io_, [](const std::string& asked) { return std::vector{asked}; });
  CheckTarget wanted = target(echo.port(), Type::udp);
  wanted.config.source = *IpAddress::parse("127.0.0.8");
  EXPECT_EQ(check(wanted).code, CheckCode::l7ok);
  EXPECT_EQ(echo.client().address().to_string(), "127.0.0.8");
}

// ---- DNS ----

// The query made an answer to it.
std::string dns_answer(std::string query, uint8_t rcode, uint8_t answers) {
  query[2] = static_cast<char>(query[2] | 0x80);
  query[3] = static_cast<char>(0x80 | rcode);
  query[7] = static_cast<char>(answers);
  return query;
}

TEST_F(DatagramTest, ADnsAnswerWithTheExpectedRcodeIsGood) {
  uint8_t rcode = 0;
  UdpServer server(io_, [&](const std::string& asked) { return std::vector{dns_answer(asked, rcode, 2)}; });
  CheckTarget wanted = target(server.port(), Type::dns);
  wanted.config.query = "WWW.example.net";
  wanted.config.record = 28;
  const CheckResult good = check(wanted);
  EXPECT_EQ(good.code, CheckCode::l7ok);
  EXPECT_EQ(good.detail, "NOERROR, 2 answers");
  EXPECT_EQ(server.last().substr(2),
            std::string("\x01\0\0\x01\0\0\0\0\0\0\3WWW\7example\3net\0\0\x1c\0\x01", 31));
  rcode = 3;
  const CheckResult none = check(wanted);
  EXPECT_EQ(none.code, CheckCode::l7sts);
  EXPECT_EQ(none.detail, "NXDOMAIN, 2 answers");
  wanted.config.rcode = 3;
  EXPECT_EQ(check(wanted).code, CheckCode::l7ok);
  rcode = 5;
  wanted.config.rcode = kAnyRcode;
  EXPECT_EQ(check(wanted).code, CheckCode::l7ok);
}

TEST_F(DatagramTest, WhatIsNoAnswerToTheDnsQueryIsWaitedOutOrNamed) {
  CheckTarget wanted = target(0, Type::dns);
  wanted.config.query = "example.net";
  // Another id, another name: somebody else's, or a guess. The right one comes behind them.
  UdpServer guessed(io_, [](const std::string& asked) {
    std::string other_id = dns_answer(asked, 3, 0), other_name = dns_answer(asked, 3, 0);
    other_id[0] = static_cast<char>(other_id[0] ^ 1);
    other_name[14] = 'E' ^ 3;
    return std::vector{other_id, other_name, std::string("x"), dns_answer(asked, 0, 1)};
  });
  wanted.port = guessed.port();
  EXPECT_EQ(check(wanted).code, CheckCode::l7ok);
  UdpServer mirror(io_, [](const std::string& asked) { return std::vector{asked}; });
  wanted.port = mirror.port();
  EXPECT_EQ(check(wanted).code, CheckCode::l7rsp) << "a query is no answer";
  UdpServer cut(io_,
                [](const std::string& asked) { return std::vector{dns_answer(asked, 0, 1).substr(0, 13)}; });
  wanted.port = cut.port();
  EXPECT_EQ(check(wanted).code, CheckCode::l7rsp);
  UdpServer silent(io_, nothing);
  wanted.port = silent.port();
  EXPECT_EQ(check(wanted).code, CheckCode::l7tout);
}

TEST(DnsMessageTest, NamesBecomeLabels) {
  using namespace std::string_literals;
  EXPECT_EQ(dns_labels("."), "\0"s);
  EXPECT_EQ(dns_labels("a.example."), "\1a\7example\0"s);
  EXPECT_EQ(dns_labels(std::string(63, 'x')), "\x3f"s + std::string(63, 'x') + "\0"s);
  for (const std::string& wrong : {"a..b"s, ".a"s, "a.."s, "a b"s, "a\nb"s, std::string(64, 'x'), [] {
                                     std::string long_name;
                                     for (int i = 0; i < 64; i++)
                                       long_name += "abc.";
                                     return long_name;
                                   }()}) {
    EXPECT_FALSE(dns_labels(wrong)) << wrong;
  }
}

// ---- ICMP echo ----

TEST_F(DatagramTest, AHostThatAnswersEchoRequestsIsGood) {
  if (geteuid() != 0) GTEST_SKIP() << "raw sockets need root";
  for (const char* address : {"127.0.0.1", "::1"}) {
    CheckTarget wanted = target(0, Type::icmp);
    wanted.address = *IpAddress::parse(address);
    wanted.config.timeout = Milliseconds(2000);
    const CheckResult result = check(wanted);
    EXPECT_EQ(result.code, CheckCode::l4ok) << address << " " << result.detail;
  }
  CheckTarget wanted = target(0, Type::icmp);
  wanted.config.source = *IpAddress::parse("127.0.0.7");
  EXPECT_EQ(check(wanted).code, CheckCode::l4ok);
}

TEST_F(DatagramTest, ManyEchoRequestsAtATimeEachGetTheirOwnAnswer) {
  if (geteuid() != 0) GTEST_SKIP() << "raw sockets need root";
  constexpr int kRequests = 500;
  int good = 0, ended = 0;
  std::vector<std::unique_ptr<Probe>> probes;
  for (int i = 0; i < kRequests; i++) {
    CheckTarget wanted = target(0, Type::icmp);
    wanted.address = *IpAddress::parse("127.0.1." + std::to_string(i % 250 + 1));
    wanted.config.timeout = Milliseconds(10'000);
    probes.push_back(
        Probe::start(tools_, std::make_shared<const CheckTarget>(wanted), [&](const CheckResult& r) {
          good += r.code == CheckCode::l4ok ? 1 : 0;
          ended++;
        }));
  }
  probes.erase(probes.begin(), probes.begin() + 100);  // called off
  run_until([&] { return ended == kRequests - 100; });
  EXPECT_EQ(good, kRequests - 100);
}

std::string ipv4_header(uint8_t protocol) {
  std::string header(20, '\0');
  header[0] = 0x45;
  header[9] = static_cast<char>(protocol);
  return header;
}

TEST(EchoAnswerTest, RepliesAndErrorsAreTakenApart) {
  std::string reply = echo_request(Family::v4, 0x1234, 0x5678, 42);
  reply[0] = 0;  // echo reply
  const EchoAnswer good = parse_echo_answer(Family::v4, ipv4_header(1) + reply);
  EXPECT_EQ(good.kind, EchoAnswer::Kind::reply);
  EXPECT_EQ(good.identifier, 0x1234);
  EXPECT_EQ(good.sequence, 0x5678);
  EXPECT_EQ(good.cookie, 42u);

  // A router that quotes eight bytes only, as RFC 792 asks.
  const std::string error4 = ipv4_header(1) + std::string("\3\1\0\0\0\0\0\0", 8) + ipv4_header(1) +
                             echo_request(Family::v4, 7, 8, 42).substr(0, 8);
  const EchoAnswer unreachable = parse_echo_answer(Family::v4, error4);
  EXPECT_EQ(unreachable.kind, EchoAnswer::Kind::unreachable);
  EXPECT_EQ(unreachable.reason, "host unreachable (ICMP)");
  EXPECT_EQ(unreachable.identifier, 7);
  EXPECT_EQ(unreachable.sequence, 8);
  EXPECT_FALSE(unreachable.cookie);

  const std::string error6 =
      std::string("\1\0\0\0\0\0\0\0", 8) + std::string(40, '\0') + echo_request(Family::v6, 7, 9, 43);
  const EchoAnswer no_route = parse_echo_answer(Family::v6, error6);
  EXPECT_EQ(no_route.kind, EchoAnswer::Kind::unreachable);
  EXPECT_EQ(no_route.reason, "network unreachable (ICMP)");
  EXPECT_EQ(no_route.sequence, 9);
  EXPECT_EQ(no_route.cookie, 43u);

  // Cut off anywhere: never read beyond the end (the sanitizers watch), never a reply.
  for (size_t length = 0; length < 28; length++)
    EXPECT_EQ(parse_echo_answer(Family::v4, (ipv4_header(1) + reply).substr(0, length)).kind,
              EchoAnswer::Kind::other);
  for (size_t length = 0; length < error6.size() - 8; length++)
    EXPECT_EQ(parse_echo_answer(Family::v6, error6.substr(0, length)).kind, EchoAnswer::Kind::other);
}

}  // namespace
}  // namespace sluice
