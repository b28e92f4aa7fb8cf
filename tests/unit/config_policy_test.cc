// The keys that say what becomes of a service when backends fail, and what ties packets to a backend: values,
// defaults, faults with their place.
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

TEST(ConfigPolicy, EveryMethodHasItsName) {
  EXPECT_EQ(service_of(with_backends("")).method, Method::maglev);
  for (const auto& [name, method] : kMethods) {
    EXPECT_EQ(service_of(with_backends("method = \"" + std::string(name) + "\"")).method, method);
    const bool stateless =
        parse_config(with_backends("affinity = \"none\"\nmethod = \"" + std::string(name) + "\""), "f.toml")
            .config.has_value();
    EXPECT_EQ(stateless, !needs_flow_table(method)) << name;
  }
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
       "f.toml:7:14: 'on_failure' is \"restart\"; it must be \"rehash\", \"keep\", "
       "\"reset\" or \"return\""},
      {"affinity = \"cookie\"",
       "f.toml:7:12: 'affinity' is \"cookie\"; it must be \"none\", \"connection\", "
       "\"client\", \"prefix\" or \"key\""},
      {"affinity = \"none\"\non_failure = \"keep\"",
       "f.toml:8:14: without affinity there are no flows to keep or to reset: 'on_failure' is \"rehash\""},
      {"on_failure = \"return\"",
       "f.toml:7:14: only sessions come back: 'on_failure' is \"return\" without them"},
      {"affinity = \"key\"\nkey = { offset = 0, bytes = 8 }",
       "f.toml:7:12: affinity \"key\" is for UDP: the first packet of a TCP connection carries no bytes"},
      {"affinity = \"client\"\ngroup = \"a b\"",
       "f.toml:8:9: 'group' is \"a b\"; it must be 1 to 63 letters"},
      {"affinity = \"client\"\nmax_lifetime = \"30d\"", "it must be from 1s to 20d"},
      {"affinity = \"client\"\nmax_lifetime = \"1500ms\"", "it must be whole seconds"},
      {"affinity = \"client\"\nidle_timeout = { session = \"5m\" }",
       "f.toml:8:16: sessions end after 300 s, but a connection may rest for 900 s"},
      {"affinity = \"prefix\"\nprefix = { v4 = 33 }", "'v4' is 33; it must be from 1 to 32"},
      {"affinity = \"prefix\"\nprefix = { v5 = 33 }", "unknown key 'v5' in prefix of service 'web'"},
      {"method = \"rendevous\"",
       "f.toml:7:10: 'method' is \"rendevous\"; it must be \"maglev\", \"ring\", \"rendezvous\", "
       "\"minimal\","},
      {"method = \"rendevous\"", "(did you mean \"rendezvous\"?)"},
      {"affinity = \"none\"\nmethod = \"round-robin\"",
       "f.toml:8:10: method 'round-robin' gives each packet another backend where there is no affinity"},
      {"affinity = \"client\"\nmethod = \"random\"",
       "f.toml:8:10: method 'random' is no hash: every balancer would begin a session elsewhere"},
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

