#include "controlplane/model.h"

#include <algorithm>
#include <unordered_map>
#include <utility>

namespace sluice {
namespace {

template <typename Named>
Named* find_named(std::vector<Named>& all, std::string_view name) {
  const auto found =
      std::find_if(all.begin(), all.end(), [&](const Named& n) { return n.config.name == name; });
  return found == all.end() ? nullptr : &*found;
}

// The backend `old` under its new configuration. `service` has its new configuration already.
Backend carry_over(Backend old, const BackendConfig& config, const Service& service, bool counted_as_up) {
  if (config.weight != old.config.weight) old.weight_override.reset();
  if (config.address != old.config.address) {
    Backend other_machine;
    other_machine.id = old.id;
    other_machine.admin = old.admin;
    other_machine.weight_override = old.weight_override;
    old = other_machine;
  } else if (counted_as_up && !service.counts_as_up(old)) {
    old.health = Health::up;
  }
  old.config = config;
  return old;
}

// A configuration may hold thousands of either, so reconcile does not search them one by one.
template <typename Named>
std::unordered_map<std::string_view, Named*> by_name(std::vector<Named>& all) {
  std::unordered_map<std::string_view, Named*> names;
  for (Named& named : all)
    names.emplace(named.config.name, &named);
  return names;
}

template <typename Named>
Named* find(const std::unordered_map<std::string_view, Named*>& names, const std::string& name) {
  const auto found = names.find(name);
  return found == names.end() ? nullptr : found->second;
}

Service reconcile_service(Service* old, const ServiceConfig& config) {
  Service service;
  service.config = config;
  std::unordered_map<std::string_view, Backend*> known_backends;
  if (old != nullptr) {
    service.id = old->id;
    known_backends = by_name(old->backends);
  }
  for (const BackendConfig& wanted : config.backends) {
    const Backend* known = find(known_backends, wanted.name);
    if (known == nullptr) {
      Backend added;
      added.config = wanted;
      service.backends.push_back(std::move(added));
    } else {
      const bool counted_as_up = old->counts_as_up(*known);
      service.backends.push_back(carry_over(*known, wanted, service, counted_as_up));
    }
  }
  return service;
}

}  // namespace

Service* Model::find_service(std::string_view name) {
  return find_named(services, name);
}

Backend* Model::find_backend(std::string_view service, std::string_view backend) {
  Service* found = find_service(service);
  return found != nullptr ? find_named(found->backends, backend) : nullptr;
}

void reconcile(Model& model, const Config& config) {
  std::vector<Service> services;
  services.reserve(config.services.size());
  const auto known = by_name(model.services);
  for (const ServiceConfig& wanted : config.services) {
    services.push_back(reconcile_service(find(known, wanted.name), wanted));
  }
  model.services = std::move(services);
  model.secret = config.secret;
}

}  // namespace sluice
