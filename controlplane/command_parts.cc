#include "controlplane/command_parts.h"

#include <algorithm>
#include <map>

#include <fmt/format.h>
#include <fnmatch.h>

#include "controlplane/escaped.h"
#include "controlplane/message.h"
#include "controlplane/policy.h"
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
  return with_suggestion(fmt::format("no service '{}'", quotable(name)), name, names, "sluice show services");
}

Error no_such_backend(const Model& model, const std::string& service_name, const std::string& name) {
  const Service* service = model.find_service(service_name);
  if (service == nullptr) return no_such_service(model, service_name);
  std::vector<std::string_view> names;
  for (const Backend& backend : service->backends)
    names.push_back(backend.config.name);
  return with_suggestion(fmt::format("no backend '{}' in service '{}'", quotable(name), service_name), name,
                         names, "sluice show backends");
}

std::string path_of(const Daemon& daemon, BackendPlace at) {
  return daemon.model().service_of(at).config.name + "/" + daemon.model().backend(at).config.name;
}

namespace {

bool is_pattern(const std::string& name) {
  return name.find_first_of("*?[") != std::string::npos;
}

bool matches(const std::string& pattern, const std::string& name) {
  return fnmatch(pattern.c_str(), name.c_str(), 0) == 0;
}

// Adds what one SERVICE/BACKEND names. An Error when that is nothing.
Result<Done> add_target(const Daemon& daemon, const std::string& service, const std::string& backend,
                        std::vector<BackendPlace>& places) {
  if (!is_pattern(service) && !is_pattern(backend)) {
    const auto place = daemon.find_backend(service, backend);
    if (!place) return no_such_backend(daemon.model(), service, backend);
    places.push_back(*place);
    return Done{};
  }
  const size_t before = places.size();
  const std::vector<Service>& services = daemon.model().services();
  for (uint32_t s = 0; s < services.size(); s++) {
    if (!matches(service, services[s].config.name)) continue;
    for (uint32_t b = 0; b < services[s].backends.size(); b++) {
      if (matches(backend, services[s].backends[b].config.name)) places.push_back({s, b});
    }
  }
  if (places.size() > before) return Done{};
  return Error{fmt::format("no backend matches '{}/{}'", quotable(service), quotable(backend)),
               "sluice show backends"};
}

}  // namespace

Targets targets_of(const Daemon& daemon, const json& request) {
  Targets targets;
  const auto refuse = [&](json refusal) {
    targets.places.clear();
    targets.refusal = std::move(refusal);
    return targets;
  };
  std::vector<std::pair<std::string, std::string>> names;
  if (const auto list = request.find("targets"); list != request.end()) {
    for (const json& target : *list) {
      const auto text = target.get<std::string>();
      const size_t slash = text.find('/');
      if (slash == std::string::npos || slash == 0 || slash + 1 == text.size())
        return refuse(error_response(
            kCodeBadRequest,
            {fmt::format("'{}' is not SERVICE/BACKEND", quotable(text)), "sluice show backends"}));
      names.emplace_back(text.substr(0, slash), text.substr(slash + 1));
    }
    if (names.empty()) return refuse(missing("targets", "a list of SERVICE/BACKEND"));
  } else {
    const auto service = text_of(request, "service"), backend = text_of(request, "backend");
    if (!service) return refuse(missing("service", "text"));
    if (!backend) return refuse(missing("backend", "text"));
    names.emplace_back(*service, *backend);
  }
  for (const auto& [service, backend] : names) {
    if (const auto added = add_target(daemon, service, backend, targets.places); !added)
      return refuse(error_response(kCodeNotFound, added.error()));
  }
  std::sort(targets.places.begin(), targets.places.end());
  targets.places.erase(std::unique(targets.places.begin(), targets.places.end()), targets.places.end());
  return targets;
}

json refuse_to_lose(const Daemon& daemon, const json& request, const std::vector<BackendPlace>& leaving) {
  if (request.value("force", json(false)) == json(true)) return nullptr;
  std::map<uint32_t, std::vector<uint32_t>> by_service;
  for (const BackendPlace at : leaving)
    by_service[at.service].push_back(at.backend);
  for (const auto& [position, backends] : by_service) {
    const Service& service = daemon.model().services()[position];
    const Usable usable = usable_without(service, backends);
    if (!usable.crosses_min_healthy()) continue;
    return error_response(
        kCodeFailed,
        {fmt::format("{} of {} usable backends of '{}' would be left, fewer than min_healthy: {}",
                     usable.after, usable.now, service.config.name, usable.floor),
         "add --force if that is meant, or bring others up first: sluice show backends"});
  }
  return nullptr;
}

namespace {

// Answers when what was decided would survive a reboot as well, or says that it would not.
void reply_when_saved(const Daemon& daemon, json response, const Reply& reply) {
  daemon.when_saved([response = std::move(response), reply](const std::string& fault) mutable {
    response["saved"] = fault.empty();
    if (!fault.empty()) {
      response["warnings"].push_back("in force, but not kept on disk: " + fault);
    }
    reply(std::move(response));
  });
}

// Answers when the workers have acknowledged.
void reply_when_acknowledged(Daemon& daemon, const Daemon::Change& change, uint64_t received_ns,
                             json response, const Reply& reply) {
  daemon.rollout().wait(change.generation, received_ns,
                        [&daemon, changed = change.changed, response = std::move(response),
                         reply](const Outcome& outcome) mutable {
                          response["changed"] = changed;
                          response["generation"] = outcome.generation;
                          response["workers"] = outcome.workers;
                          response["acknowledged"] = outcome.acknowledged;
                          response["ack_us"] = static_cast<double>(outcome.elapsed_ns) / 1e3;
                          response["note"] = outcome.note;
                          reply_when_saved(daemon, std::move(response), reply);
                        });
}

}  // namespace

void finish_change(Daemon& daemon, const Result<Daemon::Change>& change, uint64_t received_ns, json response,
                   const Reply& reply) {
  if (!change) return reply(error_response(kCodeFailed, change.error()));
  reply_when_acknowledged(daemon, *change, received_ns, std::move(response), reply);
}

}  // namespace sluice
