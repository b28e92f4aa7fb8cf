// The configuration file: what is right is read to the last field, what is wrong is named with line, column
// and a way out, and all of it in one run.
#include "controlplane/config.h"

#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "src/wire.h"
#include "tests/unit/config_texts.h"

namespace sluice {
namespace {

using Kind = Diagnostic::Kind;
using namespace config_texts;

// The example that the project was specified with, with its comments.
constexpr std::string_view kExample = R"([[service]]
name = "web"
vip = "203.0.113.10"
port = 80                     # 0: any port
protocol = "tcp"
forward = "ipip"              # l2dsr | ipip
health = { type = "http", path = "/", interval = "200ms", timeout = "100ms", rise = 2, fall = 2 }

  [[service.backend]]
  name = "b1"
  address = "10.0.1.11"       # IPv4 or IPv6; the tunnel follows
  weight = 100
)";

// ---- What is right ---------------------------------------------------------------------------------------

// Proves that the specified example loads without a warning, and that every value arrives where it belongs.
TEST(Config, ReadsTheExample) {
  const ConfigResult result = parse_config(kExample, "web.toml");
  ASSERT_TRUE(result.config) << all_texts(result.errors);
  EXPECT_TRUE(result.warnings.empty()) << all_texts(result.warnings);
  Config expected;
  ServiceConfig& web = expected.services.emplace_back();
  web.name = "web";
  web.vip = *IpAddress::parse("203.0.113.10");
  web.port = 80;
  web.protocol = wire::kProtoTcp;
  web.forward = Forward::ipip;
  web.health.type = HealthConfig::Type::http;
  web.health.interval = web.health.fast_interval = Milliseconds(200);
  web.health.timeout = Milliseconds(100);
  web.health.rise = 2;
  web.health.fall = 2;
  web.backends.push_back({"b1", *IpAddress::parse("10.0.1.11"), 100});
  EXPECT_EQ(*result.config, expected);
}

// Proves that every key there is has its effect, with values that differ from all defaults.
TEST(Config, ReadsEveryKey) {
  const ConfigResult right = parse_config(R"(
secret = "of this cluster"
[[service]]
name = "dns.v6_1-a"
vip = "2001:db8::10"
port = 0
protocol = "udp"
forward = "l2dsr"
table_size = 655373
initially = "up"
backend = [ { name = "a", address = "2001:db8::a", weight = 0 }, { name = "b", address = "10.0.0.2", weight = 10000 } ]
idle_timeout = { syn = "5s", established = "10d", closing = "1s", udp = "3m" }
[service.health]
type = "http"
port = 8080
path = "/live?a=b"
host = "dns.example"
status = "200-204"
interval = "1m"
fast_interval = "1500ms"
jitter = "10%"
timeout = "1s"
rise = 4
fall = 5
)",
                                          "all.toml");
  ASSERT_TRUE(right.config) << all_texts(right.errors);
  EXPECT_TRUE(right.warnings.empty()) << all_texts(right.warnings);
  Config expected;
  expected.secret = "of this cluster";
  ServiceConfig& dns = expected.services.emplace_back();
  dns.name = "dns.v6_1-a";
  dns.vip = *IpAddress::parse("2001:db8::10");
  dns.protocol = wire::kProtoUdp;
  dns.forward = Forward::l2dsr;
  dns.lookup_slots = limits::kLookupSlotsLarge;
  dns.initially_up = true;
  dns.idle_syn_s = 5;
  dns.idle_established_s = 864'000;
  dns.idle_closing_s = 1;
  dns.idle_udp_s = 180;
  dns.health.type = HealthConfig::Type::http;
  dns.health.port = 8080;
  dns.health.path = "/live?a=b";
  dns.health.host = "dns.example";
  dns.health.status = {{200, 204}};
  dns.health.interval = Milliseconds(60'000);
  dns.health.fast_interval = Milliseconds(1500);
  dns.health.jitter = Milliseconds(6'000);
  dns.health.timeout = Milliseconds(1000);
  dns.health.rise = 4;
  dns.health.fall = 5;
  dns.backends = {{"a", *IpAddress::parse("2001:db8::a"), 0}, {"b", *IpAddress::parse("10.0.0.2"), 10000}};
  EXPECT_EQ(*right.config, expected);
}

// Proves the documented defaults of a check: the timeout follows a short interval, one status is a range of
// one.
TEST(Config, HealthDefaults) {
  const ConfigResult result =
      parse_config(right_service("health = { type = \"http\", interval = \"50ms\", status = 204 }"), "f");
  ASSERT_TRUE(result.config) << all_texts(result.errors);
  const HealthConfig& health = result.config->services[0].health;
  EXPECT_EQ(health.timeout, Milliseconds(50));
  EXPECT_EQ(health.fast_interval, Milliseconds(50));
  EXPECT_EQ(health.status, (std::vector<StatusRange>{{204, 204}}));

  const ConfigResult without = parse_config(right_service(), "f");
  ASSERT_TRUE(without.config) << all_texts(without.errors);
  EXPECT_EQ(without.config->services[0].health, HealthConfig{});
  EXPECT_EQ(without.config->services[0].health.type, HealthConfig::Type::tcp);
}

// Proves that one VIP may serve several ports and protocols, and any-port beside a specific one.
TEST(Config, VipsMayOverlapByAnyPort) {
  const std::string unchecked = "health = { type = \"none\" }";
  const std::string text = right_service();
  const std::string any =
      with(service_with(unchecked, "tcp", "0") + backend("b1", "10.0.1.11"), "web", "any");
  const std::string udp =
      with(service_with(unchecked, "udp", "80") + backend("b1", "10.0.1.11"), "web", "udp");
  const ConfigResult result = parse_config(text + any + udp, "f");
  EXPECT_TRUE(result.config) << all_texts(result.errors);
}

// ---- What is wrong ---------------------------------------------------------------------------------------

// Proves that faults of TOML's syntax, duplicate keys among them, are told apart from faults of meaning.
TEST(ConfigSyntax, EndsAtTheFirstFault) {
  const struct {
    const char* text;
    uint32_t line, column;
  } cases[] = {
      {"[[service]]\nname = \"a\"\nname = \"b\"\n", 3, 8},
      {"[[service]]\nname = \n", 2, 8},
      {"[[service]]\nname = \"a\n", 2, 10},
      {"[[service]\n", 1, 11},
      {"a = \"\xff\"\n", 1, 5},
  };
  for (const auto& c : cases) {
    const ConfigResult result = parse_config(c.text, "f");
    EXPECT_FALSE(result.config);
    ASSERT_EQ(result.errors.size(), 1u) << c.text;
    EXPECT_EQ(result.errors[0].kind, Kind::syntax);
    EXPECT_EQ(result.errors[0].line, c.line) << result.errors[0].text();
    EXPECT_EQ(result.errors[0].column, c.column) << result.errors[0].text();
    EXPECT_FALSE(result.errors[0].message.empty());
    // What is shown can be shown anywhere, whatever bytes the file holds.
    for (const char shown : result.errors[0].source_line)
      EXPECT_GE(shown, ' ');
  }
}

// Proves that a right file cut off at any byte is either right (cut behind whole values), or refused with a
// place inside it; and never read as something else without a word.
TEST(ConfigSyntax, CutOffAnywhere) {
  for (size_t length = 0; length < kExample.size(); length++) {
    const ConfigResult result = parse_config(kExample.substr(0, length), "f");
    EXPECT_NE(result.config.has_value(), !result.errors.empty()) << length;
    for (const Diagnostic& error : result.errors)
      EXPECT_LE(error.line, 13u) << error.text();
  }
}

// Proves the format that operators and editors read, and that the caret stands under the fault behind tabs
// and behind characters of several bytes.
TEST(ConfigText, PointsAtTheFault) {
  const ConfigResult result =
      parse_config(service_with("") + backend("b1", "10.0.1.11", "\twieght = 1\n"), "a.toml");
  ASSERT_EQ(result.errors.size(), 1u);
  EXPECT_EQ(
      result.errors[0].text(),
      "a.toml:11:2: unknown key 'wieght' in backend 'b1' (did you mean 'weight'?)\n  \twieght = 1\n  \t^");

  const ConfigResult wide = parse_config("\"\u00fc\u00fc\" = 1 # \u00fc\n", "a.toml");
  ASSERT_EQ(wide.errors.size(), 2u);
  EXPECT_EQ(wide.errors[0].source_line, "\"\u00fc\u00fc\" = 1 # \u00fc");

  const Diagnostic behind_wide{Kind::semantic, "f", 1, 4, "x", "", "\u00fc\u00fc 9"};
  EXPECT_EQ(behind_wide.text(), "f:1:4: x\n  \u00fc\u00fc 9\n     ^");
}

// Proves that what is allowed but probably not meant is said, and does not stop anything.
TEST(ConfigWarnings, AreNotErrors) {
  std::string many = service_with("health = { type = \"tcp\", path = \"/\" }");
  for (int i = 0; i < 656; i++) {
    many += backend("b" + std::to_string(i),
                    "10.0." + std::to_string(i / 250) + "." + std::to_string(i % 250 + 1), "weight = 0\n");
  }
  const ConfigResult result = parse_config(many, "f");
  ASSERT_TRUE(result.config) << all_texts(result.errors);
  ASSERT_EQ(result.warnings.size(), 3u) << all_texts(result.warnings);
  EXPECT_NE(result.warnings[0].message.find("656 backends for a table of 65537 slots"), std::string::npos);
  EXPECT_EQ(result.warnings[0].suggestion, "table_size = 655373");
  EXPECT_EQ(result.warnings[1].message, "no backend of service 'web' has weight: it takes no new flows");
  EXPECT_EQ(result.warnings[2].message, "'path' has no effect unless type = \"http\" or \"https\"");
  EXPECT_EQ(result.warnings[2].line, 7u);

  // A udp service without `health` is not checked, and says so.
  const ConfigResult udp = parse_config(service_with("", "udp") + backend("b1", "10.0.1.11"), "f");
  ASSERT_TRUE(udp.config) << all_texts(udp.errors);
  EXPECT_EQ(udp.config->services[0].health.type, HealthConfig::Type::none);
  ASSERT_EQ(udp.warnings.size(), 1u);
  EXPECT_EQ(udp.warnings[0].message, "the backends of service 'web' are not checked");
  EXPECT_EQ(udp.warnings[0].line, 5u);
}

// Proves that files are read from disk whole, and that one that cannot be read is a fault of its own kind.
TEST(ConfigFile, ReadsOrSaysWhyNot) {
  char name[] = "/tmp/sluice-config-XXXXXX";
  ASSERT_NE(mkdtemp(name), nullptr);
  const std::string directory = name;
  const std::string path = directory + "/web.toml";

  const ConfigResult missing = load_config(path);
  ASSERT_EQ(missing.errors.size(), 1u);
  EXPECT_EQ(missing.errors[0].kind, Kind::file);
  EXPECT_EQ(missing.errors[0].text(), path + ": cannot read the configuration: No such file or directory");
  const ConfigResult not_a_file = load_config(directory);
  ASSERT_EQ(not_a_file.errors.size(), 1u);
  EXPECT_EQ(not_a_file.errors[0].kind, Kind::file);

  // Bigger than any read buffer.
  std::ofstream(path) << std::string(300'000, '#') << "\n" << kExample;
  const ConfigResult read = load_config(path);
  EXPECT_TRUE(read.config) << all_texts(read.errors);

  unlink(path.c_str());
  rmdir(directory.c_str());
}

}  // namespace
}  // namespace sluice
