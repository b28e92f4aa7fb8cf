// Checks over a TCP connection, with TLS where the configuration says so. For probe_*.cc only.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <utility>

#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/ssl/error.hpp>
#include <boost/asio/ssl/stream.hpp>

#include "controlplane/probe_run.h"

namespace sluice {

// A socket, or TLS over it: an AsyncStream for Asio's and Beast's operations.
class ProbeStream {
 public:
  using Socket = boost::asio::ip::tcp::socket;
  using Tls = boost::asio::ssl::stream<Socket&>;
  using executor_type = Socket::executor_type;

  explicit ProbeStream(boost::asio::io_context& io) : socket_(io) {}
  executor_type get_executor() { return socket_.get_executor(); }
  Socket& socket() { return socket_; }
  Tls& start_tls(std::shared_ptr<boost::asio::ssl::context> context) {
    context_ = std::move(context);
    return tls_.emplace(socket_, *context_);
  }
  SSL* tls_handle() { return tls_->native_handle(); }  // after start_tls

  template <typename Buffers, typename Handler>
  void async_read_some(const Buffers& buffers, Handler&& handler) {
    if (tls_) {
      tls_->async_read_some(buffers, std::forward<Handler>(handler));
    } else {
      socket_.async_read_some(buffers, std::forward<Handler>(handler));
    }
  }
  template <typename Buffers, typename Handler>
  void async_write_some(const Buffers& buffers, Handler&& handler) {
    if (tls_) {
      tls_->async_write_some(buffers, std::forward<Handler>(handler));
    } else {
      socket_.async_write_some(buffers, std::forward<Handler>(handler));
    }
  }

 private:
  Socket socket_;
  std::shared_ptr<boost::asio::ssl::context> context_;
  std::optional<Tls> tls_;
};

// Connects, shakes hands; that is all of a tcp or tls check. The others go on in connected().
class StreamRun : public ProbeRun {
 public:
  StreamRun(ProbeTools& tools, TargetPtr target, Probe::Handler done)
      : ProbeRun(tools, std::move(target), std::move(done)), stream_(this->tools().io()) {}

 protected:
  void begin() override;
  void close() override;
  Verdict when_late() const override;

  virtual void connected();
  // What layer 7 owes, for the operator: "no complete HTTP response header".
  virtual std::string missing_answer() const { return ""; }
  // The connection failed after connected(): what `error` says of the backend.
  void finish_broken(const error_code& error);

  ProbeStream stream_;

 private:
  enum class Step : uint8_t { connect, handshake, exchange };
  void tcp_connected(const error_code& error);
  void shake_hands();
  void hands_shaken(const error_code& error);

  Step step_ = Step::connect;
};

}  // namespace sluice