// Sessions: every key; and what only a UDP service can say.
TEST(ConfigSession, ReadsEveryKey) {
  const ServiceConfig web = service_of(
      with_backends("affinity = \"prefix\"\nprefix = { v4 = 20, v6 = 48 }\ngroup = \"shop\"\n"
                    "max_lifetime = \"24h\"\nidle_timeout = { session = \"2h\" }\non_failure = \"return\""));
  EXPECT_EQ(web.affinity, Affinity::prefix);
  EXPECT_EQ(web.session, (SessionConfig{7'200, 86'400, "shop", 20, 48, 0, 0}));
  EXPECT_EQ(web.policy.on_failure, OnFailure::comes_back);
  // Never shorter than a connection may rest.
  EXPECT_EQ(service_of(with_backends("affinity = \"client\"")).session.idle_s, 3'600u);
  EXPECT_EQ(service_of(with_backends("affinity = \"client\"\nidle_timeout = { established = \"3d\" }"))
                .session.idle_s,
            3 * 86'400u);
}

std::string keyed(const std::string& lines) {
  std::string text = with_backends(lines);
  text.replace(text.find("\"tcp\""), 5, "\"udp\"");
  return text;
}

TEST(ConfigSession, Keys) {
  const ServiceConfig game = service_of(keyed("affinity = \"key\"\nkey = { offset = 4, bytes = 16 }"));
  EXPECT_EQ(game.session.key_offset, 4);
  EXPECT_EQ(game.session.key_bytes, 16);
  const std::pair<const char*, const char*> faults[] = {
      {"affinity = \"key\"", "f.toml:7:12: affinity \"key\" needs to know where the key is"},
      {"affinity = \"key\"\nkey = { offset = 1225, bytes = 8 }",
       "f.toml:8:18: a key of 8 bytes at 1225 is past the end of a packet"},
      {"affinity = \"key\"\nkey = { offset = 2000, bytes = 8 }",
       "'offset' is 2000; it must be from 0 to 1231"},
      {"affinity = \"key\"\nkey = { offset = 0, bytes = 17 }", "'bytes' is 17; it must be from 1 to 16"},
      {"affinity = \"key\"\nkey = { bytes = 8 }", "key of service 'web' needs a key 'offset'"},
  };
  for (const auto& fault : faults) {
    const ConfigResult result = parse_config(keyed(fault.first), "f.toml");
    ASSERT_EQ(result.errors.size(), 1u) << fault.first << "\n" << all_texts(result.errors);
    EXPECT_NE(result.errors[0].text().find(fault.second), std::string::npos) << result.errors[0].text();
  }
}

// What does nothing where it stands is a warning, and so are backends that a group does not share.
TEST(ConfigSession, Warnings) {
  const ConfigResult useless = parse_config(
      with_backends(
          "group = \"shop\"\nmax_lifetime = \"1h\"\nprefix = { v4 = 8 }\nidle_timeout = { session = "
          "\"1h\" }"),
      "f.toml");
  ASSERT_TRUE(useless.config) << all_texts(useless.errors);
  EXPECT_EQ(useless.warnings.size(), 4u) << all_texts(useless.warnings);
}

TEST(ConfigSession, AGroupAgrees) {
  const std::string one = with_backends("affinity = \"client\"\ngroup = \"shop\"");
  const auto both = [&](const std::string& lines) {
    std::string other = with_backends("group = \"shop\"\n" + lines);
    other.replace(other.find("\"web\""), 5, "\"tls\"");
    other.replace(other.find("port = 80"), 9, "port = 443");
    return parse_config(one + other, "f.toml");
  };
  const ConfigResult same = both("affinity = \"client\"");
  EXPECT_TRUE(same.config) << all_texts(same.errors);
  EXPECT_TRUE(same.warnings.empty()) << all_texts(same.warnings);
  const ConfigResult named = both("affinity = \"prefix\"");
  ASSERT_EQ(named.errors.size(), 1u) << all_texts(named.errors);
  EXPECT_NE(named.errors[0].text().find("'tls' and 'web' of group 'shop' name their sessions differently"),
            std::string::npos)
      << named.errors[0].text();
  const ConfigResult timed = both("affinity = \"client\"\nmax_lifetime = \"1h\"");
  ASSERT_EQ(timed.errors.size(), 1u) << all_texts(timed.errors);
  EXPECT_NE(timed.errors[0].text().find("treat their sessions differently"), std::string::npos);
}

// Limits: a service's are its backends' own unless they say others.
TEST(ConfigCaps, ReadsThem) {
  const ServiceConfig web = service_of(
      with_backends("affinity = \"client\"\nmax_flows = 1000\nmax_sessions = 50\nscale_up_at = \"80%\"\n"
                    "scale_down_at = \"30%\"\nsorry = { name = \"s\", address = \"10.0.9.9\" }") +
      "max_flows = 7\n");
  ASSERT_EQ(web.backends.size(), 5u);
  EXPECT_EQ(web.backends[0].max_flows, 1'000u);
  EXPECT_EQ(web.backends[0].max_sessions, 50u);
  EXPECT_EQ(web.backends[3].max_flows, 7u);
  EXPECT_EQ(web.backends[3].max_sessions, 50u);
  EXPECT_EQ(web.backends[4].max_flows, 0u);
  EXPECT_EQ(web.scale_up_percent, 80u);
  EXPECT_EQ(web.scale_down_percent, 30u);
}

TEST(ConfigCaps, Faults) {
  const std::pair<const char*, const char*> faults[] = {
      {"max_flows = 0", "'max_flows' is 0; it must be from 1"},
      {"scale_up_at = \"80%\"", "f.toml:7:15: 'scale_up_at' is a share of what the backends may have"},
      {"max_sessions = 10\nscale_up_at = \"80%\"", "f.toml:8:15: 'scale_up_at' is a share of what the"},
      {"max_flows = 10\nscale_up_at = \"80\"", "it must be from \"1%\" to \"100%\""},
      {"max_flows = 10\nscale_up_at = \"101%\"", "it must be from \"1%\" to \"100%\""},
      {"max_flows = 10\nscale_up_at = \"30%\"\nscale_down_at = \"30%\"",
       "'scale_down_at' is not below 'scale_up_at'"},
      {"max_flows = 10\naffinity = \"none\"", "f.toml:8:12: without affinity there are no flows to limit"},
  };
  for (const auto& fault : faults) {
    const ConfigResult result = parse_config(with_backends(fault.first), "f.toml");
    ASSERT_EQ(result.errors.size(), 1u) << fault.first << "\n" << all_texts(result.errors);
    EXPECT_NE(result.errors[0].text().find(fault.second), std::string::npos) << result.errors[0].text();
  }
  // Each is told where it stands, the service's and its backends' own.
  const ConfigResult useless =
      parse_config(with_backends("max_sessions = 5", 2) + "  max_sessions = 6\n", "f.toml");
  ASSERT_TRUE(useless.config);
  ASSERT_EQ(useless.warnings.size(), 2u);
  const std::string no_effect = ": 'max_sessions' has no effect without affinity = ";
  EXPECT_TRUE(useless.warnings[0].text().starts_with("f.toml:7:16" + no_effect))
      << all_texts(useless.warnings);
  EXPECT_TRUE(useless.warnings[1].text().starts_with("f.toml:14:18" + no_effect))
      << all_texts(useless.warnings);
}

}  // namespace
}  // namespace sluice
