// What all kinds of checks have in common: one deadline for all steps together, one verdict.
//
// For probe*.cc only. A run is alive while somebody holds it: its Probe, and each handler of an operation
// under way, which captures self(). A handler begins with `if (over()) return;`: the check may have ended, or
// been called off, while it was queued.
#pragma once

#include <memory>
#include <string>

#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/ip/udp.hpp>
#include <boost/asio/steady_timer.hpp>

#include "controlplane/probe.h"
#include "controlplane/probe_tools.h"

namespace sluice {

using boost::system::error_code;

class ProbeRun : public std::enable_shared_from_this<ProbeRun> {
 public:
  virtual ~ProbeRun() = default;
  void start();
  // Calls the check off; `done` is not called any more.
  void cancel();

 protected:
  ProbeRun(ProbeTools& tools, std::shared_ptr<const CheckTarget> target, Probe::Handler done);

  // Starts the first operation. May finish().
  virtual void begin() = 0;
  // Gives sockets and the like back, and so ends what is under way. Called once.
  virtual void close() = 0;
  // The verdict when the time is up.
  struct Verdict {
    CheckCode code;
    std::string detail;
  };
  virtual Verdict when_late() const = 0;

  // The first verdict counts.
  void finish(CheckCode code, std::string detail);
  bool over() const { return over_; }
  template <typename Derived>
  std::shared_ptr<Derived> self() {
    return std::static_pointer_cast<Derived>(shared_from_this());
  }

  const CheckTarget& target() const { return *target_; }
  const HealthConfig& config() const { return target_->config; }
  ProbeTools& tools() { return tools_; }

 private:
  void deadline();
  void report(CheckCode code, std::string detail);

  ProbeTools& tools_;
  const std::shared_ptr<const CheckTarget> target_;
  Probe::Handler done_;  // empty once called or cancelled
  boost::asio::steady_timer timer_;
  const uint64_t started_ns_;
  bool over_ = false;
  bool starting_ = false;
};

// ---- Sockets ----

template <typename Protocol>
typename Protocol::endpoint endpoint_of(const IpAddress& address, uint16_t port) {
  if (address.is_v4()) return {boost::asio::ip::address_v4(net32(address.v4_network_order())), port};
  return {boost::asio::ip::address_v6(address.bytes), port};
}

// Faults of this host that say nothing about the backend.
bool is_local_shortage(const error_code& error);

// Opens the socket for the target, with its source address and mark. Empty, or what this host cannot do.
std::string prepare(boost::asio::ip::tcp::socket& socket, const CheckTarget& target);
std::string prepare(boost::asio::ip::udp::socket& socket, const CheckTarget& target);
// The same for a socket that is open already.
std::string set_origin(int descriptor, const CheckTarget& target);

// ---- The kinds ----

using RunPtr = std::shared_ptr<ProbeRun>;
using TargetPtr = std::shared_ptr<const CheckTarget>;
RunPtr make_stream_run(ProbeTools& tools, TargetPtr target, Probe::Handler done);  // tcp, tls
RunPtr make_http_run(ProbeTools& tools, TargetPtr target, Probe::Handler done);    // http, https
RunPtr make_grpc_run(ProbeTools& tools, TargetPtr target, Probe::Handler done);
RunPtr make_udp_run(ProbeTools& tools, TargetPtr target, Probe::Handler done);
RunPtr make_dns_run(ProbeTools& tools, TargetPtr target, Probe::Handler done);
RunPtr make_ping_run(ProbeTools& tools, TargetPtr target, Probe::Handler done);
RunPtr make_command_run(ProbeTools& tools, TargetPtr target, Probe::Handler done);

}  // namespace sluice
