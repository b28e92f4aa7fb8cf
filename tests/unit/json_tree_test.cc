// A configuration as JSON: the same values as TOML, the same diagnostics, in the right place.
#include <string>
#include <tuple>
#include <vector>

#include <gtest/gtest.h>

#include "controlplane/config.h"
#include "tests/unit/config_texts.h"

namespace sluice {
namespace {

using config_texts::all_texts;

const std::string kJson = R"({
  "secret": "x",
  "service": [
    { "name": "web", "vip": "203.0.113.10", "port": 80, "protocol": "tcp",
      "forward": "ipip",
      "backend": [ {"name": "b1", "address": "10.0.1.11", "weight": 7},
                   {"name": "b2", "address": "2001:db8::2"} ] }
  ]
})";

// Proves that both notations of one configuration are one configuration, as written too.
TEST(JsonTree, SaysWhatTomlSays) {
  const ConfigResult json = parse_config(kJson, "a.json");
  const ConfigResult toml = parse_config(
      "secret = \"x\"\n[[service]]\nname = \"web\"\nvip = \"203.0.113.10\"\nport = 80\nprotocol = \"tcp\"\n"
      "forward = \"ipip\"\n[[service.backend]]\nname = \"b1\"\naddress = \"10.0.1.11\"\nweight = 7\n"
      "[[service.backend]]\nname = \"b2\"\naddress = \"2001:db8::2\"\n",
      "a.toml");
  ASSERT_TRUE(json.config) << all_texts(json.errors);
  ASSERT_TRUE(toml.config) << all_texts(toml.errors);
  EXPECT_EQ(*json.config, *toml.config);
  for (const auto& [object, keys] : toml.written) {
    for (const auto& [key, value] : keys)
      EXPECT_EQ(json.written.at(object).at(key).substr(1, 3), value.substr(1, 3)) << key;
  }
}

struct FaultCase {
  std::string from, to;
  uint32_t line, column;
  std::string message;
};

// Proves, for each kind of fault, its place and words.
TEST(JsonTree, NamesFaultsInTheirPlace) {
  const std::vector<FaultCase> cases = {
      {"\"tcp\"", "\"tpc\"", 4, 69, "'protocol' is \"tpc\"; it must be \"tcp\" or \"udp\""},
      {"\"weight\": 7", "\"weight\": 70000000", 6, 69, "'weight' is 70000000; it must be from 0 to 10000"},
      {"\"weight\": 7", "\"weight\": 1.5", 6, 69, "'weight' must be an integer, not a floating-point number"},
      {"\"weight\": 7", "\"weight\": true", 6, 69, "'weight' must be an integer, not a boolean"},
      {"\"10.0.1.11\"", "\"10.0.1\"", 6, 46,
       "'address' is \"10.0.1\"; it must be an IPv4 or IPv6 address, without port or prefix length"},
      {"\"weight\": 7", "\"weight\": null", 6, 72, "null is no value here: leave the key out"},
      {"\"weight\": 7", "\"name\": 7", 6, 64, "the key 'name' stands here twice"},
      {"\"weight\": 7", "\"weight\": ", 6, 69, "not JSON: "},
  };
  for (const FaultCase& c : cases) {
    const ConfigResult result = parse_config(config_texts::with(kJson, c.from, c.to), "a.json");
    EXPECT_FALSE(result.config);
    ASSERT_FALSE(result.errors.empty()) << c.to;
    const Diagnostic& error = result.errors.front();
    EXPECT_EQ(std::tuple(error.line, error.column), std::tuple(c.line, c.column)) << c.to << "\n"
                                                                                  << error.text();
    EXPECT_TRUE(error.message.starts_with(c.message)) << error.message;
  }
}

// Proves that no text breaks the reader: cut off anywhere, nested deeply, of another shape.
TEST(JsonTree, RefusesWhatIsNoConfiguration) {
  for (size_t length = 0; length < kJson.size(); length++) {
    const ConfigResult result = parse_config(kJson.substr(0, length), "a.json");
    EXPECT_FALSE(result.config) << length;
    EXPECT_FALSE(result.errors.empty()) << length;
  }
  for (const std::string& text :
       {std::string("[1]"), std::string("3"), std::string("\"x\""), std::string("{} {}"),
        std::string(100'000, '['), std::string("{\"a\":\xff}")}) {
    const ConfigResult result = parse_config(text, "a.json");
    EXPECT_FALSE(result.config);
    EXPECT_FALSE(result.errors.empty());
  }
}

// Proves that files are one configuration: services of all of them, settings of the first, and that what is
// used twice names both places.
TEST(ConfigFiles, AreOneConfiguration) {
  const std::string second =
      "[[service]]\nname = \"web2\"\nvip = \"203.0.113.11\"\nport = 80\nprotocol = \"tcp\"\nforward = "
      "\"ipip\"\n"
      "[[service.backend]]\nname = \"b1\"\naddress = \"10.0.1.11\"\n";
  const std::vector<ConfigSource> good = {{"a.json", kJson}, {"conf.d/b.toml", second}};
  const ConfigResult result = parse_config(good);
  ASSERT_TRUE(result.config) << all_texts(result.errors);
  EXPECT_EQ(result.config->services.size(), 2u);

  const std::vector<ConfigSource> twice = {
      {"a.json", kJson}, {"conf.d/b.toml", second}, {"conf.d/c.toml", second}};
  const ConfigResult faulty = parse_config(twice);
  ASSERT_EQ(faulty.errors.size(), 2u) << all_texts(faulty.errors);
  EXPECT_EQ(faulty.errors[0].message,
            "service name 'web2' is used twice; the first is in line 2 of conf.d/b.toml");
  const std::vector<ConfigSource> setting = {{"a.json", kJson},
                                             {"conf.d/b.toml", "secret = \"y\"\n" + second}};
  ASSERT_EQ(parse_config(setting).errors.size(), 1u);
  EXPECT_EQ(parse_config(setting).errors[0].message, "unknown key 'secret' in a file in conf.d");
}

}  // namespace
}  // namespace sluice
