#include "controlplane/vip_checks.h"

#include <set>
#include <utility>

namespace sluice {
namespace {

bool asks_vip(const Service& service) {
  const HealthConfig& health = service.config.health;
  return health.to_vip && health.type != HealthConfig::Type::none;
}

}  // namespace

void VipChecks::aim(const Service& service, const Backend& backend, CheckTarget& target) {
  target.address = service.config.vip;
  const Vip& vip_state = vip(service.config.vip);
  target.impossible = !fault_.empty() ? fault_ : vip_state.fault;
  if (!target.impossible.empty()) return;
  target.mark = path_->mark_of(backend.id);
  follow_hop(service, backend);
}

void VipChecks::follow_hop(const Service& service, const Backend& backend) {
  if (path_ == nullptr || !asks_vip(service)) return;
  // A way that cannot be set is no way: the program drops the packets, and the check says so by its timeout.
  const Result<Done> done =
      path_->set(backend.id, service.config.forward, backend.config.address, backend.next_hop);
  if (!done) path_->forget(backend.id);
}

void VipChecks::forget(BackendId id) {
  if (path_ != nullptr) path_->forget(id);
}

const VipChecks::Vip& VipChecks::vip(const IpAddress& address) {
  const auto known = vips_.find(address);
  if (known != vips_.end()) return known->second;
  fault_ = prepare();
  Vip& fresh = vips_[address];
  if (netlink_) fresh = look_up(address);
  attach();
  return fresh;
}

VipChecks::Vip VipChecks::look_up(const IpAddress& address) {
  const Result<Route> route = netlink_->route_to(address);
  if (!route) return {0, "this host has no route to the VIP " + address.text() + ": " + route.error().what};
  if (route->is_local)
    return {0, "the VIP " + address.text() + " is an address of this host: no check can leave it"};
  return {route->ifindex, ""};
}

std::string VipChecks::prepare() {
  if (!netlink_) {
    Result<Netlink> opened = Netlink::open();
    if (!opened) return opened.error().what;
    netlink_.emplace(std::move(*opened));
  }
  if (path_ == nullptr) {
    Result<std::unique_ptr<VipPath>> opened = VipPath::open(directory_);
    if (!opened) return opened.error().what;
    path_ = std::move(*opened);
  }
  return "";
}

void VipChecks::attach() {
  if (path_ == nullptr) return;
  std::set<uint32_t> ifindexes;
  for (const auto& [address, state] : vips_) {
    if (state.ifindex != 0) ifindexes.insert(state.ifindex);
  }
  const Result<Done> attached = path_->attach(ifindexes);
  if (!attached) fault_ = attached.error().what;
}

void VipChecks::keep_only(const Model& model) {
  if (edition_ == model.edition()) return;
  edition_ = model.edition();
  std::set<IpAddress> wanted;
  for (const Service& service : model.services()) {
    if (asks_vip(service)) wanted.insert(service.config.vip);
  }
  std::erase_if(vips_, [&](const auto& known) { return !wanted.contains(known.first); });
}

bool VipChecks::look_again(const Model& model) {
  keep_only(model);
  if (vips_.empty()) {
    path_.reset();
    fault_.clear();
    return false;
  }
  const std::map<IpAddress, Vip> before = vips_;
  const std::string fault_before = fault_;
  fault_ = prepare();
  if (netlink_) {
    for (auto& [address, state] : vips_)
      state = look_up(address);
  }
  attach();
  return vips_ != before || fault_ != fault_before;
}

std::string VipChecks::fault() const {
  if (!fault_.empty()) return fault_;
  for (const auto& [address, state] : vips_) {
    if (!state.fault.empty()) return state.fault;
  }
  return "";
}

}  // namespace sluice
