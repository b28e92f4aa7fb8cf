// How the backends of a service are checked: the values of its `health = { ... }`.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

namespace sluice {

using Milliseconds = std::chrono::milliseconds;

// `health = { type = "http", path = "/", interval = "200ms", ... }`. Without it: a TCP connect check for a
// tcp service; no check, with a warning, for a udp one. A udp service may name a TCP port to check instead.
struct HealthConfig {
  enum class Type : uint8_t { none, tcp, http };  // none: backends count as up, unchecked
  Type type = Type::tcp;
  uint16_t port = 0;          // 0: the service's (must be given when that is "any port" or udp)
  std::string path = "/";     // http
  std::string host;           // http: the Host header; empty: the VIP
  uint16_t status_min = 200;  // http: expected status, `status = 200` or `status = "200-399"`
  uint16_t status_max = 399;
  Milliseconds interval{2000};
  // At most the interval: checks of one backend do not overlap. Not given: a second, or the interval if that
  // is shorter.
  Milliseconds timeout{1000};
  uint32_t rise = 2;  // checks in a row that make it up
  uint32_t fall = 3;  // and down

  bool operator==(const HealthConfig&) const = default;
};

}  // namespace sluice
