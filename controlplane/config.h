// The configuration file: TOML text to plain values, or every fault in it at once.
//
// Reads; decides nothing and touches no state. Used by sluiced, `sluice check` and sluice-replay. The schema is what the
// structs below say; unknown keys are errors (with the nearest known one as a suggestion), so a typo never passes.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "src/address.h"
#include "src/size_limits.h"
#include "src/tables.h"

namespace sluice {

using Milliseconds = std::chrono::milliseconds;

struct HealthConfig {
  enum class Type : uint8_t { none, tcp, http };  // none: backends count as up, unchecked
  Type type = Type::tcp;                          // a service without `health` gets a TCP connect check
  uint16_t port = 0;                              // 0: the service's (required when that is "any port")
  std::string path = "/";                         // http
  std::string host;                               // http: the Host header; empty: the VIP
  uint16_t status_min = 200;                      // http: expected status, `status = 200` or `status = "200-399"`
  uint16_t status_max = 399;
  Milliseconds interval{2000};
  Milliseconds timeout{1000};
  uint32_t rise = 2;
  uint32_t fall = 3;

  bool operator==(const HealthConfig&) const = default;
};

struct BackendConfig {
  std::string name;  // [A-Za-z0-9._-]+, shorter than limits::kNameBytes, unique in its service
  IpAddress address;
  uint32_t weight = limits::kWeightDefault;

  bool operator==(const BackendConfig&) const = default;
};

struct ServiceConfig {
  std::string name;  // as above, unique in the file
  IpAddress vip;
  uint16_t port = 0;     // 0: any
  uint8_t protocol = 0;  // wire::kProtoTcp, wire::kProtoUdp
  Forward forward = Forward::none;
  uint32_t lookup_slots = limits::kLookupSlotsDefault;  // `table_size = 65537 | 655373`
  bool initially_up = false;  // `initially = "up" | "down"`: what a backend counts as before its first check
  uint16_t idle_syn_s = limits::kIdleSynDefault;        // `idle_timeout = { syn = "30s", established = "15m",
  uint16_t idle_established_s = limits::kIdleEstablishedDefault;  //         closing = "20s", udp = "60s" }`
  uint16_t idle_closing_s = limits::kIdleClosingDefault;
  uint16_t idle_udp_s = limits::kIdleUdpDefault;
  HealthConfig health;
  std::vector<BackendConfig> backends;

  bool operator==(const ServiceConfig&) const = default;
};

struct Config {
  std::string secret{kDefaultSecretText};  // `secret = "..."` at the top: the same on all balancers of a cluster
  std::vector<ServiceConfig> services;
};

struct Diagnostic {
  enum class Kind : uint8_t { file, syntax, semantic };
  Kind kind;
  std::string file;
  uint32_t line = 0;  // from 1; 0: the file as a whole
  uint32_t column = 0;
  std::string message;     // "unknown key 'wieght'"
  std::string suggestion;  // "did you mean 'weight'?"; may be empty
  std::string source_line; // the line itself, for the caret

  std::string text() const;  // file:line:col: message (suggestion), then the line and a caret under it
};

struct ConfigResult {
  std::optional<Config> config;     // set exactly when there are no errors
  std::vector<Diagnostic> errors;   // in the file's order
  std::vector<Diagnostic> warnings; // e.g. table too small for the number of backends (Maglev paper: M > 100 N)
};

ConfigResult load_config(const std::string& path);
ConfigResult parse_config(std::string_view text, const std::string& file);

}  // namespace sluice
