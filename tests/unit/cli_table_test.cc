// Tables of the command line: filter, order, width.
#include "controlplane/cli_table.h"

#include <gtest/gtest.h>

namespace sluice {
namespace {

TextTable backends() {
  TextTable table({"BACKEND", "HEALTH", "SHARE", "PACKETS/S"});
  table.add({"b1", "up", "33.00%", "1234567"});
  table.add({"b10", "down", "0.00%", "99"});
  table.add({"b2", "up", "67.00%", "99999"});
  return table;
}

std::vector<size_t> rows(TableView view) {
  TextTable table = backends();
  const Result<Done> arranged = table.arrange(view);
  EXPECT_TRUE(arranged) << arranged.error().text();
  return table.order();
}

TableView filtered(std::vector<std::string> filters) {
  TableView view;
  view.filters = std::move(filters);
  return view;
}

using Rows = std::vector<size_t>;

TEST(TextTableTest, FiltersCompareTextAsPatternsAndNumbersAsNumbers) {
  EXPECT_EQ(rows(filtered({"HEALTH=up"})), (Rows{0, 2}));
  EXPECT_EQ(rows(filtered({"health!=up"})), (Rows{1}));
  EXPECT_EQ(rows(filtered({"backend=b1*"})), (Rows{0, 1}));
  EXPECT_EQ(rows(filtered({"packets>99"})), (Rows{0, 2}));
  EXPECT_EQ(rows(filtered({"PACKETS/S<100"})), (Rows{1}));
  EXPECT_EQ(rows(filtered({"share>1", "share<50"})), (Rows{0}));
  EXPECT_EQ(rows(filtered({"backend=nobody"})), (Rows{}));
}

TEST(TextTableTest, NumbersAreSortedFromTheLargestAndTextFromA) {
  TableView view;
  view.sort = "packets";
  EXPECT_EQ(rows(view), (Rows{0, 2, 1}));
  view.reverse = true;
  EXPECT_EQ(rows(view), (Rows{1, 2, 0}));
  view = {};
  view.sort = "BACKEND";
  EXPECT_EQ(rows(view), (Rows{0, 1, 2}));
}

TEST(TextTableTest, WhatIsWrongIsSaid) {
  const auto fault = [](TableView view) {
    TextTable table = backends();
    const Result<Done> arranged = table.arrange(view);
    return arranged ? "" : arranged.error().text();
  };
  EXPECT_NE(fault(filtered({"HAELTH=up"})).find("HEALTH"), std::string::npos);
  EXPECT_NE(fault(filtered({"nonsense"})).find("COLUMN=GLOB"), std::string::npos);
  EXPECT_NE(fault(filtered({"=up"})).find("COLUMN=GLOB"), std::string::npos);
  EXPECT_NE(fault(filtered({"packets>many"})).find("not a number"), std::string::npos);
  TableView view;
  view.sort = "nothing";
  EXPECT_NE(fault(view).find("BACKEND, HEALTH"), std::string::npos);
}

TEST(TextTableTest, CountsAreShortUnlessTheyAreToBeExact) {
  TableView view;
  TextTable table = backends();
  ASSERT_TRUE(table.arrange(view));
  EXPECT_EQ(table.text(),
            "BACKEND  HEALTH   SHARE  PACKETS/S\n"
            "b1       up      33.00%      1.23M\n"
            "b10      down     0.00%         99\n"
            "b2       up      67.00%      99999\n");
  view.exact = true;
  ASSERT_TRUE(table.arrange(view));
  EXPECT_NE(table.text().find("1234567"), std::string::npos);
}

TEST(TextTableTest, ThreeDigitsAreShown) {
  EXPECT_EQ(shortened(999), "999");
  EXPECT_EQ(shortened(1'000), "1.00K");
  EXPECT_EQ(shortened(9'994), "9.99K");
  EXPECT_EQ(shortened(9'996), "10.0K");
  EXPECT_EQ(shortened(99'960), "100K");
  EXPECT_EQ(shortened(999'400), "999K");
  EXPECT_EQ(shortened(999'600), "1.00M");
  EXPECT_EQ(shortened(12'345'678'901), "12.3G");
  EXPECT_EQ(shortened(UINT64_MAX), "18.4E");
}

}  // namespace
}  // namespace sluice
