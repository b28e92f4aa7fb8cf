// How the world may talk to sluiced, as the configuration says: [control], [http], [[hook]].
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "controlplane/endpoint.h"

namespace sluice {

using Milliseconds = std::chrono::milliseconds;

// Names of groups, or their numbers; empty: none. See access.h.
struct ControlConfig {
  std::string admin_group;
  std::string read_group;  // "*": everyone

  bool operator==(const ControlConfig&) const = default;
};

struct HttpConfig {
  std::optional<Endpoint> listen;  // nothing: no HTTP server

  bool operator==(const HttpConfig&) const = default;
};

// A command that is run when something happens (hooks.h).
struct HookConfig {
  std::vector<std::string> command;  // the program's absolute path, and its arguments
  std::vector<std::string> events;   // kinds, with * and ? as in file names
  Milliseconds timeout{10'000};      // after that it is killed, with all it started
  uint32_t burst = 10;               // as many runs at once, and as many in each `per`
  Milliseconds per{60'000};

  bool operator==(const HookConfig&) const = default;
};

struct InterfaceConfig {
  ControlConfig control;
  HttpConfig http;
  std::vector<HookConfig> hooks;

  bool operator==(const InterfaceConfig&) const = default;
};

}  // namespace sluice
