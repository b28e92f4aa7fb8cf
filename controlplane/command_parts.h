// What the commands share (command_*.cc): finding what a request names, refusing, answering when the workers
// have acknowledged. Internal to the commands.
//
// To add a command: a function in the command_*.cc of its subject, and a line in that file's table.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

#include "controlplane/daemon.h"
#include "controlplane/protocol.h"
#include "src/result.h"

namespace sluice {

struct Command {
  std::string_view name;
  std::string_view takes;  // its arguments' names, a space between two
  // Answers by `reply`, now or later, exactly once.
  void (*run)(Daemon&, const nlohmann::json& request, uint64_t received_ns, const Reply& reply);
  // Who may use it. What an administrator does is audited (audit.h).
  Role needs = Role::admin;
  bool in_parts = false;  // may come in many requests, with "more": true in all but the last
};
std::span<const Command> show_commands();          // command_show.cc
std::span<const Command> event_commands();         // command_events.cc
std::span<const Command> backend_commands();       // command_backend.cc
std::span<const Command> config_commands();        // command_config.cc
std::span<const Command> override_commands();      // command_override.cc
std::span<const Command> session_commands();       // command_session.cc
std::span<const Command> session_file_commands();  // command_session_file.cc
std::span<const Command> rebalance_commands();     // command_rebalance.cc

// `what`, with the candidate that was probably meant, or `otherwise` as its remedy.
Error with_suggestion(std::string what, std::string_view typed,
                      const std::vector<std::string_view>& candidates, std::string otherwise);
Error no_such_service(const Model& model, const std::string& name);
// A service that has sessions, or why there is none of that name.
Result<const Service*> service_with_sessions(const Daemon& daemon,
                                             const std::string& name);  // command_session.cc
Error no_such_backend(const Model& model, const std::string& service_name, const std::string& name);

// The string argument of this name, or nothing.
std::optional<std::string> text_of(const nlohmann::json& request, const char* name);
nlohmann::json missing(const char* name, const char* kind);

// The backends that a request names: "service" and "backend", or "targets", a list of SERVICE/BACKEND in each
// of which * and ? may stand for more. Each once, in the model's order; or the response that says why there
// are none.
struct Targets {
  std::vector<BackendPlace> places;
  nlohmann::json refusal;  // null when there are some
};
Targets targets_of(const Daemon& daemon, const nlohmann::json& request);
std::string path_of(const Daemon& daemon, BackendPlace at);  // "web/b1"

// The response that refuses to let these take no new flows any more, because fewer than min_healthy would be
// left; null when enough are, or the request has "force": true.
nlohmann::json refuse_to_lose(const Daemon& daemon, const nlohmann::json& request,
                              const std::vector<BackendPlace>& leaving);

// Answers with `response` and how the change was taken up when the workers have acknowledged it; with the
// Error when there is none.
void finish_change(Daemon& daemon, const Result<Daemon::Change>& change, uint64_t received_ns,
                   nlohmann::json response, const Reply& reply);

}  // namespace sluice
