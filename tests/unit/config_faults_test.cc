// What is wrong in a configuration is named exactly: line, column, words and suggestion, all faults in one
// run.
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "controlplane/config.h"
#include "tests/unit/config_texts.h"

namespace sluice {
namespace {

using namespace config_texts;

struct Fault {
  uint32_t line;
  uint32_t column;
  std::string message;
  std::string suggestion = "";
};

struct FaultCase {
  const char* name;
  std::string text;
  std::vector<Fault> faults;
};

class ConfigFaults : public testing::TestWithParam<FaultCase> {};

// Proves, for each way to get a file wrong, that exactly the expected diagnostics come out: place, words,
// suggestion.
TEST_P(ConfigFaults, AreNamedExactly) {
  const ConfigResult result = parse_config(GetParam().text, "f.toml");
  EXPECT_FALSE(result.config);
  ASSERT_EQ(result.errors.size(), GetParam().faults.size()) << all_texts(result.errors);
  for (size_t i = 0; i < result.errors.size(); i++) {
    const Diagnostic& error = result.errors[i];
    const Fault& expected = GetParam().faults[i];
    EXPECT_EQ(error.kind, Diagnostic::Kind::semantic);
    EXPECT_EQ(error.file, "f.toml");
    EXPECT_EQ(error.line, expected.line) << error.text();
    EXPECT_EQ(error.column, expected.column) << error.text();
    EXPECT_EQ(error.message, expected.message);
    EXPECT_EQ(error.suggestion, expected.suggestion);
  }
}

const FaultCase kFaultCases[] = {
    {"unknown_top",
     "secert = \"x\"\n" + right_service(),
     {{1, 1, "unknown key 'secert' in the file", "did you mean 'secret'?"}}},
    {"unknown_in_service",
     right_service("tabel_size = 65537"),
     {{7, 1, "unknown key 'tabel_size' in service 'web'", "did you mean 'table_size'?"}}},
    {"unknown_in_backend",
     service_with("") + backend("b1", "10.0.1.11", "  wieght = 1\n"),
     {{11, 3, "unknown key 'wieght' in backend 'b1'", "did you mean 'weight'?"}}},
    {"unknown_in_health",
     right_service("health = { type = \"tcp\", intervall = \"1s\" }"),
     {{7, 26, "unknown key 'intervall' in health of service 'web'", "did you mean 'interval'?"}}},
    {"unknown_in_idle_timeout",
     right_service("idle_timeout = { sny = \"1s\" }"),
     {{7, 18, "unknown key 'sny' in idle_timeout of service 'web'", "did you mean 'syn'?"}}},
    {"unknown_like_nothing",
     right_service("colour = \"red\""),
     {{7, 1, "unknown key 'colour' in service 'web'"}}},
    {"unknown_abbreviation",
     right_service("idle = { udp = \"1s\" }"),
     {{7, 1, "unknown key 'idle' in service 'web'", "did you mean 'idle_timeout'?"}}},
    {"key_of_the_service_in_a_backend",
     right_service() + "initially = \"up\"\n",
     {{11, 1, "unknown key 'initially' in backend 'b1'",
       "it belongs to service 'web': write it there, before any table of its own"}}},
    {"unknown_service_table",
     right_service() + "[[services]]\n",
     {{11, 3, "unknown key 'services' in the file", "did you mean 'service'?"}}},

    {"string_for_integer",
     service_with("", "tcp", "\"80\"") + backend("b1", "10.0.1.11"),
     {{4, 8, "'port' must be an integer, not a string", "write it without quotes"}}},
    {"float_for_integer",
     service_with("") + backend("b1", "10.0.1.11", "weight = 1.5\n"),
     {{11, 10, "'weight' must be an integer, not a floating-point number"}}},
    {"integer_for_string",
     right_service("initially = 1"),
     {{7, 13, "'initially' must be a string, not an integer"}}},
    {"integer_for_duration",
     right_service("health = { type = \"tcp\", interval = 200 }"),
     {{7, 37, "'interval' must be a duration like \"200ms\", \"2s\" or \"15m\", not an integer",
       "write a string with a unit"}}},
    {"string_for_table",
     right_service("health = \"none\""),
     {{7, 10, "'health' must be a table like { ... }, not a string"}}},
    {"table_for_service",
     "[service]\nname = \"web\"\n",
     {{1, 1, "'service' must be an array of tables, not a table", "write each as [[service]]"}}},
    {"integer_among_backends",
     service_with("backend = [ { name = \"a\", address = \"10.0.0.1\" }, 7 ]"),
     {{7, 51, "'backend' must be an array of tables, not an integer", "write each as [[service.backend]]"}}},

    {"missing_keys",
     "[[service]]\n  [[service.backend]]\n",
     {{1, 1, "this service needs a key 'name'"},
      {1, 1, "this service needs a key 'vip'"},
      {1, 1, "this service needs a key 'port'"},
      {1, 1, "this service needs a key 'protocol'"},
      {1, 1, "this service needs a key 'forward'"},
      {2, 3, "this backend needs a key 'name'"},
      {2, 3, "this backend needs a key 'address'"}}},
    {"missing_type_of_health",
     right_service("health = { rise = 2 }"),
     {{7, 10, "health of service 'web' needs a key 'type'"}}},
    {"no_backend",
     service_with(""),
     {{1, 1, "service 'web' has no backend", "add [[service.backend]] behind it"}}},
    {"empty_backend_array",
     service_with("backend = []"),
     {{1, 1, "service 'web' has no backend", "add [[service.backend]] behind it"}}},
    {"empty_file", "# nothing\n", {{1, 1, "the file has no service", "add a [[service]]"}}},

    {"service_name_twice",
     right_service() +
         "[[service]]\nname = \"web\"\nvip = \"203.0.113.11\"\nport = 80\nprotocol = \"tcp\"\nforward = "
         "\"ipip\"\n" +
         backend("b1", "10.0.1.11"),
     {{12, 8, "service name 'web' is used twice; the first is in line 2"}}},
    {"vip_twice",
     right_service() +
         "[[service]]\nname = \"web2\"\nvip = \"203.0.113.10\"\nport = 80\nprotocol = \"tcp\"\nforward = "
         "\"l2dsr\"\n" +
         backend("b1", "10.0.1.11"),
     {{13, 7, "203.0.113.10 tcp port 80 is used twice; the first is in line 3"}}},
    {"backend_name_twice",
     right_service() + backend("b1", "10.0.1.12"),
     {{12, 8, "backend name 'b1' is used twice; the first is in line 9"}}},
    {"backend_address_twice",
     right_service() + backend("b2", "10.0.1.11"),
     {{13, 11, "address 10.0.1.11 is used twice in service 'web'; the first is in line 10"}}},
    {"backend_address_twice_mapped",
     right_service() + backend("b2", "::ffff:10.0.1.11"),
     {{13, 11, "address 10.0.1.11 is used twice in service 'web'; the first is in line 10"}}},

    {"weight_too_large",
     service_with("") + backend("b1", "10.0.1.11", "weight = 10001\n"),
     {{11, 10, "'weight' is 10001; it must be from 0 to 10000"}}},
    {"weight_negative",
     service_with("") + backend("b1", "10.0.1.11", "weight = -1\n"),
     {{11, 10, "'weight' is -1; it must be from 0 to 10000"}}},
    {"port_too_large",
     service_with("", "tcp", "65536") + backend("b1", "10.0.1.11"),
     {{4, 8, "'port' is 65536; it must be from 0 to 65535"}}},
    {"table_size",
     right_service("table_size = 1000"),
     {{7, 14, "'table_size' is 1000; it must be 65537 or 655373"}}},
    {"bad_vip",
     with(right_service(), "203.0.113.10", "203.0.113.256"),
     {{3, 7,
       "'vip' is \"203.0.113.256\"; it must be an IPv4 or IPv6 address, without port or prefix length"}}},
    {"address_with_prefix",
     service_with("") + backend("b1", "10.0.1.11/24"),
     {{10, 11,
       "'address' is \"10.0.1.11/24\"; it must be an IPv4 or IPv6 address, without port or prefix length"}}},
    {"multicast_address",
     service_with("") + backend("b1", "ff02::1"),
     {{10, 11, "'address' is \"ff02::1\"; it must be a unicast address"}}},
    {"backend_is_the_vip",
     service_with("") + backend("b1", "203.0.113.10"),
     {{10, 11, "'address' is \"203.0.113.10\"; it must be the backend's own address, not the VIP"}}},
    {"name_with_slash",
     service_with("") + backend("web/b1", "10.0.1.11"),
     {{9, 8, "'name' is \"web/b1\"; it must be 1 to 63 letters, digits, '.', '_' or '-'"}}},
    {"name_with_line_break",
     service_with("") + backend("b\\n1", "10.0.1.11"),
     {{9, 8, "'name' is \"b\\n1\"; it must be 1 to 63 letters, digits, '.', '_' or '-'"}}},
    {"name_too_long",
     service_with("") + backend(std::string(64, 'x'), "10.0.1.11"),
     {{9, 8,
       "'name' is \"" + std::string(64, 'x') + "\"; it must be 1 to 63 letters, digits, '.', '_' or '-'"}}},
    {"empty_secret",
     "secret = \"\"\n" + right_service(),
     {{1, 10, "'secret' is \"\"; it must be a text, the same on all balancers of a cluster"}}},

    {"unknown_protocol",
     service_with("", "tpc") + backend("b1", "10.0.1.11"),
     {{5, 12, "'protocol' is \"tpc\"; it must be \"tcp\" or \"udp\"", "did you mean \"tcp\"?"}}},
    {"unknown_forward",
     with(right_service(), "ipip", "dsr"),
     {{6, 11, "'forward' is \"dsr\"; it must be \"l2dsr\" or \"ipip\"", "did you mean \"l2dsr\"?"}}},
    {"unknown_health_type",
     right_service("health = { type = \"htpps\" }"),
     {{7, 19,
       "'type' is \"htpps\"; it must be \"none\", \"tcp\", \"tls\", \"http\", \"https\", \"udp\", \"dns\", "
       "\"icmp\", \"grpc\" or \"command\"",
       "did you mean \"https\"?"}}},
    {"unknown_initially",
     right_service("initially = \"yes\""),
     {{7, 13, "'initially' is \"yes\"; it must be \"up\" or \"down\""}}},

    {"duration_without_unit",
     right_service("health = { type = \"tcp\", interval = \"200\" }"),
     {{7, 37,
       "'interval' is \"200\"; it must be a whole number with its unit, like \"200ms\", \"2s\", \"15m\" or "
       "\"1h\""}}},
    {"duration_negative",
     right_service("health = { type = \"tcp\", interval = \"-2s\" }"),
     {{7, 37,
       "'interval' is \"-2s\"; it must be a whole number with its unit, like \"200ms\", \"2s\", \"15m\" or "
       "\"1h\""}}},
    {"interval_too_short",
     right_service("health = { type = \"tcp\", interval = \"9ms\" }"),
     {{7, 37, "'interval' is \"9ms\"; it must be from 10ms to 1h"}}},
    {"timeout_above_interval",
     right_service("health = { type = \"tcp\", interval = \"1s\", timeout = \"1001ms\" }"),
     {{7, 53,
       "'timeout' is \"1001ms\"; it must be at most the interval of 1000ms: checks of one backend do not "
       "overlap"}}},
    {"idle_timeout_too_long",
     right_service("idle_timeout = { established = \"241h\" }"),
     {{7, 32, "'established' is \"241h\"; it must be from 1s to 10d"}}},
    {"idle_timeout_beyond_32_bits",
     right_service("idle_timeout = { established = \"178956971d\" }"),
     {{7, 32, "'established' is \"178956971d\"; it must be from 1s to 10d"}}},
    {"idle_timeout_too_long_for_udp",
     right_service("idle_timeout = { udp = \"7201s\" }"),
     {{7, 24, "'udp' is \"7201s\"; it must be from 1s to 2h"}}},
    {"idle_timeout_fraction",
     right_service("idle_timeout = { udp = \"1500ms\" }"),
     {{7, 24, "'udp' is \"1500ms\"; it must be whole seconds"}}},
    {"rise_zero",
     right_service("health = { type = \"tcp\", rise = 0 }"),
     {{7, 33, "'rise' is 0; it must be from 1 to 1000"}}},
    {"status_reversed",
     right_service("health = { type = \"http\", status = \"399-200\" }"),
     {{7, 36,
       "'status' is \"399-200\"; it must be one status like 200, a range like \"200-399\" or several of them "
       "like "
       "\"200-299,401\", from 100 to 599"}}},
    {"path_that_ends_the_request_line",
     right_service("health = { type = \"http\", path = \"/ HTTP/1.1\\r\\nX: \" }"),
     {{7, 34,
       "'path' is \"/ HTTP/1.1\\u000d\\nX: \"; it must be an absolute path without blanks, like \"/health\""}}},

    {"check_on_udp",
     service_with("health = { type = \"http\" }", "udp") + backend("b1", "10.0.1.11"),
     {{7, 19, "service 'web' is udp: a check needs a TCP port to ask",
       "health = { type = \"http\", port = N }, or { type = \"none\" }"}}},
    {"check_on_any_port",
     service_with("health = { type = \"tcp\" }", "tcp", "0") + backend("b1", "10.0.1.11"),
     {{7, 19, "service 'web' has any port: a check needs one of its own",
       "health = { type = \"tcp\", port = N }, or { type = \"none\" }"}}},
    {"default_check_on_any_port",
     service_with("", "tcp", "0") + backend("b1", "10.0.1.11"),
     {{4, 8, "service 'web' has any port: a check needs one of its own",
       "health = { type = \"tcp\", port = N }, or { type = \"none\" }"}}},

    // One run finds them all, in the file's order, at every level.
    {"many_at_once",
     "bogus_key = 1\n" +
         service_with("health = { type = \"http\", rise = \"2\", pth = \"/\" }", "tcp", "70000") +
         backend("b1", "10.0.1.300", "weight = 99999\n") + backend("b1", "10.0.1.12"),
     {{1, 1, "unknown key 'bogus_key' in the file"},
      {5, 8, "'port' is 70000; it must be from 0 to 65535"},
      {8, 34, "'rise' must be an integer, not a string", "write it without quotes"},
      {8, 39, "unknown key 'pth' in health of service 'web'", "did you mean 'path'?"},
      {11, 11,
       "'address' is \"10.0.1.300\"; it must be an IPv4 or IPv6 address, without port or prefix length"},
      {12, 10, "'weight' is 99999; it must be from 0 to 10000"},
      {14, 8, "backend name 'b1' is used twice; the first is in line 10"}}},
};
INSTANTIATE_TEST_SUITE_P(All, ConfigFaults, testing::ValuesIn(kFaultCases),
                         [](const auto& test) { return std::string(test.param.name); });

// Proves that a file of faults alone is answered in bounded time and space.
TEST(ConfigFaultsOfAHugeFile, AreNotAllNamed) {
  std::string text;
  for (int i = 0; i < 20'000; i++)
    text += "[[service]]\n" + std::string(100, 'x') + " = 1\n";
  EXPECT_EQ(parse_config(text, "f.toml").errors.size(), 1'000u);
  EXPECT_EQ(parse_config(std::string(2'000'000, 'x') + " = 1\n", "f.toml").errors.size(), 2u);
}

}  // namespace
}  // namespace sluice
