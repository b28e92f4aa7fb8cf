// The keys of `health = { ... }`: each has its effect for the types that know it, a warning for the others,
// and what is wrong is named with its place and a way out.
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "controlplane/config.h"
#include "tests/unit/config_texts.h"

namespace sluice {
namespace {

using namespace config_texts;
using Type = HealthConfig::Type;

std::string health_line(const std::string& keys) {
  return "health = { " + keys + " }";
}

// The one service's, of a file without faults and warnings.
HealthConfig health_of(const std::string& keys, const std::string& protocol = "tcp") {
  const ConfigResult result =
      parse_config(service_with(health_line(keys), protocol) + backend("b1", "10.0.1.11"), "f");
  EXPECT_TRUE(result.config) << all_texts(result.errors);
  EXPECT_TRUE(result.warnings.empty()) << all_texts(result.warnings);
  return result.config ? result.config->services[0].health : HealthConfig{};
}

TEST(ConfigHealth, EveryTypeReadsItsKeys) {
  const HealthConfig http = health_of(
      R"(type = "https", method = "OPTIONS", path = "/x", host = "h", headers = { X-A = "1", "X-B" = "2 3" },)"
      R"( status = "200-204,301,401-403", body = "^ok$", verify = false, server_name = "s", source = "10.0.0.9",)"
      R"( to = "backend")");
  EXPECT_EQ(http.type, Type::https);
  EXPECT_EQ(http.method, "OPTIONS");
  EXPECT_EQ(http.status, (std::vector<StatusRange>{{200, 204}, {301, 301}, {401, 403}}));
  EXPECT_EQ(http.body, "^ok$");
  EXPECT_EQ(http.headers, (std::vector<std::pair<std::string, std::string>>{{"X-A", "1"}, {"X-B", "2 3"}}));
  EXPECT_FALSE(http.verify);
  EXPECT_EQ(http.server_name, "s");
  EXPECT_EQ(http.source.text(), "10.0.0.9");
  EXPECT_FALSE(http.to_vip);

  EXPECT_EQ(health_of(R"(type = "tls", ca_file = "/etc/ca.pem", to = "vip")").ca_file, "/etc/ca.pem");
  EXPECT_TRUE(health_of(R"(type = "tls", to = "vip")").to_vip);
  const HealthConfig grpc = health_of(R"(type = "grpc", tls = true, service = "shop.v1.Cart", host = "h")");
  EXPECT_TRUE(grpc.uses_tls());
  EXPECT_EQ(grpc.grpc_service, "shop.v1.Cart");

  const HealthConfig udp = health_of(R"(type = "udp", send = "ping\n", expect_hex = "00fFa0")", "udp");
  EXPECT_EQ(udp.send, "ping\n");
  EXPECT_EQ(udp.expect, std::string("\0\xff\xa0", 3));
  const HealthConfig dns =
      health_of(R"(type = "dns", query = "a.example.", record = "AAAA", rcode = "NXDOMAIN")", "udp");
  EXPECT_EQ(dns.query, "a.example.");
  EXPECT_EQ(dns.record, 28);
  EXPECT_EQ(dns.rcode, 3);
  EXPECT_EQ(health_of(R"(type = "dns", rcode = "any")", "udp").rcode, kAnyRcode);
  EXPECT_EQ(health_of(R"(type = "icmp")", "udp").type, Type::icmp);
  EXPECT_EQ(health_of(R"(type = "command", command = ["/bin/check", "-x"])").command,
            (std::vector<std::string>{"/bin/check", "-x"}));
}

TEST(ConfigHealth, JitterIsADurationOrAShare) {
  EXPECT_EQ(health_of(R"(type = "tcp", interval = "10s", jitter = "5%")").jitter, Milliseconds(500));
  EXPECT_EQ(health_of(R"(type = "tcp", interval = "10s", jitter = "700ms")").jitter, Milliseconds(700));
}

TEST(ConfigHealth, KeysOfOtherTypesAreWarnedOf) {
  const struct {
    const char* keys;
    const char* message;
  } cases[] = {
      {R"(type = "tcp", body = "x")", "'body' has no effect unless type = \"http\" or \"https\""},
      {R"(type = "http", ca_file = "/x")",
       "'ca_file' has no effect unless type = \"tls\" or \"https\" or \"grpc\""},
      {R"(type = "http", query = "x")", "'query' has no effect unless type = \"dns\""},
      {R"(type = "tls", service = "x")", "'service' has no effect unless type = \"grpc\""},
      {R"(type = "grpc", verify = true)", "'verify' has no effect unless tls = true"},
      {R"(type = "https", verify = false, ca_file = "/x")", "'ca_file' has no effect with verify = false"},
      {R"(type = "command", command = ["/x"], to = "vip")", "'to' has no effect with type = \"command\""},
  };
  for (const auto& c : cases) {
    const ConfigResult result = parse_config(right_service(health_line(c.keys)), "f");
    EXPECT_TRUE(result.config) << all_texts(result.errors);
    ASSERT_EQ(result.warnings.size(), 1u) << c.keys << "\n" << all_texts(result.warnings);
    EXPECT_EQ(result.warnings[0].message, c.message);
  }
}

TEST(ConfigHealth, FaultsAreNamedWithAWayOut) {
  const struct {
    const char* keys;
    const char* message;
    const char* suggestion;
  } cases[] = {
      {R"(type = "http", body = "a(b")",
       "'body' is \"a(b\"; it must be a regular expression (RE2): missing ): a(b", ""},
      {R"(type = "http", method = "HEAD", body = "x")", "the answer to a HEAD has no body to look at",
       "method = \"GET\""},
      {R"(type = "http", method = "get")", "'method' is \"get\"; it must be \"GET\", \"HEAD\" or \"OPTIONS\"",
       ""},
      {R"(type = "http", status = "200,")",
       "'status' is \"200,\"; it must be one status like 200, a range like \"200-399\" or several of them "
       "like "
       "\"200-299,401\", from 100 to 599",
       ""},
      {R"(type = "http", headers = { "X Y" = "1" })", "'X Y' is no name of a header",
       "letters, digits and '-'"},
      {R"(type = "http", headers = { X = "a\r\nEvil: 1" })",
       "'X' is \"a\\u000d\\nEvil: 1\"; it must be a header's value: printable characters of ASCII", ""},
      {R"(type = "https", verify = "no")", "'verify' must be true or false, not a string",
       "write it without quotes"},
      {R"(type = "https", ca_file = "ca.pem")",
       "'ca_file' is \"ca.pem\"; it must be an absolute path of a PEM file", ""},
      {R"(type = "udp", port = 1, send_hex = "0")",
       "'send_hex' is \"0\"; it must be pairs of hexadecimal digits, like \"0a1b2c\", at most 1400", ""},
      {R"(type = "udp", port = 1, send_hex = "00", send = "x")", "'send_hex' and 'send' say the same thing",
       "leave one of them out"},
      {R"(type = "dns", port = 1, query = "a..b")",
       "'query' is \"a..b\"; it must be a domain name, like \"example.net\", or \".\"", ""},
      {R"(type = "dns", port = 1, record = "AAA")",
       "'record' is \"AAA\"; it must be one of A, NS, CNAME, SOA, PTR, MX, TXT, AAAA, SRV, HTTPS",
       "did you mean \"AAAA\"?"},
      {R"(type = "command")", "a check of type \"command\" needs a key 'command'",
       "command = [\"/usr/local/bin/check\", \"--fast\"]"},
      {R"(type = "command", command = "/bin/true")", "'command' must be an array of strings, not a string",
       "write it as [\"...\"]"},
      {R"(type = "command", command = ["check"])",
       "'command' must begin with the absolute path of a program; its arguments follow",
       "command = [\"/usr/local/bin/check\", \"--fast\"]; for a shell: [\"/bin/sh\", \"-c\", \"...\"]"},
      {R"(type = "tcp", jitter = "100%")",
       "'jitter' is \"100%\"; it must be a duration below the interval, like \"50ms\", or a share of it, "
       "like \"10%\"",
       ""},
      {R"(type = "tcp", interval = "1s", jitter = "1s")",
       "'jitter' is \"1s\"; it must be a duration below the interval, like \"50ms\", or a share of it, like "
       "\"10%\"",
       ""},
      {R"(type = "tcp", interval = "1s", fast_interval = "2s")",
       "'fast_interval' is \"2s\"; it must be at most the interval of 1000ms", ""},
      {R"(type = "tcp", source = "2001:db8::1")",
       "'source' is \"2001:db8::1\"; it must be of the same family as the backends: 'b1' has 10.0.1.11", ""},
      {R"(type = "tcp", to = "vip", source = "2001:db8::1")",
       "'source' is \"2001:db8::1\"; it must be of the same family as the VIP, which is asked", ""},
      {R"(type = "dns")", "service 'web' is tcp: a check of this type needs a UDP port to ask",
       "health = { type = \"dns\", port = N }, or { type = \"none\" }"},
  };
  for (const auto& c : cases) {
    const ConfigResult result = parse_config(right_service(health_line(c.keys)), "f");
    EXPECT_FALSE(result.config) << c.keys;
    ASSERT_EQ(result.errors.size(), 1u) << c.keys << "\n" << all_texts(result.errors);
    EXPECT_EQ(result.errors[0].line, 7u);
    EXPECT_EQ(result.errors[0].message, c.message);
    EXPECT_EQ(result.errors[0].suggestion, c.suggestion);
  }
}

}  // namespace
}  // namespace sluice
