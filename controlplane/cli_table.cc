#include "controlplane/cli_table.h"

#include <algorithm>
#include <cstdlib>
#include <numeric>
#include <optional>
#include <set>

#include <fmt/format.h>
#include <fnmatch.h>
#include <strings.h>

#include "controlplane/toml_reader.h"

namespace sluice {
namespace {

// Counts of fewer digits are as short as they can be.
constexpr size_t kDigitsShown = 5;

bool is_number(const std::string& cell) {
  return !cell.empty() && cell.find_first_not_of("0123456789.%-") == std::string::npos;
}
bool is_count(const std::string& cell) {
  return !cell.empty() && cell.size() < 20 && cell.find_first_not_of("0123456789") == std::string::npos;
}
// Numbers that name something: every digit counts.
bool is_kept_exact(const std::string& heading) {
  static const std::set<std::string> kNames = {"GENERATION", "NUMBER", "PORT", "MTU"};
  return kNames.count(heading) != 0;
}

// What a cell begins with: 12 of "12", "12.5%", "12.5ms".
std::optional<double> number_in(const std::string& cell) {
  char* end = nullptr;
  const double number = std::strtod(cell.c_str(), &end);
  if (end == cell.c_str()) return std::nullopt;
  return number;
}

}  // namespace

std::string shortened(uint64_t number) {
  constexpr const char* kUnits[] = {"", "K", "M", "G", "T", "P", "E"};
  auto value = static_cast<double>(number);
  size_t unit = 0;
  for (; value >= 999.5 && unit + 1 < std::size(kUnits); unit++)
    value /= 1000;
  if (unit == 0) return std::to_string(number);
  const int decimals = value < 9.995 ? 2 : value < 99.95 ? 1 : 0;
  return fmt::format("{:.{}f}{}", value, decimals, kUnits[unit]);
}

TextTable::TextTable(std::vector<std::string> headings) : headings_(std::move(headings)) {}

void TextTable::add(std::vector<std::string> cells) {
  order_.push_back(rows_.size());
  rows_.push_back(std::move(cells));
}

Result<size_t> TextTable::column(const std::string& name) const {
  std::vector<std::string_view> names;
  for (size_t i = 0; i < headings_.size(); i++) {
    const std::string bare = headings_[i].substr(0, headings_[i].find('/'));
    if (strcasecmp(headings_[i].c_str(), name.c_str()) == 0 || strcasecmp(bare.c_str(), name.c_str()) == 0)
      return i;
    names.push_back(headings_[i]);
  }
  std::string upper = name;
  std::transform(upper.begin(), upper.end(), upper.begin(), [](unsigned char c) { return std::toupper(c); });
  const std::string_view near = nearest(upper, names);
  std::string all;
  for (const std::string_view each : names)
    all += (all.empty() ? "" : ", ") + std::string(each);
  return Error{fmt::format("there is no column '{}'", name),
               near.empty() ? "one of " + all : fmt::format("did you mean {}?", near)};
}

Result<Done> TextTable::filter(const std::string& expression) {
  const size_t at = expression.find_first_of("=<>!");
  const bool is_unequal = at != std::string::npos && expression.compare(at, 2, "!=") == 0;
  if (at == std::string::npos || at == 0 || (expression[at] == '!' && !is_unequal)) {
    return Error{fmt::format("filter '{}' is not COLUMN=GLOB, COLUMN!=GLOB, COLUMN<NUMBER or COLUMN>NUMBER",
                             expression),
                 "--filter HEALTH=down"};
  }
  const Result<size_t> found = column(expression.substr(0, at));
  if (!found) return found.error();
  const std::string operand = expression.substr(at + (is_unequal ? 2 : 1));
  const char op = expression[at];
  const std::optional<double> limit = number_in(operand);
  if ((op == '<' || op == '>') && !limit)
    return Error{fmt::format("filter '{}': '{}' is not a number", expression, operand), ""};
  std::erase_if(order_, [&](size_t row) {
    const std::string& cell = rows_[row][*found];
    if (op == '=' || op == '!') return (fnmatch(operand.c_str(), cell.c_str(), 0) == 0) == is_unequal;
    const std::optional<double> number = number_in(cell);
    return !number || !(op == '<' ? *number < *limit : *number > *limit);
  });
  return Done{};
}

Result<Done> TextTable::arrange(const TableView& view) {
  exact_ = view.exact;
  for (const std::string& expression : view.filters) {
    if (const Result<Done> filtered = filter(expression); !filtered) return filtered.error();
  }
  if (!view.sort.empty()) {
    const Result<size_t> found = column(view.sort);
    if (!found) return found.error();
    std::stable_sort(order_.begin(), order_.end(), [&](size_t left, size_t right) {
      const std::string &a = rows_[left][*found], &b = rows_[right][*found];
      const auto x = number_in(a), y = number_in(b);
      if (x && y) return *x > *y;
      if (x.has_value() != y.has_value()) return x.has_value();
      return a < b;
    });
  }
  if (view.reverse) std::reverse(order_.begin(), order_.end());
  return Done{};
}

std::string TextTable::text() const {
  std::vector<std::vector<std::string>> shown = {headings_};
  const size_t columns = headings_.size();
  std::vector<bool> numeric(columns, !order_.empty());
  for (const size_t row : order_) {
    shown.push_back(rows_[row]);
    for (size_t c = 0; c < columns; c++) {
      std::string& cell = shown.back()[c];
      if (!is_number(cell)) numeric[c] = false;
      if (!exact_ && is_count(cell) && cell.size() > kDigitsShown && !is_kept_exact(headings_[c]))
        cell = shortened(std::stoull(cell));
    }
  }
  std::vector<size_t> width(columns, 0);
  for (const auto& row : shown) {
    for (size_t c = 0; c < columns; c++)
      width[c] = std::max(width[c], row[c].size());
  }
  std::string out;
  for (const auto& row : shown) {
    std::string line;
    for (size_t c = 0; c < columns; c++) {
      if (c > 0) line += "  ";
      line += numeric[c] ? fmt::format("{:>{}}", row[c], width[c]) : fmt::format("{:<{}}", row[c], width[c]);
    }
    line.erase(line.find_last_not_of(' ') + 1);
    out += line + "\n";
  }
  return out;
}

}  // namespace sluice
