// Tables on a terminal: aligned columns, which of the rows, and in which order.
#pragma once

#include <string>
#include <vector>

#include "src/result.h"

namespace sluice {

// What an operator asked for.
struct TableView {
  // Each COLUMN=GLOB, COLUMN!=GLOB, COLUMN<NUMBER or COLUMN>NUMBER; a row must fit all. Columns are called by
  // their headings, in any case.
  std::vector<std::string> filters;
  std::string sort;      // a column: numbers from the largest, text from A; empty: as they come
  bool reverse = false;  // the other way round
  bool exact = false;    // 1234567 and not 1.23M
};

// Columns as wide as their widest cell, two spaces between; a column of numbers is aligned right.
class TextTable {
 public:
  explicit TextTable(std::vector<std::string> headings);
  // As many as headings. A count is given with all its digits; text() shortens it if the view wants that.
  void add(std::vector<std::string> cells);

  // Chooses and orders the rows. Without it: all of them, exact. An Error names what is wrong with `view`.
  Result<Done> arrange(const TableView& view);
  // Positions, as they were added, of the rows that are left.
  const std::vector<size_t>& order() const { return order_; }
  std::string text() const;

 private:
  Result<size_t> column(const std::string& name) const;
  Result<Done> filter(const std::string& expression);

  std::vector<std::string> headings_;
  std::vector<std::vector<std::string>> rows_;
  std::vector<size_t> order_;
  bool exact_ = true;
};

// 1.23K, 12.3M, 123G: three digits, powers of ten.
std::string shortened(uint64_t number);

}  // namespace sluice
