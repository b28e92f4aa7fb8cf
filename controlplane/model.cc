#include "controlplane/model.h"

#include <algorithm>
#include <unordered_map>
#include <utility>

namespace sluice {
namespace {

template <typename Named>
const Named* find_named(const std::vector<Named>& all, std::string_view name) {
  const auto found =
      std::find_if(all.begin(), all.end(), [&](const Named& n) { return n.config.name == name; });
  return found == all.end() ? nullptr : &*found;
}

// The backend `old` under its new configuration. `service` has its new configuration already.
Backend carry_over(Backend old, const BackendConfig& config, const Service& service, bool seemed_up) {
  if (config.weight != old.config.weight) old.weight_override.reset();
  if (config.admin != old.config.admin) old.admin = config.admin;
  if (config.address != old.config.address) {
    Backend other_machine;
    other_machine.id = old.id;
    other_machine.admin = old.admin;
    other_machine.weight_override = old.weight_override;
    other_machine.starts_cold = true;
    old = other_machine;
  } else if (seemed_up && !service.seems_up(old)) {
    old.health = Health::up;
  }
  const PolicyConfig& policy = service.config.policy;
  if (policy.flap.count == 0) old.flaps = {};
  if (policy.slow_start.count() == 0) old.ramp_permille = kRampWhole;
  old.config = config;
  return old;
}

// A configuration may hold thousands of either, so reconcile does not search them one by one.
template <typename Named>
std::unordered_map<std::string_view, const Named*> by_name(const std::vector<Named>& all) {
  std::unordered_map<std::string_view, const Named*> names;
  for (const Named& named : all)
    names.emplace(named.config.name, &named);
  return names;
}

template <typename Named>
const Named* find(const std::unordered_map<std::string_view, const Named*>& names, const std::string& name) {
  const auto found = names.find(name);
  return found == names.end() ? nullptr : found->second;
}

Service reconcile_service(const Service* old, const ServiceConfig& config) {
  Service service;
  service.config = config;
  std::unordered_map<std::string_view, const Backend*> known_backends;
  if (old != nullptr) {
    service.id = old->id;
    service.standing = old->standing;
    service.ramp_beat = old->ramp_beat;
    service.scale = old->scale;
    known_backends = by_name(old->backends);
  }
  for (const BackendConfig& wanted : config.backends) {
    const Backend* known = find(known_backends, wanted.name);
    if (known == nullptr) {
      Backend added;
      added.config = wanted;
      added.admin = wanted.admin;
      added.starts_cold = old != nullptr;  // all of a new service are new
      service.backends.push_back(std::move(added));
    } else {
      service.backends.push_back(carry_over(*known, wanted, service, old->seems_up(*known)));
    }
  }
  return service;
}

}  // namespace

const Service* Model::find_service(std::string_view name) const {
  return find_named(services_, name);
}

const Backend* Model::find_backend(std::string_view service, std::string_view backend) const {
  const Service* found = find_service(service);
  return found != nullptr ? find_named(found->backends, backend) : nullptr;
}

// The only way to a backend that may be written and is not edit_all.
Backend& Model::change(BackendPlace at) {
  if (base_ != Base{}) changed_.insert(at);  // else everything is looked at
  return services_[at.service].backends[at.backend];
}

// To be judged again before the next generation (settle).
Backend& Model::change_standing(BackendPlace at) {
  if (base_ != Base{}) unsettled_.insert(at.service);
  return change(at);
}

void Model::set_admin(BackendPlace at, Admin admin, uint64_t now_ns) {
  const bool took_new = service_of(at).takes_new(this->backend(at));
  Backend& backend = change_standing(at);
  const bool leaves_service = is_out(admin) && !is_out(backend.admin);
  backend.admin = admin;
  if (!leaves_service) return may_serve(at, took_new, now_ns);
  // What was seen of it before says nothing about it from now on.
  backend.health = Health::unknown;
  backend.health_since_ns = now_ns;
  backend.check_result.clear();
  backend.check_detail.clear();
  backend.check_duration_us = 0;
  backend.flaps = {};
  backend.suspect = false;
  backend.ramp_permille = kRampWhole;
  backend.starts_cold = true;
}

void Model::set_weight(BackendPlace at, uint32_t weight) {
  Backend& backend = change_standing(at);
  backend.weight_override.reset();
  if (weight != backend.config.weight) backend.weight_override = weight;
}

void Model::set_health(BackendPlace at, Health health, uint64_t now_ns) {
  const Service& service = service_of(at);
  const bool took_new = service.takes_new(this->backend(at));
  const bool seemed_up = service.seems_up(this->backend(at));
  Backend& backend = change_standing(at);
  backend.health = health;
  backend.health_since_ns = now_ns;
  if (service.seems_up(backend)) return may_serve(at, took_new, now_ns);
  backend.ramp_permille = kRampWhole;
  backend.starts_cold = true;
  if (!seemed_up || !note_down(backend.flaps, service.config.policy.flap, now_ns)) return;
  held_.insert(at);
  news_.push_back(
      {News::Kind::flapping, service.config.name, backend.config.name, backend.flaps.held_until_ns - now_ns});
}

void Model::set_next_hop(BackendPlace at, const NextHop& hop) {
  const bool same_standing = hop.resolved == backend(at).next_hop.resolved;
  (same_standing ? change(at) : change_standing(at)).next_hop = hop;
}

void Model::put_back(BackendPlace at, Backend before) {
  change_standing(at) = std::move(before);
  timed_known_ = false;
}

void Model::note_check(BackendPlace at, std::string result, std::string detail, uint64_t duration_us) {
  Backend& backend = services_[at.service].backends[at.backend];
  backend.check_result = std::move(result);
  backend.check_detail = std::move(detail);
  backend.check_duration_us = duration_us;
}

void Model::note_suspect(BackendPlace at, bool suspect) {
  services_[at.service].backends[at.backend].suspect = suspect;
}

// Any of its backends makes compile look at the service; without one it is looked at with the next edit_all.
void Model::set_scale(uint32_t service, Scale scale) {
  services_[service].scale = scale;
  if (base_ != Base{} && !services_[service].backends.empty()) changed_.insert({service, 0});
}

std::vector<Service>& Model::edit_all() {
  edition_++;
  base_ = {};
  changed_.clear();
  unsettled_.clear();
  timed_known_ = false;
  return services_;
}

void Model::set_secret(std::string secret) {
  edit_all();
  secret_ = std::move(secret);
}

void Model::is_published_in(const Base& base) {
  base_ = base;
  changed_.clear();
}

void Model::is_published_in(const Base& base, std::span<const BackendPlace> found) {
  base_ = base;
  for (const BackendPlace at : found)
    changed_.erase(at);
}

void reconcile(Model& model, const Config& config) {
  std::vector<Service> services;
  services.reserve(config.services.size());
  const auto known = by_name(model.services());
  for (const ServiceConfig& wanted : config.services) {
    services.push_back(reconcile_service(find(known, wanted.name), wanted));
  }
  model.edit_all() = std::move(services);
  model.set_secret(config.secret);
}

}  // namespace sluice
