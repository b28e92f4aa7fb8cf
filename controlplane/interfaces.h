// How the world talks to sluiced: the control socket, the HTTP server, the notify hooks. Opens them, and
// makes them follow the configuration.
//
// Owner: sluiced's one thread. Only the control socket must open for sluiced to start; what fails of the rest
// is an event, and tried again every kRetry.
#pragma once

#include <chrono>
#include <memory>

#include <boost/asio/io_context.hpp>

#include "controlplane/interface_config.h"
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

  boost::asio::io_context& io_;
  Daemon& daemon_;
  InterfaceConfig config_;
  std::unique_ptr<ProtocolServer> control_;
};

}  // namespace sluice
