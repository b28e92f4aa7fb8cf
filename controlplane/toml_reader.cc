#include "controlplane/toml_reader.h"

#include <algorithm>
#include <charconv>
#include <sstream>
#include <tuple>

#include "controlplane/escaped.h"

namespace sluice {
namespace {

std::string quoted(std::string_view text, char quote = '\'') {
  return quote + std::string(text) + quote;
}

// A longer line helps nobody.
constexpr size_t kSourceLineMax = 500;
constexpr size_t kValueMax = 200;
constexpr size_t kMessageMax = 2'000;  // it may name all choices
// Of errors, and of warnings, in one file: nobody reads more, and a file of megabytes may have millions.
constexpr size_t kDiagnosticsMax = 1'000;

std::string_view type_name(const toml::node& node) {
  switch (node.type()) {
    case toml::node_type::table:
      return "a table";
    case toml::node_type::array:
      return node.is_array_of_tables() ? "an array of tables" : "an array";
    case toml::node_type::string:
      return "a string";
    case toml::node_type::integer:
      return "an integer";
    case toml::node_type::floating_point:
      return "a floating-point number";
    case toml::node_type::boolean:
      return "a boolean";
    case toml::node_type::date:
      return "a date";
    case toml::node_type::time:
      return "a time";
    case toml::node_type::date_time:
      return "a date and time";
    case toml::node_type::none:
      break;
  }
  return "nothing";
}

// Optimal string alignment: insertions, deletions, substitutions and swaps of neighbours.
size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<std::vector<size_t>> d(a.size() + 1, std::vector<size_t>(b.size() + 1));
  for (size_t i = 0; i <= a.size(); i++)
    d[i][0] = i;
  for (size_t j = 0; j <= b.size(); j++)
    d[0][j] = j;
  for (size_t i = 1; i <= a.size(); i++) {
    for (size_t j = 1; j <= b.size(); j++) {
      d[i][j] =
          std::min({d[i - 1][j] + 1, d[i][j - 1] + 1, d[i - 1][j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1)});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
        d[i][j] = std::min(d[i][j], d[i - 2][j - 2] + 1);
    }
  }
  return d[a.size()][b.size()];
}

std::optional<Milliseconds> parse_duration(std::string_view text) {
  uint32_t amount = 0;
  const auto [unit_begin, fault] = std::from_chars(text.data(), text.data() + text.size(), amount);
  if (fault != std::errc()) return std::nullopt;
  const std::string_view unit = text.substr(static_cast<size_t>(unit_begin - text.data()));
  if (unit == "ms") return Milliseconds(amount);
  if (unit == "s") return std::chrono::seconds(amount);
  if (unit == "m") return std::chrono::minutes(amount);
  if (unit == "h") return std::chrono::hours(amount);
  if (unit == "d") return std::chrono::hours(24 * int64_t{amount});
  return std::nullopt;
}

std::string duration_text(Milliseconds duration) {
  const int64_t ms = duration.count();
  if (ms % 86'400'000 == 0) return std::to_string(ms / 86'400'000) + "d";
  if (ms % 3'600'000 == 0) return std::to_string(ms / 3'600'000) + "h";
  if (ms % 1000 == 0) return std::to_string(ms / 1000) + "s";
  return std::to_string(ms) + "ms";
}

}  // namespace

Position position(const toml::source_region& region) {
  return {region.begin.line, region.begin.column};
}

std::string_view nearest(std::string_view typed, const std::vector<std::string_view>& candidates) {
  std::string_view best;
  size_t best_distance = SIZE_MAX;
  for (const std::string_view candidate : candidates) {
    const bool abbreviates = typed.size() >= 3 && candidate.starts_with(typed);
    const auto [shorter, longer] = std::minmax({typed.size(), candidate.size()});
    const size_t tolerated = (longer + 1) / 3;
    // Too different in length already; a name of megabytes is not compared at all.
    if (!abbreviates && longer - shorter > tolerated) continue;
    const size_t distance = abbreviates ? 1 : edit_distance(typed, candidate);
    if (distance <= tolerated && distance < best_distance)
      std::tie(best, best_distance) = std::tuple(candidate, distance);
  }
  return best;
}

// ---- DiagnosticSink ---------------------------------------------------------------------------------------

DiagnosticSink::DiagnosticSink(std::string_view text, const std::string& file) : file_(file) {
  while (!text.empty()) {
    const size_t end = std::min(text.find('\n'), text.size());
    std::string_view line = text.substr(0, end);
    if (line.ends_with('\r')) line.remove_suffix(1);
    lines_.push_back(line);
    text.remove_prefix(std::min(end + 1, text.size()));
  }
}

