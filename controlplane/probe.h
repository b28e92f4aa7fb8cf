// One health check of one backend, of any kind: a file a family does it (probe_stream.cc, probe_http.cc,
// probe_grpc.cc, probe_datagram.cc, probe_ping.cc, probe_command.cc).
//
// Runs on sluiced's event loop and never blocks it. `done` is called exactly once, from the loop, never from
// inside start(), and at the latest when the timeout is over; after the destruction of the Probe it is not
// called at all. Nothing here resolves names: there are addresses only. What is kept of an answer is bounded:
// the limits are below.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "controlplane/health_config.h"
#include "src/address.h"

namespace sluice {

inline constexpr uint32_t kResponseHeaderBytesMax = 8 * 1024;
inline constexpr uint32_t kResponseBodyBytesMax = 64 * 1024;  // what `body` is looked for in
inline constexpr uint32_t kCheckDetailBytesMax = 256;
inline constexpr uint32_t kCommandOutputBytesMax = 1024 * 1024;  // a command that prints more is ended

// HAProxy's names: the layer that decided, and how. `none`: no verdict, this host could not even try (out of
// descriptors, ports or memory; no such source address) or did not look in time ("sluiced was busy"), which
// says nothing about the backend.
enum class CheckCode : uint8_t {
  none,
  l4ok,      // connected; ICMP echo answered; a UDP port that is not closed
  l4tout,    // no answer to the connect or echo
  l4con,     // refused, unreachable
  l6ok,      // TLS handshake done, certificate as wanted
  l6tout,    // no end of the handshake
  l6rsp,     // the handshake failed: no TLS, a bad certificate
  l7ok,      // the answer that was wanted
  l7tout,    // connected, but no complete answer
  l7rsp,     // an answer that makes no sense, or without what was expected in it
  l7sts,     // an answer that says no: HTTP status, DNS rcode, gRPC NOT_SERVING
  procok,    // the command's exit status was 0
  procerr,   // it was another one, or a signal
  proctout,  // the command did not end
};
const char* text(CheckCode code);  // "L4OK", ...; "" for none

struct CheckResult {
  CheckCode code = CheckCode::none;
  std::string detail;  // "Connection refused", "HTTP status 503"; one line, at most kCheckDetailBytesMax
  uint64_t duration_us = 0;

  bool is_good() const {
    return code == CheckCode::l4ok || code == CheckCode::l6ok || code == CheckCode::l7ok ||
           code == CheckCode::procok;
  }
};

struct CheckTarget {
  IpAddress address;  // the backend's, or the VIP (vip_checks.h)
  uint16_t port = 0;  // unused by icmp; 0 for a command that needs none
  uint32_t mark = 0;  // SO_MARK of the packets sent; 0: none
  // Not empty: why there can be no check; each ends with code none and this.
  std::string impossible;
  HealthConfig config;  // its `host` filled in; `port` is ignored
  // What a command is told of.
  std::string service, backend;
  IpAddress backend_address, vip;

  bool operator==(const CheckTarget&) const = default;
};

class ProbeRun;
class ProbeTools;

class Probe {
 public:
  using Handler = std::function<void(const CheckResult&)>;
  // `tools` must outlive the Probe.
  static std::unique_ptr<Probe> start(ProbeTools& tools, std::shared_ptr<const CheckTarget> target,
                                      Handler done);
  ~Probe();

 private:
  explicit Probe(std::shared_ptr<ProbeRun> run) : run_(std::move(run)) {}
  std::shared_ptr<ProbeRun> run_;
};

}  // namespace sluice
