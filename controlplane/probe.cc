#include "controlplane/probe.h"

#include <algorithm>
#include <chrono>

#include <boost/asio/ip/tcp.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/core/tcp_stream.hpp>
#include <boost/beast/http/empty_body.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/read.hpp>
#include <boost/beast/http/write.hpp>

#include "src/segment.h"

namespace sluice {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = boost::beast::http;
using boost::system::error_code;

asio::ip::tcp::endpoint endpoint_of(const IpAddress& address, uint16_t port) {
  if (address.is_v4()) return {asio::ip::address_v4(net32(address.v4_network_order())), port};
  return {asio::ip::address_v6(address.bytes), port};
}

// Faults of this host that say nothing about the backend.
bool is_local_shortage(const error_code& error) {
  namespace errc = boost::system::errc;
  return error == errc::too_many_files_open || error == errc::too_many_files_open_in_system ||
         error == errc::no_buffer_space || error == errc::not_enough_memory ||
         error == errc::address_not_available;
}

// How much later than its deadline a check may learn of its end and still blame the backend. Above this the
// loop stood still for so long (a big publish) that the backend's answer may lie unread, and with it those of
// all backends checked at that time: none of them may go down for it. Every timer is a little late, by the
// handlers before it: that is no stall, hence the floor.
uint64_t late_max_ns(std::chrono::nanoseconds timeout) {
  constexpr std::chrono::nanoseconds kFloor = std::chrono::milliseconds(20);
  return static_cast<uint64_t>(std::max(timeout / 2, kFloor).count());
}

}  // namespace

const char* text(CheckCode code) {
  switch (code) {
    case CheckCode::l4ok:
      return "L4OK";
    case CheckCode::l4tout:
      return "L4TOUT";
    case CheckCode::l4con:
      return "L4CON";
    case CheckCode::l7ok:
      return "L7OK";
    case CheckCode::l7sts:
      return "L7STS";
    case CheckCode::l7rsp:
      return "L7RSP";
    case CheckCode::l7tout:
      return "L7TOUT";
    case CheckCode::none:
      break;
  }
  return "";
}

// Keeps itself alive through its handlers until the last of them has run.
class Probe::Run : public std::enable_shared_from_this<Run> {
 public:
  Run(asio::io_context& io, const CheckTarget& target, Handler done)
      : stream_(io), target_(target), done_(std::move(done)), started_ns_(monotonic_ns()) {}

  void begin() {
    // One deadline for all steps together.
    stream_.expires_after(target_.config.timeout);
    stream_.async_connect(endpoint_of(target_.address, target_.port),
                          [self = shared_from_this()](error_code error) { self->connected(error); });
  }

  void cancel() {
    done_ = nullptr;
    stream_.cancel();
    error_code ignored;
    stream_.socket().close(ignored);
  }

 private:
  void connected(error_code error) {
    if (error == beast::error::timeout) return finish_late(CheckCode::l4tout, "no answer to the TCP connect");
    if (error && is_local_shortage(error)) return finish(CheckCode::none, error.message());
    if (error) return finish(CheckCode::l4con, error.message());
    if (target_.config.type != HealthConfig::Type::http) {
      // Reset instead of FIN: a connect check leaves no TIME_WAIT socket behind, here or there.
      error_code ignored;
      stream_.socket().set_option(asio::socket_base::linger(true, 0), ignored);
      return finish(CheckCode::l4ok, "");
    }
    request_.method(http::verb::get);
    request_.version(11);
    request_.target(target_.config.path);
    request_.set(http::field::host, target_.config.host);
    request_.set(http::field::user_agent, "sluice/" SLUICE_VERSION " (health check)");
    request_.set(http::field::accept, "*/*");
    request_.keep_alive(false);
    parser_.header_limit(kResponseHeaderBytesMax);
    http::async_write(stream_, request_,
                      [self = shared_from_this()](error_code e, size_t) { self->written(e); });
  }

  void written(error_code error) {
    if (error) return finish_failed(error);
    http::async_read_header(stream_, buffer_, parser_,
                            [self = shared_from_this()](error_code e, size_t) { self->answered(e); });
  }

  void answered(error_code error) {
    if (error) return finish_failed(error);
    const unsigned status = parser_.get().result_int();
    const std::string detail = "HTTP status " + std::to_string(status);
    const bool expected = status >= target_.config.status_min && status <= target_.config.status_max;
    finish(expected ? CheckCode::l7ok : CheckCode::l7sts, detail);
  }

  void finish_failed(error_code error) {
    if (error == beast::error::timeout)
      return finish_late(CheckCode::l7tout, "no complete HTTP response header");
    if (error == http::error::end_of_stream) return finish(CheckCode::l7rsp, "closed without an answer");
    finish(CheckCode::l7rsp, "not an HTTP response: " + error.message());
  }

  void finish_late(CheckCode code, std::string detail) {
    const std::chrono::nanoseconds timeout = target_.config.timeout;
    const uint64_t deadline_ns = started_ns_ + static_cast<uint64_t>(timeout.count());
    if (monotonic_ns() > deadline_ns + late_max_ns(timeout))
      return finish(CheckCode::none, "sluiced was busy");
    finish(code, std::move(detail));
  }

  void finish(CheckCode code, std::string detail) {
    error_code ignored;
    stream_.socket().close(ignored);
    if (!done_) return;
    const Handler done = std::move(done_);
    done_ = nullptr;
    done({code, std::move(detail), (monotonic_ns() - started_ns_) / 1000});
  }

  beast::tcp_stream stream_;
  const CheckTarget target_;
  Handler done_;  // empty once called or cancelled
  const uint64_t started_ns_;
  http::request<http::empty_body> request_;
  http::response_parser<http::empty_body> parser_;
  beast::flat_buffer buffer_{kResponseHeaderBytesMax};
};

std::unique_ptr<Probe> Probe::start(asio::io_context& io, const CheckTarget& target, Handler done) {
  auto run = std::make_shared<Run>(io, target, std::move(done));
  run->begin();
  return std::unique_ptr<Probe>(new Probe(std::move(run)));
}

Probe::~Probe() {
  run_->cancel();
}

}  // namespace sluice