Diagnostic DiagnosticSink::make(Diagnostic::Kind kind, Position where, std::string message,
                                std::string suggestion) const {
  const bool has_line = where.line > 0 && where.line <= lines_.size();
  return {kind,
          file_,
          where.line,
          where.column,
          quotable(message, kMessageMax),
          quotable(suggestion, kMessageMax),
          has_line && lines_[where.line - 1].size() <= kSourceLineMax ? masked(lines_[where.line - 1]) : ""};
}

Position DiagnosticSink::place(const toml::node& node) const {
  if (node.source().begin.line > 0) return position(node.source());
  const auto found = places_.find(&node);
  return found == places_.end() ? Position{} : found->second;
}

void DiagnosticSink::error(Position where, std::string message, std::string suggestion) {
  if (errors_.size() >= kDiagnosticsMax) return;
  errors_.push_back(make(Diagnostic::Kind::semantic, where, std::move(message), std::move(suggestion)));
}

void DiagnosticSink::warning(Position where, std::string message, std::string suggestion) {
  if (warnings_.size() >= kDiagnosticsMax) return;
  warnings_.push_back(make(Diagnostic::Kind::semantic, where, std::move(message), std::move(suggestion)));
}

void DiagnosticSink::syntax_error(Position where, std::string message) {
  Diagnostic fault = make(Diagnostic::Kind::syntax, where, std::move(message), "");
  // The fault may be that this is no UTF-8, which no terminal or JSON reader wants: one '?' for each
  // character.
  std::erase_if(fault.source_line, [](char c) { return (static_cast<unsigned char>(c) & 0xc0) == 0x80; });
  std::replace_if(
      fault.source_line.begin(), fault.source_line.end(), [](char c) { return (c & 0x80) != 0; }, '?');
  errors_.push_back(std::move(fault));
}

namespace {

std::vector<Diagnostic> in_file_order(std::vector<Diagnostic> diagnostics) {
  std::stable_sort(diagnostics.begin(), diagnostics.end(), [](const Diagnostic& a, const Diagnostic& b) {
    return std::tie(a.line, a.column) < std::tie(b.line, b.column);
  });
  return diagnostics;
}

}  // namespace

std::vector<Diagnostic> DiagnosticSink::take_errors() {
  return in_file_order(std::move(errors_));
}
std::vector<Diagnostic> DiagnosticSink::take_warnings() {
  return in_file_order(std::move(warnings_));
}

// ---- TableReader ------------------------------------------------------------------------------------------

TableReader::TableReader(const toml::table& table, std::string what, DiagnosticSink& sink,
                         const TableReader* outer)
    : table_(table), what_(std::move(what)), sink_(sink), outer_(outer) {}

Position TableReader::where() const {
  return sink_.place(table_);
}

Position TableReader::where(std::string_view key) const {
  const toml::node* found = table_.get(key);
  return found != nullptr ? sink_.place(*found) : where();
}

const toml::node* TableReader::node(std::string_view key, Need need) {
  known_.push_back(key);
  const toml::node* found = table_.get(key);
  if (found == nullptr && need == Need::required) sink_.error(where(), what_ + " needs a key " + quoted(key));
  return found;
}

void TableReader::wrong_type(std::string_view key, const toml::node& found, std::string_view expected,
                             std::string suggestion) {
  sink_.error(sink_.place(found),
              quoted(key) + " must be " + std::string(expected) + ", not " + std::string(type_name(found)),
              std::move(suggestion));
}

void TableReader::reject(std::string_view key, std::string_view must_be, std::string suggestion) {
  const toml::node* found = table_.get(key);
  std::ostringstream value;
  if (const auto* text = found->as_string()) {
    value << '"' << quotable(text->get(), kValueMax) << '"';
  } else if (const auto* number = found->as_integer()) {
    value << number->get();
  } else {
    value << type_name(*found);
  }
  sink_.error(where(key), quoted(key) + " is " + value.str() + "; it must be " + std::string(must_be),
              std::move(suggestion));
}

void TableReader::reject_choice(std::string_view key, const std::string& chosen,
                                const std::vector<std::string_view>& names) {
  std::string all;
  for (size_t i = 0; i < names.size(); i++) {
    if (i > 0) all += i + 1 == names.size() ? " or " : ", ";
    all += quoted(names[i], '"');
  }
  const std::string_view near = nearest(chosen, names);
  reject(key, all, near.empty() ? "" : "did you mean " + quoted(near, '"') + "?");
}

std::optional<std::string> TableReader::text(std::string_view key, Need need) {
  const toml::node* found = node(key, need);
  if (found == nullptr) return std::nullopt;
  if (const auto* text = found->as_string()) return text->get();
  wrong_type(key, *found, "a string");
  return std::nullopt;
}

