#include "controlplane/report.h"

#include <net/if.h>

#include <algorithm>
#include <unordered_map>
#include <vector>

#include <fmt/format.h>

#include "controlplane/admin_names.h"
#include "controlplane/counters.h"
#include "controlplane/message.h"
#include "src/wire.h"

namespace sluice {
namespace {

using nlohmann::json;

double seconds_until(uint64_t then_ns) {
  const uint64_t now_ns = monotonic_ns();
  return static_cast<double>(then_ns - std::min(now_ns, then_ns)) / 1e9;
}

void add_service_counters(const Daemon& daemon, const Service& service, json& out) {
  uint64_t sessions_active = 0;
  if (has_sessions(service.config.affinity)) {
    for (const Backend& backend : service.backends)
      sessions_active += sums_of(daemon, backend).sessions_active;
  }
  out["sessions_active"] = sessions_active;
  const ServiceSums sums = sums_of(daemon, service);
  out["packets"] = sums.packets;
  out["bytes"] = sums.bytes;
  out["flows"] = sums.flows;
}

// How much of what it may have; null: it has no limit.
json full_percent(const Backend& backend, bool has_sessions, const BackendSums& sums) {
  const uint32_t max_flows = backend.config.max_flows;
  const uint32_t max_sessions = has_sessions ? backend.config.max_sessions : 0;
  if (max_flows == 0 && max_sessions == 0) return nullptr;
  const auto share = [](uint64_t used, uint32_t most) {
    return most == 0 ? 0.0 : 100.0 * static_cast<double>(used) / most;
  };
  return std::max(share(sums.flows_active, max_flows), share(sums.sessions_active, max_sessions));
}

void add_backend_counters(const Daemon& daemon, const Service& service, const Backend& backend, json& out) {
  const BackendSums sums = sums_of(daemon, backend);
  out["max_flows"] = backend.config.max_flows;
  out["max_sessions"] = backend.config.max_sessions;
  out["full_percent"] = full_percent(backend, has_sessions(service.config.affinity), sums);
  out["packets"] = sums.packets;
  out["bytes"] = sums.bytes;
  out["flows"] = sums.flows;
  out["flows_active"] = sums.flows_active;
  out["sessions_active"] = sums.sessions_active;
}

// Slots of the published lookup table by backend id.
std::unordered_map<BackendId, uint32_t> slots_of(const TablesView& tables, ServiceId id) {
  std::unordered_map<BackendId, uint32_t> slots;
  const ServiceRecord& record = tables.service(id);
  const std::span<const BackendId> members = tables.members(record);
  std::vector<uint32_t> by_position(members.size());
  for (const uint16_t position : tables.lookup(record))
    by_position[position]++;
  for (size_t i = 0; i < members.size(); i++)
    slots[members[i]] = by_position[i];
  return slots;
}

// The last check, and what was seen since this sluiced began to check the backend.
json report_check(const Daemon& daemon, const Backend& backend) {
  json out = {{"result", backend.check_result},
              {"detail", backend.check_detail},
              {"duration_us", backend.check_duration_us}};
  const CheckHistory* history = daemon.checker().history(backend.id);
  if (history == nullptr) return out;
  out["done"] = history->done;
  out["missed"] = history->missed;
  out["good_in_a_row"] = history->counter.good_in_a_row;
  out["bad_in_a_row"] = history->counter.bad_in_a_row;
  if (history->last_ns != 0) out["age_s"] = seconds_since(history->last_ns);
  if (history->impossible != 0) out["impossible"] = history->last.detail;
  if (history->last_bad_ns != 0) {
    out["last_bad"] = {{"result", text(history->last_bad.code)},
                       {"detail", history->last_bad.detail},
                       {"age_s", seconds_since(history->last_bad_ns)}};
  }
  return out;
}

json report_backend(const Daemon& daemon, const Service& service, const Backend& backend, uint32_t slots,
                    uint32_t slots_total) {
  json out = {
      {"service", service.config.name},
      {"name", backend.config.name},
      {"address", backend.config.address.text()},
      {"admin", name_of(backend.admin)},
      {"health", service.config.health.type == HealthConfig::Type::none ? "unchecked" : text(backend.health)},
      {"health_since_s", seconds_since(backend.health_since_ns)},
      {"check", report_check(daemon, backend)},
      {"weight", backend.weight()},
      {"weight_in_force", backend.weight_in_force()},
      {"weight_configured", backend.config.weight},
      {"sorry", backend.config.sorry},
      {"held_s", seconds_until(backend.flaps.held_until_ns)},
      {"suspect", backend.suspect},
      {"slots", slots},
      {"share_percent", slots_total == 0 ? 0.0 : 100.0 * slots / slots_total},
      {"next_hop", report_next_hop(backend.next_hop)},
      {"takes_new_flows", service.takes_new(backend)},
      {"why_not", why_no_new_flows(service, backend)},
  };
  add_backend_counters(daemon, service, backend, out);
  if (const auto in_s = seconds_to_reset(daemon, service, backend)) out["reset_in_s"] = *in_s;
  return out;
}

}  // namespace

std::optional<double> seconds_to_reset(const Daemon& daemon, const Service& service, const Backend& backend) {
  if (backend.admin == Admin::ready || is_out(backend.admin)) return std::nullopt;
  const Override* entry = daemon.configuration().overrides().find({service.config.name, backend.config.name});
  if (entry == nullptr || !entry->reset) return std::nullopt;
  return seconds_until(entry->reset->at_ns);
}

double seconds_since(uint64_t then_ns) {
  const uint64_t now_ns = monotonic_ns();
  return static_cast<double>(now_ns - std::min(now_ns, then_ns)) / 1e9;
}

const char* text(Health health) {
  switch (health) {
    case Health::unknown:
      return "unknown";
    case Health::up:
      return "up";
    case Health::down:
      return "down";
  }
  return "?";
}

const char* text(Forward forward) {
  switch (forward) {
    case Forward::none:
      return "none";
    case Forward::l2dsr:
      return "l2dsr";
    case Forward::ipip:
      return "ipip";
  }
  return "?";
}

const char* text(Affinity affinity) {
  switch (affinity) {
    case Affinity::none:
      return "none";
    case Affinity::connection:
      return "connection";
    case Affinity::client:
      return "client";
    case Affinity::prefix:
      return "prefix";
    case Affinity::key:
      return "key";
  }
  return "?";
}

const char* protocol_text(uint8_t protocol) {
  return protocol == wire::kProtoUdp ? "udp" : "tcp";
}

std::string why_no_new_flows(const Service& service, const Backend& backend) {
  if (backend.admin == Admin::drain) return "draining (admin): keeps its flows, takes no new ones";
  if (backend.admin == Admin::migrate)
    return "draining (admin): keeps its flows, its sessions go elsewhere with their next connection";
  if (backend.admin == Admin::maint) return "in maintenance (admin)";
  if (backend.admin == Admin::reset)
    return "in maintenance (admin), clients of its flows are told by a reset";
  if (!service.counts_as_up(backend)) {
    if (service.seems_up(backend)) return "kept down for a while: it was flapping";
    if (backend.health == Health::unknown) return "not checked yet";
    return fmt::format("down: {} {}", backend.check_result, backend.check_detail);
  }
  if (backend.weight() == 0) return "weight 0";
  if (!backend.next_hop.resolved) return "next hop unresolved: " + backend.next_hop.why_not;
  if (backend.config.sorry && !service.standing.sorry_serves)
    return "stands by: takes new flows when quorum is lost or nobody else can";
  if (!backend.config.sorry && service.standing.sorry_serves)
    return service.standing.quorum_lost ? "quorum is lost: new flows go to the sorry backend"
                                        : "new flows go to the sorry backend";
  return "";
}

json report_next_hop(const NextHop& hop) {
  char name[IF_NAMESIZE] = "";
  if (hop.ifindex != 0) if_indextoname(hop.ifindex, name);
  return {{"resolved", hop.resolved},
          {"interface", name},
          {"port", hop.port},
          {"mac", hop.resolved ? hop.mac.text() : ""},
          {"source", hop.source.is_set() ? hop.source.text() : ""},
          {"mtu_bytes", hop.mtu_bytes},
          {"why_not", hop.why_not}};
}

// The one word for who serves.
const char* state_of(const Service& service) {
  if (!service.config.enabled) return "disabled";
  if (service.standing.sorry_serves) return "sorry";
  if (service.standing.panic) return "panic";
  if (service.standing.quorum_lost) return "no-quorum";
  const bool any = std::any_of(service.backends.begin(), service.backends.end(),
                               [&](const Backend& backend) { return service.takes_new(backend); });
  return any ? "serving" : "down";
}

json report_services(const Daemon& daemon) {
  json out = ok_response();
  out["services"] = json::array();
  const TablesView tables = daemon.publisher().current();
  for (const Service& service : daemon.model().services()) {
    const ServiceConfig& config = service.config;
    const auto count = [&](auto&& which) {
      return std::count_if(service.backends.begin(), service.backends.end(), which);
    };
    const ServiceRecord& record = tables.service(service.id);
    json entry = {
        {"name", config.name},
        {"vip", config.vip.text()},
        {"port", config.port},
        {"protocol", protocol_text(config.protocol)},
        {"forward", text(config.forward)},
        {"affinity", text(config.affinity)},
        {"method", name_of(config.method)},
        {"enabled", config.enabled},
        {"state", state_of(service)},
        {"backends", service.backends.size()},
        {"backends_up", count([&](const Backend& b) { return service.counts_as_up(b); })},
        {"backends_active", count([&](const Backend& b) { return service.takes_new(b); })},
        {"table_slots", config.lookup_slots},
        {"table_checksum", record.lookup == 0 ? "" : fmt::format("{:016x}", record.lookup_checksum)},
    };
    add_service_counters(daemon, service, entry);
    out["services"].push_back(std::move(entry));
  }
  return out;
}

BackendsReport::BackendsReport(const Daemon& daemon, std::string only_service, std::string only_backend)
    : daemon_(daemon),
      only_service_(std::move(only_service)),
      only_backend_(std::move(only_backend)),
      out_(ok_response()) {
  out_["backends"] = json::array();
}

bool BackendsReport::step() {
  const TablesView tables = daemon_.publisher().current();
  const std::vector<Service>& services = daemon_.model().services();
  size_t room = kStepBackends;
  for (; service_ < services.size(); service_++, backend_ = 0) {
    const Service& service = services[service_];
    if (!only_service_.empty() && service.config.name != only_service_) continue;
    if (room == 0) return true;
    const std::unordered_map<BackendId, uint32_t> slots = slots_of(tables, service.id);
    const auto total = static_cast<uint32_t>(tables.lookup(tables.service(service.id)).size());
    for (; backend_ < service.backends.size(); backend_++) {
      const Backend& backend = service.backends[backend_];
      if (!only_backend_.empty() && backend.config.name != only_backend_) continue;
      if (room == 0) return true;
      room--;
      const auto found = slots.find(backend.id);
      out_["backends"].push_back(
          report_backend(daemon_, service, backend, found == slots.end() ? 0 : found->second, total));
    }
  }
  return false;
}

}  // namespace sluice
