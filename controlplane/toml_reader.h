// Reads TOML tables key by key and collects every fault with its place in the file.
//
// For config.cc only. A TableReader remembers which keys it was asked for: those are the known ones, so the
// schema is written once, where it is read, and finish() reports every other key. A value of the wrong type
// or out of range is reported and read as absent; the caller goes on, so that one run finds all faults.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include <toml++/toml.h>

#include "controlplane/config.h"

namespace sluice {

// From 1, in code points; 0 and 0: the file as a whole.
struct Position {
  uint32_t line = 0;
  uint32_t column = 0;
};

class DiagnosticSink {
 public:
  // Both must outlive the sink.
  DiagnosticSink(std::string_view text, const std::string& file);

  void error(Position where, std::string message, std::string suggestion = "");
  void warning(Position where, std::string message, std::string suggestion = "");
  void syntax_error(Position where, std::string message);
  // For trees that were not read from TOML, whose nodes know no place (json_tree.h). The node must stay where
  // it is.
  void set_place(const toml::node& node, Position where) { places_[&node] = where; }
  Position place(const toml::node& node) const;
  const std::string& file() const { return file_; }
  bool has_errors() const { return !errors_.empty(); }
  // Everything so far, in the file's order.
  std::vector<Diagnostic> take_errors();
  std::vector<Diagnostic> take_warnings();

 private:
  Diagnostic make(Diagnostic::Kind kind, Position where, std::string message, std::string suggestion) const;

  std::vector<std::string_view> lines_;
  const std::string& file_;
  std::unordered_map<const toml::node*, Position> places_;
  std::vector<Diagnostic> errors_;
  std::vector<Diagnostic> warnings_;
};

class TableReader {
 public:
  enum class Need : uint8_t { optional, required };
  template <typename T>
  using Choices = std::initializer_list<std::pair<std::string_view, T>>;

  // `what` names the table in messages: "service 'web'". `outer` is the table that an operator may have meant
  // a key for (in TOML, keys after [[service.backend]] are the backend's); it has been asked for all its keys
  // before finish().
  TableReader(const toml::table& table, std::string what, DiagnosticSink& sink,
              const TableReader* outer = nullptr);

  std::optional<std::string> text(std::string_view key, Need need = Need::optional);
  std::optional<int64_t> integer(std::string_view key, int64_t min, int64_t max, Need need = Need::optional);
  std::optional<bool> boolean(std::string_view key);
  // An array of strings.
  std::optional<std::vector<std::string>> texts(std::string_view key);
  // "200ms", "2s", "15m", "1h"
  std::optional<Milliseconds> duration(std::string_view key, Milliseconds min, Milliseconds max);
  std::optional<IpAddress> address(std::string_view key, Need need = Need::optional);
  template <typename T>
  std::optional<T> choice(std::string_view key, Choices<T> choices, Need need = Need::optional) {
    return choice(key, std::span(choices.begin(), choices.size()), need);
  }
  template <typename T, size_t count>
  std::optional<T> choice(std::string_view key,
                          std::span<const std::pair<std::string_view, T>, count> choices,
                          Need need = Need::optional);
  // nullptr when absent
  const toml::table* table(std::string_view key);
  const toml::node* node(std::string_view key, Need need = Need::optional);
  // Empty when absent; what is not a table in it is left out; nothing when that was all. `header` is how one
  // is written: "[[service]]".
  std::optional<std::vector<const toml::table*>> tables(std::string_view key, std::string_view header);

  bool has(std::string_view key) const { return table_.contains(key); }
  Position where() const;                      // of the table
  Position where(std::string_view key) const;  // of the key's value; of the table when absent
  const std::string& what() const { return what_; }
  DiagnosticSink& sink() const { return sink_; }
  // Reports the value of a key that is there: "'KEY' is VALUE; it must be MUST_BE".
  void reject(std::string_view key, std::string_view must_be, std::string suggestion = "");
  // Reports the unknown keys.
  void finish();

 private:
  void wrong_type(std::string_view key, const toml::node& found, std::string_view expected,
                  std::string suggestion = "");
  void reject_choice(std::string_view key, const std::string& chosen,
                     const std::vector<std::string_view>& names);

  const toml::table& table_;
  std::string what_;
  DiagnosticSink& sink_;
  const TableReader* outer_;
  std::vector<std::string_view> known_;
};

Position position(const toml::source_region& region);

// The candidate that `typed` is most likely a slip of: the nearest by edit distance (swapped neighbours count
// as one slip), or one it abbreviates. Empty when none is near.
std::string_view nearest(std::string_view typed, const std::vector<std::string_view>& candidates);

template <typename T, size_t count>
std::optional<T> TableReader::choice(std::string_view key,
                                     std::span<const std::pair<std::string_view, T>, count> choices,
                                     Need need) {
  const std::optional<std::string> chosen = text(key, need);
  if (!chosen) return std::nullopt;
  std::vector<std::string_view> names;
  for (const auto& [name, value] : choices) {
    if (*chosen == name) return value;
    names.push_back(name);
  }
  reject_choice(key, *chosen, names);
  return std::nullopt;
}

}  // namespace sluice
