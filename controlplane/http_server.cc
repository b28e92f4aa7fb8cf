#include "controlplane/http_server.h"

#include <optional>
#include <set>
#include <span>
#include <utility>

#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/ip/v6_only.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/core/tcp_stream.hpp>
#include <boost/beast/http.hpp>
#include <boost/beast/http/span_body.hpp>

namespace sluice {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = beast::http;
using asio::ip::tcp;
using boost::system::error_code;
using Clock = std::chrono::steady_clock;

constexpr std::chrono::milliseconds kAcceptRetry{100};

asio::ip::address to_asio(const IpAddress& address) {
  if (address.is_v4()) {
    asio::ip::address_v4::bytes_type bytes;
    std::copy(address.bytes.begin() + 12, address.bytes.end(), bytes.begin());
    return asio::ip::address_v4(bytes);
  }
  asio::ip::address_v6::bytes_type bytes;
  std::copy(address.bytes.begin(), address.bytes.end(), bytes.begin());
  return asio::ip::address_v6(bytes);
}

HttpAnswer sentence(http::status status, const std::string& text) {
  return {static_cast<unsigned>(status), "text/plain; charset=utf-8",
          std::make_shared<const std::string>(text + "\n")};
}

HttpAnswer answer_to_fault(const error_code& fault) {
  if (fault == http::error::header_limit || fault == http::error::buffer_overflow)
    return sentence(http::status::request_header_fields_too_large, "the request's header is too long");
  if (fault == http::error::unexpected_body || fault == http::error::body_limit)
    return sentence(http::status::payload_too_large, "a request has no body here");
  return sentence(http::status::bad_request, "this is not HTTP: " + fault.message());
}

}  // namespace

// Sessions may outlive the server by a handler or two: what they need of it.
struct HttpServer::Shared {
  Handler handler;
  Options options;
  std::set<Session*> sessions;
};

// One connection. Alive while an operation of it is under way or its answer is being worked out.
class HttpServer::Session : public std::enable_shared_from_this<Session> {
 public:
  Session(tcp::socket socket, std::shared_ptr<Shared> shared)
      : stream_(std::move(socket)), shared_(std::move(shared)) {
    shared_->sessions.insert(this);
  }
  ~Session() { shared_->sessions.erase(this); }

  // When it began to wait for its client, to ask or to take the answer; nothing while that is worked out.
  std::optional<Clock::time_point> waits_since() const { return waits_since_; }

  void read() {
    parser_.emplace();
    parser_->header_limit(kHeaderBytesMax);
    waits_since_ = Clock::now();
    stream_.expires_after(shared_->options.patience);
    http::async_read(stream_, buffer_, *parser_,
                     [self = shared_from_this()](error_code error, size_t) { self->received(error); });
  }

  void refuse() {
    keep_alive_ = false;
    send(sentence(http::status::service_unavailable, "too many connections: try again in a moment"));
  }

  void end() {
    shared_->sessions.erase(this);
    error_code ignored;
    stream_.socket().close(ignored);
  }

 private:
  void received(error_code error) {
    waits_since_.reset();
    if (error == http::error::end_of_stream || error == beast::error::timeout ||
        error.category() != http::make_error_code(http::error::bad_method).category()) {
      if (error) return end();
    }
    if (error) {
      keep_alive_ = false;
      return send(answer_to_fault(error));
    }
    const auto& request = parser_->get();
    keep_alive_ = request.keep_alive();
    is_head_ = request.method() == http::verb::head;
    if (request.method() != http::verb::get && !is_head_)
      return send(sentence(http::status::method_not_allowed, "only GET and HEAD are possible"));
    const std::string target(request.target());
    shared_->handler(target.substr(0, target.find('?')),
                     [self = shared_from_this()](HttpAnswer answer) { self->send(std::move(answer)); });
  }

  void send(HttpAnswer answer) {
    answer_ = std::move(answer);
    response_ = {};
    response_.result(answer_.status);
    response_.set(http::field::server, "sluiced");
    response_.set(http::field::content_type, answer_.content_type);
    response_.set(http::field::cache_control, "no-store");
    if (answer_.status == static_cast<unsigned>(http::status::method_not_allowed))
      response_.set(http::field::allow, "GET, HEAD");
    response_.keep_alive(keep_alive_);
    response_.content_length(answer_.body->size());
    if (!is_head_) response_.body() = beast::span<const char>(answer_.body->data(), answer_.body->size());
    serializer_.emplace(response_);
    waits_since_ = Clock::now();
    stream_.expires_after(shared_->options.patience);
    const auto sent = [self = shared_from_this()](error_code error, size_t) { self->sent(error); };
    if (is_head_) return http::async_write_header(stream_, *serializer_, sent);
    http::async_write(stream_, *serializer_, sent);
  }

