#include "controlplane/policy.h"

#include <algorithm>

#include "controlplane/model.h"

namespace sluice {
namespace {

uint64_t ns(Milliseconds duration) {
  return static_cast<uint64_t>(std::chrono::nanoseconds(duration).count());
}

// What there is to serve with, in backends and in weight.
struct Count {
  uint64_t backends = 0;
  uint64_t weight = 0;

  void add(const Backend& backend) {
    backends++;
    weight += backend.weight();
  }
  uint64_t in(const QuorumConfig& quorum) const { return quorum.by_weight ? weight : backends; }
};

struct Counts {
  Count configured;
  Count ready;
  Count healthy;  // of those that are ready
  Count open;     // ready, without a verdict
  const Backend* sorry = nullptr;
};

Counts count(const Service& service) {
  Counts counts;
  for (const Backend& backend : service.backends) {
    if (backend.config.sorry) {
      counts.sorry = &backend;
      continue;
    }
    counts.configured.add(backend);
    if (backend.admin != Admin::ready || backend.weight() == 0) continue;  // taken out by somebody
    counts.ready.add(backend);
    if (service.is_healthy(backend)) {
      counts.healthy.add(backend);
    } else if (backend.health == Health::unknown) {
      counts.open.add(backend);
    }
  }
  return counts;
}

bool is_panic(const Service& service, const Counts& counts) {
  const Amount& floor = service.config.policy.min_healthy;
  const uint64_t needed = std::min(floor.of(counts.ready.backends), counts.ready.backends);
  const uint64_t open = service.standing.panic ? 0 : counts.open.backends;
  return counts.healthy.backends + open < needed;
}

bool is_quorum_lost(const Service& service, const Counts& counts) {
  const QuorumConfig& quorum = service.config.policy.quorum;
  if (!quorum.is_set && counts.sorry == nullptr) return false;
  const uint64_t needed = quorum.needed.of(counts.configured.in(quorum));
  const uint64_t healthy = counts.healthy.in(quorum);
  if (service.standing.quorum_lost) return healthy < needed + quorum.hysteresis;
  return healthy + counts.open.in(quorum) + quorum.hysteresis < needed;
}

bool can_take(const Backend& backend) {
  return backend.admin == Admin::ready && backend.weight() > 0 && backend.next_hop.resolved;
}

}  // namespace

Standing judge(const Service& service) {
  const Counts counts = count(service);
  Standing standing;
  standing.panic = is_panic(service, counts);
  standing.quorum_lost = is_quorum_lost(service, counts);

  bool somebody = false, held = false;
  for (const Backend& backend : service.backends) {
    if (backend.config.sorry || !can_take(backend)) continue;
    somebody |= standing.panic || service.is_healthy(backend);
    held |= service.seems_up(backend) && backend.flaps.held();
  }
  const bool sorry_can =
      counts.sorry != nullptr && can_take(*counts.sorry) && service.is_healthy(*counts.sorry);
  standing.sorry_serves = sorry_can && (standing.quorum_lost || !somebody);
  standing.holds_ignored = held && !somebody && !sorry_can;
  return standing;
}

Usable usable_without(const Service& service, const std::vector<uint32_t>& leaving) {
  std::vector<bool> leaves(service.backends.size(), false);
  for (const uint32_t position : leaving)
    leaves.at(position) = true;
  Usable usable;
  uint32_t configured = 0;
  for (uint32_t i = 0; i < service.backends.size(); i++) {
    const Backend& backend = service.backends[i];
    if (backend.config.sorry) continue;
    configured++;
    if (backend.admin != Admin::ready || !service.is_healthy(backend) || backend.weight() == 0) continue;
    usable.now++;
    if (!leaves[i]) usable.after++;
  }
  usable.floor = static_cast<uint32_t>(service.config.policy.min_healthy.of(configured));
  return usable;
}

bool note_down(Flaps& flaps, const FlapConfig& config, uint64_t now_ns) {
  if (config.count == 0) return false;
  std::vector<uint64_t>& downs = flaps.downs_ns;
  downs.push_back(now_ns);
  std::erase_if(downs, [&](uint64_t then_ns) { return now_ns - then_ns > ns(config.within); });
  if (downs.size() > config.count) downs.erase(downs.begin());
  if (flaps.held() || downs.size() < config.count) return false;
  if (now_ns - flaps.hold_ended_ns > ns(config.hold_max)) flaps.holds_in_a_row = 0;
  const uint32_t doublings = std::min(flaps.holds_in_a_row, 30u);
  const bool is_longest = ns(config.hold) > ns(config.hold_max) >> doublings;
  flaps.holds_in_a_row++;
  flaps.held_until_ns = now_ns + (is_longest ? ns(config.hold_max) : ns(config.hold) << doublings);
  flaps.settling = true;
  downs.clear();
  return true;
}

uint32_t ramp_permille(uint64_t since_ns, Milliseconds slow_start, uint64_t now_ns) {
  const uint64_t elapsed_ns = now_ns - std::min(now_ns, since_ns);
  if (elapsed_ns >= ns(slow_start)) return kRampWhole;
  const auto permille = static_cast<uint32_t>(elapsed_ns / 1'000 * kRampWhole / (ns(slow_start) / 1'000));
  return std::max(permille, kRampWhole / kRampSteps);
}

uint64_t ramp_beat(uint32_t service_id, Milliseconds slow_start, uint64_t now_ns) {
  const uint64_t step_ns = ns(slow_start) / kRampSteps;
  // Neighbouring ids far from each other: the golden section of 2^32.
  const uint64_t phase_ns = step_ns * (service_id * 0x9e3779b9u >> 16) >> 16;
  return (now_ns + phase_ns) / step_ns;
}

}  // namespace sluice
