// The configuration file: TOML text to plain values, or every fault in it at once.
//
// Reads; decides nothing and touches no state. Used by sluiced, `sluice check` and sluice-replay. The schema
// is what the structs below say; unknown keys are errors (with the nearest known one as a suggestion), so a
// typo never passes. All faults are found in one run, but for those of TOML's own syntax, where reading ends
// at the first. A key that is known but has no effect where it stands is a warning.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "src/address.h"
#include "src/size_limits.h"
#include "src/tables.h"

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

struct BackendConfig {
  std::string name;   // [A-Za-z0-9._-]+, shorter than limits::kNameBytes, unique in its service
  IpAddress address;  // unicast, unique in its service, not the VIP
  uint32_t weight = limits::kWeightDefault;  // 0 .. limits::kWeightMax

  bool operator==(const BackendConfig&) const = default;
};

// Two services may share a VIP and protocol with different ports; one of them may have any port, and gets
// what the others do not take.
struct ServiceConfig {
  std::string name;  // as above, unique in the file
  IpAddress vip;
  uint16_t port = 0;     // 0: any
  uint8_t protocol = 0;  // wire::kProtoTcp, wire::kProtoUdp
  Forward forward = Forward::none;
  uint32_t lookup_slots = limits::kLookupSlotsDefault;  // `table_size = 65537 | 655373`
  bool initially_up = false;  // `initially = "up" | "down"`: what a backend counts as before its first check
  uint32_t idle_syn_s = limits::kIdleSynDefault;  // `idle_timeout = { syn = "30s", established = "15m",
  uint32_t idle_established_s = limits::kIdleEstablishedDefault;  //         closing = "60s", udp = "60s" }`
  uint32_t idle_closing_s = limits::kIdleClosingDefault;
  uint32_t idle_udp_s = limits::kIdleUdpDefault;
  HealthConfig health;
  std::vector<BackendConfig> backends;

  bool operator==(const ServiceConfig&) const = default;
};

struct Config {
  std::string secret{
      kDefaultSecretText};              // `secret = "..."` at the top: the same on all balancers of a cluster
  std::vector<ServiceConfig> services;  // at least one: an emptied file must not take everything down

  bool operator==(const Config&) const = default;
};

struct Diagnostic {
  enum class Kind : uint8_t { file, syntax, semantic };
  Kind kind;
  std::string file;
  uint32_t line = 0;        // from 1; 0: the file as a whole
  uint32_t column = 0;      // from 1, in characters
  std::string message;      // "unknown key 'wieght'"
  std::string suggestion;   // "did you mean 'weight'?"; may be empty
  std::string source_line;  // the line itself, for the caret

  std::string text() const;  // file:line:col: message (suggestion), then the line and a caret under it
};

struct ConfigResult {
  std::optional<Config> config;    // set exactly when there are no errors
  std::vector<Diagnostic> errors;  // in the file's order
  std::vector<Diagnostic>
      warnings;  // e.g. table too small for the number of backends (Maglev paper: M > 100 N)
};

ConfigResult load_config(const std::string& path);
// `file` is its name in the diagnostics.
ConfigResult parse_config(std::string_view text, const std::string& file);

}  // namespace sluice
