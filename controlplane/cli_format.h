// The CLI's text: aligned tables and sentences from the daemon's JSON. Pure: JSON in, text out; data for
// stdout.
#pragma once

#include <cstdint>
#include <string>

#include <nlohmann/json.hpp>

#include "controlplane/cli_table.h"

namespace sluice {

enum class Counters : uint8_t { none, sums, rates };  // rates: a second

// One row for each object of the response's list, in its order.
TextTable table_of_services(const nlohmann::json& response, Counters counters);
TextTable table_of_backends(const nlohmann::json& response, Counters counters);
TextTable table_of_workers(const nlohmann::json& response, Counters counters);
TextTable table_of_reasons(const nlohmann::json& response, Counters counters);
TextTable table_of_flows(const nlohmann::json& response);
// What stands below the table; may be empty.
std::string notes_on_backends(const nlohmann::json& response);
std::string notes_on_flows(const nlohmann::json& response);

std::string format_generation(const nlohmann::json& response);
std::string format_sessions(const nlohmann::json& response);
std::string format_events(const nlohmann::json& response);
// `all`: reasons that never occurred, too.
std::string format_dataplane(const nlohmann::json& response, bool all);
std::string format_overrides(const nlohmann::json& response);
// What an apply or a diff would change: "~ web/b1  weight: 100 -> 50", then what that does to flows.
std::string format_diff(const nlohmann::json& response);
std::string format_explain(const nlohmann::json& response);
// "web/b1: drain; generation 17 acknowledged by 1 worker in 0.41 ms"
std::string format_change(const std::string& subject, const nlohmann::json& response);

}  // namespace sluice
