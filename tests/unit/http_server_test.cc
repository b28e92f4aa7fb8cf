// The HTTP server: right requests are answered, and whatever else comes costs nobody else anything.
#include "controlplane/http_server.h"

#include <arpa/inet.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstring>
#include <future>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/post.hpp>
#include <gtest/gtest.h>

namespace sluice {
namespace {

// A blocking client whose reads give up after a while.
class Browser {
 public:
  explicit Browser(uint16_t port) : fd_(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    EXPECT_EQ(connect(fd_, reinterpret_cast<sockaddr*>(&address), sizeof address), 0) << std::strerror(errno);
    const timeval limit = {10, 0};
    setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
  }
  ~Browser() { close(fd_); }
  Browser(const Browser&) = delete;
  Browser& operator=(const Browser&) = delete;

  void send(const std::string& text) {
    for (size_t done = 0; done < text.size();) {
      const ssize_t n = ::send(fd_, text.data() + done, text.size() - done, MSG_NOSIGNAL);
      if (n <= 0) return;
      done += static_cast<size_t>(n);
    }
  }
  // Header and body of the next answer; what there is of it when the server closes.
  std::string answer(bool has_body = true) {
    size_t header_end;
    while ((header_end = received_.find("\r\n\r\n")) == std::string::npos) {
      if (!more()) return std::exchange(received_, "");
    }
    size_t length = header_end + 4;
    const size_t at = received_.find("Content-Length: ");
    if (has_body && at < header_end) length += std::stoul(received_.substr(at + 16));
    while (received_.size() < length) {
      if (!more()) break;
    }
    const std::string all = received_.substr(0, length);
    received_.erase(0, length);
    return all;
  }
  bool is_closed() { return received_.empty() && !more(); }

 private:
  bool more() {
    char part[65'536];
    const ssize_t n = recv(fd_, part, sizeof part, 0);
    if (n <= 0) return false;
    received_.append(part, static_cast<size_t>(n));
    return true;
  }

  const int fd_;
  std::string received_;
};

constexpr const char* kGet = "GET /x HTTP/1.1\r\nHost: h\r\n\r\n";

class HttpServerTest : public testing::Test {
 protected:
  void serve(HttpServer::Options options = {}) {
    auto server = HttpServer::listen(
        io_, {*IpAddress::parse("127.0.0.1"), 0},
        [this](const std::string& path, const HttpServer::Respond& respond) {
          auto body = std::make_shared<const std::string>(path == "/big" ? std::string(8 << 20, 'b')
                                                                         : "you asked for " + path);
          if (path == "/never") return never_.push_back(respond);
          if (path != "/later") return respond({200, "text/plain", body});
          boost::asio::post(io_, [respond, body] { respond({200, "text/plain", body}); });
        },
        options);
    ASSERT_TRUE(server) << server.error().text();
    server_ = std::move(*server);
    thread_ = std::thread([this] { io_.run(); });
  }
  void TearDown() override {
    io_.stop();
    if (thread_.joinable()) thread_.join();
  }
  uint16_t port() const { return server_->port(); }
  void expect_healthy() {
    Browser browser(port());
    browser.send(kGet);
    EXPECT_NE(browser.answer().find("200 OK"), std::string::npos);
  }

