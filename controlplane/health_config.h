// How the backends of a service are checked: the values of its `health = { ... }`. docs/health.md says it for
// operators.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "src/address.h"

namespace sluice {

using Milliseconds = std::chrono::milliseconds;

struct StatusRange {
  uint16_t min = 200;
  uint16_t max = 399;  // inclusive
  bool contains(unsigned status) const { return status >= min && status <= max; }
  bool operator==(const StatusRange&) const = default;
};

inline constexpr int kAnyRcode = -1;
inline constexpr uint16_t kDnsTypeA = 1;

// `health = { type = "http", path = "/", interval = "200ms", ... }`. Without it: a TCP connect check for a
// tcp service; no check, with a warning, for a udp one. A udp service may name a TCP port to check instead.
// Which fields count for which type is said at each; the others keep their defaults.
struct HealthConfig {
  // none: backends count as up, unchecked
  enum class Type : uint8_t { none, tcp, tls, http, https, udp, dns, icmp, grpc, command };
  Type type = Type::tcp;
  uint16_t port = 0;  // 0: the service's (must be given when that is "any port" or of the other protocol)
  IpAddress source;   // address of this host to check from; unset: the kernel's choice
  // `to = "vip"`: asks the VIP, in packets that reach this backend as clients' packets do (vip_checks.h).
  bool to_vip = false;

  // http, https; `host` and `tls_*` also as said below.
  std::string method = "GET";  // GET, HEAD, OPTIONS
  std::string path = "/";
  std::string host;  // also grpc: the Host or :authority; empty: the VIP
  std::vector<std::pair<std::string, std::string>> headers;
  std::vector<StatusRange> status = std::vector<StatusRange>(1);  // any of these is good
  std::string body;  // a regular expression (RE2) to be found in the body; empty: the body is not read

  // https, tls, grpc
  bool tls = false;         // grpc only: the others are what their name says
  bool verify = true;       // the certificate: its chain, its time and its name
  std::string server_name;  // asked for (SNI) and verified; empty: `host`, else the VIP
  std::string ca_file;      // whom to trust; empty: whom the system does

  std::string grpc_service;  // grpc: `service`; empty: the server as a whole

  // udp: bytes. Without `expect`, any answer is good, and silence too: only a port that is closed is not.
  std::string send;
  std::string expect;  // to be found in the answer

  // dns
  std::string query = ".";
  uint16_t record = kDnsTypeA;  // RFC 1035 3.2.2
  int rcode = 0;                // RFC 1035 4.1.1; kAnyRcode: every well-formed answer

  std::vector<std::string> command;  // command: program and arguments

  Milliseconds interval{2000};
  // Each check comes this much later than its place in time at most, by chance; below the interval.
  Milliseconds jitter{0};
  // At most the interval: checks of one backend do not overlap. Not given: a second, or the interval if that
  // is shorter.
  Milliseconds timeout{1000};
  // Between checks while the backend is suspected, or on its way up or down; at most the interval, which is
  // the default.
  Milliseconds fast_interval{2000};
  uint32_t rise = 2;  // checks in a row that make it up
  uint32_t fall = 3;  // and down

  bool uses_tls() const { return type == Type::tls || type == Type::https || (type == Type::grpc && tls); }
  bool operator==(const HealthConfig&) const = default;
};

}  // namespace sluice
