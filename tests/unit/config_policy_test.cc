// The keys that say what becomes of a service when backends fail: values, defaults, faults with their place.
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "controlplane/config.h"
#include "tests/unit/config_texts.h"

namespace sluice {
namespace {

using namespace config_texts;
using std::chrono::seconds;

std::string with_backends(const std::string& line7, int backends = 4) {
  std::string text = service_with(line7);
  for (int i = 1; i <= backends; i++)
    text += backend("b" + std::to_string(i), "10.0.1." + std::to_string(i));
  return text;
}

ServiceConfig service_of(const std::string& text) {
  const ConfigResult result = parse_config(text, "f.toml");
  EXPECT_TRUE(result.config) << all_texts(result.errors);
  return result.config ? result.config->services[0] : ServiceConfig{};
}

TEST(ConfigPolicy, ReadsEveryKey) {
  const ServiceConfig web = service_of(
      with_backends(
          "min_healthy = \"30%\"\nquorum = { weight = 300, hysteresis = 50 }\non_failure = \"reset\"\n"
          "flap = { count = 5, within = \"2m\", hold = \"20s\", hold_max = \"1h\" }\n"
          "slow_start = \"45s\"\nenabled = false\n"
          "sorry = { name = \"sorry\", address = \"10.0.9.9\", admin = \"drain\" }") +
      "admin = \"maint\"\n");
  PolicyConfig expected;
  expected.min_healthy = {30, true};
  expected.quorum = {{300, false}, true, true, 50};
  expected.on_failure = OnFailure::reset;
  expected.flap = {5, seconds(120), seconds(20), seconds(3600)};
  expected.slow_start = seconds(45);
  EXPECT_EQ(web.policy, expected);
  EXPECT_FALSE(web.enabled);
  ASSERT_EQ(web.backends.size(), 5u);
  EXPECT_EQ(web.backends[3].admin, Admin::maint);
  EXPECT_EQ(web.backends[0].admin, Admin::ready);
  const BackendConfig sorry{"sorry", *IpAddress::parse("10.0.9.9"), 100, Admin::drain, true};
  EXPECT_EQ(web.backends[4], sorry);
}

TEST(ConfigPolicy, WithoutThemNothingChanges) {
  const ServiceConfig web = service_of(with_backends(""));
  EXPECT_EQ(web.policy, PolicyConfig{});
  EXPECT_FALSE(web.policy.min_healthy.is_set());
  EXPECT_TRUE(web.enabled);
}

TEST(ConfigPolicy, ShortFormsHaveDefaults) {
  const PolicyConfig policy = service_of(with_backends("min_healthy = 2\nquorum = 3\nflap = {}")).policy;
  EXPECT_EQ(policy.min_healthy, (Amount{2, false}));
  EXPECT_EQ(policy.quorum, (QuorumConfig{{3, false}, true, false, 0}));
  EXPECT_EQ(policy.flap, (FlapConfig{3, seconds(60), seconds(10), seconds(300)}));
  EXPECT_EQ(service_of(with_backends("quorum = \"50%\"")).policy.quorum.needed, (Amount{50, true}));
  const FlapConfig long_hold = service_of(with_backends("flap = { hold = \"1h\" }")).policy.flap;
  EXPECT_EQ(long_hold.hold_max, seconds(3600)) << "never below the first hold";
}

TEST(ConfigPolicy, ASharesOfIsRoundedUp) {
  EXPECT_EQ((Amount{30, true}.of(10)), 3u);
  EXPECT_EQ((Amount{30, true}.of(11)), 4u);
  EXPECT_EQ((Amount{1, true}.of(1)), 1u);
  EXPECT_EQ((Amount{100, true}.of(7)), 7u);
  EXPECT_EQ((Amount{3, false}.of(2)), 3u);
}

struct Case {
  const char* line7;
  const char* place_and_message;
};

TEST(ConfigPolicy, FaultsAreNamedWithTheirPlace) {
  const Case cases[] = {
      {"min_healthy = 5", "f.toml:7:15: min_healthy is 5, but service 'web' has 4 backends"},
      {"min_healthy = 0",
       "f.toml:7:15: 'min_healthy' is 0; it must be from 1 to 16384, or from \"1%\" to \"100%\""},
      {"min_healthy = \"120%\"", "f.toml:7:15: 'min_healthy' is \"120%\"; it must be"},
      {"min_healthy = \"%\"", "f.toml:7:15: 'min_healthy' is \"%\"; it must be"},
      {"min_healthy = \"3\"", "f.toml:7:15: 'min_healthy' is \"3\"; it must be"},
      {"min_healthy = true", "f.toml:7:15: 'min_healthy' is a boolean; it must be"},
      {"quorum = 5", "f.toml:7:10: this quorum is had again from 5 backends on, but service 'web' has 4"},
      {"quorum = { backends = 4, hysteresis = 1 }", "had again from 5 backends on, but service 'web' has 4"},
      {"quorum = { backends = 2, hysteresis = 2 }",
       "f.toml:7:10: this quorum is never lost: its hysteresis of 2 is not below 2"},
      {"quorum = { weight = 401 }", "had again from 401 of weight on, but service 'web' has 400"},
      {"quorum = { hysteresis = 1 }",
       "f.toml:7:10: quorum of service 'web' needs one of 'backends' and 'weight'"},
      {"quorum = { backends = 2, weight = 100 }", "needs one of 'backends' and 'weight'"},
      {"quorum = { backends = 2, hysteresys = 1 }", "unknown key 'hysteresys' in quorum of service 'web'"},
      {"on_failure = \"restart\"",
       "f.toml:7:14: 'on_failure' is \"restart\"; it must be \"rehash\", \"keep\" or \"reset\""},
      {"affinity = \"cookie\"", "f.toml:7:12: 'affinity' is \"cookie\"; it must be \"none\" or \"connection\""},
      {"affinity = \"none\"\non_failure = \"keep\"",
       "f.toml:8:14: without affinity there are no flows to keep or to reset: 'on_failure' is \"rehash\""},
      {"flap = { count = 1 }", "'count' is 1; it must be from 2 to 20"},
      {"flap = { hold = \"10m\", hold_max = \"1m\" }",
       "'hold_max' is \"1m\"; it must be at least 'hold', 600000ms"},
      {"slow_start = \"10ms\"", "f.toml:7:14: 'slow_start' is \"10ms\"; it must be from 1s to 1d"},
      {"enabled = \"no\"", "f.toml:7:11: 'enabled' must be true or false, not a string"},
      {"sorry = { name = \"b2\", address = \"10.0.9.9\" }", "backend name 'b2' is used twice"},
      {"sorry = { name = \"s\", address = \"10.0.1.2\" }", "address 10.0.1.2 is used twice in service 'web'"},
      {"sorry = { name = \"s\", address = \"203.0.113.10\" }",
       "it must be the backend's own address, not the VIP"},
      {"sorry = { name = \"s\", address = \"10.0.9.9\", weight = 3 }",
       "unknown key 'weight' in sorry of service 'web'"},
  };
  for (const Case& one : cases) {
    const ConfigResult result = parse_config(with_backends(one.line7), "f.toml");
    EXPECT_FALSE(result.config) << one.line7;
    ASSERT_EQ(result.errors.size(), 1u) << one.line7 << "\n" << all_texts(result.errors);
    EXPECT_NE(result.errors[0].text().find(one.place_and_message), std::string::npos)
        << result.errors[0].text() << "\nexpected: " << one.place_and_message;
  }
}

TEST(ConfigPolicy, WhatNeedsChecksIsAWarningWithoutThem) {
  const ConfigResult result =
      parse_config(with_backends("health = { type = \"none\" }\nmin_healthy = 2\nflap = {}"), "f.toml");
  ASSERT_TRUE(result.config);
  ASSERT_EQ(result.warnings.size(), 2u) << all_texts(result.warnings);
  EXPECT_EQ(result.warnings[0].message, "'min_healthy' has no effect without health checks");
  EXPECT_EQ(result.warnings[1].message, "'flap' has no effect without health checks");
}

}  // namespace
}  // namespace sluice
