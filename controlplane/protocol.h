// The control socket: how sluice and scripts talk to sluiced.
//
// A unix stream socket, DIRECTORY/control.sock. Who the peer is, the kernel says; access.h turns that into a
// role. Each line is one JSON object, each request gets exactly one answer, in order:
//
//   {"v":1,"cmd":"backend.weight","service":"web","backend":"b1","weight":50}
//   {"v":1,"ok":true,"generation":17,"workers":1,"ack_us":412.7,...}
//   {"v":1,"ok":false,"code":"not_found","error":"no backend 'b9' in service 'web'","remedy":"did you mean
//   'b1'?"}
//
// `code` is one of kCode... (message.h); commands.h lists the commands. A command that streams (watch) sends
// lines without "ok" before its answer. Any number of requests may follow each other on one connection; the
// next one is read when the answer of the last is written, so nobody gets more than one turn at a time.
//
// Nothing a client does disturbs another:
// * A line longer than its role may send, text that is not such an object, or another version gets an error
//   (after an oversized line the connection is closed, there is no next line to find).
// * One that sends or reads nothing for kIdleTimeout is closed. A stream may rest as long as it likes.
// * Of a stream at most kStreamBytesMax wait for a client that does not read.
// * With kClientsMax connected, the next one takes the place of the one that has waited longest, if that is
//   longer than kSeatSafe, without a complete request, of the user who has the most connections. If there is
//   none, the next one is told kCodeBusy. Readers have half of the places at most,
//   one of them three quarters of that.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include <boost/asio/io_context.hpp>
#include <nlohmann/json.hpp>

#include "controlplane/access.h"
#include "controlplane/message.h"
#include "src/result.h"

namespace sluice {

// Of a request, with its newline not counted; an answer may be longer. Administrators send configurations.
inline constexpr size_t kLineBytesMax = 64 * 1024;
inline constexpr size_t kAdminLineBytesMax = 16 << 20;
inline constexpr size_t kClientsMax = 512;
inline constexpr size_t kStreamBytesMax = 1 << 20;
inline constexpr std::chrono::seconds kIdleTimeout{30};
inline constexpr std::chrono::milliseconds kSeatSafe{1000};

// To one request. Copies are one and the same; all of it on the loop's thread.
class Reply {
 public:
  struct Channel {
    virtual ~Channel() = default;
    virtual void answer(const nlohmann::json& response) = 0;
    virtual bool part(const nlohmann::json&) { return false; }
    virtual void on_close(std::function<void()>) {}
    virtual void after_sent(std::function<void()>) {}
  };
  Reply(Client client, std::shared_ptr<Channel> channel)
      : client_(std::make_shared<const Client>(std::move(client))), channel_(std::move(channel)) {}

  // The answer: once, now or later. The client may be gone by then.
  void operator()(const nlohmann::json& response) const {
    if (tap_) tap_(response);
    channel_->answer(response);
  }
  // A line before the answer. False: not sent, because the client is gone or kStreamBytesMax wait for it.
  bool part(const nlohmann::json& line) const { return channel_->part(line); }
  // Calls back when the client is gone before it got its answer. For streams only: it costs a wait.
  void on_close(std::function<void()> closed) const { channel_->on_close(std::move(closed)); }
  // Calls back once when the client has taken all parts so far; not if it goes first.
  void after_sent(std::function<void()> sent) const { channel_->after_sent(std::move(sent)); }

  const Client& client() const { return *client_; }
  // The same, with `tap` called with the answer just before it is sent.
  Reply with_tap(std::function<void(const nlohmann::json&)> tap) const {
    Reply tapped = *this;
    tapped.tap_ = std::move(tap);
    return tapped;
  }

 private:
  std::shared_ptr<const Client> client_;
  std::shared_ptr<Channel> channel_;
  std::function<void(const nlohmann::json&)> tap_;
};

// The request in a line, or the response that refuses it.
struct ParsedRequest {
  nlohmann::json request;
  nlohmann::json refusal;  // null when the request is fine
};
ParsedRequest parse_request(std::string_view line);

class ProtocolServer {
 public:
  using Reply = sluice::Reply;
  // Called from the loop for each well-formed request of a client with a role, with the time at which its
  // line was complete.
  using Handler = std::function<void(const nlohmann::json& request, uint64_t received_ns, Reply reply)>;
  struct Options {
    std::chrono::milliseconds idle_timeout = kIdleTimeout;
    std::chrono::milliseconds seat_safe = kSeatSafe;
    size_t clients_max = kClientsMax;
    Access access = {};
    // Told, once until it works again, why nobody can connect.
    std::function<void(const std::string&)> on_fault = [](const std::string&) {};
  };

  // Binds the path; a socket left there by a dead predecessor is removed (the caller holds the instance's
  // lock).
  static Result<std::unique_ptr<ProtocolServer>> listen(boost::asio::io_context& io, const std::string& path,
                                                        Handler handler, Options options);
  static Result<std::unique_ptr<ProtocolServer>> listen(boost::asio::io_context& io, const std::string& path,
                                                        Handler handler) {
    return listen(io, path, std::move(handler), Options());
  }
  // Also for the next request of who is connected. An Error: the socket's mode could not be changed.
  Result<Done> set_access(const Access& access);
  const Access& access() const;
  size_t clients() const;
  // Stops accepting and removes the socket file. Sessions end with the event loop.
  ~ProtocolServer();

 private:
  class Session;
  struct Shared;
  struct Impl;
  explicit ProtocolServer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace sluice
