#include "dataplane/chooser.h"

#include <algorithm>

namespace sluice {
namespace {

constexpr uint32_t kNotBegun = UINT32_MAX;

struct Load {
  uint64_t flows;
  uint64_t weight;
  bool operator<(const Load& other) const { return (flows + 1) * other.weight < (other.flows + 1) * weight; }
};

}  // namespace

Chooser::Chooser(std::span<const WorkerStats> workers, uint32_t number)
    : workers_(workers), number_(number), random_(number), next_(limits::kServicesMax, kNotBegun) {}

// SplitMix64.
uint64_t Chooser::draw() {
  random_ += 0x9e3779b97f4a7c15ULL;
  uint64_t x = random_;
  x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ULL;
  x = (x ^ x >> 27) * 0x94d049bb133111ebULL;
  return x ^ x >> 31;
}

uint32_t Chooser::draw(uint32_t below) {
  return lookup_slot(draw(), below);
}

uint64_t Chooser::active_flows(BackendId id) const {
  uint64_t flows = 0;
  for (const WorkerStats& worker : workers_)
    flows += worker.backends[index(id)].flows_active.get();
  return flows;
}

uint64_t Chooser::active_sessions(BackendId id) const {
  uint64_t sessions = 0;
  for (const WorkerStats& worker : workers_)
    sessions += worker.sessions_active[index(id)].get();
  return not_below_0(sessions);
}

// After a change of the table it goes on from the same slot, or where that is none any more, from its start.
uint32_t Chooser::next_turn(ServiceId id, const ServiceRecord& service) {
  uint32_t& next = next_[index(id)];
  if (next == kNotBegun) next = number_;  // side by side: their first choices are a piece of the schedule
  const uint32_t slot = next < (service.turns != 0 ? service.turns : service.lookup_slots) ? next : 0;
  next = slot + 1;
  return slot;
}

uint32_t Chooser::less_loaded(uint32_t one, uint32_t other, const ServiceRecord& service,
                              const TablesView& tables) const {
  const auto members = tables.members(service);
  const auto weights = tables.weights(service);
  const Load load_of_one = {active_flows(members[one]), weights[one]};
  const Load load_of_other = {active_flows(members[other]), weights[other]};
  return load_of_other < load_of_one ? other : one;
}

uint32_t Chooser::least_loaded(const ServiceRecord& service, const TablesView& tables) {
  const auto members = tables.members(service);
  const auto weights = tables.weights(service);
  const auto count = static_cast<uint32_t>(members.size());
  const uint32_t looked_at = std::min(looks(kCountersMax), count);
  uint32_t at = draw(count), least = at;
  Load load_of_least = {UINT32_MAX, 1};
  for (uint32_t i = 0; i < looked_at; i++) {
    const Load load = {active_flows(members[at]), weights[at]};
    if (load < load_of_least) {
      least = at;
      load_of_least = load;
    }
    at = at + 1 < count ? at + 1 : 0;
  }
  return least;
}

BackendId Chooser::choose(ServiceId id, const ServiceRecord& service, const TablesView& tables) {
  const auto lookup = tables.lookup(service);
  const uint32_t slots = service.lookup_slots;
  const uint32_t member = [&]() -> uint32_t {
    switch (static_cast<Method>(service.method)) {
      case Method::round_robin:
      case Method::weighted_round_robin:
        return lookup[next_turn(id, service)];
      case Method::power_of_two: {
        const uint32_t one = lookup[draw(slots)];
        return less_loaded(one, lookup[draw(slots)], service, tables);
      }
      case Method::least_connections:
      case Method::weighted_least_connections:
        return least_loaded(service, tables);
      default:
        return lookup[draw(slots)];
    }
  }();
  return tables.members(service)[member];
}

}  // namespace sluice
