// JSON text as the tree that the schema reads (config_schema.h), each value with its place in the text: one
// schema, and the same diagnostics, for both notations.
//
// What TOML cannot say is an error here too: null, a key twice in one object, a top level that is no object.
#pragma once

#include <string_view>

#include "controlplane/toml_reader.h"

namespace sluice {

// Faults go to the sink, as syntax errors; what is returned counts only when there were none. The places of
// its nodes are in the sink and hold as long as the table itself does: it is not moved after that.
void read_json(std::string_view text, toml::table& root, DiagnosticSink& sink);

}  // namespace sluice
