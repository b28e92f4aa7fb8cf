// What the model makes of failures and of time: standing, holds, ramps (policy.h has the rules).
#include <algorithm>

#include "controlplane/model.h"

namespace sluice {

// ---- Standing
// ----------------------------------------------------------------------------------------------

void Model::settle() {
  if (base_ != Base{}) {
    for (const uint32_t service : std::exchange(unsettled_, {}))
      settle(service);
    return;
  }
  for (uint32_t service = 0; service < services_.size(); service++)
    settle(service);
}

void Model::settle(uint32_t position) {
  Service& service = services_[position];
  const Standing before = std::exchange(service.standing, judge(service));
  const Standing& now = service.standing;
  if (now == before) return;
  using Kind = News::Kind;
  if (now.quorum_lost != before.quorum_lost)
    tell(now.quorum_lost ? Kind::quorum_down : Kind::quorum_up, service);
  if (now.panic != before.panic) tell(now.panic ? Kind::panic : Kind::panic_over, service);
  if (now.sorry_serves != before.sorry_serves)
    tell(now.sorry_serves ? Kind::sorry : Kind::sorry_over, service);
  if (base_ == Base{}) return;  // everything is looked at
  for (uint32_t i = 0; i < service.backends.size(); i++)
    changed_.insert({position, i});
}

void Model::tell(News::Kind kind, const Service& service) {
  news_.push_back({kind, service.config.name, "", 0});
}

// ---- A backend comes back
// ----------------------------------------------------------------------------------

// It may have got the right to serve. `took_new`: it had that before.
void Model::may_serve(BackendPlace at, bool took_new, uint64_t now_ns) {
  const Service& service = services_[at.service];
  Backend& backend = services_[at.service].backends[at.backend];
  if (!service.is_healthy(backend)) return;
  if (std::exchange(backend.flaps.settling, false))
    news_.push_back({News::Kind::stable, service.config.name, backend.config.name, 0});
  begin_ramp(at, took_new, now_ns);
}

void Model::begin_ramp(BackendPlace at, bool took_new, uint64_t now_ns) {
  const Service& service = services_[at.service];
  Backend& backend = services_[at.service].backends[at.backend];
  const Milliseconds slow_start = service.config.policy.slow_start;
  if (!backend.starts_cold || backend.admin != Admin::ready || !service.is_healthy(backend)) return;
  backend.starts_cold = false;
  // In panic it had its whole share all the time.
  if (took_new || slow_start.count() == 0 || backend.config.sorry) return;
  backend.ramp_since_ns = now_ns;
  backend.ramp_permille = ramp_permille(now_ns, slow_start, now_ns);
  ramping_.insert(at);
}

void Model::begin_ramps(uint64_t now_ns) {
  for (uint32_t s = 0; s < services_.size(); s++) {
    for (uint32_t b = 0; b < services_[s].backends.size(); b++) {
      if (services_[s].backends[b].starts_cold) begin_ramp({s, b}, false, now_ns);
    }
  }
}

// ---- Time passes
// -------------------------------------------------------------------------------------------

void Model::find_timed() {
  held_.clear();
  ramping_.clear();
  for (uint32_t s = 0; s < services_.size(); s++) {
    for (uint32_t b = 0; b < services_[s].backends.size(); b++) {
      const Backend& backend = services_[s].backends[b];
      if (backend.flaps.held()) held_.insert({s, b});
      if (backend.ramps()) ramping_.insert({s, b});
    }
  }
  timed_known_ = true;
}

bool Model::advance(uint64_t now_ns, uint32_t ramps_max) {
  if (!timed_known_) find_timed();
  const bool ended = end_holds(now_ns);
  return move_ramps(now_ns, ramps_max) || ended;
}

bool Model::end_holds(uint64_t now_ns) {
  bool ended = false;
  for (auto next = held_.begin(); next != held_.end();) {
    const BackendPlace at = *next;
    const Flaps& flaps = backend(at).flaps;
    if (flaps.held() && now_ns < flaps.held_until_ns) {
      ++next;
      continue;
    }
    next = held_.erase(next);
    if (!flaps.held()) continue;  // maintenance forgot it
    const bool took_new = service_of(at).takes_new(backend(at));
    Backend& released = change_standing(at);
    released.flaps.held_until_ns = 0;
    released.flaps.hold_ended_ns = now_ns;
    may_serve(at, took_new, now_ns);
    ended = true;
  }
  return ended;
}

// In turn: when there are more than the limit allows, those behind the last one come first.
bool Model::move_ramps(uint64_t now_ns, uint32_t services_max) {
  std::vector<uint32_t> due;
  for (auto place = ramping_.begin(); place != ramping_.end();
       place = ramping_.lower_bound({place->service + 1, 0})) {
    const Service& service = services_[place->service];
    if (ramp_beat(index(service.id), service.config.policy.slow_start, now_ns) != service.ramp_beat)
      due.push_back(place->service);
  }
  const auto first = std::lower_bound(due.begin(), due.end(), ramps_from_);
  std::rotate(due.begin(), first, due.end());
  due.resize(std::min<size_t>(due.size(), services_max));
  bool moved = false;
  for (const uint32_t service : due)
    moved |= move_ramps_of(service, now_ns);
  ramps_from_ = due.empty() ? 0 : due.back() + 1;
  return moved;
}

bool Model::move_ramps_of(uint32_t position, uint64_t now_ns) {
  Service& service = services_[position];
  const Milliseconds slow_start = service.config.policy.slow_start;
  service.ramp_beat = ramp_beat(index(service.id), slow_start, now_ns);
  bool moved = false;
  auto place = ramping_.lower_bound({position, 0});
  while (place != ramping_.end() && place->service == position) {
    const Backend& backend = this->backend(*place);
    const uint32_t permille =
        backend.ramps() ? ramp_permille(backend.ramp_since_ns, slow_start, now_ns) : kRampWhole;
    if (permille != backend.ramp_permille) {
      change(*place).ramp_permille = permille;
      moved = true;
    }
    place = permille == kRampWhole ? ramping_.erase(place) : std::next(place);
  }
  return moved;
}

}  // namespace sluice
