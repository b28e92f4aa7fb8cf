// The list of reasons is one list: names fit where counters, the CLI and metrics use them, and every reason
// has a kind.
#include "src/reason.h"

#include <cctype>
#include <set>
#include <string_view>

#include <gtest/gtest.h>

namespace sluice {
namespace {

TEST(ReasonTest, NamesAreUniqueAndFitAMetricLabel) {
  std::set<std::string_view> names;
  for (const ReasonInfo& reason : kReasons) {
    EXPECT_TRUE(names.insert(reason.name).second) << reason.name;
    for (const char c : reason.name) {
      const auto letter = static_cast<unsigned char>(c);
      EXPECT_TRUE(std::islower(letter) || std::isdigit(letter) || c == '_') << reason.name;
    }
  }
  EXPECT_EQ(names.size(), kReasonCount);
}

TEST(ReasonTest, EveryReasonHasAText) {
  std::set<std::string_view> texts;
  for (const ReasonInfo& reason : kReasons) {
    EXPECT_FALSE(reason.text.empty()) << reason.name;
    EXPECT_TRUE(texts.insert(reason.text).second) << reason.name << " says the same as another";
  }
}

TEST(ReasonTest, InfoIsOfTheReasonItself) {
  EXPECT_EQ(info(Reason::not_ip).name, "not_ip");
  EXPECT_EQ(info(Reason::fragment).name, "fragment");
  EXPECT_EQ(info(Reason::tx_full).name, "tx_full");
  EXPECT_EQ(static_cast<size_t>(Reason::tx_full) + 1, kReasonCount);
}

TEST(ReasonTest, WhatIsNotForUsIsPassedAndTheRestDropped) {
  const std::set<std::string_view> passed = {"not_ip", "vlan_tagged", "no_service", "not_tcp_udp"};
  for (size_t i = 0; i < kReasonCount; i++) {
    const auto reason = static_cast<Reason>(i);
    EXPECT_EQ(is_pass(reason), passed.contains(info(reason).name)) << info(reason).name;
  }
}

}  // namespace
}  // namespace sluice
