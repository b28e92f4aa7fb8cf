// Addresses: text to bytes and back, both families in one type, and everything that is not an address
// refused.
#include "src/address.h"

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

namespace sluice {
namespace {

using namespace std::literals;

TEST(IpAddressTest, Ipv4BytesAreInNetworkOrderBehindTheMappedPrefix) {
  const auto address = IpAddress::parse("192.0.2.17");
  ASSERT_TRUE(address);
  const std::array<uint8_t, 16> expected = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 192, 0, 2, 17};
  EXPECT_EQ(address->bytes, expected);
  EXPECT_TRUE(address->is_v4());
  EXPECT_EQ(address->family(), Family::v4);
  EXPECT_EQ(net32(address->v4_network_order()), 0xc0000211u);
  EXPECT_EQ(IpAddress::v4(address->v4_network_order()), *address);
}

TEST(IpAddressTest, Ipv6BytesAreTheAddress) {
  const auto address = IpAddress::parse("2001:db8::ff00:42:8329");
  ASSERT_TRUE(address);
  const std::array<uint8_t, 16> expected = {0x20, 0x01, 0x0d, 0xb8, 0, 0,    0,    0,
                                            0,    0,    0xff, 0,    0, 0x42, 0x83, 0x29};
  EXPECT_EQ(address->bytes, expected);
  EXPECT_EQ(address->family(), Family::v6);
  EXPECT_EQ(IpAddress::v6(expected.data()), *address);
}

TEST(IpAddressTest, TextIsCanonicalAndParsesBack) {
  const std::vector<std::pair<const char*, const char*>> cases = {
      {"0.0.0.0", "0.0.0.0"},
      {"255.255.255.255", "255.255.255.255"},
      {"::", "::"},
      {"::1", "::1"},
      {"2001:DB8:0:0:0:0:0:1", "2001:db8::1"},  // RFC 5952 4.1 to 4.3
      {"fe80::1:0:0:1", "fe80::1:0:0:1"},
      {"::ffff:10.0.0.1", "10.0.0.1"},
  };
  for (const auto& [text, canonical] : cases) {
    const auto address = IpAddress::parse(text);
    ASSERT_TRUE(address) << text;
    EXPECT_EQ(address->text(), canonical);
    EXPECT_EQ(IpAddress::parse(address->text()), address);
  }
}

TEST(IpAddressTest, MappedTextIsTheIpv4Address) {
  EXPECT_EQ(IpAddress::parse("::ffff:192.0.2.1"), IpAddress::parse("192.0.2.1"));
  EXPECT_NE(IpAddress::parse("::192.0.2.1"), IpAddress::parse("192.0.2.1"));
}

TEST(IpAddressTest, RefusesEverythingElse) {
  for (const std::string_view text : {""sv,
                                      " "sv,
                                      "1.2.3"sv,
                                      "1.2.3.4.5"sv,
                                      "1.2.3.256"sv,
                                      "1.2.3.-4"sv,
                                      "1.2.3.4 "sv,
                                      " 1.2.3.4"sv,
                                      "1.2.3.4:80"sv,
                                      "10.0.0.0/8"sv,
                                      "1.2.3.4\n"sv,
                                      "2001:db8::1/64"sv,
                                      "[2001:db8::1]"sv,
                                      "fe80::1%eth0"sv,
                                      "1::2::3"sv,
                                      "1:2:3:4:5:6:7"sv,
                                      "1:2:3:4:5:6:7:8:9"sv,
                                      "12345::"sv,
                                      "g::"sv,
                                      "localhost"sv,
                                      "1.2.3.4\0"sv,
                                      "1.2.3.4\0.example"sv,
                                      "::1\0"sv}) {
    EXPECT_FALSE(IpAddress::parse(text)) << '"' << text << '"';
  }
}

TEST(IpAddressTest, UnsetIsOnlyTheAllZeroAddress) {
  EXPECT_FALSE(IpAddress{}.is_set());
  EXPECT_FALSE(IpAddress::parse("::")->is_set());
  EXPECT_TRUE(IpAddress::parse("0.0.0.0")->is_set());
  EXPECT_TRUE(IpAddress::parse("::1")->is_set());
}

TEST(IpAddressTest, OrdersByBytes) {
  EXPECT_LT(*IpAddress::parse("10.0.0.9"), *IpAddress::parse("10.0.0.10"));
  EXPECT_LT(*IpAddress::parse("10.0.0.1"), *IpAddress::parse("2001:db8::"));
}

TEST(MacAddressTest, ParsesBothCasesAndPrintsLowerCase) {
  const auto mac = MacAddress::parse("02:00:00:aB:Cd:eF");
  ASSERT_TRUE(mac);
  EXPECT_EQ(mac->bytes, (std::array<uint8_t, 6>{2, 0, 0, 0xab, 0xcd, 0xef}));
  EXPECT_EQ(mac->text(), "02:00:00:ab:cd:ef");
  EXPECT_EQ(MacAddress::parse(mac->text()), mac);
  EXPECT_TRUE(mac->is_set());
  EXPECT_FALSE(MacAddress{}.is_set());
}

TEST(MacAddressTest, RefusesEverythingElse) {
  for (const std::string_view text : {""sv, "02:00:00:00:00"sv, "02:00:00:00:00:0"sv, "02:00:00:00:00:001"sv,
                                      "02:00:00:00:00:01:"sv, "02-00-00-00-00-01"sv, "02:00:00:00:00:0g"sv,
                                      "0200.0000.0001"sv, "02:00:00:00:00 01"sv, "2:0:0:0:0:1"sv}) {
    EXPECT_FALSE(MacAddress::parse(text)) << '"' << text << '"';
  }
}

TEST(ByteOrderTest, SwapsBothWays) {
  EXPECT_EQ(net16(0x1234), 0x3412);
  EXPECT_EQ(net32(0x12345678u), 0x78563412u);
  EXPECT_EQ(net32(net32(0xdeadbeefu)), 0xdeadbeefu);
}

}  // namespace
}  // namespace sluice
