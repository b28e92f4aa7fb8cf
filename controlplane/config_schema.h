// The schema of the configuration file: which keys there are, what they may hold, and what must hold between
// them.
//
// For config.cc only, which turns text into the TOML tree that this reads. Faults go to the sink; what is
// returned counts only when there were none.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "controlplane/config.h"
#include "controlplane/overrides.h"
#include "controlplane/toml_reader.h"
#include "src/result.h"

namespace sluice {

// First uses, to name them when something is used twice.
template <typename Key>
class FirstUse {
 public:
  // Where it was used before; empty: this is the first use.
  std::string add(const Key& key, const DiagnosticSink& sink, Position where) {
    const auto [use, is_first] = places_.emplace(key, Place{sink.file(), where.line});
    if (is_first) return "";
    const Place& first = use->second;
    const std::string line = "line " + std::to_string(first.line);
    return "; the first is in " + (first.file == sink.file() ? line : line + " of " + first.file);
  }

 private:
  struct Place {
    std::string file;
    uint32_t line;
  };
  std::map<Key, Place> places_;
};

// Reads file after file into one configuration.
class ConfigReader {
 public:
  // The first file is where settings of the whole may stand. Its sink gets what is wrong with that, and is
  // used until finish().
  void read(const toml::table& root, DiagnosticSink& sink);
  // What must hold of all of them together; `sink` is the first file's.
  void finish(DiagnosticSink& sink);
  Config& config() { return config_; }
  WrittenConfig& written() { return written_; }

  struct Uses {
    FirstUse<OverrideKey> overrides;
    FirstUse<std::string> names;
    FirstUse<std::tuple<IpAddress, uint16_t, uint8_t>> vips;
    std::map<std::string, ServiceConfig> groups;  // the first service of each
  };

 private:
  void read_override(const toml::table& table, DiagnosticSink& sink, const TableReader& root);

  Config config_;
  WrittenConfig written_;
  Uses uses_;
  Overrides overrides_;
  std::map<OverrideKey, std::pair<DiagnosticSink*, Position>> override_places_;
  bool is_first_ = true;
  bool faulty_services_ = false;  // something that should have been a service was none
};

// [control], [http], [[hook]] of the file.
InterfaceConfig read_interfaces(TableReader& root);

// `health = { ... }` of a service; its port and protocol are in `config` when port_is_known.
void read_health(TableReader& service, const toml::table& table, bool port_is_known, ServiceConfig& config);
// What needs the backends as well, which are read after it.
void check_source(const TableReader& service, const toml::table& table, const ServiceConfig& config);
// What a service without one gets; port and protocol are in `config`.
void default_health(const TableReader& service, ServiceConfig& config);

// What a service does when backends fail, first the keys that are no tables; the tables among them are
// returned, to be read when all of the service's keys are known.
struct PolicyTables {
  const toml::table* quorum = nullptr;
  const toml::table* flap = nullptr;
};
PolicyTables read_policy(TableReader& service, PolicyConfig& policy);
void read_policy_tables(TableReader& service, const PolicyTables& tables, PolicyConfig& policy);
// What must hold between these and the backends, which are all there.
void check_policy(const TableReader& service, const ServiceConfig& config);

// The same with what ties packets to a backend.
struct SessionTables {
  const toml::table* prefix = nullptr;
  const toml::table* key = nullptr;
};
SessionTables read_session(TableReader& service, ServiceConfig& config);
void read_session_tables(TableReader& service, const SessionTables& tables, SessionConfig& session);
// What must hold between these and the service's other timeouts; `sets_idle`: idle_timeout.session is given.
// Fills in what follows from them.
void check_session(const TableReader& service, bool sets_idle, ServiceConfig& config);
// Does it share its sessions with others?
bool is_in_group(const ServiceConfig& config);
// What keeps two services of one group from sharing their sessions.
std::vector<Error> group_faults(const ServiceConfig& config, const ServiceConfig& first);
// That, of the services of all groups; `firsts` has the first of each.
void check_group(const TableReader& service, const ServiceConfig& config,
                 std::map<std::string, ServiceConfig>& firsts);

bool is_name(std::string_view text);
// Whole seconds, from 1 to max_s.
void read_seconds(TableReader& reader, std::string_view key, uint32_t& seconds, uint32_t max_s);

// A value that is absent or faulty leaves the default.
template <typename Field, typename Value>
void set_if(Field& field, const std::optional<Value>& value) {
  if (value) field = static_cast<Field>(*value);
}

}  // namespace sluice
