// The CLI's side of the control socket (protocol.h): one request, one response, with a limit on the waiting.
#pragma once

#include <chrono>
#include <string>

#include <nlohmann/json.hpp>

#include "controlplane/exit_codes.h"
#include "src/result.h"

namespace sluice {

// The response, or why there is none; `exit_code` says which of kExitUnreachable, kExitTimeout, kExitFailure.
struct Answer {
  int exit_code = kExitOk;  // kExitOk: `response` is set, whatever it says
  nlohmann::json response;
  Error error;
};

Answer ask_daemon(const std::string& directory, const nlohmann::json& request,
                  std::chrono::milliseconds timeout);

}  // namespace sluice
