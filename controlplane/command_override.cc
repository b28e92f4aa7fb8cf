// Commands about what operators decided at run time (overrides.h): backends and services that are added or
// taken out, and the overrides themselves.
#include <algorithm>
#include <array>

#include <fmt/format.h>
#include <fnmatch.h>

#include "controlplane/command_parts.h"
#include "controlplane/config_schema.h"
#include "controlplane/escaped.h"
#include "controlplane/message.h"
#include "src/size_limits.h"

namespace sluice {
namespace {

using nlohmann::json;

// Answers when the edit is on disk, published and acknowledged.
void edit_overrides(Daemon& daemon, OverrideKey key, std::function<std::string(Overrides&)> change,
                    json response, uint64_t received_ns, const Reply& reply) {
  daemon.edit_overrides(
      {std::move(key), std::move(change),
       [&daemon, response = std::move(response), received_ns, reply](const Result<Daemon::Change>& changed) {
         finish_change(daemon, changed, received_ns, response, reply);
       }});
}

bool files_have(const Daemon& daemon, const OverrideKey& key) {
  const std::vector<ServiceConfig>& services = daemon.configuration().version().config.services;
  const auto service =
      std::find_if(services.begin(), services.end(), [&](const auto& s) { return s.name == key.first; });
  if (service == services.end()) return false;
  return key.second.empty() || std::any_of(service->backends.begin(), service->backends.end(),
                                           [&](const auto& b) { return b.name == key.second; });
}

std::optional<IpAddress> address_in_files(const Daemon& daemon, const OverrideKey& key) {
  for (const ServiceConfig& service : daemon.configuration().version().config.services) {
    if (service.name != key.first) continue;
    for (const BackendConfig& backend : service.backends) {
      if (backend.name == key.second) return backend.address;
    }
  }
  return std::nullopt;
}

// As the files have it, or the definition it was added with.
bool enabled_as_defined(const Daemon& daemon, const Overrides& overrides, const std::string& name) {
  if (const auto added = overrides.services().find(name); added != overrides.services().end())
    return added->second.value("enabled", true);
  const std::vector<ServiceConfig>& services = daemon.configuration().version().config.services;
  const auto service =
      std::find_if(services.begin(), services.end(), [&](const auto& s) { return s.name == name; });
  return service == services.end() || service->enabled;
}

// A backend of the files, or of a service's definition that was added.
bool is_defined(const Daemon& daemon, const Overrides& overrides, const OverrideKey& key) {
  const auto added = overrides.services().find(key.first);
  if (added == overrides.services().end()) return files_have(daemon, key);
  const json backends = added->second.value("backend", json::array());
  return std::any_of(backends.begin(), backends.end(),
                     [&](const json& backend) { return backend.value("name", "") == key.second; });
}

// Would these overrides take it out, or no longer add it?
bool is_gone(const Daemon& daemon, const Overrides& overrides, const OverrideKey& key) {
  const Override* entry = overrides.find(key);
  if (is_defined(daemon, overrides, key)) return entry != nullptr && entry->remove;
  return entry == nullptr || !entry->address;
}

// service, backend, address, weight
void backend_add(Daemon& daemon, const json& request, uint64_t received_ns, const Reply& reply) {
  const auto service = text_of(request, "service"), backend = text_of(request, "backend"),
             written = text_of(request, "address");
  if (!service) return reply(missing("service", "text"));
  if (!backend) return reply(missing("backend", "text"));
  if (!written) return reply(missing("address", "an IPv4 or IPv6 address"));
  const auto refuse = [&](const char* code, Error error) { reply(error_response(code, error)); };
  if (!is_name(*backend))
    return refuse(kCodeBadRequest,
                  {fmt::format("'{}' is no name", quotable(*backend)),
                   fmt::format("1 to {} letters, digits, '.', '_' or '-'", limits::kNameBytes - 1)});
  const std::optional<IpAddress> address = IpAddress::parse(*written);
  if (!address || !address->is_unicast())
    return refuse(kCodeBadRequest, {fmt::format("'{}' is no unicast address", quotable(*written)),
                                    "an IPv4 or IPv6 address, without port or prefix length"});
  if (daemon.model().find_service(*service) == nullptr)
    return refuse(kCodeNotFound, no_such_service(daemon.model(), *service));
  if (daemon.find_backend(*service, *backend))
    return refuse(kCodeFailed, {fmt::format("there is a backend '{}/{}' already", *service, *backend),
                                "sluice show backends " + *service});
  std::optional<uint32_t> weight;
  if (request.contains("weight")) {
    const json& given = request["weight"];
    if (!given.is_number_integer() || given < 0 || given > limits::kWeightMax)
      return refuse(kCodeBadRequest,
                    {"the weight is out of range", fmt::format("0 to {}", limits::kWeightMax)});
    weight = given.get<uint32_t>();
  }
  const OverrideKey key{*service, *backend};
  json response = ok_response();
  response["backends"] = json::array({*service + "/" + *backend});
  edit_overrides(
      daemon, key,
      [&daemon, key, address, weight](Overrides& overrides) {
        // Others may have been first, while this one waited for the disk.
        if (const Override* known = overrides.find(key); known != nullptr && known->address)
          return fmt::format("there is a backend '{}/{}' already", key.first, key.second);
        Override entry;
        entry.address = address;
        entry.address_was = address_in_files(daemon, key);
        entry.weight = weight;
        overrides.set(key, std::move(entry));
        return std::string();
      },
      std::move(response), received_ns, reply);
}

void backend_remove(Daemon& daemon, const json& request, uint64_t received_ns, const Reply& reply) {
  const Targets targets = targets_of(daemon, request);
  if (!targets.refusal.is_null()) return reply(targets.refusal);
  json refusal = refuse_to_lose(daemon, request, targets.places);
  if (!refusal.is_null()) return reply(std::move(refusal));
  std::vector<OverrideKey> keys;
  json names = json::array();
  for (const BackendPlace at : targets.places) {
    keys.emplace_back(daemon.model().service_of(at).config.name, daemon.model().backend(at).config.name);
    names.push_back(path_of(daemon, at));
  }
  json response = ok_response();
  response["backends"] = std::move(names);
  edit_overrides(
      daemon, keys.back(),
      [&daemon, request, keys](Overrides& overrides) {
        Overrides next = overrides;
        for (const OverrideKey& key : keys) {
          if (is_gone(daemon, overrides, key))
            return fmt::format("there is no backend '{}/{}' any more", key.first, key.second);
          Override gone;
          gone.remove = is_defined(daemon, overrides, key);
          next.set(key, std::move(gone));  // an added one: just forgotten
        }
        // With those that others remove meanwhile.
        std::vector<BackendPlace> leaving;
        for (const OverrideKey& key : keys) {
          const Service* service = daemon.model().find_service(key.first);
          for (uint32_t b = 0; service != nullptr && b < service->backends.size(); b++) {
            if (is_gone(daemon, next, {key.first, service->backends[b].config.name}))
              leaving.push_back(*daemon.find_backend(key.first, service->backends[b].config.name));
          }
        }
        if (const json lost = refuse_to_lose(daemon, request, leaving); !lost.is_null())
          return lost.at("error").get<std::string>();
        overrides = std::move(next);
        return std::string();
      },
      std::move(response), received_ns, reply);
}

// {"services": [a [[service]] table as JSON, ...]}
void service_add(Daemon& daemon, const json& request, uint64_t received_ns, const Reply& reply) {
  const auto service = request.find("definition");
  if (service == request.end() || !service->is_object())
    return reply(missing("definition", "a [[service]] table as JSON"));
  const json document = {{"service", json::array({*service})}};
  const ConfigResult read =
      parse_config(document.dump(1, ' ', false, json::error_handler_t::replace), "the definition.json");
  if (!read.config) {
    json refusal = error_response(kCodeSemantic, {"the definition of the service has errors", ""});
    for (const Diagnostic& error : read.errors)
      refusal["diagnostics"].push_back(error.text());
    return reply(std::move(refusal));
  }
  const std::string name = read.config->services.front().name;
  json response = ok_response();
  response["service"] = name;
  edit_overrides(
      daemon, {name, ""},
      [&daemon, name, added = read.config->services.front(), definition = *service](Overrides& overrides) {
        const bool exists = overrides.services().contains(name) || files_have(daemon, {name, ""});
        if (exists) return fmt::format("there is a service '{}' already", name);
        // Here, and not only when it is laid over: of two that exclude each other that would take the first
        // by name, whichever is in force.
        std::vector<OverrideFault> none;
        const Config now = Configuration::effective(daemon.configuration().version(), overrides, none);
        if (std::string why = why_no_place(now, added); !why.empty()) return why;
        overrides.add_service(name, definition);
        return std::string();
      },
      std::move(response), received_ns, reply);
}

void service_remove(Daemon& daemon, const json& request, uint64_t received_ns, const Reply& reply) {
  const auto name = text_of(request, "service");
  if (!name) return reply(missing("service", "text"));
  if (daemon.model().find_service(*name) == nullptr)
    return reply(error_response(kCodeNotFound, no_such_service(daemon.model(), *name)));
  json response = ok_response();
  response["service"] = *name;
  edit_overrides(
      daemon, {*name, ""},
      [&daemon, name = *name](Overrides& overrides) {
        overrides.forget_service(name);
        Override gone;
        gone.remove = files_have(daemon, {name, ""});
        overrides.set({name, ""}, std::move(gone));
        return std::string();
      },
      std::move(response), received_ns, reply);
}

// "services": names, in which * and ? may stand for more; "enabled"
void service_enable(Daemon& daemon, const json& request, uint64_t received_ns, const Reply& reply) {
  const auto enabled = request.find("enabled");
  if (enabled == request.end() || !enabled->is_boolean()) return reply(missing("enabled", "true or false"));
  const auto services = request.find("services");
  const bool are_names = services != request.end() && services->is_array() &&
                         std::all_of(services->begin(), services->end(),
                                     [](const json& pattern) { return pattern.is_string(); });
  if (!are_names) return reply(missing("services", "a list of names"));
  std::vector<std::string> names;
  for (const json& pattern : *services) {
    const auto text = pattern.get<std::string>();
    const size_t before = names.size();
    for (const Service& service : daemon.model().services()) {
      if (fnmatch(text.c_str(), service.config.name.c_str(), 0) == 0) names.push_back(service.config.name);
    }
    if (names.size() == before)
      return reply(error_response(kCodeNotFound, no_such_service(daemon.model(), text)));
  }
  if (names.empty()) return reply(missing("services", "a list of names"));
  json response = ok_response();
  response["services"] = names;
  edit_overrides(
      daemon, {names.back(), ""},
      [&daemon, names, enabled = enabled->get<bool>()](Overrides& overrides) {
        for (const std::string& name : names) {
          const Override* known = overrides.find({name, ""});
          Override entry = known == nullptr ? Override() : *known;
          entry.enabled.reset();
          if (enabled != enabled_as_defined(daemon, overrides, name)) entry.enabled = enabled;
          overrides.set({name, ""}, std::move(entry));
        }
        return std::string();
      },
      std::move(response), received_ns, reply);
}

void show_overrides(Daemon& daemon, const json&, uint64_t, const Reply& reply) {
  json response = ok_response();
  const Configuration& configuration = daemon.configuration();
  json listed = configuration.overrides().to_json();
  for (json& entry : listed.at("override")) {
    if (!entry.contains("reset_at_ns")) continue;
    const auto at_ns = entry["reset_at_ns"].get<uint64_t>();
    entry["reset_in_s"] = static_cast<double>(at_ns - std::min(at_ns, monotonic_ns())) / 1e9;
    entry.erase("reset_at_ns");
  }
  response["overrides"] = listed.at("override");
  response["services"] = listed.at("service");
  response["edition"] = configuration.edition();
  response["state"] = configuration.state_directory();
  reply(std::move(response));
}

// Nothing, or "target": SERVICE or SERVICE/BACKEND.
void clear_overrides(Daemon& daemon, const json& request, uint64_t received_ns, const Reply& reply) {
  const std::string target = text_of(request, "target").value_or("");
  const size_t slash = target.find('/');
  const OverrideKey key{target.substr(0, slash), slash == std::string::npos ? "" : target.substr(slash + 1)};
  edit_overrides(
      daemon, key,
      [target, key](Overrides& overrides) {
        if (target.empty()) {
          overrides = Overrides();
        } else if (!key.second.empty() && overrides.find(key) != nullptr) {
          overrides.set(key, {});
        } else if (key.second.empty() && overrides.has_service(key.first)) {
          overrides.forget_service(key.first);
        } else {
          return fmt::format("'{}' has no override; sluice show overrides has them all", quotable(target));
        }
        return std::string();
      },
      ok_response(), received_ns, reply);
}

// Moves the overrides into conf.d/overrides.toml beside the configuration file.
void write_overrides(Daemon& daemon, const json& request, uint64_t received_ns, const Reply& reply) {
  const bool dry_run = request.value("dry_run", json(false)) == json(true);
  Daemon::Written written = daemon.write_overrides(dry_run);
  json response = ok_response();
  response["file"] = written.file;
  response["text"] = written.text;
  if (dry_run && written.change) return reply(std::move(response));
  finish_change(daemon, written.change, received_ns, std::move(response), reply);
}

}  // namespace

std::span<const Command> override_commands() {
  static constexpr std::array kCommands = {
      Command{"backend.add", "service backend address weight", backend_add},
      Command{"backend.remove", "service backend targets force", backend_remove},
      Command{"service.enable", "services enabled force", service_enable},
      Command{"service.add", "definition", service_add},
      Command{"service.remove", "service force", service_remove},
      Command{"show.overrides", "", show_overrides, Role::read},
      Command{"overrides.clear", "target", clear_overrides},
      Command{"overrides.write", "dry_run", write_overrides},
  };
  return kCommands;
}

}  // namespace sluice