  void sent(error_code error) {
    answer_.body.reset();
    if (error) return end();
    if (keep_alive_) return read();
    // Shut down before close: unread input would turn the close into a reset and lose the answer.
    stream_.socket().shutdown(tcp::socket::shutdown_send, error);
    drain();
  }

  void drain() {
    if (drained_ >= kDrainedMax) return end();
    stream_.async_read_some(asio::buffer(scrap_),
                            [self = shared_from_this()](error_code error, size_t bytes) {
                              self->drained_ += bytes;
                              if (error) return self->end();
                              self->drain();
                            });
  }

  static constexpr size_t kDrainedMax = 256 * 1024;

  beast::tcp_stream stream_;
  const std::shared_ptr<Shared> shared_;
  beast::flat_buffer buffer_{2 * kHeaderBytesMax};
  std::optional<http::request_parser<http::empty_body>> parser_;
  http::response<http::span_body<const char>> response_;
  std::optional<http::response_serializer<http::span_body<const char>>> serializer_;
  HttpAnswer answer_;
  std::optional<Clock::time_point> waits_since_;
  bool keep_alive_ = false;
  bool is_head_ = false;
  char scrap_[4096];
  size_t drained_ = 0;
};

struct HttpServer::Impl {
  Impl(asio::io_context& io) : acceptor(io), retry(io) {}

  void accept() {
    acceptor.async_accept([this](error_code error, tcp::socket socket) {
      if (error == asio::error::operation_aborted) return;
      if (error) {
        // Out of descriptors, most likely: others will be closed in a moment.
        retry.expires_after(kAcceptRetry);
        retry.async_wait([this](error_code timer_error) {
          if (!timer_error) accept();
        });
        return;
      }
      admit(std::move(socket));
      accept();
    });
  }

  void admit(tcp::socket socket) {
    const bool has_room = make_room();
    const auto session = std::make_shared<Session>(std::move(socket), shared);
    if (has_room) return session->read();
    shared->sessions.erase(session.get());
    session->refuse();
  }

  bool make_room() {
    if (shared->sessions.size() < shared->options.connections_max) return true;
    Session* longest = nullptr;
    for (Session* session : shared->sessions) {
      const auto since = session->waits_since();
      if (since && (longest == nullptr || *since < *longest->waits_since())) longest = session;
    }
    if (longest == nullptr) return false;
    longest->end();
    return true;
  }

  tcp::acceptor acceptor;
  asio::steady_timer retry;
  std::shared_ptr<Shared> shared = std::make_shared<Shared>();
};

Result<std::unique_ptr<HttpServer>> HttpServer::listen(asio::io_context& io, const Endpoint& at,
                                                       Handler handler, Options options) {
  auto impl = std::make_unique<Impl>(io);
  impl->shared->handler = std::move(handler);
  impl->shared->options = options;
  const tcp::endpoint endpoint(to_asio(at.address), at.port);
  error_code error;
  impl->acceptor.open(endpoint.protocol(), error);
  if (!error) impl->acceptor.set_option(asio::socket_base::reuse_address(true), error);
  if (!error && !at.address.is_v4()) impl->acceptor.set_option(asio::ip::v6_only(true), error);
  if (!error) impl->acceptor.bind(endpoint, error);
  if (!error) impl->acceptor.listen(asio::socket_base::max_listen_connections, error);
  if (error) {
    return Error{"cannot listen for HTTP on " + at.text() + ": " + error.message(),
                 error == asio::error::address_in_use ? "ss -ltnp   says who does" : ""};
  }
  impl->accept();
  return std::unique_ptr<HttpServer>(new HttpServer(std::move(impl)));
}

HttpServer::HttpServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

HttpServer::~HttpServer() = default;

uint16_t HttpServer::port() const {
  error_code ignored;
  return impl_->acceptor.local_endpoint(ignored).port();
}

}  // namespace sluice
