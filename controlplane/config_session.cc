// The keys of a service that say what ties packets to a backend.
#include <algorithm>
#include <map>
#include <set>
#include <string>
#include <tuple>

#include "controlplane/config_schema.h"

namespace sluice {
namespace {

void read_prefix(TableReader& service, const toml::table& table, SessionConfig& session) {
  TableReader reader(table, "prefix of " + service.what(), service.sink(), &service);
  set_if(session.prefix_v4, reader.integer("v4", 1, 32));
  set_if(session.prefix_v6, reader.integer("v6", 1, 128));
  reader.finish();
}

void read_key(TableReader& service, const toml::table& table, SessionConfig& session) {
  TableReader reader(table, "key of " + service.what(), service.sink(), &service);
  const auto offset = reader.integer("offset", 0, limits::kKeyEndMax - 1, TableReader::Need::required);
  const auto bytes = reader.integer("bytes", 1, limits::kKeyBytesMax, TableReader::Need::required);
  set_if(session.key_offset, offset);
  set_if(session.key_bytes, bytes);
  if (offset && bytes && *offset + *bytes > limits::kKeyEndMax) {
    reader.sink().error(reader.where("offset"),
                        "a key of " + std::to_string(*bytes) + " bytes at " + std::to_string(*offset) +
                            " is past the end of a packet: a payload has " +
                            std::to_string(limits::kKeyEndMax) + " bytes where every link carries it",
                        "offset = " + std::to_string(limits::kKeyEndMax - *bytes) + " or less");
  }
  reader.finish();
}

}  // namespace

SessionTables read_session(TableReader& service, ServiceConfig& config) {
  set_if(config.affinity, service.choice<Affinity>("affinity", {{"none", Affinity::none},
                                                                {"connection", Affinity::connection},
                                                                {"client", Affinity::client},
                                                                {"prefix", Affinity::prefix},
                                                                {"key", Affinity::key}}));
  if (const auto group = service.text("group")) {
    if (is_name(*group)) {
      config.session.group = *group;
    } else {
      service.reject("group",
                     "1 to " + std::to_string(limits::kNameBytes - 1) + " letters, digits, '.', '_' or '-'");
    }
  }
  read_seconds(service, "max_lifetime", config.session.life_s, limits::kSessionTimeMax);
  return {service.table("prefix"), service.table("key")};
}

void read_session_tables(TableReader& service, const SessionTables& tables, SessionConfig& session) {
  if (tables.prefix != nullptr) read_prefix(service, *tables.prefix, session);
  if (tables.key != nullptr) read_key(service, *tables.key, session);
}

void check_session(const TableReader& service, bool sets_idle, ServiceConfig& config) {
  DiagnosticSink& sink = service.sink();
  const auto without_effect = [&](const char* key, const char* where) {
    sink.warning(service.where(key), "'" + std::string(key) + "' has no effect without " + where);
  };
  if (!has_sessions(config.affinity)) {
    for (const char* key : {"group", "max_lifetime"}) {
      if (service.has(key)) without_effect(key, "affinity = \"client\", \"prefix\" or \"key\"");
    }
  }
  if (service.has("prefix") && config.affinity != Affinity::prefix)
    without_effect("prefix", "affinity = \"prefix\"");
  if (service.has("key") && config.affinity != Affinity::key) without_effect("key", "affinity = \"key\"");
  if (config.affinity == Affinity::key) {
    if (config.protocol == wire::kProtoTcp) {
      sink.error(service.where("affinity"),
                 "affinity \"key\" is for UDP: the first packet of a TCP connection carries no bytes",
                 "affinity = \"client\"");
    }
    if (!service.has("key")) {
      sink.error(service.where("affinity"), "affinity \"key\" needs to know where the key is",
                 "key = { offset = 0, bytes = 8 }");
    }
  }
  if (!has_sessions(config.affinity)) return;
  // A connection may rest so long, and its client must find the session meanwhile.
  const uint32_t flow_s = config.protocol == wire::kProtoUdp ? config.idle_udp_s : config.idle_established_s;
  if (!sets_idle) {
    config.session.idle_s = std::max(config.session.idle_s, flow_s);
  } else if (config.session.idle_s < flow_s) {
    sink.error(service.where("idle_timeout"),
               "sessions end after " + std::to_string(config.session.idle_s) +
                   " s, but a connection may rest for " + std::to_string(flow_s) +
                   " s: its client would lose its backend meanwhile",
               "a session of " + std::to_string(flow_s) + "s or more, or connections of " +
                   std::to_string(config.session.idle_s) + "s or less");
  }
}

bool is_in_group(const ServiceConfig& config) {
  return !config.session.group.empty() && has_sessions(config.affinity);
}

std::vector<Error> group_faults(const ServiceConfig& config, const ServiceConfig& first) {
  const std::string both =
      "'" + config.name + "' and '" + first.name + "' of group '" + config.session.group + "'";
  const auto names = [](const ServiceConfig& of) {
    const SessionConfig& session = of.session;
    return std::tuple(of.affinity, session.prefix_v4, session.prefix_v6, session.key_offset,
                      session.key_bytes);
  };
  const auto times = [](const ServiceConfig& of) {
    return std::tuple(of.session.idle_s, of.session.life_s, of.policy.on_failure);
  };
  std::vector<Error> faults;
  if (names(config) != names(first)) {
    faults.push_back(
        {both + " name their sessions differently", "give them the same affinity, prefix and key"});
  }
  if (times(config) != times(first)) {
    faults.push_back({both + " treat their sessions differently",
                      "give them the same idle_timeout.session, max_lifetime and on_failure"});
  }
  return faults;
}

void check_group(const TableReader& service, const ServiceConfig& config,
                 std::map<std::string, ServiceConfig>& firsts) {
  const std::string& group = config.session.group;
  if (!is_in_group(config)) return;
  const auto [place, is_first] = firsts.emplace(group, config);
  if (is_first) return;
  const ServiceConfig& first = place->second;
  const Position where = service.where("group");
  for (const Error& fault : group_faults(config, first))
    service.sink().error(where, fault.what, fault.remedy);
  const auto backends = [](const ServiceConfig& of) {
    std::set<std::string> backend_names;
    for (const BackendConfig& backend : of.backends) {
      if (!backend.sorry) backend_names.insert(backend.name);
    }
    return backend_names;
  };
  if (backends(config) != backends(first)) {
    service.sink().warning(where,
                           "'" + config.name + "' and '" + first.name + "' of group '" + group +
                               "' have backends of different names: clients of one that the other does "
                               "not have are chosen anew there");
  }
}

}  // namespace sluice
