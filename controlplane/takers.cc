#include "controlplane/takers.h"

#include <algorithm>

namespace sluice {

uint32_t table_weight(Method method, uint32_t in_force, uint32_t whole) {
  return ignores_weight(method) ? std::max(1u, limits::kWeightDefault * in_force / whole) : in_force;
}

Taker taker_of(const Service& service, const Backend& backend) {
  return {backend.id, backend.config.name,
          table_weight(service.config.method, backend.weight_in_force(), backend.weight())};
}

std::vector<Taker> takers_of(const Service& service) {
  std::vector<Taker> takers;
  for (const Backend& backend : service.backends) {
    if (service.takes_new(backend)) takers.push_back(taker_of(service, backend));
  }
  std::sort(takers.begin(), takers.end(), Taker::by_name);
  return takers;
}

Taker published_taker(Method method, BackendId id, const BackendCold& cold) {
  const uint32_t whole = cold.weight_override == kNoOverride ? cold.weight_configured : cold.weight_override;
  // One that takes none now has been published with weight 0, perhaps.
  const uint32_t weight = cold.weight == 0 ? 0 : table_weight(method, cold.weight, std::max(whole, 1u));
  return {id, cold.name, weight};
}

TakersTable table_of(Method method, std::span<const Taker> takers, uint32_t slots) {
  TakersTable table;
  for (const Taker& taker : takers)
    table.members.push_back({taker.name, taker.weight});
  table.slots.resize(takers.empty() ? 0 : slots);
  if (!table.slots.empty() && !lookup_build(method, table.members, table.slots)) table.slots.clear();
  if (!table.slots.empty()) table.turns = whole_rounds(method, table.members, slots);
  return table;
}

}  // namespace sluice
