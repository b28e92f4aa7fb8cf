// Commands about the configuration as a whole.
#include <array>

#include <fmt/format.h>

#include "controlplane/command_parts.h"
#include "controlplane/exit_codes.h"
#include "controlplane/message.h"

namespace sluice {
namespace {

using nlohmann::json;

void reload(Daemon& daemon, const json&, uint64_t received_ns, const Reply& reply) {
  const Daemon::Reload outcome = daemon.reload();
  json response = ok_response();
  for (const Diagnostic& warning : outcome.warnings)
    response["warnings"].push_back(warning.text());
  response["services"] = daemon.model().services().size();
  if (outcome.errors.empty())
    return finish_change(daemon, outcome.change, received_ns, std::move(response), reply);
  const std::string& path = daemon.options().config_path;
  json refusal = error_response(exit_code_of(outcome.errors) == kExitSemantic ? kCodeSemantic : kCodeSyntax,
                                {fmt::format("{} has {} error{}; the old configuration stays in force", path,
                                             outcome.errors.size(), outcome.errors.size() == 1 ? "" : "s"),
                                 "sluice check " + path});
  for (const Diagnostic& error : outcome.errors)
    refusal["diagnostics"].push_back(error.text());
  reply(std::move(refusal));
}

constexpr std::array kCommands = {
    Command{"reload", reload},
};

}  // namespace

std::span<const Command> config_commands() {
  return kCommands;
}

}  // namespace sluice
