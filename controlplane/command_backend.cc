// Commands that change one backend.
#include <array>

#include <fmt/format.h>

#include "controlplane/command_parts.h"
#include "controlplane/message.h"
#include "controlplane/report.h"
#include "src/size_limits.h"

namespace sluice {
namespace {

using nlohmann::json;

void backend_admin(Daemon& daemon, const json& request, uint64_t received_ns, const Reply& reply) {
  const Named named = named_backend(daemon, request);
  if (!named.place) return reply(named.refusal);
  const std::string wanted = text_of(request, "admin").value_or("");
  for (const Admin admin : {Admin::ready, Admin::drain, Admin::maint}) {
    if (wanted != text(admin)) continue;
    json response = ok_response();
    response.update({{"service", named.service},
                     {"backend", named.backend},
                     {"admin", wanted},
                     {"before", text(daemon.model().backend(*named.place).admin)},
                     {"after", wanted}});
    return finish_change(daemon, daemon.set_admin(*named.place, admin), received_ns, std::move(response),
                         reply);
  }
  reply(error_response(kCodeBadRequest, {"\"admin\" is one of \"ready\", \"drain\", \"maint\"", ""}));
}

void backend_weight(Daemon& daemon, const json& request, uint64_t received_ns, const Reply& reply) {
  const Named named = named_backend(daemon, request);
  if (!named.place) return reply(named.refusal);
  const auto weight = request.find("weight");
  const bool is_whole = weight != request.end() && weight->is_number_integer();
  const bool fits = is_whole && *weight >= 0 && *weight <= limits::kWeightMax;
  if (!fits) {
    const std::string given =
        weight == request.end() ? "missing" : weight->dump(-1, ' ', false, json::error_handler_t::replace);
    return reply(error_response(
        kCodeBadRequest, {fmt::format("weight {} is out of range", given),
                          fmt::format("a whole number from 0 (no new flows) to {}", limits::kWeightMax)}));
  }
  const auto value = weight->get<uint32_t>();
  json response = ok_response();
  response.update({{"service", named.service},
                   {"backend", named.backend},
                   {"weight", value},
                   {"before", daemon.model().backend(*named.place).weight()},
                   {"after", value}});
  finish_change(daemon, daemon.set_weight(*named.place, value), received_ns, std::move(response), reply);
}

constexpr std::array kCommands = {
    Command{"backend.admin", backend_admin},
    Command{"backend.weight", backend_weight},
};

}  // namespace

std::span<const Command> backend_commands() {
  return kCommands;
}

}  // namespace sluice
