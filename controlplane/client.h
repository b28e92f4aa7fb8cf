// The CLI's side of the control socket (protocol.h): one request, one response, with a limit on the waiting.
#pragma once

#include <chrono>
#include <functional>
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

// Tries again, until the time is up, when sluiced is too busy to listen.
Answer ask_daemon(const std::string& directory, const nlohmann::json& request,
                  std::chrono::milliseconds timeout);

// For requests that stream: `on_line` gets each line before the answer, and says whether to go on. The limit
// is on the waiting for the first line; after that they come when there is something to say. Ended by
// `on_line`: kExitOk with no response.
Answer follow_daemon(const std::string& directory, const nlohmann::json& request,
                     std::chrono::milliseconds timeout,
                     const std::function<bool(const nlohmann::json&)>& on_line);

}  // namespace sluice
