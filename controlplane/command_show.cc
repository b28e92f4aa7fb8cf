// Commands that show and change nothing.
#include <array>

#include "controlplane/command_parts.h"
#include "controlplane/explain.h"
#include "controlplane/message.h"
#include "controlplane/report.h"

namespace sluice {
namespace {

using nlohmann::json;

void show_services(Daemon& daemon, const json&, uint64_t, const Reply& reply) {
  reply(report_services(daemon));
}

void show_backends(Daemon& daemon, const json& request, uint64_t, const Reply& reply) {
  const std::string only = text_of(request, "service").value_or("");
  if (only.empty() || daemon.model().find_service(only) != nullptr)
    return reply(report_backends(daemon, only));
  reply(error_response(kCodeNotFound, no_such_service(daemon.model(), only)));
}

void show_dataplane(Daemon& daemon, const json&, uint64_t, const Reply& reply) {
  reply(report_dataplane(daemon));
}

void explain_flow(Daemon& daemon, const json& request, uint64_t, const Reply& reply) {
  const auto protocol = text_of(request, "protocol");
  const auto client = text_of(request, "client");
  const auto vip = text_of(request, "vip");
  if (!protocol) return reply(missing("protocol", "\"tcp\" or \"udp\""));
  if (!client) return reply(missing("client", "ADDRESS:PORT"));
  if (!vip) return reply(missing("vip", "ADDRESS:PORT"));
  const Result<FlowQuestion> question = parse_flow_question(*protocol, *client, *vip);
  reply(question ? explain(daemon, *question) : error_response(kCodeBadRequest, question.error()));
}

constexpr std::array kCommands = {
    Command{"show.services", show_services, Role::read},
    Command{"show.backends", show_backends, Role::read},
    Command{"show.dataplane", show_dataplane, Role::read},
    Command{"explain", explain_flow, Role::read},
};

}  // namespace

std::span<const Command> show_commands() {
  return kCommands;
}

}  // namespace sluice
