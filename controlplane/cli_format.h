// The CLI's text: aligned tables and sentences from the daemon's JSON. Pure: JSON in, text out; data for
// stdout.
#pragma once

#include <string>
#include <vector>

#include <nlohmann/json.hpp>

namespace sluice {

// Columns as wide as their widest cell, two spaces between; a column of numbers is aligned right.
class TextTable {
 public:
  explicit TextTable(std::vector<std::string> headings);
  void add(std::vector<std::string> cells);  // as many as headings
  std::string text() const;

 private:
  std::vector<std::vector<std::string>> rows_;  // the first are the headings
};

std::string format_services(const nlohmann::json& response, bool with_stats);
std::string format_backends(const nlohmann::json& response, bool with_stats);
// `all`: reasons that never occurred, too.
std::string format_dataplane(const nlohmann::json& response, bool all);
std::string format_overrides(const nlohmann::json& response);
// What an apply or a diff would change: "~ web/b1  weight: 100 -> 50", then what that does to flows.
std::string format_diff(const nlohmann::json& response);
std::string format_explain(const nlohmann::json& response);
// "web/b1: drain; generation 17 acknowledged by 1 worker in 0.41 ms"
std::string format_change(const std::string& subject, const nlohmann::json& response);

}  // namespace sluice
