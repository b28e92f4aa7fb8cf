// What the tests of health checks share: a loop, targets on the loopback interface, and servers that behave.
#pragma once

#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/read_until.hpp>
#include <boost/asio/write.hpp>
#include <gtest/gtest.h>

#include "controlplane/probe.h"
#include "controlplane/probe_tools.h"

namespace sluice {

namespace asio = boost::asio;
using asio::ip::tcp;
using boost::system::error_code;

inline constexpr std::chrono::seconds kTestLimit{20};  // far beyond what any takes: a hang ends as a failure

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
  const tcp::endpoint& last_client() const { return last_client_; }
  int connections() const { return connections_; }
  void say(std::string answer) { answer_ = std::move(answer); }
  // The connection is closed behind an answer.
  void close_after_answer() { closes_after_answer_ = true; }
  // What requests end with.
  void set_request_end(std::string end) { request_end_ = std::move(end); }

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
      last_client_ = socket.remote_endpoint(error);
      auto client = std::make_shared<Client>(std::move(socket));
      if (kind_ != Kind::closes) open_.push_back(client);
      if (kind_ == Kind::answers) answer(client);
      accept();
    });
  }
  void answer(const std::shared_ptr<Client>& client) {
    asio::async_read_until(
        client->socket, asio::dynamic_buffer(client->input), request_end_,
        [this, client](error_code error, size_t) {
          if (error) return;
          last_request_ = client->input;
          client->output = answer_;
          asio::async_write(client->socket, asio::buffer(client->output), [this, client](error_code, size_t) {
            error_code ignored;
            if (closes_after_answer_) client->socket.shutdown(tcp::socket::shutdown_send, ignored);
          });
        });
  }

  tcp::acceptor acceptor_;
  const Kind kind_;
  std::string answer_;
  std::string last_request_;
  tcp::endpoint last_client_;
  std::string request_end_ = "\r\n\r\n";
  bool closes_after_answer_ = false;
  int connections_ = 0;
  std::vector<std::shared_ptr<Client>> open_;  // no connection ends before the check does
};

class ProbeFixture : public testing::Test {
 protected:
  static CheckTarget target(uint16_t port, HealthConfig::Type type) {
    CheckTarget target;
    target.address = *IpAddress::parse("127.0.0.1");
    target.port = port;
    target.config.type = type;
    target.config.host = "203.0.113.10";
    target.config.timeout = Milliseconds(300);
    target.config.interval = target.config.fast_interval = Milliseconds(20);
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
  void run_for(Milliseconds time) {
    const auto until = std::chrono::steady_clock::now() + time;
    run_until([&] { return std::chrono::steady_clock::now() >= until; });
  }

  CheckResult check(const CheckTarget& target) {
    // One that says "sluiced was busy" says that this machine was: it is asked again.
    for (int attempt = 0;; attempt++) {
      std::optional<CheckResult> result;
      const auto probe = Probe::start(tools_, std::make_shared<const CheckTarget>(target),
                                      [&](const CheckResult& r) { result = r; });
      EXPECT_FALSE(result) << "called from inside start()";
      run_until([&] { return result.has_value(); });
      if (result && result->detail == "sluiced was busy" && attempt < 5) continue;
      return result.value_or(CheckResult{});
    }
  }

  // A port on which nobody listens: bound, so that nobody else gets it, but not listening.
  uint16_t refusing_port() {
    refusing_.emplace(io_, tcp::endpoint(asio::ip::address_v4::loopback(), 0));
    return refusing_->local_endpoint().port();
  }

  asio::io_context io_;
  ProbeTools tools_{io_};
  std::optional<tcp::socket> refusing_;
};

}  // namespace sluice
