// What checks share: TLS contexts, compiled patterns, the sockets that all echo requests go through.
//
// Owner: HealthChecker, one a loop. Everything is made when the first check needs it. A CA file is read again
// when it became another one on disk.
#pragma once

#include <sys/stat.h>

#include <cstdint>
#include <map>
#include <memory>
#include <random>
#include <string>

#include <boost/asio/io_context.hpp>
#include <boost/asio/ssl/context.hpp>
#include <re2/re2.h>

#include "controlplane/health_config.h"
#include "controlplane/ping.h"
#include "src/result.h"

namespace sluice {

class ProbeTools {
 public:
  explicit ProbeTools(boost::asio::io_context& io) : io_(io), random_(std::random_device()()) {}

  boost::asio::io_context& io() { return io_; }
  // Not for secrets.
  uint64_t random() { return random_(); }
  // The context for a check that uses TLS; an Error when its CA file cannot be used.
  Result<std::shared_ptr<boost::asio::ssl::context>> tls_context(const HealthConfig& config);
  const RE2& pattern(const std::string& text);
  Pinger& pinger();

  // Commands that were started and have not been seen to end: even SIGKILL waits for a disk that hangs.
  // Shared with them, who may outlive us.
  static constexpr uint32_t kCommandsMax = 512;
  const std::shared_ptr<uint32_t>& commands_running() { return commands_running_; }

 private:
  struct TlsContext {
    std::shared_ptr<boost::asio::ssl::context> context;
    timespec changed = {};  // the CA file, when it was read
    uint64_t inode = 0;
  };

  boost::asio::io_context& io_;
  std::mt19937_64 random_;
  std::map<std::string, TlsContext> tls_;  // by what decides: "", "verify", "verify FILE", each with the kind
  std::map<std::string, std::unique_ptr<RE2>> patterns_;
  std::unique_ptr<Pinger> pinger_;
  std::shared_ptr<uint32_t> commands_running_ = std::make_shared<uint32_t>(0);
};

}  // namespace sluice
