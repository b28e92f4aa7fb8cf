#include "controlplane/protocol.h"

#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <boost/asio/buffer.hpp>
#include <boost/asio/local/stream_protocol.hpp>
#include <boost/asio/read_until.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/write.hpp>
#include <spdlog/spdlog.h>

#include "src/segment.h"

namespace sluice {
namespace {

namespace asio = boost::asio;
using asio::local::stream_protocol;
using boost::system::error_code;
using nlohmann::json;

constexpr std::chrono::milliseconds kAcceptRetry{100};

// The request, or the response that refuses it.
struct Parsed {
  json request;
  json refusal;  // null when the request is fine
};

Parsed parse_request(std::string_view line) {
  Parsed parsed;
  parsed.request = json::parse(line, nullptr, /*allow_exceptions=*/false);
  if (!parsed.request.is_object()) {
    parsed.refusal = error_response(kCodeBadRequest, {"the request is not a JSON object on one line", ""});
    return parsed;
  }
  const auto version = parsed.request.find("v");
  if (version == parsed.request.end() || *version != kProtocolVersion) {
    parsed.refusal = error_response(
        kCodeBadRequest, {"the request is not of protocol version " + std::to_string(kProtocolVersion),
                          "use the sluice command of this sluiced: " SLUICE_VERSION});
    return parsed;
  }
  const auto command = parsed.request.find("cmd");
  if (command == parsed.request.end() || !command->is_string()) {
    parsed.refusal = error_response(kCodeBadRequest, {"the request has no \"cmd\"", ""});
  }
  return parsed;
}

}  // namespace

struct ProtocolServer::Impl {
  Impl(asio::io_context& io, std::string socket_path, Handler request_handler, Options server_options)
      : path(std::move(socket_path)),
        handler(std::move(request_handler)),
        options(server_options),
        acceptor(io),
        retry(io) {}

  void accept();

  const std::string path;
  const Handler handler;
  const Options options;
  stream_protocol::acceptor acceptor;
  asio::steady_timer retry;
  // Sessions may outlive the server by a handler or two; they share what they need of it.
  std::shared_ptr<size_t> clients = std::make_shared<size_t>(0);
};

// One connection. Alive while an operation of it is under way or its answer is being worked out.
class ProtocolServer::Session : public std::enable_shared_from_this<Session> {
 public:
  Session(stream_protocol::socket socket, const Impl& server)
      : socket_(std::move(socket)),
        deadline_(socket_.get_executor()),
        handler_(server.handler),
        idle_timeout_(server.options.idle_timeout),
        clients_(server.clients) {
    ++*clients_;
  }
  ~Session() { --*clients_; }

  void read() {
    set_deadline();
    // One byte more than a line may have: a buffer full without a newline is an oversized line.
    asio::async_read_until(
        socket_, asio::dynamic_buffer(input_, kLineBytesMax + 1), '\n',
        [self = shared_from_this()](error_code error, size_t length) { self->received(error, length); });
  }

  void refuse(const json& response) { write(response, /*then_close=*/true); }

 private:
  void received(error_code error, size_t length) {
    deadline_.cancel();
    if (error == asio::error::not_found) {
      return refuse(error_response(
          kCodeBadRequest, {"the request is longer than " + std::to_string(kLineBytesMax) + " bytes", ""}));
    }
    // A client that shuts down its side right after the last request may leave the newline out.
    const bool last_line = error == asio::error::eof && !input_.empty();
    if (error && !last_line)
      return;  // closed, reset or timed out: the last reference goes, and the socket with it
    const uint64_t received_ns = monotonic_ns();
    const Parsed parsed =
        parse_request(std::string_view(input_).substr(0, last_line ? input_.size() : length - 1));
    input_.erase(0, last_line ? input_.size() : length);
    if (!parsed.refusal.is_null()) return write(parsed.refusal, false);
    handler_(parsed.request, received_ns,
             [self = shared_from_this()](const json& response) { self->write(response, false); });
  }

  void write(const json& response, bool then_close) {
    set_deadline();
    output_ = to_line(response);
    asio::async_write(socket_, asio::buffer(output_),
                      [self = shared_from_this(), then_close](error_code error, size_t) {
                        self->deadline_.cancel();
                        if (error) return;
                        if (then_close) return self->close();
                        self->read();
                      });
  }

  // Shut down before close: unread input would turn the close into a reset and lose the response.
  void close() {
    error_code ignored;
    socket_.shutdown(stream_protocol::socket::shutdown_send, ignored);
    char rest[4096];
    socket_.non_blocking(true, ignored);
    while (!ignored && socket_.read_some(asio::buffer(rest), ignored) > 0) {
    }
  }

  void set_deadline() {
    deadline_.expires_after(idle_timeout_);
    deadline_.async_wait([weak = weak_from_this()](error_code error) {
      const auto self = weak.lock();
      if (error || !self) return;
      error_code ignored;
      self->socket_.close(ignored);
    });
  }

  stream_protocol::socket socket_;
  asio::steady_timer deadline_;
  const Handler handler_;
  const std::chrono::milliseconds idle_timeout_;
  std::shared_ptr<size_t> clients_;
  std::string input_;
  std::string output_;
};

void ProtocolServer::Impl::accept() {
  acceptor.async_accept([this](error_code error, stream_protocol::socket socket) {
    if (error == asio::error::operation_aborted) return;
    if (error) {
      // Out of descriptors, most likely: others will be closed in a moment.
      spdlog::warn("control socket: {}", error.message());
      retry.expires_after(kAcceptRetry);
      retry.async_wait([this](error_code timer_error) {
        if (!timer_error) accept();
      });
      return;
    }
    const bool full = *clients >= options.clients_max;
    const auto session = std::make_shared<Session>(std::move(socket), *this);
    if (full) {
      session->refuse(error_response(
          kCodeFailed, {"sluiced serves " + std::to_string(options.clients_max) + " clients already",
                        "try again in a moment"}));
    } else {
      session->read();
    }
    accept();
  });
}

Result<std::unique_ptr<ProtocolServer>> ProtocolServer::listen(asio::io_context& io, const std::string& path,
                                                               Handler handler, Options options) {
  if (path.size() >= sizeof(sockaddr_un::sun_path)) {
    return Error{"the path of the control socket is too long: " + path, "use a shorter --dir"};
  }
  unlink(path.c_str());
  auto impl = std::make_unique<Impl>(io, path, std::move(handler), options);
  error_code error;
  impl->acceptor.open(stream_protocol(), error);
  if (!error) {
    // From its first moment nobody but owner and group may connect.
    const mode_t previous = umask(0117);
    impl->acceptor.bind(stream_protocol::endpoint(path), error);
    umask(previous);
  }
  if (!error) impl->acceptor.listen(asio::socket_base::max_listen_connections, error);
  if (error) return Error{"cannot listen on " + path + ": " + error.message(), ""};
  impl->accept();
  return std::unique_ptr<ProtocolServer>(new ProtocolServer(std::move(impl)));
}

ProtocolServer::ProtocolServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

ProtocolServer::~ProtocolServer() {
  unlink(impl_->path.c_str());
}

}  // namespace sluice
