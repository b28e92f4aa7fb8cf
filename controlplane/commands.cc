#include "controlplane/commands.h"

#include "controlplane/command_parts.h"
#include "controlplane/message.h"

namespace sluice {

void handle_command(Daemon& daemon, const nlohmann::json& request, uint64_t received_ns, const Reply& reply) {
  const auto name = request.at("cmd").get<std::string>();
  std::vector<std::string_view> names;
  for (const std::span<const Command> commands : {show_commands(), backend_commands(), config_commands()}) {
    for (const Command& command : commands) {
      if (command.name == name) return command.run(daemon, request, received_ns, reply);
      names.push_back(command.name);
    }
  }
  reply(error_response(kCodeBadRequest,
                       with_suggestion("unknown command '" + name + "'", name, names, "sluice --help")));
}

}  // namespace sluice
