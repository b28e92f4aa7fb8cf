#include "controlplane/commands.h"

#include <array>
#include <optional>
#include <string_view>
#include <vector>

#include <fmt/format.h>

#include "controlplane/exit_codes.h"
#include "controlplane/explain.h"
#include "controlplane/report.h"
#include "controlplane/toml_reader.h"
#include "src/size_limits.h"

namespace sluice {
namespace {

using nlohmann::json;
using Reply = ProtocolServer::Reply;

Error with_suggestion(std::string what, std::string_view typed,
                      const std::vector<std::string_view>& candidates, std::string otherwise) {
  const std::string_view near = nearest(typed, candidates);
  return {std::move(what), near.empty() ? std::move(otherwise) : fmt::format("did you mean '{}'?", near)};
}

// The string argument of this name, or nothing.
std::optional<std::string> text_of(const json& request, const char* name) {
  const auto found = request.find(name);
  if (found == request.end() || !found->is_string()) return std::nullopt;
  return found->get<std::string>();
}

json missing(const char* name, const char* kind) {
  return error_response(kCodeBadRequest, {fmt::format("the request has no \"{}\" ({})", name, kind), ""});
}

Error no_such_service(const Model& model, const std::string& name) {
  std::vector<std::string_view> names;
  for (const Service& service : model.services())
    names.push_back(service.config.name);
  return with_suggestion(fmt::format("no service '{}'", name), name, names, "sluice show services");
}

Error no_such_backend(const Model& model, const std::string& service_name, const std::string& name) {
  const Service* service = model.find_service(service_name);
  if (service == nullptr) return no_such_service(model, service_name);
  std::vector<std::string_view> names;
  for (const Backend& backend : service->backends)
    names.push_back(backend.config.name);
  return with_suggestion(fmt::format("no backend '{}' in service '{}'", name, service_name), name, names,
                         "sluice show backends");
}

// A backend that exists, or the response that says why there is none.
struct Named {
  std::string service;
  std::string backend;
  std::optional<BackendPlace> place;
  json refusal;
};

Named named_backend(const Daemon& daemon, const json& request) {
  const auto service = text_of(request, "service");
  const auto backend = text_of(request, "backend");
  if (!service) return {"", "", std::nullopt, missing("service", "text")};
  if (!backend) return {"", "", std::nullopt, missing("backend", "text")};
  if (const auto place = daemon.find_backend(*service, *backend)) return {*service, *backend, place, nullptr};
  return {"", "", std::nullopt,
          error_response(kCodeNotFound, no_such_backend(daemon.model(), *service, *backend))};
}

// Answers when the workers have acknowledged.
void reply_when_acknowledged(Daemon& daemon, const Daemon::Change& change, uint64_t received_ns,
                             json response, const Reply& reply) {
  daemon.rollout().wait(
      change.generation, received_ns,
      [changed = change.changed, response = std::move(response), reply](const Outcome& outcome) mutable {
        response["changed"] = changed;
        response["generation"] = outcome.generation;
        response["workers"] = outcome.workers;
        response["acknowledged"] = outcome.acknowledged;
        response["ack_us"] = static_cast<double>(outcome.elapsed_ns) / 1e3;
        response["note"] = outcome.note;
        reply(std::move(response));
      });
}

void finish_change(Daemon& daemon, const Result<Daemon::Change>& change, uint64_t received_ns, json response,
                   const Reply& reply) {
  if (!change) return reply(error_response(kCodeFailed, change.error()));
  reply_when_acknowledged(daemon, *change, received_ns, std::move(response), reply);
}

void backend_admin(Daemon& daemon, const json& request, uint64_t received_ns, const Reply& reply) {
  const Named named = named_backend(daemon, request);
  if (!named.place) return reply(named.refusal);
  const std::string wanted = text_of(request, "admin").value_or("");
  for (const Admin admin : {Admin::ready, Admin::drain, Admin::maint}) {
    if (wanted != text(admin)) continue;
    json response = ok_response();
    response.update({{"service", named.service}, {"backend", named.backend}, {"admin", wanted}});
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
  response.update({{"service", named.service}, {"backend", named.backend}, {"weight", value}});
  finish_change(daemon, daemon.set_weight(*named.place, value), received_ns, std::move(response), reply);
}

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

struct Command {
  std::string_view name;
  void (*run)(Daemon&, const json&, uint64_t, const Reply&);
};
constexpr std::array kCommands = {
    Command{"show.services", show_services},   Command{"show.backends", show_backends},
    Command{"show.dataplane", show_dataplane}, Command{"backend.admin", backend_admin},
    Command{"backend.weight", backend_weight}, Command{"reload", reload},
    Command{"explain", explain_flow},
};

}  // namespace

void handle_command(Daemon& daemon, const json& request, uint64_t received_ns, const Reply& reply) {
  const auto name = request.at("cmd").get<std::string>();
  std::vector<std::string_view> names;
  for (const Command& command : kCommands) {
    if (command.name == name) return command.run(daemon, request, received_ns, reply);
    names.push_back(command.name);
  }
  reply(error_response(kCodeBadRequest,
                       with_suggestion("unknown command '" + name + "'", name, names, "sluice --help")));
}

}  // namespace sluice
