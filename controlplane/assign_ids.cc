#include <algorithm>
#include <map>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "controlplane/compile.h"
#include "controlplane/published.h"

namespace sluice {
namespace {

// What the current generation knows by name.
struct PublishedNames {
  std::unordered_map<std::string, ServiceId> services;
  std::unordered_map<std::string, BackendId> backends;  // "service/backend"; neither name holds a slash

  explicit PublishedNames(const TablesView& current) {
    for_each_service_cold(current, [&](ServiceId id, const ServiceCold& cold) {
      if (cold.name[0] != '\0') services.emplace(cold.name, id);
    });
    for_each_backend_cold(current, [&](BackendId id, const BackendCold& cold) {
      if (cold.name[0] == '\0') return;
      backends.emplace(std::string(current.service_cold(cold.service).name) + "/" + cold.name, id);
    });
  }
};

// Ids that may be handed out, lowest first.
class FreeIds {
 public:
  explicit FreeIds(uint32_t ids_max) : taken_(ids_max, false) {}
  void take(uint32_t id) { taken_[id] = true; }
  // ids_max: there is none.
  uint32_t next() {
    while (next_ < taken_.size() && taken_[next_])
      next_++;
    return next_ < taken_.size() ? next_++ : next_;
  }

 private:
  std::vector<bool> taken_;
  uint32_t next_ = 0;
};

FreeIds free_services(const std::vector<Service>& configured, const TablesView& current) {
  FreeIds free(limits::kServicesMax);
  for_each_service_cold(current, [&](ServiceId id, const ServiceCold& cold) {
    if (cold.name[0] != '\0') free.take(index(id));
  });
  for (const Service& service : configured) {
    if (service.id != kNoService) free.take(index(service.id));
  }
  return free;
}

FreeIds free_backends(const std::vector<Service>& configured, const TablesView& current, uint64_t now_ns,
                      uint64_t dataplane_since_ns, uint32_t& quarantined) {
  FreeIds free(limits::kBackendsMax);
  for_each_backend_cold(current, [&](BackendId id, const BackendCold& cold) {
    const bool in_quarantine =
        cold.name[0] == '\0' && cold.removed_ns != 0 &&
        (dataplane_since_ns == kNoDataplane ||
         now_ns < std::max<uint64_t>(cold.removed_ns, dataplane_since_ns) + kQuarantineNs);
    if (cold.name[0] != '\0' || in_quarantine) free.take(index(id));
    if (in_quarantine) quarantined++;
  });
  for (const Service& service : configured) {
    for (const Backend& backend : service.backends) {
      if (backend.id != kUnassignedBackend) free.take(index(backend.id));
    }
  }
  return free;
}

NextHop next_hop_of(const BackendRecord& record) {
  NextHop hop;
  hop.resolved = (record.flags & BackendRecord::kResolved) != 0;
  hop.mtu_bytes = record.mtu_bytes;
  hop.port = record.port;
  std::copy_n(record.destination_mac(), hop.mac.bytes.size(), hop.mac.bytes.begin());
  std::copy_n(record.source_mac(), hop.source_mac.bytes.size(), hop.source_mac.bytes.begin());
  hop.source = record.outer_source();
  return hop;
}

// What a predecessor's ramp had reached, as if it had begun that long ago.
void restore_ramp(Backend& backend, const BackendCold& cold, Milliseconds slow_start, uint64_t now_ns) {
  const uint32_t whole = cold.weight_override != kNoOverride ? cold.weight_override : cold.weight_configured;
  if (slow_start.count() == 0 || cold.weight == 0 || cold.weight >= whole) return;
  backend.ramp_permille = (cold.weight * kRampWhole + whole - 1) / whole;
  const auto slow_start_ns = static_cast<uint64_t>(std::chrono::nanoseconds(slow_start).count());
  const uint64_t elapsed_ns = slow_start_ns / kRampWhole * backend.ramp_permille;
  backend.ramp_since_ns = now_ns - std::min(now_ns, elapsed_ns);
}

void restore_service(Service& service, ServiceId id, const TablesView& current) {
  const ServiceCold& cold = current.service_cold(id);
  service.id = id;
  service.standing.panic = cold.panic != 0;
  service.standing.quorum_lost = cold.quorum_lost != 0;
  service.scale = cold.scale;
}

void restore(Backend& backend, BackendId id, const Service& service, const TablesView& current,
             uint64_t now_ns) {
  const BackendCold& cold = current.backend_cold(id);
  const BackendRecord& record = current.backend(id);
  backend.id = id;
  if (cold.admin_configured == backend.config.admin) backend.admin = cold.admin;
  backend.starts_cold = true;
  if (cold.weight_override != kNoOverride && cold.weight_configured == backend.config.weight) {
    backend.weight_override = cold.weight_override;
  }
  if (record.outer_destination() != backend.config.address) return;
  backend.health = cold.health;
  backend.starts_cold = cold.health == Health::down || is_out(backend.admin);
  restore_ramp(backend, cold, service.config.policy.slow_start, now_ns);
  if ((record.flags & BackendRecord::kResolved) != 0) backend.next_hop = next_hop_of(record);
}

void restore_by_name(std::vector<Service>& configured, const TablesView& current, uint64_t now_ns) {
  const PublishedNames published(current);
  for (Service& service : configured) {
    if (service.id == kNoService) {
      const auto known = published.services.find(service.config.name);
      if (known == published.services.end()) continue;
      restore_service(service, known->second, current);
    }
    for (Backend& backend : service.backends) {
      if (backend.id != kUnassignedBackend) continue;
      const auto known = published.backends.find(service.config.name + "/" + backend.config.name);
      if (known != published.backends.end()) {
        restore(backend, known->second, service, current, now_ns);
      } else {
        backend.starts_cold = true;  // new among others
      }
    }
  }
}

}  // namespace

Result<Done> assign_ids(Model& model, const TablesView& current, uint64_t now_ns,
                        uint64_t dataplane_since_ns) {
  std::vector<Service> assigned = model.services();
  restore_by_name(assigned, current, now_ns);

  uint32_t quarantined = 0;
  FreeIds services = free_services(assigned, current);
  FreeIds backends = free_backends(assigned, current, now_ns, dataplane_since_ns, quarantined);
  for (Service& service : assigned) {
    if (service.id == kNoService) service.id = ServiceId{services.next()};
    if (index(service.id) == limits::kServicesMax) {
      return Error{"no room for service '" + service.config.name +
                       "': " + std::to_string(limits::kServicesMax) + " services are in use",
                   "take services out of the configuration, then: sluice reload"};
    }
    for (Backend& backend : service.backends) {
      if (backend.id == kUnassignedBackend) backend.id = BackendId{backends.next()};
      if (index(backend.id) == limits::kBackendsMax) {
        return Error{"no room for backend '" + service.config.name + "/" + backend.config.name + "': all " +
                         std::to_string(limits::kBackendsMax) + " are in use, " +
                         std::to_string(quarantined) + " of them by flows of backends removed in the last " +
                         std::to_string(kQuarantineNs / 60'000'000'000) + " minutes of the data plane",
                     "take backends out of the configuration, or wait, then: sluice reload"};
      }
    }
  }
  model.edit_all() = std::move(assigned);
  return Done{};
}

}  // namespace sluice
