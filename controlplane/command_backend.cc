// Commands that change one backend.
#include <array>
#include <map>

#include <fmt/format.h>

#include "controlplane/admin_names.h"
#include "controlplane/command_parts.h"
#include "controlplane/escaped.h"
#include "controlplane/message.h"
#include "controlplane/report.h"
#include "src/size_limits.h"

namespace sluice {
namespace {

using nlohmann::json;

// As long as a connection may rest.
constexpr uint64_t kResetAfterMaxMs = limits::kIdleTimeoutMax * 1'000ULL;

// What the edit is about, as it is now; for the audit.
json state_of(const Backend& backend, const Daemon::BackendEdit& edit) {
  return edit.admin ? json(name_of(backend.admin)) : json(backend.weight());
}

// Makes the same edit of every target, as one generation.
void edit_targets(Daemon& daemon, const json& request, Daemon::BackendEdit edit, json response,
                  uint64_t received_ns, const Reply& reply) {
  const Targets targets = targets_of(daemon, request);
  if (!targets.refusal.is_null()) return reply(targets.refusal);
  const bool leave = edit.admin.value_or(Admin::ready) != Admin::ready || edit.weight == 0;
  if (leave) {
    json refusal = refuse_to_lose(daemon, request, targets.places);
    if (!refusal.is_null()) return reply(std::move(refusal));
  }
  std::vector<Daemon::BackendEdit> edits;
  json before = json::object();
  std::map<std::string, double> resets_before;
  const auto reset_in_s = [&](BackendPlace at) {
    return seconds_to_reset(daemon, daemon.model().service_of(at), daemon.model().backend(at));
  };
  for (const BackendPlace at : targets.places) {
    edit.at = at;
    edits.push_back(edit);
    const std::string path = path_of(daemon, at);
    response["backends"].push_back(path);
    before[path] = state_of(daemon.model().backend(at), edit);
    if (const auto in_s = reset_in_s(at)) resets_before[path] = *in_s;
  }
  response["before"] = before.size() == 1 ? *before.begin() : before;
  response["after"] = edit.admin ? json(name_of(*edit.admin)) : json(*edit.weight);
  const Result<Daemon::Change> change = daemon.edit_backends(edits);
  for (const BackendPlace at : targets.places) {
    const std::string path = path_of(daemon, at);
    if (const auto in_s = reset_in_s(at)) {
      response["reset_in_s"][path] = *in_s;
    } else if (const auto was = resets_before.find(path);
               change && was != resets_before.end() && edit.admin != Admin::reset) {
      response["reset_called_off"][path] = was->second;
    }
  }
  finish_change(daemon, change, received_ns, std::move(response), reply);
}

// Nothing, when it is not asked for; the response that refuses it.
json deadline_of(const json& request, Admin admin, uint64_t received_ns,
                 std::optional<ResetDeadline>& reset) {
  const auto given = request.find("reset_after_ms");
  if (given == request.end()) return nullptr;
  if (admin != Admin::drain && admin != Admin::migrate)
    return error_response(kCodeBadRequest, {"\"reset_after_ms\" is of \"drain\" and \"migrate\"", ""});
  if (!given->is_number_unsigned() || *given < 1 || *given > kResetAfterMaxMs)
    return error_response(kCodeBadRequest, {"the time until the reset is out of range",
                                            fmt::format("from 1ms to {}h", kResetAfterMaxMs / 3'600'000)});
  const auto after_ms = given->get<uint64_t>();
  reset = ResetDeadline{received_ns + after_ms * 1'000'000, after_ms};
  return nullptr;
}

std::string no_admin() {
  std::string names;
  for (const auto& [name, admin] : kAdminNames)
    names += fmt::format("{}\"{}\"", names.empty() ? "" : ", ", name);
  return "\"admin\" is one of " + names;
}

void backend_admin(Daemon& daemon, const json& request, uint64_t received_ns, const Reply& reply) {
  const std::optional<Admin> admin = admin_of(text_of(request, "admin").value_or(""));
  if (!admin) return reply(error_response(kCodeBadRequest, {no_admin(), ""}));
  std::optional<ResetDeadline> reset;
  if (json refusal = deadline_of(request, *admin, received_ns, reset); !refusal.is_null())
    return reply(std::move(refusal));
  json response = ok_response();
  response["admin"] = name_of(*admin);
  edit_targets(daemon, request, {{}, admin, std::nullopt, reset}, std::move(response), received_ns, reply);
}

// The weight in a request; or the response that refuses it.
std::optional<uint32_t> weight_of(const json& request, json& refusal) {
  const auto weight = request.find("weight");
  const bool is_whole = weight != request.end() && weight->is_number_integer();
  if (is_whole && *weight >= 0 && *weight <= limits::kWeightMax) return weight->get<uint32_t>();
  const std::string given =
      weight == request.end() ? "missing" : weight->dump(-1, ' ', false, json::error_handler_t::replace);
  refusal = error_response(kCodeBadRequest,
                           {fmt::format("weight {} is out of range", quotable(given)),
                            fmt::format("a whole number from 0 (no new flows) to {}", limits::kWeightMax)});
  return std::nullopt;
}

void backend_weight(Daemon& daemon, const json& request, uint64_t received_ns, const Reply& reply) {
  json response = ok_response(), refusal;
  const std::optional<uint32_t> weight = weight_of(request, refusal);
  if (!weight) return reply(std::move(refusal));
  response["weight"] = *weight;
  edit_targets(daemon, request, {{}, std::nullopt, weight, std::nullopt}, std::move(response), received_ns,
               reply);
}

}  // namespace

std::span<const Command> backend_commands() {
  static constexpr std::array kCommands = {
      Command{"backend.admin", "service backend targets admin reset_after_ms force", backend_admin},
      Command{"backend.weight", "service backend targets weight force", backend_weight},
  };
  return kCommands;
}

}  // namespace sluice
