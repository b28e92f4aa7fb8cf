#include "controlplane/rebalance.h"

#include <algorithm>
#include <cassert>
#include <queue>
#include <utility>

namespace sluice {

std::vector<double> packets_due(std::span<const BackendActivity> backends) {
  double packets = 0, weights = 0;
  for (const BackendActivity& backend : backends) {
    if (backend.weight == 0) continue;
    packets += static_cast<double>(backend.packets);
    weights += backend.weight;
  }
  std::vector<double> due;
  for (const BackendActivity& backend : backends)
    due.push_back(backend.weight == 0 ? 0 : packets * backend.weight / weights);
  return due;
}

double imbalance(std::span<const BackendActivity> backends, std::span<const double> packets) {
  const std::vector<double> due = packets_due(backends);
  double total = 0, wrong = 0;
  for (size_t i = 0; i < backends.size(); i++) {
    if (backends[i].weight == 0) continue;
    total += due[i];
    wrong += std::max(0.0, packets[i] - due[i]);
  }
  return total == 0 ? 0 : wrong / total;
}

RebalancePlan plan_rebalance(std::span<const BackendActivity> backends,
                             std::vector<std::vector<MovableSession>> movable, uint64_t moves_max) {
  assert(movable.size() == backends.size());
  RebalancePlan plan;
  const std::vector<double> due = packets_due(backends);
  // The farthest from its due first; of equals the first.
  using Place = std::pair<double, size_t>;
  const auto is_behind = [](const Place& a, const Place& b) {
    return a.first != b.first ? a.first < b.first : a.second > b.second;
  };
  std::priority_queue<Place, std::vector<Place>, decltype(is_behind)> givers(is_behind), takers(is_behind);
  plan.gives.resize(backends.size());
  plan.gets.resize(backends.size());
  for (size_t i = 0; i < backends.size(); i++) {
    const auto packets = static_cast<double>(backends[i].packets);
    plan.packets.push_back(packets);
    if (backends[i].weight == 0) continue;
    if (packets > due[i] * (1 + kDueTolerance) && backends[i].sessions != 0 && !movable[i].empty()) {
      std::sort(movable[i].begin(), movable[i].end());
      givers.emplace(packets - due[i], i);
    } else if (packets < due[i] && backends[i].room != 0) {
      takers.emplace(due[i] - packets, i);
    }
  }
  while (plan.moves.size() < moves_max && !givers.empty() && !takers.empty()) {
    const auto [excess, from] = givers.top();
    const auto [lack, to] = takers.top();
    const double one =
        static_cast<double>(backends[from].packets) / static_cast<double>(backends[from].sessions);
    givers.pop();
    // What others lack only shrinks: it is done for good.
    if (one > 2 * excess || one >= 2 * lack) continue;
    takers.pop();
    const MovableSession& session = movable[from][plan.gives[from]++];
    plan.moves.push_back({session.hash, session.named, backends[to].id, session.is_live});
    plan.packets[from] -= one;
    plan.packets[to] += one;
    if (plan.gives[from] < movable[from].size() && excess > one) givers.emplace(excess - one, from);
    if (++plan.gets[to] < backends[to].room && lack > one) takers.emplace(lack - one, to);
  }
  return plan;
}

}  // namespace sluice
