// How the world talks to sluiced: the control socket, the HTTP server, the notify hooks. Opens them, and
// makes them follow the configuration.
//
// Owner: sluiced's one thread. Only the control socket must open for sluiced to start; what fails of the rest
// is an event, and tried again every kRetry.
#pragma once

#include <chrono>
#include <memory>
#include <string>

#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <nlohmann/json.hpp>

#include "controlplane/hooks.h"
#include "controlplane/http_server.h"
#include "controlplane/interface_config.h"
#include "controlplane/metrics.h"
#include "controlplane/protocol.h"
#include "src/result.h"

namespace sluice {

class Daemon;

class Interfaces {
 public:
  static constexpr std::chrono::seconds kRetry{1};

  // The daemon outlives it, and is ready to take commands.
  static Result<std::unique_ptr<Interfaces>> open(boost::asio::io_context& io, Daemon& daemon,
                                                  const InterfaceConfig& config);
  ~Interfaces();
  Interfaces(const Interfaces&) = delete;
  Interfaces& operator=(const Interfaces&) = delete;

  // Nothing happens to what the configuration leaves as it was.
  void follow(const InterfaceConfig& config);
  const ProtocolServer& control() const { return *control_; }
  const Access& access() const { return control_->access(); }

 private:
  Interfaces(boost::asio::io_context& io, Daemon& daemon);
  Access access_of(const ControlConfig& config);
  void open_http();
  void answer_http(const std::string& path, const HttpServer::Respond& respond);

  boost::asio::io_context& io_;
  Daemon& daemon_;
  InterfaceConfig config_;
  std::unique_ptr<ProtocolServer> control_;
  Metrics metrics_;
  std::unique_ptr<HttpServer> http_;
  std::string http_fault_;  // why it is not open although it should be
  boost::asio::steady_timer http_retry_;
  Hooks hooks_;
};

// {"ready":true,"reasons":[]}: is a generation published and in use by every worker? It need not be the
// newest for Rollout::kPatience.
nlohmann::json readiness(const Daemon& daemon);

}  // namespace sluice
