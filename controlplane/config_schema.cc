#include "controlplane/config_schema.h"

#include <algorithm>
#include <charconv>
#include <numeric>
#include <sstream>
#include <tuple>

#include "controlplane/admin_names.h"

namespace sluice {

bool is_name(std::string_view text) {
  return !text.empty() && text.size() < limits::kNameBytes &&
         std::all_of(text.begin(), text.end(), [](char c) {
           return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || c == '.' ||
                  c == '_' || c == '-';
         });
}

void read_seconds(TableReader& reader, std::string_view key, uint32_t& seconds, uint32_t max_s) {
  const auto duration = reader.duration(key, std::chrono::seconds(1), std::chrono::seconds(max_s));
  if (!duration) return;
  if (duration->count() % 1000 != 0) reader.reject(key, "whole seconds");
  seconds = static_cast<uint32_t>(duration->count() / 1000);
}

namespace {

using Need = TableReader::Need;

using FileUses = ConfigReader::Uses;

// "service 'web'", or "this service" while it has no proper name.
std::string describe(std::string_view kind, const toml::table& table) {
  const std::optional<std::string> name = table["name"].value_exact<std::string>();
  return name && is_name(*name) ? std::string(kind) + " '" + *name + "'" : "this " + std::string(kind);
}

std::string read_name(TableReader& table, std::string_view kind, FirstUse<std::string>& names) {
  const std::optional<std::string> name = table.text("name", Need::required);
  if (!name) return "";
  if (!is_name(*name)) {
    table.reject("name",
                 "1 to " + std::to_string(limits::kNameBytes - 1) + " letters, digits, '.', '_' or '-'");
  } else if (const std::string first = names.add(*name, table.sink(), table.where("name")); !first.empty()) {
    table.sink().error(table.where("name"),
                       std::string(kind) + " name '" + *name + "' is used twice" + first);
  }
  return *name;
}

std::optional<IpAddress> read_unicast(TableReader& table, std::string_view key) {
  std::optional<IpAddress> address = table.address(key, Need::required);
  if (address && !address->is_unicast()) {
    table.reject(key, "a unicast address");
    address.reset();
  }
  return address;
}

// ---- idle_timeout = { ... } -------------------------------------------------------------------------------

void read_idle_timeout(TableReader& service, const toml::table* table, ServiceConfig& config) {
  if (table == nullptr) return;
  TableReader reader(*table, "idle_timeout of " + service.what(), service.sink(), &service);
  read_seconds(reader, "syn", config.idle_syn_s, limits::kIdleTimeoutShortMax);
  read_seconds(reader, "established", config.idle_established_s, limits::kIdleTimeoutMax);
  read_seconds(reader, "closing", config.idle_closing_s, limits::kIdleTimeoutShortMax);
  read_seconds(reader, "udp", config.idle_udp_s, limits::kIdleTimeoutShortMax);
  read_seconds(reader, "session", config.session.idle_s, limits::kSessionTimeMax);
  if (reader.has("session") && !has_sessions(config.affinity)) {
    reader.sink().warning(reader.where("session"),
                          "'session' has no effect without affinity = \"client\", \"prefix\" or \"key\"");
  }
  reader.finish();
}

// ---- [[service.backend]] ----------------------------------------------------------------------------------

struct BackendUses {
  FirstUse<std::string> names;
  FirstUse<IpAddress> addresses;
};

// Of a service or a backend; `affinity` is the service's.
template <typename Config>
void read_caps(TableReader& reader, Affinity affinity, Config& config) {
  set_if(config.max_flows, reader.integer("max_flows", 1, UINT32_MAX));
  set_if(config.max_sessions, reader.integer("max_sessions", 1, UINT32_MAX));
  if (reader.has("max_sessions") && !has_sessions(affinity)) {
    reader.sink().warning(
        reader.where("max_sessions"),
        "'max_sessions' has no effect without affinity = \"client\", \"prefix\" or \"key\"");
  }
}

// What a backend and the sorry backend have in common.
BackendConfig read_backend(TableReader& reader, const TableReader& service, const ServiceConfig& config,
                           BackendUses& uses) {
  BackendConfig backend;
  backend.name = read_name(reader, "backend", uses.names);
  if (const auto address = read_unicast(reader, "address")) {
    backend.address = *address;
    if (const std::string first = uses.addresses.add(*address, reader.sink(), reader.where("address"));
        !first.empty()) {
      reader.sink().error(reader.where("address"),
                          "address " + address->text() + " is used twice in " + service.what() + first);
    } else if (*address == config.vip) {
      reader.reject("address", "the backend's own address, not the VIP");
    }
  }
  set_if(backend.admin, reader.choice("admin", std::span(kAdminNames)));
  return backend;
}

void read_backends(TableReader& service, const std::vector<const toml::table*>& tables, BackendUses& uses,
                   ServiceConfig& config) {
  for (const toml::table* table : tables) {
    TableReader reader(*table, describe("backend", *table), service.sink(), &service);
    BackendConfig backend = read_backend(reader, service, config, uses);
    set_if(backend.weight, reader.integer("weight", 0, limits::kWeightMax));
    backend.max_flows = config.max_flows;
    backend.max_sessions = config.max_sessions;
    read_caps(reader, config.affinity, backend);
    reader.finish();
    config.backends.push_back(std::move(backend));
  }
}

// [service.sorry]
void read_sorry(TableReader& service, const toml::table* table, BackendUses& uses, ServiceConfig& config) {
  if (table == nullptr) return;
  TableReader reader(*table, "sorry of " + service.what(), service.sink(), &service);
  BackendConfig sorry = read_backend(reader, service, config, uses);
  sorry.sorry = true;
  reader.finish();
  config.backends.push_back(std::move(sorry));
}

void check_backends(const TableReader& service, const ServiceConfig& config) {
  const size_t count = config.backends.size();
  if (count == 0) {
    service.sink().error(service.where(), service.what() + " has no backend",
                         "add [[service.backend]] behind it");
    return;
  }
  if (count > limits::kBackendsPerServiceMax) {
    service.sink().error(service.where(),
                         service.what() + " has " + std::to_string(count) + " backends; at most " +
                             std::to_string(limits::kBackendsPerServiceMax) + " are possible");
  } else if (count * 100 > config.lookup_slots) {
    const bool can_grow = config.lookup_slots < limits::kLookupSlotsLarge;
    service.sink().warning(service.where(),
                           service.what() + " has " + std::to_string(count) + " backends for a table of " +
                               std::to_string(config.lookup_slots) +
                               " slots; below 100 slots a backend their shares differ by more than 1 %",
                           can_grow ? "table_size = " + std::to_string(limits::kLookupSlotsLarge) : "");
  }
  const bool has_weight = std::any_of(config.backends.begin(), config.backends.end(),
                                      [](const BackendConfig& b) { return b.weight > 0; });
  if (!has_weight) {
    service.sink().warning(service.where(),
                           "no backend of " + service.what() + " has weight: it takes no new flows");
  }
}

// ---- [[service]] ------------------------------------------------------------------------------------------

// VIP, port, protocol; true when the last two are right.
bool read_vip(TableReader& reader, ServiceConfig& config, FileUses& uses) {
  const auto vip = read_unicast(reader, "vip");
  const auto port = reader.integer("port", 0, UINT16_MAX, Need::required);
  const auto protocol = reader.choice<uint8_t>(
      "protocol", {{"tcp", wire::kProtoTcp}, {"udp", wire::kProtoUdp}}, Need::required);
  set_if(config.vip, vip);
  set_if(config.port, port);
  set_if(config.protocol, protocol);
  if (!port || !protocol) return false;
  if (!vip) return true;
  if (const std::string first =
          uses.vips.add({config.vip, config.port, config.protocol}, reader.sink(), reader.where("vip"));
      !first.empty()) {
    reader.sink().error(reader.where("vip"),
                        config.vip.text() + " " + (config.protocol == wire::kProtoTcp ? "tcp" : "udp") +
                            " port " + (config.port == 0 ? "0 (any)" : std::to_string(config.port)) +
                            " is used twice" + first);
  }
  return true;
}

void read_options(TableReader& reader, ServiceConfig& config) {
  set_if(config.forward,
         reader.choice<Forward>("forward", {{"l2dsr", Forward::l2dsr}, {"ipip", Forward::ipip}},
                                Need::required));
  set_if(config.method, reader.choice("method", std::span(kMethods)));
  set_if(config.enabled, reader.boolean("enabled"));
  set_if(config.initially_up, reader.choice<bool>("initially", {{"up", true}, {"down", false}}));
  if (const auto slots = reader.integer("table_size", INT64_MIN, INT64_MAX)) {
    if (*slots == limits::kLookupSlotsDefault || *slots == limits::kLookupSlotsLarge) {
      config.lookup_slots = static_cast<uint32_t>(*slots);
    } else {
      reader.reject("table_size", std::to_string(limits::kLookupSlotsDefault) + " or " +
                                      std::to_string(limits::kLookupSlotsLarge));
    }
  }
}

// What a method may not be, where something else than the flow table keeps packets together.
void check_method(const TableReader& reader, const ServiceConfig& config) {
  if (config.affinity == Affinity::connection || !needs_flow_table(config.method)) return;
  reader.sink().error(reader.where("method"),
                      "method '" + std::string(name_of(config.method)) +
                          (config.affinity == Affinity::none
                               ? "' gives each packet another backend where there is no affinity"
                               : "' is no hash: every balancer would begin a session elsewhere"),
                      "affinity = \"connection\"");
}

void read_scale(TableReader& reader, ServiceConfig& config) {
  const auto read = [&](std::string_view key, uint32_t& percent) {
    const auto text = reader.text(key);
    if (!text) return;
    const char* const end = text->data() + text->size();
    const auto [stop, fault] = std::from_chars(text->data(), end, percent);
    if (fault == std::errc() && stop + 1 == end && *stop == '%' && percent >= 1 && percent <= 100) return;
    percent = 0;
    reader.reject(key, "from \"1%\" to \"100%\"");
  };
  read("scale_up_at", config.scale_up_percent);
  read("scale_down_at", config.scale_down_percent);
}

void check_caps(const TableReader& reader, const ServiceConfig& config) {
  const bool is_limited =
      std::any_of(config.backends.begin(), config.backends.end(),
                  [](const BackendConfig& b) { return b.max_flows != 0 || b.max_sessions != 0; });
  // Without sessions max_sessions has no effect.
  const bool has_share = is_limited && (has_sessions(config.affinity) ||
                                        std::any_of(config.backends.begin(), config.backends.end(),
                                                    [](const BackendConfig& b) { return b.max_flows != 0; }));
  for (const char* key : {"scale_up_at", "scale_down_at"}) {
    if (reader.has(key) && !has_share)
      reader.sink().error(reader.where(key),
                          "'" + std::string(key) + "' is a share of what the backends may have",
                          "max_flows = 10000");
  }
  if (config.scale_up_percent != 0 && config.scale_down_percent >= config.scale_up_percent) {
    reader.sink().error(reader.where("scale_down_at"),
                        "'scale_down_at' is not below 'scale_up_at': both would be told at once");
  }
  if (is_limited && config.affinity == Affinity::none) {
    reader.sink().error(reader.where("affinity"), "without affinity there are no flows to limit",
                        "affinity = \"connection\"");
  }
}

ServiceConfig read_service(const toml::table& table, DiagnosticSink& sink, const TableReader& root,
                           FileUses& uses) {
  TableReader reader(table, describe("service", table), sink, &root);
  ServiceConfig config;
  config.name = read_name(reader, "service", uses.names);
  const bool port_is_known = read_vip(reader, config, uses);
  read_options(reader, config);
  // All keys are asked for before the tables inside are read: those suggest them.
  const toml::table* health = reader.table("health");
  const toml::table* idle_timeout = reader.table("idle_timeout");
  const toml::table* sorry = reader.table("sorry");
  const PolicyTables policy = read_policy(reader, config.policy);
  const SessionTables session = read_session(reader, config);
  read_caps(reader, config.affinity, config);
  read_scale(reader, config);
  const auto backends = reader.tables("backend", "[[service.backend]]");
  if (health != nullptr) {
    read_health(reader, *health, port_is_known, config);
  } else if (!reader.has("health") && port_is_known) {
    default_health(reader, config);
  }
  read_idle_timeout(reader, idle_timeout, config);
  read_policy_tables(reader, policy, config.policy);
  check_method(reader, config);
  read_session_tables(reader, session, config.session);
  check_session(reader, idle_timeout != nullptr && idle_timeout->contains("session"), config);
  BackendUses uses_inside;
  if (backends) {
    read_backends(reader, *backends, uses_inside, config);
    check_backends(reader, config);
    check_caps(reader, config);
    check_policy(reader, config);
    check_group(reader, config, uses.groups);
  }
  read_sorry(reader, sorry, uses_inside, config);
  if (backends && health != nullptr) check_source(reader, *health, config);
  reader.finish();
  return config;
}

// ---- As written ------------------------------------------------------------------------------------------

void flatten(const toml::table& table, const std::string& prefix, std::map<std::string, std::string>& out,
             std::string_view except = "") {
  for (const auto& [key, value] : table) {
    const std::string path = prefix + std::string(key.str());
    if (path == except) continue;
    if (const toml::table* inner = value.as_table()) {
      flatten(*inner, path + ".", out);
      continue;
    }
    std::ostringstream text;
    if (const toml::array* array = value.as_array()) {
      text << *array;
    } else {
      text << toml::node_view<const toml::node>(&value);
    }
    out[path] = text.str();
  }
}

void note_written(const toml::table& service, const ServiceConfig& config, WrittenConfig& written) {
  flatten(service, "", written[{config.name, ""}], "backend");
  const toml::array* backends = service["backend"].as_array();
  if (backends == nullptr || backends->size() != config.backends.size()) return;  // faulty
  for (size_t i = 0; i < backends->size(); i++) {
    if (const toml::table* backend = backends->get(i)->as_table())
      flatten(*backend, "", written[{config.name, config.backends[i].name}]);
  }
}

}  // namespace

void ConfigReader::read(const toml::table& root, DiagnosticSink& sink) {
  TableReader reader(root, is_first_ ? "the file" : "a file in conf.d", sink);
  if (is_first_) {
    set_if(config_.secret, reader.text("secret"));
    if (config_.secret.empty()) reader.reject("secret", "a text, the same on all balancers of a cluster");
  }
  const auto tables = reader.tables("service", "[[service]]");
  if (is_first_) config_.interfaces = read_interfaces(reader);
  if (!tables) faulty_services_ = true;
  for (const toml::table* table : tables.value_or(std::vector<const toml::table*>())) {
    config_.services.push_back(read_service(*table, sink, reader, uses_));
    note_written(*table, config_.services.back(), written_);
  }
  const auto overrides = reader.tables("override", "[[override]]");
  for (const toml::table* table : overrides.value_or(std::vector<const toml::table*>()))
    read_override(*table, sink, reader);
  reader.finish();
  if (is_first_) flatten(root, "", written_[{"", ""}], "service");
  is_first_ = false;
}

void ConfigReader::read_override(const toml::table& table, DiagnosticSink& sink, const TableReader& root) {
  TableReader reader(table, "this override", sink, &root);
  const OverrideKey key{reader.text("service", Need::required).value_or(""),
                        reader.text("backend").value_or("")};
  Override entry;
  entry.remove = reader.boolean("remove").value_or(false);
  entry.enabled = reader.boolean("enabled");
  if (const auto weight = reader.integer("weight", 0, limits::kWeightMax))
    entry.weight = static_cast<uint32_t>(*weight);
  entry.admin = reader.choice("admin", std::span(kAdminNames));
  if (reader.has("address")) {
    entry.address = read_unicast(reader, "address");
  } else {
    reader.text("address");  // known
  }
  reader.finish();
  for (const char* of_backend : {"weight", "admin", "address"}) {
    if (key.second.empty() && reader.has(of_backend))
      sink.error(reader.where(of_backend), "'" + std::string(of_backend) + "' is about a backend: name it",
                 "backend = \"...\"");
  }
  if (!key.second.empty() && entry.enabled)
    sink.error(reader.where("enabled"), "'enabled' is about a service; for a backend there is 'admin'");
  if (const std::string first = uses_.overrides.add(key, sink, reader.where()); !first.empty())
    sink.error(reader.where(), "the same is overridden twice" + first);
  override_places_[key] = {&sink, reader.where()};
  overrides_.set(key, std::move(entry));
}

void ConfigReader::finish(DiagnosticSink& sink) {
  std::vector<OverrideFault> faults;
  lay_over_files(config_, overrides_, faults);
  for (const OverrideFault& fault : faults) {
    const auto& [file, where] = override_places_.at(fault.key);
    file->error(where, fault.why);
  }
  if (config_.services.empty() && !faulty_services_)
    sink.error({1, 1}, "the file has no service", "add a [[service]]");
  if (config_.services.size() > limits::kServicesMax) {
    sink.error({}, "the file has " + std::to_string(config_.services.size()) + " services; at most " +
                       std::to_string(limits::kServicesMax) + " are possible");
  }
  const size_t backends =
      std::accumulate(config_.services.begin(), config_.services.end(), size_t{0},
                      [](size_t sum, const ServiceConfig& service) { return sum + service.backends.size(); });
  if (backends > limits::kBackendsMax) {
    sink.error({}, "the file has " + std::to_string(backends) + " backends; at most " +
                       std::to_string(limits::kBackendsMax) + " are possible");
  }
}

}  // namespace sluice
