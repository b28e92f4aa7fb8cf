#include "controlplane/overrides.h"

#include <algorithm>
#include <unordered_map>
#include <utility>

#include <fmt/format.h>

#include "controlplane/admin_names.h"
#include "controlplane/config_schema.h"
#include "src/wire.h"

namespace sluice {
namespace {

using nlohmann::json;

json entry_json(const OverrideKey& key, const Override& entry) {
  json out = {{"service", key.first}};
  if (!key.second.empty()) out["backend"] = key.second;
  if (entry.address) out["address"] = entry.address->text();
  if (entry.address_was) out["address_was"] = entry.address_was->text();
  if (entry.weight) out["weight"] = *entry.weight;
  if (entry.weight_was) out["weight_was"] = *entry.weight_was;
  if (entry.admin) out["admin"] = name_of(*entry.admin);
  if (entry.reset) {
    out["reset_at_ns"] = entry.reset->at_ns;
    out["reset_after_ms"] = entry.reset->after_ms;
  }
  if (entry.enabled) out["enabled"] = *entry.enabled;
  if (entry.remove) out["remove"] = true;
  return out;
}

template <typename T>
std::optional<T> value_of(const json& object, const char* key) {
  const auto found = object.find(key);
  if (found == object.end()) return std::nullopt;
  return found->get<T>();
}

// Throws json::exception when a value is of another type.
Override entry_of(const json& object) {
  Override entry;
  entry.weight = value_of<uint32_t>(object, "weight");
  entry.weight_was = value_of<uint32_t>(object, "weight_was");
  entry.enabled = value_of<bool>(object, "enabled");
  entry.remove = value_of<bool>(object, "remove").value_or(false);
  if (const auto admin = value_of<std::string>(object, "admin")) entry.admin = admin_of(*admin);
  const auto reset_at_ns = value_of<uint64_t>(object, "reset_at_ns");
  const auto reset_after_ms = value_of<uint64_t>(object, "reset_after_ms");
  const bool drains = entry.admin == Admin::drain || entry.admin == Admin::migrate;
  if (reset_at_ns && reset_after_ms && drains) entry.reset = ResetDeadline{*reset_at_ns, *reset_after_ms};
  if (const auto address = value_of<std::string>(object, "address"))
    entry.address = IpAddress::parse(*address);
  if (const auto address = value_of<std::string>(object, "address_was"))
    entry.address_was = IpAddress::parse(*address);
  return entry;
}

template <typename Named>
auto find_named(std::vector<Named>& all, const std::string& name) {
  return std::find_if(all.begin(), all.end(), [&](const Named& n) { return n.name == name; });
}

std::string name_of(const OverrideKey& key) {
  return key.second.empty() ? key.first : key.first + "/" + key.second;
}

// Who but `name` has this address; empty: nobody.
std::string who_has(const ServiceConfig& service, const IpAddress& address, const std::string& name) {
  if (address == service.vip)
    return fmt::format("{} is the VIP of '{}', not a backend's own address", address.text(), service.name);
  for (const BackendConfig& other : service.backends) {
    if (other.address == address && other.name != name)
      return fmt::format("{}/{} has the address {} already", service.name, other.name, address.text());
  }
  return "";
}

std::string lay_over_backend(ServiceConfig& service, const std::string& name, const Override& entry) {
  const auto found = find_named(service.backends, name);
  if (entry.remove) {
    if (found == service.backends.end())
      return fmt::format("no backend '{}' in service '{}'", name, service.name);
    service.backends.erase(found);
    return "";
  }
  if (found == service.backends.end() && !entry.address)
    return fmt::format("no backend '{}' in service '{}'", name, service.name);
  if (!entry.address) return "";
  if (!is_name(name)) return fmt::format("'{}' is no name: letters, digits, '.', '_' and '-'", name);
  if (const std::string taken = who_has(service, *entry.address, name); !taken.empty()) return taken;
  if (found != service.backends.end()) {
    found->address = *entry.address;
    return "";
  }
  if (service.backends.size() >= limits::kBackendsPerServiceMax)
    return fmt::format("service '{}' has {} backends already, which is the most", service.name,
                       service.backends.size());
  BackendConfig added;
  added.name = name;
  added.address = *entry.address;
  added.weight = entry.weight.value_or(limits::kWeightDefault);
  added.max_flows = service.max_flows;
  added.max_sessions = service.max_sessions;
  service.backends.push_back(std::move(added));
  return "";
}

// What a file's override says and one at run time leaves to the model.
void lay_over_states(Config& config, const OverrideKey& key, const Override& entry) {
  const auto service = find_named(config.services, key.first);
  if (service == config.services.end()) return;
  const auto backend = find_named(service->backends, key.second);
  if (backend == service->backends.end()) return;
  if (entry.weight) backend->weight = *entry.weight;
  if (entry.admin) backend->admin = *entry.admin;
}

// What of an override still says something beside the files' own words.
Override not_overtaken(const ServiceConfig& service, const OverrideKey& key, Override entry,
                       std::vector<std::string>& told) {
  const auto found = std::find_if(service.backends.begin(), service.backends.end(),
                                  [&](const BackendConfig& b) { return b.name == key.second; });
  if (found == service.backends.end()) {
    if (entry.address) return entry;
    told.push_back(fmt::format("the override of '{}' has no backend any more", name_of(key)));
    return {};
  }
  if (entry.address && (*entry.address == found->address || entry.address_was != found->address)) {
    told.push_back(fmt::format("'{}', added at run time with the address {}, is in the files now with {}",
                               name_of(key), entry.address->text(), found->address.text()));
    entry.address.reset();
    entry.address_was.reset();
    if (!entry.weight_was) entry.weight.reset();  // it was the added one's
  }
  if (entry.weight_was && *entry.weight_was != found->weight) {
    told.push_back(fmt::format("the weight {} of '{}', set at run time, gives way to the files' new one, {}",
                               entry.weight.value_or(0), name_of(key), found->weight));
    entry.weight.reset();
    entry.weight_was.reset();
  }
  return entry;
}

std::string add_service(Config& config, const json& object) {
  const json document = {{"service", json::array({object})}};
  ConfigResult read =
      parse_config(document.dump(-1, ' ', false, json::error_handler_t::replace), "added.json");
  if (!read.config) return read.errors.front().message;
  ServiceConfig& added = read.config->services.front();
  if (std::string why = why_no_place(config, added); !why.empty()) return why;
  config.services.push_back(std::move(added));
  return "";
}

}  // namespace

std::string why_no_place(const Config& config, const ServiceConfig& added) {
  bool is_first = true;  // of its group
  for (const ServiceConfig& other : config.services) {
    if (other.name == added.name) return fmt::format("there is a service '{}' already", added.name);
    if (other.vip == added.vip && other.port == added.port && other.protocol == added.protocol) {
      return fmt::format("{} has {} port {} ({}) already", other.name, other.vip.text(), other.port,
                         other.protocol == wire::kProtoUdp ? "udp" : "tcp");
    }
    const bool is_same =
        is_in_group(added) && is_in_group(other) && other.session.group == added.session.group;
    if (!is_same || !std::exchange(is_first, false)) continue;
    std::string why;
    for (const Error& fault : group_faults(added, other))
      why += fmt::format("{}{}: {}", why.empty() ? "" : "; ", fault.what, fault.remedy);
    if (!why.empty()) return why;
  }
  return "";
}

const Override* Overrides::find(const OverrideKey& key) const {
  const auto found = entries_.find(key);
  return found == entries_.end() ? nullptr : &found->second;
}

void Overrides::set(const OverrideKey& key, Override entry) {
  if (entry.reset) {
    to_reset_.insert(key);
  } else {
    to_reset_.erase(key);
  }
  if (entry.is_empty()) {
    entries_.erase(key);
  } else {
    entries_[key] = std::move(entry);
  }
}

void Overrides::add_service(const std::string& name, json service) {
  services_[name] = std::move(service);
}

void Overrides::forget_service(const std::string& name) {
  services_.erase(name);
  std::erase_if(entries_, [&](const auto& entry) { return entry.first.first == name; });
  std::erase_if(to_reset_, [&](const OverrideKey& key) { return key.first == name; });
}

bool Overrides::has_service(const std::string& name) const {
  const auto entry = entries_.lower_bound({name, ""});
  return services_.contains(name) || (entry != entries_.end() && entry->first.first == name);
}

void Overrides::bound_resets(uint64_t now_ns) {
  for (const OverrideKey& key : to_reset_) {
    ResetDeadline& reset = *entries_.at(key).reset;
    reset.at_ns = std::min(reset.at_ns, now_ns + reset.after_ms * 1'000'000);
  }
}

Overrides difference(const Overrides& before, const Overrides& after) {
  Overrides differs;
  for (const auto& [name, service] : before.services()) {
    const auto same = after.services().find(name);
    if (same == after.services().end() || same->second != service) differs.add_service(name, service);
  }
  for (const auto& [key, entry] : before.entries()) {
    const Override* same = after.find(key);
    if (same == nullptr || *same != entry) differs.set(key, entry);
  }
  return differs;
}

json Overrides::to_json() const {
  json out = {{"service", json::array()}, {"override", json::array()}};
  for (const auto& [name, service] : services_)
    out["service"].push_back(service);
  for (const auto& [key, entry] : entries_)
    out["override"].push_back(entry_json(key, entry));
  return out;
}

Overrides Overrides::from_json(const json& document, std::vector<std::string>& faults) {
  Overrides overrides;
  const auto each = [&](const char* list, auto&& take) {
    for (const json& object : document.value(list, json::array())) {
      try {
        take(object);
      } catch (const json::exception& fault) {
        faults.push_back(fmt::format("an override is not understood: {}", fault.what()));
      }
    }
  };
  each("service",
       [&](const json& object) { overrides.add_service(object.at("name").get<std::string>(), object); });
  each("override", [&](const json& object) {
    overrides.set({object.at("service").get<std::string>(), object.value("backend", "")}, entry_of(object));
  });
  return overrides;
}

void lay_over_files(Config& config, const Overrides& overrides, std::vector<OverrideFault>& faults) {
  lay_over(config, overrides, faults);
  for (const auto& [key, entry] : overrides.entries())
    lay_over_states(config, key, entry);
}

void lay_over(Config& config, const Overrides& overrides, std::vector<OverrideFault>& faults) {
  const auto told = [&](const OverrideKey& key, std::string fault) {
    if (!fault.empty()) faults.push_back({key, std::move(fault)});
  };
  for (const auto& [name, service] : overrides.services())
    told({name, ""}, add_service(config, service));
  std::unordered_map<std::string, size_t> places;
  for (size_t i = 0; i < config.services.size(); i++)
    places.emplace(config.services[i].name, i);
  std::vector<bool> removed(config.services.size(), false);
  for (const auto& [key, entry] : overrides.entries()) {
    const auto place = places.find(key.first);
    if (place == places.end()) {
      told(key, fmt::format("no service '{}'", key.first));
    } else if (!key.second.empty()) {
      told(key, lay_over_backend(config.services[place->second], key.second, entry));
    } else if (entry.remove) {
      removed[place->second] = true;
    } else if (entry.enabled) {
      config.services[place->second].enabled = *entry.enabled;
    }
  }
  size_t position = 0;
  std::erase_if(config.services, [&](const ServiceConfig&) { return removed[position++]; });
}

Overrides without_overtaken(const Overrides& overrides, const Config& files, std::vector<std::string>& told) {
  std::unordered_map<std::string, const ServiceConfig*> services;
  for (const ServiceConfig& service : files.services)
    services.emplace(service.name, &service);
  Overrides kept;
  for (const auto& [name, service] : overrides.services()) {
    if (services.contains(name)) {
      told.push_back(fmt::format("service '{}', added at run time, is in the files now", name));
    } else {
      kept.add_service(name, service);
    }
  }
  for (const auto& [key, entry] : overrides.entries()) {
    const auto service = services.find(key.first);
    if (service == services.end()) {
      // Of an added service, or of one that is gone.
      if (kept.services().contains(key.first))
        kept.set(key, entry);
      else
        told.push_back(fmt::format("the override of '{}' has no service any more", name_of(key)));
      continue;
    }
    kept.set(key, key.second.empty() ? entry : not_overtaken(*service->second, key, entry, told));
  }
  return kept;
}

}  // namespace sluice