std::optional<int64_t> TableReader::integer(std::string_view key, int64_t min, int64_t max, Need need) {
  const toml::node* found = node(key, need);
  if (found == nullptr) return std::nullopt;
  if (const auto* number = found->as_integer()) {
    if (number->get() >= min && number->get() <= max) return number->get();
    reject(key, "from " + std::to_string(min) + " to " + std::to_string(max));
    return std::nullopt;
  }
  wrong_type(key, *found, "an integer", found->is_string() ? "write it without quotes" : "");
  return std::nullopt;
}

std::optional<bool> TableReader::boolean(std::string_view key) {
  const toml::node* found = node(key);
  if (found == nullptr) return std::nullopt;
  if (const auto* value = found->as_boolean()) return value->get();
  wrong_type(key, *found, "true or false", found->is_string() ? "write it without quotes" : "");
  return std::nullopt;
}

std::optional<std::vector<std::string>> TableReader::texts(std::string_view key) {
  const toml::node* found = node(key);
  if (found == nullptr) return std::nullopt;
  std::vector<std::string> all;
  const toml::array* array = found->as_array();
  if (array == nullptr) {
    wrong_type(key, *found, "an array of strings", found->is_string() ? "write it as [\"...\"]" : "");
    return std::nullopt;
  }
  bool right = true;
  for (const toml::node& element : *array) {
    if (const auto* text = element.as_string()) {
      all.push_back(text->get());
    } else {
      wrong_type(key, element, "an array of strings");
      right = false;
    }
  }
  if (!right) return std::nullopt;
  return all;
}

std::optional<Milliseconds> TableReader::duration(std::string_view key, Milliseconds min, Milliseconds max) {
  const toml::node* found = node(key);
  if (found == nullptr) return std::nullopt;
  const auto* text = found->as_string();
  if (text == nullptr) {
    wrong_type(key, *found, "a duration like \"200ms\", \"2s\" or \"15m\"",
               found->is_integer() ? "write a string with a unit" : "");
    return std::nullopt;
  }
  const std::optional<Milliseconds> duration = parse_duration(text->get());
  if (!duration) {
    reject(key, "a whole number with its unit, like \"200ms\", \"2s\", \"15m\" or \"1h\"");
  } else if (*duration < min || *duration > max) {
    reject(key, "from " + duration_text(min) + " to " + duration_text(max));
  } else {
    return duration;
  }
  return std::nullopt;
}

std::optional<IpAddress> TableReader::address(std::string_view key, Need need) {
  const std::optional<std::string> written = text(key, need);
  if (!written) return std::nullopt;
  const std::optional<IpAddress> address = IpAddress::parse(*written);
  if (!address) reject(key, "an IPv4 or IPv6 address, without port or prefix length");
  return address;
}

const toml::table* TableReader::table(std::string_view key) {
  const toml::node* found = node(key);
  if (found == nullptr) return nullptr;
  if (!found->is_table()) wrong_type(key, *found, "a table like { ... }");
  return found->as_table();
}

std::optional<std::vector<const toml::table*>> TableReader::tables(std::string_view key,
                                                                   std::string_view header) {
  std::vector<const toml::table*> all;
  const toml::node* found = node(key);
  if (found == nullptr) return all;
  std::vector<const toml::node*> faults;
  if (const toml::array* array = found->as_array()) {
    for (const toml::node& element : *array) {
      if (element.is_table()) {
        all.push_back(element.as_table());
      } else {
        faults.push_back(&element);
      }
    }
  } else {
    faults.push_back(found);
  }
  for (const toml::node* fault : faults) {
    wrong_type(key, *fault, "an array of tables", "write each as " + std::string(header));
  }
  if (all.empty() && !faults.empty()) return std::nullopt;
  return all;
}

void TableReader::finish() {
  for (const auto& [key, value] : table_) {
    const std::string_view name = key.str();
    if (std::find(known_.begin(), known_.end(), name) != known_.end()) continue;
    std::string suggestion;
    if (outer_ != nullptr &&
        std::find(outer_->known_.begin(), outer_->known_.end(), name) != outer_->known_.end()) {
      suggestion = "it belongs to " + outer_->what_ + ": write it there, before any table of its own";
    } else if (const std::string_view near = nearest(name, known_); !near.empty()) {
      suggestion = "did you mean " + quoted(near) + "?";
    }
    const bool key_has_place = key.source().begin.line > 0;
    sink_.error(key_has_place ? position(key.source()) : sink_.place(value),
                "unknown key " + quoted(name) + " in " + what_, std::move(suggestion));
  }
}

}  // namespace sluice
