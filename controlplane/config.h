// The configuration: files to plain values, or every fault in them at once.
//
// One file, and the *.toml and *.json of the directory conf.d beside it. Each is TOML, or JSON of the same
// schema if its name ends in .json. Services may stand in any of them; settings of the whole stand in the
// first. What follows from the order of files follows from their names.
//
// Reads; decides nothing and touches no state. Used by sluiced, `sluice check` and sluice-replay. The schema
// is what the structs below say; unknown keys are errors (with the nearest known one as a suggestion), so a
// typo never passes. All faults are found in one run, but for those of TOML's own syntax, where reading ends
// at the first. A key that is known but has no effect where it stands is a warning.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "controlplane/health_config.h"
#include "controlplane/interface_config.h"
#include "controlplane/policy_config.h"
#include "controlplane/session_config.h"
#include "src/address.h"
#include "src/lookup_table.h"
#include "src/size_limits.h"
#include "src/tables.h"

namespace sluice {

struct BackendConfig {
  std::string name;   // [A-Za-z0-9._-]+, shorter than limits::kNameBytes, unique in its service
  IpAddress address;  // unicast, unique in its service, not the VIP
  uint32_t weight = limits::kWeightDefault;  // 0 .. limits::kWeightMax
  Admin admin =
      Admin::ready;  // `admin = "ready" | "drain" | "migrate" | "maint" | "reset"`: an operator's lasts until this changes
  // Written as `[service.sorry]`: takes new flows when too few others are left (controlplane/policy.h). Has
  // no weight of its own; there is one at most.
  bool sorry = false;
  // What it may have at most, 0: no limit.
  uint32_t max_flows = 0;
  uint32_t max_sessions = 0;

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
  Affinity affinity = Affinity::connection;
  SessionConfig session;
  Method method = Method::maglev;  // how a new flow's backend is chosen: name_of's
  // false: no packet reaches it, its VIP is passed on like any other address. Its flows stay in the flow
  // tables until they are idle for too long, and go on if it is enabled before; its checks go on too.
  bool enabled = true;
  uint32_t lookup_slots = limits::kLookupSlotsDefault;  // `table_size = 65537 | 655373`
  bool initially_up = false;  // `initially = "up" | "down"`: what a backend counts as before its first check
  uint32_t idle_syn_s = limits::kIdleSynDefault;  // `idle_timeout = { syn = "30s", established = "15m",
  uint32_t idle_established_s = limits::kIdleEstablishedDefault;  //         closing = "60s", udp = "60s" }`
  uint32_t idle_closing_s = limits::kIdleClosingDefault;  // (and `session`: session_config.h)
  uint32_t idle_udp_s = limits::kIdleUdpDefault;
  HealthConfig health;
  PolicyConfig policy;  // what becomes of it when backends fail
  // Of its backends that say nothing, and those that are added at run time.
  uint32_t max_flows = 0;
  uint32_t max_sessions = 0;
  // `scale_up_at = "80%"`, `scale_down_at = "30%"`: of what its backends may have; 0: nobody is told.
  uint32_t scale_up_percent = 0;
  uint32_t scale_down_percent = 0;
  std::vector<BackendConfig> backends;

  bool operator==(const ServiceConfig&) const = default;
};

struct Config {
  std::string secret{
      kDefaultSecretText};              // `secret = "..."` at the top: the same on all balancers of a cluster
  std::vector<ServiceConfig> services;  // at least one: an emptied file must not take everything down
  InterfaceConfig interfaces;

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

// What stands in the files, key by key, as TOML: {"web", "b1"} has {"weight", "100"}; {"web", ""} has
// {"health.interval", "\"200ms\""}; {"", ""} what is set for the whole. For showing differences.
using WrittenConfig = std::map<std::pair<std::string, std::string>, std::map<std::string, std::string>>;

struct ConfigSource {
  std::string file;  // its path, or what it is called in diagnostics
  std::string text;

  bool operator==(const ConfigSource&) const = default;
};

struct ConfigFiles {
  std::vector<ConfigSource> sources;  // the first is the file itself
  std::vector<Diagnostic> errors;     // what cannot be read
};

struct ConfigResult {
  std::optional<Config> config;    // set exactly when there are no errors
  WrittenConfig written;           // set when config is
  std::vector<Diagnostic> errors;  // in the file's order
  std::vector<Diagnostic>
      warnings;  // e.g. table too small for the number of backends (Maglev paper: M > 100 N)
};

// FILE and its conf.d.
ConfigFiles read_config_files(const std::string& path);
ConfigResult parse_config(std::span<const ConfigSource> sources);
// The two together.
ConfigResult load_config(const std::string& path);
// A single file; `file` is its name in the diagnostics.
ConfigResult parse_config(std::string_view text, const std::string& file);

}  // namespace sluice
