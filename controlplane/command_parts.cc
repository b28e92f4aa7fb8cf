#include "controlplane/command_parts.h"

#include <fmt/format.h>

#include "controlplane/message.h"
#include "controlplane/toml_reader.h"

namespace sluice {

using nlohmann::json;

Error with_suggestion(std::string what, std::string_view typed,
                      const std::vector<std::string_view>& candidates, std::string otherwise) {
  const std::string_view near = nearest(typed, candidates);
  return {std::move(what), near.empty() ? std::move(otherwise) : fmt::format("did you mean '{}'?", near)};
}

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

Named named_backend(const Daemon& daemon, const json& request) {
  const auto service = text_of(request, "service");
  const auto backend = text_of(request, "backend");
  if (!service) return {"", "", std::nullopt, missing("service", "text")};
  if (!backend) return {"", "", std::nullopt, missing("backend", "text")};
  if (const auto place = daemon.find_backend(*service, *backend)) return {*service, *backend, place, nullptr};
  return {"", "", std::nullopt,
          error_response(kCodeNotFound, no_such_backend(daemon.model(), *service, *backend))};
}

namespace {

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

}  // namespace

void finish_change(Daemon& daemon, const Result<Daemon::Change>& change, uint64_t received_ns, json response,
                   const Reply& reply) {
  if (!change) return reply(error_response(kCodeFailed, change.error()));
  reply_when_acknowledged(daemon, *change, received_ns, std::move(response), reply);
}

}  // namespace sluice
