#include "controlplane/commands.h"

#include <algorithm>

#include <fmt/format.h>

#include "controlplane/command_parts.h"
#include "controlplane/escaped.h"
#include "controlplane/message.h"

namespace sluice {
namespace {

using nlohmann::json;

// Arguments that would be taken for absent, and mean something else then: a dry run, one of many targets.
json refusal_of_types(const json& request) {
  for (const char* flag : {"dry_run", "force", "more", "pinned", "skip_unknown"}) {
    if (request.contains(flag) && !request[flag].is_boolean())
      return error_response(kCodeBadRequest, {fmt::format("\"{}\" is neither true nor false", flag), ""});
  }
  for (const char* name : {"target", "service", "backend", "key"}) {
    if (request.contains(name) && !request[name].is_string())
      return error_response(kCodeBadRequest, {fmt::format("\"{}\" is no text", name), ""});
  }
  return nullptr;
}

void run(const Command& command, Daemon& daemon, const json& request, uint64_t received_ns,
         const Reply& reply) {
  const Client& client = reply.client();
  if (client.role < command.needs) {
    const Error refusal = daemon.interfaces().access().refusal(client, command.needs);
    daemon.audit().add(client, {std::string(command.name), request, command.in_parts},
                       error_response(kCodeDenied, refusal));
    return reply(error_response(kCodeDenied, refusal));
  }
  if (json refusal = refusal_of_types(request); !refusal.is_null()) return reply(std::move(refusal));
  if (command.needs != Role::admin) return command.run(daemon, request, received_ns, reply);
  command.run(daemon, request, received_ns,
              reply.with_tap([&daemon, client,
                              audited = Audit::Request(std::string(command.name), request, command.in_parts)](
                                 const json& response) { daemon.audit().add(client, audited, response); }));
}

}  // namespace

void handle_command(Daemon& daemon, const json& request, uint64_t received_ns, const Reply& reply) {
  const auto name = request.at("cmd").get<std::string>();
  std::vector<std::string_view> names;
  for (const std::span<const Command> commands :
       {show_commands(), event_commands(), backend_commands(), override_commands(), config_commands(),
        session_commands(), session_file_commands(), rebalance_commands()}) {
    for (const Command& command : commands) {
      if (command.name == name) return run(command, daemon, request, received_ns, reply);
      names.push_back(command.name);
    }
  }
  reply(error_response(kCodeBadRequest, with_suggestion("unknown command '" + quotable(name) + "'", name,
                                                        names, "sluice --help")));
}

}  // namespace sluice
