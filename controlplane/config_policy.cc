// The keys of a service that say what becomes of it when backends fail.
#include <algorithm>
#include <charconv>

#include "controlplane/config_schema.h"

namespace sluice {
namespace {

// `2` or `"30%"`
std::optional<Amount> read_amount(TableReader& table, std::string_view key, uint32_t max) {
  const toml::node* found = table.node(key);
  if (found == nullptr) return std::nullopt;
  if (const auto* number = found->as_integer()) {
    if (number->get() >= 1 && number->get() <= max)
      return Amount{static_cast<uint32_t>(number->get()), false};
  } else if (const auto* text = found->as_string(); text != nullptr && text->get().ends_with('%')) {
    uint32_t percent = 0;
    const char* end = text->get().data() + text->get().size() - 1;
    const auto read = std::from_chars(text->get().data(), end, percent);
    if (read.ec == std::errc() && read.ptr == end && percent >= 1 && percent <= 100)
      return Amount{percent, true};
  }
  table.reject(key, "from 1 to " + std::to_string(max) + ", or from \"1%\" to \"100%\"");
  return std::nullopt;
}

// `quorum = { backends = 2 | weight = 300, hysteresis = 50 }`
void read_quorum_table(TableReader& service, const toml::table& table, QuorumConfig& quorum) {
  TableReader reader(table, "quorum of " + service.what(), service.sink(), &service);
  constexpr uint32_t kWeightMost = limits::kBackendsPerServiceMax * limits::kWeightMax;
  const auto backends = read_amount(reader, "backends", limits::kBackendsPerServiceMax);
  const auto weight = read_amount(reader, "weight", kWeightMost);
  set_if(quorum.hysteresis, reader.integer("hysteresis", 0, kWeightMost));
  if (reader.has("backends") == reader.has("weight")) {
    reader.sink().error(reader.where(), reader.what() + " needs one of 'backends' and 'weight'",
                        "quorum = { backends = 2, hysteresis = 1 }");
    quorum.hysteresis = 0;  // of what, is not known
  }
  quorum.by_weight = weight.has_value();
  if (backends) quorum.needed = *backends;
  if (weight) quorum.needed = *weight;
  reader.finish();
}

void read_flap(TableReader& service, const toml::table& table, FlapConfig& flap) {
  TableReader reader(table, "flap of " + service.what(), service.sink(), &service);
  flap.count = 3;
  set_if(flap.count, reader.integer("count", 2, limits::kFlapCountMax));
  const Milliseconds least{1000}, most{limits::kFlapTimeMaxMs};
  set_if(flap.within, reader.duration("within", least, most));
  set_if(flap.hold, reader.duration("hold", least, most));
  flap.hold_max = std::max(flap.hold_max, flap.hold);
  set_if(flap.hold_max, reader.duration("hold_max", least, most));
  if (flap.hold_max < flap.hold) {
    reader.reject("hold_max", "at least 'hold', " + std::to_string(flap.hold.count()) + "ms");
  }
  reader.finish();
}

// Can it be lost, and had again?
void check_quorum(const TableReader& service, const ServiceConfig& config, uint64_t backends,
                  uint64_t weight) {
  const QuorumConfig& quorum = config.policy.quorum;
  const uint64_t all = quorum.by_weight ? weight : backends;
  const uint64_t needed = quorum.needed.of(all);
  const std::string unit = quorum.by_weight ? " of weight" : " backends";
  if (needed + quorum.hysteresis > all) {
    service.sink().error(service.where("quorum"),
                         "this quorum is had again from " + std::to_string(needed + quorum.hysteresis) +
                             unit + " on, but " + service.what() + " has " + std::to_string(all));
  } else if (quorum.hysteresis >= needed) {
    service.sink().error(service.where("quorum"), "this quorum is never lost: its hysteresis of " +
                                                      std::to_string(quorum.hysteresis) + " is not below " +
                                                      std::to_string(needed));
  }
}

}  // namespace

PolicyTables read_policy(TableReader& service, PolicyConfig& policy) {
  set_if(policy.min_healthy, read_amount(service, "min_healthy", limits::kBackendsPerServiceMax));
  set_if(policy.on_failure, service.choice<OnFailure>("on_failure", {{"rehash", OnFailure::rehash},
                                                                     {"keep", OnFailure::keep},
                                                                     {"reset", OnFailure::reset},
                                                                     {"return", OnFailure::comes_back}}));
  set_if(policy.slow_start, service.duration("slow_start", Milliseconds(limits::kSlowStartMinMs),
                                             Milliseconds(limits::kSlowStartMaxMs)));
  PolicyTables tables;
  const toml::node* quorum = service.node("quorum");
  if (quorum != nullptr && quorum->is_table()) {
    tables.quorum = quorum->as_table();
  } else if (quorum != nullptr) {
    set_if(policy.quorum.needed, read_amount(service, "quorum", limits::kBackendsPerServiceMax));
  }
  policy.quorum.is_set = quorum != nullptr;
  tables.flap = service.table("flap");
  return tables;
}

void read_policy_tables(TableReader& service, const PolicyTables& tables, PolicyConfig& policy) {
  if (tables.quorum != nullptr) read_quorum_table(service, *tables.quorum, policy.quorum);
  if (tables.flap != nullptr) read_flap(service, *tables.flap, policy.flap);
}

void check_policy(const TableReader& service, const ServiceConfig& config) {
  uint64_t backends = 0, weight = 0;
  for (const BackendConfig& backend : config.backends) {
    if (backend.sorry) continue;
    backends++;
    weight += backend.weight;
  }
  const PolicyConfig& policy = config.policy;
  if (!policy.min_healthy.percent && policy.min_healthy.value > backends) {
    service.sink().error(service.where("min_healthy"),
                         "min_healthy is " + std::to_string(policy.min_healthy.value) + ", but " +
                             service.what() + " has " + std::to_string(backends) + " backends");
  }
  if (policy.quorum.is_set) check_quorum(service, config, backends, weight);
  if (config.affinity == Affinity::none && policy.on_failure != OnFailure::rehash)
    service.sink().error(service.where("on_failure"),
                         "without affinity there are no flows to keep or to reset: 'on_failure' is \"rehash\"");
  if (!has_sessions(config.affinity) && policy.on_failure == OnFailure::comes_back) {
    service.sink().error(service.where("on_failure"),
                         "only sessions come back: 'on_failure' is \"return\" without them",
                         "affinity = \"client\", or on_failure = \"rehash\"");
  }
  if (config.health.type != HealthConfig::Type::none) return;
  for (const char* key : {"min_healthy", "flap"}) {
    if (!service.has(key)) continue;
    service.sink().warning(service.where(key),
                           "'" + std::string(key) + "' has no effect without health checks");
  }
}

}  // namespace sluice