  boost::asio::io_context io_;
  boost::asio::executor_work_guard<boost::asio::io_context::executor_type> work_{io_.get_executor()};
  std::vector<HttpServer::Respond> never_;
  std::unique_ptr<HttpServer> server_;
  std::thread thread_;
};

TEST_F(HttpServerTest, RequestsOfOneConnectionAreAnsweredInOrder) {
  serve();
  Browser browser(port());
  browser.send("GET /later?a=b HTTP/1.1\r\nHost: h\r\n\r\nGET /second HTTP/1.1\r\nHost: h\r\n\r\n");
  const std::string first = browser.answer();
  EXPECT_NE(first.find("HTTP/1.1 200 OK"), std::string::npos);
  EXPECT_NE(first.find("\r\n\r\nyou asked for /later"), std::string::npos);
  EXPECT_TRUE(browser.answer().ends_with("you asked for /second"));
}

TEST_F(HttpServerTest, HeadHasTheLengthAndNoBodyAndTheConnectionGoesOn) {
  serve();
  Browser browser(port());
  browser.send("HEAD /x HTTP/1.1\r\nHost: h\r\n\r\n");
  const std::string head = browser.answer(/*has_body=*/false);
  EXPECT_NE(head.find("Content-Length: 16"), std::string::npos) << head;
  EXPECT_TRUE(head.ends_with("\r\n\r\n"));
  browser.send(kGet);
  EXPECT_TRUE(browser.answer().ends_with("you asked for /x"));
}

TEST_F(HttpServerTest, OldClientsAreAnsweredAndClosed) {
  serve();
  Browser browser(port());
  browser.send("GET /x HTTP/1.0\r\n\r\n");
  EXPECT_TRUE(browser.answer().ends_with("you asked for /x"));
  EXPECT_TRUE(browser.is_closed());
}

TEST_F(HttpServerTest, WhatIsNotARequestGetsAnErrorAndTheEnd) {
  serve();
  const std::vector<std::pair<std::string, const char*>> bad = {
      {"hello\r\n\r\n", " 400 "},
      {std::string("\0\1\2\3\r\n\r\n", 8), " 400 "},
      {"GET /x HTTP/9.9\r\n\r\n", " 400 "},
      {"GET /x HTTP/1.1\r\nno colon\r\n\r\n", " 400 "},
      {"GET /x HTTP/1.1\r\nContent-Length: -1\r\n\r\n", " 400 "},
      {"GET /" + std::string(HttpServer::kHeaderBytesMax, 'x') + " HTTP/1.1\r\n\r\n", " 431 "},
      {"GET /x HTTP/1.1\r\nA: " + std::string(1 << 20, 'x') + "\r\n\r\n", " 431 "},
      {"POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 100000\r\n\r\n" + std::string(100'000, 'x'), " 413 "},
  };
  for (const auto& [request, status] : bad) {
    Browser browser(port());
    browser.send(request);
    const std::string answer = browser.answer();
    EXPECT_NE(answer.substr(0, 15).find(status), std::string::npos)
        << request.substr(0, 60) << ": " << answer.substr(0, 200);
    EXPECT_TRUE(browser.is_closed());
    expect_healthy();
  }
}

TEST_F(HttpServerTest, OtherMethodsAreRefused) {
  serve();
  for (const char* method : {"POST", "DELETE", "PUT", "OPTIONS", "PATCH"}) {
    Browser browser(port());
    browser.send(std::string(method) + " /x HTTP/1.1\r\nHost: h\r\n\r\n");
    const std::string answer = browser.answer();
    EXPECT_NE(answer.find(" 405 "), std::string::npos) << method;
    EXPECT_NE(answer.find("Allow: GET, HEAD"), std::string::npos) << method;
  }
}

TEST_F(HttpServerTest, SlowAndSilentClientsAreCutOff) {
  HttpServer::Options options;
  options.patience = std::chrono::milliseconds(200);
  serve(options);
  Browser silent(port()), half(port()), dripping(port()), deaf(port());
  half.send("GET /x HT");
  deaf.send("GET /big HTTP/1.1\r\nHost: h\r\n\r\n");  // and reads nothing: 8 MiB do not fit the sockets
  for (int i = 0; i < 20; i++) {
    dripping.send("G");  // each in time, the whole never
    usleep(20'000);
  }
  EXPECT_TRUE(silent.is_closed());
  EXPECT_TRUE(half.is_closed());
  EXPECT_TRUE(dripping.is_closed());
  expect_healthy();
}

TEST_F(HttpServerTest, HalfOpenConnectionsGiveTheirPlaceToThoseWhoAsk) {
  HttpServer::Options options;
  options.connections_max = 4;
  serve(options);
  std::vector<std::unique_ptr<Browser>> half_open;
  for (int i = 0; i < 20; i++) {
    half_open.push_back(std::make_unique<Browser>(port()));
    half_open.back()->send("GET /x");
    expect_healthy();
  }
}

TEST_F(HttpServerTest, WithAllConnectionsAtWorkTheNextIsTurnedAway) {
  HttpServer::Options options;
  options.connections_max = 2;
  serve(options);
  Browser first(port()), second(port());
  for (Browser* browser : {&first, &second})
    browser->send("GET /never HTTP/1.1\r\nHost: h\r\n\r\n");
  for (size_t at_work = 0; at_work < 2;) {
    std::promise<size_t> count;
    boost::asio::post(io_, [&] { count.set_value(never_.size()); });
    at_work = count.get_future().get();
  }
  Browser third(port());
  third.send(kGet);
  EXPECT_NE(third.answer().find(" 503 "), std::string::npos);
  std::promise<void> answered;
  boost::asio::post(io_, [&] {
    for (const HttpServer::Respond& respond : never_)
      respond({200, "text/plain", std::make_shared<const std::string>("at last")});
    answered.set_value();
  });
  answered.get_future().wait();
  EXPECT_TRUE(first.answer().ends_with("at last"));
  EXPECT_TRUE(second.answer().ends_with("at last"));
}

TEST_F(HttpServerTest, APortInUseIsAnErrorThatSaysSo) {
  serve();
  const auto second = HttpServer::listen(io_, {*IpAddress::parse("127.0.0.1"), port()},
                                         [](const std::string&, const HttpServer::Respond&) {}, {});
  ASSERT_FALSE(second);
  EXPECT_NE(second.error().what.find("127.0.0.1:" + std::to_string(port())), std::string::npos);
  EXPECT_FALSE(second.error().remedy.empty());
}

}  // namespace
}  // namespace sluice
