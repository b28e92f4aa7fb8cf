// The schema of the configuration file: which keys there are, what they may hold, and what must hold between
// them.
//
// For config.cc only, which turns text into the TOML tree that this reads. Faults go to the sink; what is
// returned counts only when there were none.
#pragma once

#include <optional>

#include "controlplane/config.h"
#include "controlplane/toml_reader.h"

namespace sluice {

Config read_config(const toml::table& root, DiagnosticSink& sink);

// [control], [http], [[hook]] of the file.
InterfaceConfig read_interfaces(TableReader& root);

// `health = { ... }` of a service; its port and protocol are in `config` when port_is_known.
void read_health(TableReader& service, const toml::table& table, bool port_is_known, ServiceConfig& config);
// What needs the backends as well, which are read after it.
void check_source(const TableReader& service, const toml::table& table, const ServiceConfig& config);
// What a service without one gets; port and protocol are in `config`.
void default_health(const TableReader& service, ServiceConfig& config);

// A value that is absent or faulty leaves the default.
template <typename Field, typename Value>
void set_if(Field& field, const std::optional<Value>& value) {
  if (value) field = static_cast<Field>(*value);
}

}  // namespace sluice
