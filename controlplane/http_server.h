// A small HTTP/1.1 server for what machines read: metrics and health of sluiced itself.
//
// GET and HEAD only, keep-alive, no bodies. On sluiced's one event loop; a handler answers now or later.
//
// Nothing a client does disturbs another: a header of more than kHeaderBytesMax, a body, or what is not HTTP
// gets an error and the end of the connection; who sends a request or takes an answer too slowly is cut off
// after `patience`; with kConnectionsMax open, the next one takes the place of the one that has waited
// longest without a request, and is told 503 if there is none.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include <boost/asio/io_context.hpp>

#include "controlplane/endpoint.h"
#include "src/result.h"

namespace sluice {

struct HttpAnswer {
  unsigned status = 200;
  std::string content_type;
  std::shared_ptr<const std::string> body;  // not null; shared, so that one text serves many readers
};

class HttpServer {
 public:
  static constexpr uint32_t kHeaderBytesMax = 8 * 1024;
  static constexpr size_t kConnectionsMax = 64;

  using Respond = std::function<void(HttpAnswer)>;
  // `path`: without what follows a '?'. Calls `respond` once, now or later.
  using Handler = std::function<void(const std::string& path, Respond respond)>;
  struct Options {
    std::chrono::milliseconds patience{10'000};
    size_t connections_max = kConnectionsMax;
  };

  static Result<std::unique_ptr<HttpServer>> listen(boost::asio::io_context& io, const Endpoint& at,
                                                    Handler handler, Options options);
  ~HttpServer();  // stops listening; connections end with what they are at
  uint16_t port() const;

 private:
  class Session;
  struct Shared;
  struct Impl;
  explicit HttpServer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace sluice
