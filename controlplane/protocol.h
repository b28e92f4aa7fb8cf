// The control socket: how sluice and scripts talk to sluiced.
//
// A unix stream socket, DIRECTORY/control.sock, mode 0660: who may write to it may command the balancer. Each
// line is one JSON object, each request gets exactly one response line, in order:
//
//   {"v":1,"cmd":"backend.weight","service":"web","backend":"b1","weight":50}
//   {"v":1,"ok":true,"generation":17,"workers":1,"ack_us":412.7,...}
//   {"v":1,"ok":false,"code":"not_found","error":"no backend 'b9' in service 'web'","remedy":"did you mean
//   'b1'?"}
//
// `code` is one of kCode... (message.h); commands.h lists the commands. Any number of requests may follow
// each other on one connection; the next one is read when the answer of the last is written.
//
// Nothing a client does disturbs another: a line longer than kLineBytesMax, text that is not such an object,
// or another version gets an error (after an oversized line the connection is closed, there is no next line
// to find); one that sends or reads nothing for kIdleTimeout is closed; beyond kClientsMax new ones are
// turned away with an error.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include <boost/asio/io_context.hpp>
#include <nlohmann/json.hpp>

#include "controlplane/message.h"
#include "src/result.h"

namespace sluice {

inline constexpr size_t kLineBytesMax = 64 * 1024;  // of a request; a response may be longer
inline constexpr size_t kClientsMax = 256;
inline constexpr std::chrono::seconds kIdleTimeout{30};

class ProtocolServer {
 public:
  using Reply = std::function<void(nlohmann::json)>;
  // Called from the loop for each well-formed request, with the time at which its line was complete. `reply`
  // is to be called once, now or later; the client may be gone by then.
  using Handler = std::function<void(const nlohmann::json& request, uint64_t received_ns, Reply reply)>;
  struct Options {
    std::chrono::milliseconds idle_timeout = kIdleTimeout;
    size_t clients_max = kClientsMax;
  };

  // Binds the path; a socket left there by a dead predecessor is removed (the caller holds the instance's
  // lock).
  static Result<std::unique_ptr<ProtocolServer>> listen(boost::asio::io_context& io, const std::string& path,
                                                        Handler handler, Options options);
  static Result<std::unique_ptr<ProtocolServer>> listen(boost::asio::io_context& io, const std::string& path,
                                                        Handler handler) {
    return listen(io, path, std::move(handler), Options());
  }
  // Stops accepting and removes the socket file. Sessions end with the event loop.
  ~ProtocolServer();

 private:
  class Session;
  struct Impl;
  explicit ProtocolServer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace sluice
