#include "controlplane/config_diff.h"

#include <algorithm>
#include <map>
#include <string>
#include <unordered_map>
#include <vector>

#include "controlplane/policy.h"
#include "controlplane/takers.h"
#include "controlplane/totals.h"

namespace sluice {
namespace {

using nlohmann::json;
using Keys = std::map<std::string, std::string>;
// Names and weights of those that take new flows, by name: what a lookup table depends on.
using Shares = std::map<std::string, uint32_t>;

json diff_keys(const Keys& from, const Keys& to) {
  json out = json::array();
  const auto add = [&](const std::string& key, const std::string& before, const std::string& after) {
    const bool secret = key == "secret";
    out.push_back({{"key", key}, {"from", secret ? "..." : before}, {"to", secret ? "..." : after}});
  };
  for (const auto& [key, before] : from) {
    const auto after = to.find(key);
    if (after == to.end()) {
      add(key, before, "");
    } else if (after->second != before) {
      add(key, before, after->second);
    }
  }
  for (const auto& [key, after] : to) {
    if (!from.contains(key)) add(key, "", after);
  }
  return out;
}

// As it is when those that nobody has checked yet are up and can be reached: then it is settled whether the
// backends serve or the sorry backend does.
Service as_it_will_be(Service service) {
  for (Backend& backend : service.backends) {
    if (backend.health != Health::unknown) continue;
    backend.health = Health::up;
    backend.next_hop.resolved = true;
  }
  service.standing = judge(service);
  return service;
}

bool will_take_new(const Service& service, const Backend& backend) {
  if (backend.config.sorry != service.standing.sorry_serves) return false;
  return backend.admin == Admin::ready && backend.weight() > 0 && service.counts_as_up(backend);
}

Shares shares_of(const Service& now) {
  const Service service = as_it_will_be(now);
  Shares shares;
  for (const Backend& backend : service.backends) {
    if (!will_take_new(service, backend)) continue;
    shares[backend.config.name] = table_weight(service.config.method, backend.weight(), backend.weight());
  }
  return shares;
}

// Each slot's backend, as a position in `names`.
struct Table {
  std::vector<std::string> names;
  std::vector<uint16_t> slots;
};

Table built(const Shares& shares, const ServiceConfig& config) {
  Table table;
  std::vector<Taker> takers;
  for (const auto& [name, weight] : shares) {
    table.names.push_back(name);
    takers.push_back({kUnassignedBackend, name, weight});
  }
  table.slots = table_of(config.method, takers, config.lookup_slots).slots;
  return table;
}

Table published(const TablesView& tables, ServiceId id) {
  Table table;
  if (!tables) return table;
  const ServiceRecord& record = tables.service(id);
  for (const BackendId member : tables.members(record))
    table.names.emplace_back(tables.backend_cold(member).name);
  const auto lookup = tables.lookup(record);
  table.slots.assign(lookup.begin(), lookup.end());
  return table;
}

// Of the hash space, not of slots: the sizes may differ.
double moved_percent(const Table& from, const Table& to) {
  if (from.slots.empty() && to.slots.empty()) return 0;
  if (from.slots.empty() || to.slots.empty())
    return from.slots.empty() ? 0 : 100;  // nobody was served: none moves
  std::unordered_map<std::string, uint16_t> position;
  for (size_t i = 0; i < to.names.size(); i++)
    position.emplace(to.names[i], static_cast<uint16_t>(i));
  std::vector<int32_t> same(from.names.size(), -1);
  for (size_t i = 0; i < from.names.size(); i++) {
    const auto found = position.find(from.names[i]);
    if (found != position.end()) same[i] = found->second;
  }
  const size_t points = std::max(from.slots.size(), to.slots.size());
  size_t moved = 0;
  for (size_t i = 0; i < points; i++) {
    const size_t before = from.slots.size() == points ? i : i % from.slots.size();
    const size_t after = to.slots.size() == points ? i : i % to.slots.size();
    moved += same[from.slots[before]] != to.slots[after];
  }
  return 100.0 * static_cast<double>(moved) / static_cast<double>(points);
}

double total_of(const Shares& shares) {
  double total = 0;
  for (const auto& [name, weight] : shares)
    total += weight;
  return total;
}

double ideal_percent(const Shares& from, const Shares& to) {
  const double from_total = total_of(from), to_total = total_of(to);
  if (from_total == 0 || to_total == 0) return from_total == 0 ? 0 : 100;
  double lost = 0;
  for (const auto& [name, weight] : from) {
    const auto after = to.find(name);
    const double share = after == to.end() ? 0 : after->second / to_total;
    lost += std::max(0.0, weight / from_total - share);
  }
  return 100 * lost;
}

uint64_t flows_of(const StatsSegment* stats, const Backend& backend) {
  return stats == nullptr || backend.id == kUnassignedBackend ? 0 : flows_active(*stats, backend.id);
}

json effect(const Service& service, const Service* next, const TablesView& tables,
            const StatsSegment* stats) {
  uint64_t active = 0, moved = 0;
  std::unordered_map<std::string, const Backend*> stays;
  if (next != nullptr) {
    for (const Backend& backend : next->backends) {
      if (next->keeps_flows(backend)) stays.emplace(backend.config.name, &backend);
    }
  }
  for (const Backend& backend : service.backends) {
    const uint64_t flows = flows_of(stats, backend);
    active += flows;
    const auto found = stays.find(backend.config.name);
    // A backend under another address is another machine.
    if (found == stays.end() || found->second->config.address != backend.config.address) moved += flows;
  }
  double percent = 100, ideal = 100;
  if (next != nullptr) {
    const Shares before = shares_of(service), after = shares_of(*next);
    const bool same_table = before == after && service.config.lookup_slots == next->config.lookup_slots &&
                            service.config.method == next->config.method;
    percent = same_table ? 0 : moved_percent(published(tables, service.id), built(after, next->config));
    ideal = same_table ? 0 : ideal_percent(before, after);
  }
  const bool forgets =
      next != nullptr && next->config.affinity == Affinity::none && service.config.affinity != Affinity::none;
  const uint64_t forgotten = forgets ? active - moved : 0;
  if (percent == 0 && ideal == 0 && moved == 0 && forgotten == 0) return nullptr;
  return {{"service", service.config.name}, {"hash_space_moved_percent", percent},
          {"ideal_percent", ideal},         {"flows_active", active},
          {"flows_moved", moved},           {"flows_forgotten", forgotten}};
}

}  // namespace

json diff_written(const WrittenConfig& from, const WrittenConfig& to) {
  json out = json::array();
  const auto add = [&](const WrittenConfig::key_type& object, const char* change, json keys) {
    out.push_back({{"service", object.first},
                   {"backend", object.second},
                   {"change", change},
                   {"keys", std::move(keys)}});
  };
  static const Keys kNothing;
  for (const auto& [object, keys] : from) {
    const auto after = to.find(object);
    if (after == to.end()) {
      add(object, "removed", diff_keys(keys, kNothing));
    } else if (after->second != keys) {
      add(object, "changed", diff_keys(keys, after->second));
    }
  }
  for (const auto& [object, keys] : to) {
    if (!from.contains(object)) add(object, "added", diff_keys(kNothing, keys));
  }
  std::stable_sort(out.begin(), out.end(), [](const json& a, const json& b) {
    return std::tie(a["service"].get_ref<const std::string&>(), a["backend"].get_ref<const std::string&>()) <
           std::tie(b["service"].get_ref<const std::string&>(), b["backend"].get_ref<const std::string&>());
  });
  return out;
}

json diff_flows(const Model& now, const Model& next, const TablesView& current, const StatsSegment* stats) {
  std::unordered_map<std::string, const Service*> after;
  for (const Service& service : next.services())
    after.emplace(service.config.name, &service);
  json out = json::array();
  for (const Service& service : now.services()) {
    const auto found = after.find(service.config.name);
    json line = effect(service, found == after.end() ? nullptr : found->second, current, stats);
    if (!line.is_null()) out.push_back(std::move(line));
  }
  return out;
}

}  // namespace sluice
