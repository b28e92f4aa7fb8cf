// Next hops from the kernel's routes and neighbours, in network namespaces of the test's own: this process
// moves to one
// ("here"), a second one ("there") holds the other end of a veth pair. Needs root; skipped without.
#include "controlplane/neighbours.h"

#include <fcntl.h>
#include <net/if.h>
#include <sched.h>
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <set>
#include <span>
#include <string>

#include <boost/asio/io_context.hpp>
#include <gtest/gtest.h>

namespace sluice {
namespace {

constexpr std::chrono::seconds kTestLimit{20};

IpAddress ip(const char* text) {
  return *IpAddress::parse(text);
}
MacAddress mac(const char* text) {
  return *MacAddress::parse(text);
}

// Both namespaces live only as long as this process: nothing is left behind, however it ends.
class NeighboursTest : public testing::Test {
 protected:
  void SetUp() override {
    if (geteuid() != 0) GTEST_SKIP() << "needs root for network namespaces";
    original_ = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
    ASSERT_EQ(unshare(CLONE_NEWNET), 0);
    there_ = open("/proc/self/ns/net", O_RDONLY);  // inherited by ip, which finds it as /proc/self/fd/N
    ASSERT_EQ(unshare(CLONE_NEWNET), 0);
    const std::string there = "/proc/" + std::to_string(getpid()) + "/fd/" + std::to_string(there_);
    run("ip link set lo up");
    run("ip link add here0 type veth peer name there0 netns " + there);
    run("ip addr add 10.7.0.1/24 dev here0");
    run("ip addr add fd07::1/64 dev here0 nodad");
    run("ip link set here0 address 02:00:00:00:07:01 mtu 1400 up");
    in_there("ip link set there0 address 02:00:00:00:07:02 mtu 1400 up");
    in_there("ip addr add 10.7.0.2/24 dev there0");
    in_there("ip addr add fd07::2/64 dev there0 nodad");
    // So that "no answer" comes within a second instead of three.
    for (const char* family : {"ipv4", "ipv6"}) {
      run(std::string("sysctl -qw net.") + family + ".neigh.here0.retrans_time_ms=100");
    }
    auto opened = Neighbours::open(
        io_,
        [this](std::span<const IpAddress> changed) {
          changes_++;
          changed_.insert(changed.begin(), changed.end());
        },
        [](const std::string& fault) { ADD_FAILURE() << fault; });
    ASSERT_TRUE(opened) << opened.error().text();
    neighbours_ = std::move(*opened);
  }
  void TearDown() override {
    neighbours_.reset();
    if (original_ < 0) return;
    EXPECT_EQ(setns(original_, CLONE_NEWNET), 0);
    close(there_);
    close(original_);
  }

  static void run(const std::string& command) { ASSERT_EQ(std::system(command.c_str()), 0) << command; }
  void in_there(const std::string& command) {
    run("nsenter --net=/proc/" + std::to_string(getpid()) + "/fd/" + std::to_string(there_) + " " + command);
  }

  template <typename Condition>
  void run_until(const Condition& done) {
    const auto limit = std::chrono::steady_clock::now() + kTestLimit;
    while (!done() && std::chrono::steady_clock::now() < limit) {
      io_.restart();
      io_.run_one_for(std::chrono::milliseconds(100));
    }
    ASSERT_TRUE(done());
  }
  void run_until_resolved(const char* address) {
    run_until([&] { return hop(address).resolved; });
  }
  // As a predecessor had published it when packets left by here0.
  static NextHop published(const char* gateway) {
    NextHop hop;
    hop.mac = mac(gateway);
    hop.source_mac = mac("02:00:00:00:07:01");
    hop.source = ip("10.7.0.1");
    return hop;
  }
  const NextHop& hop(const char* address) const { return neighbours_->next_hop(ip(address)); }
  template <size_t N>
  void follow(const std::array<const char*, N>& texts) {
    std::vector<IpAddress> addresses;
    for (const char* text : texts)
      addresses.push_back(ip(text));
    neighbours_->set_addresses(addresses);
  }

  boost::asio::io_context io_;
  std::unique_ptr<Neighbours> neighbours_;
  int changes_ = 0;
  std::set<IpAddress> changed_;  // what on_change named
  int original_ = -1;
  int there_ = -1;
};

TEST_F(NeighboursTest, AnOnLinkBackendIsResolvedByAskingForIt) {
  follow(std::array{"10.7.0.2"});
  EXPECT_FALSE(hop("10.7.0.2").resolved);
  EXPECT_NE(hop("10.7.0.2").why_not.find("ARP"), std::string::npos) << hop("10.7.0.2").why_not;
  run_until_resolved("10.7.0.2");
  const NextHop& found = hop("10.7.0.2");
  EXPECT_EQ(found.mac, mac("02:00:00:00:07:02"));
  EXPECT_EQ(found.source_mac, mac("02:00:00:00:07:01"));
  EXPECT_EQ(found.source, ip("10.7.0.1"));
  EXPECT_EQ(found.mtu_bytes, 1400u);
  EXPECT_EQ(found.ifindex, if_nametoindex("here0"));
  EXPECT_EQ(found.port, 0);
  EXPECT_EQ(found.why_not, "");
  EXPECT_GT(changes_, 0);
}

TEST_F(NeighboursTest, AnIpv6BackendIsResolvedByNeighbourDiscovery) {
  follow(std::array{"fd07::2"});
  run_until_resolved("fd07::2");
  EXPECT_EQ(hop("fd07::2").mac, mac("02:00:00:00:07:02"));
  EXPECT_EQ(hop("fd07::2").source, ip("fd07::1"));
}

TEST_F(NeighboursTest, BehindAGatewayItIsTheGatewaysMacAndTheRoutesMtu) {
  run("ip route add 10.99.0.0/16 via 10.7.0.2 mtu 1300");
  run("ip -6 route add fd99::/16 via fd07::2");
  follow(std::array{"10.99.1.1", "fd99::1"});
  run_until_resolved("10.99.1.1");
  run_until_resolved("fd99::1");
  EXPECT_EQ(hop("10.99.1.1").mac, mac("02:00:00:00:07:02"));
  EXPECT_EQ(hop("10.99.1.1").mtu_bytes, 1300u);
  EXPECT_EQ(hop("fd99::1").mac, mac("02:00:00:00:07:02"));
}

TEST_F(NeighboursTest, AnIpv4BackendMayLieBehindAnIpv6Gateway) {
  run("ip route add 10.98.0.0/16 via inet6 fd07::2");
  follow(std::array{"10.98.0.1"});
  run_until_resolved("10.98.0.1");
  EXPECT_EQ(hop("10.98.0.1").mac, mac("02:00:00:00:07:02"));
}

TEST_F(NeighboursTest, WhatCannotBeReachedSaysWhy) {
  follow(std::array{"10.7.0.99", "10.7.0.1", "127.0.0.5", "192.0.2.1", "2001:db8::1"});
  EXPECT_NE(hop("10.7.0.1").why_not.find("this host's own"), std::string::npos);
  EXPECT_NE(hop("127.0.0.5").why_not.find("this host's own"), std::string::npos);
  EXPECT_NE(hop("192.0.2.1").why_not.find("no route"), std::string::npos);
  EXPECT_NE(hop("2001:db8::1").why_not.find("no route"), std::string::npos);
  run_until([&] { return hop("10.7.0.99").why_not.find("does not answer ARP") != std::string::npos; });
  for (const char* address : {"10.7.0.99", "10.7.0.1", "127.0.0.5", "192.0.2.1", "2001:db8::1"}) {
    EXPECT_FALSE(hop(address).resolved) << address;
  }
  EXPECT_EQ(neighbours_->next_hop(ip("198.51.100.1")).resolved, false) << "never asked for";
}

TEST_F(NeighboursTest, AChangedMacIsFollowed) {
  follow(std::array{"10.7.0.2"});
  run_until_resolved("10.7.0.2");
  in_there("ip link set there0 address 02:00:00:00:07:77");
  run("ip neigh del 10.7.0.2 dev here0");
  run_until([&] { return hop("10.7.0.2").mac == mac("02:00:00:00:07:77"); });
  EXPECT_TRUE(hop("10.7.0.2").resolved);
}

TEST_F(NeighboursTest, ThoseBehindAGatewayFollowItWheneverItFallsSilentAndAnswersAgain) {
  run("ip route add 10.99.0.0/16 via 10.7.0.2");
  run("ip neigh add 10.7.0.50 lladdr 02:00:00:00:07:50 dev here0 nud permanent");
  follow(std::array{"10.99.1.1", "10.99.1.2", "10.7.0.50"});
  run_until_resolved("10.99.1.1");
  for (int round = 0; round < 2; round++) {
    changed_.clear();
    in_there("ip link set there0 arp off");
    run("ip neigh del 10.7.0.2 dev here0");
    run_until([&] { return !hop("10.99.1.1").resolved; });
    EXPECT_FALSE(hop("10.99.1.2").resolved);
    EXPECT_TRUE(hop("10.7.0.50").resolved);
    in_there("ip link set there0 arp on");
    run_until_resolved("10.99.1.1");
    EXPECT_TRUE(hop("10.99.1.2").resolved);
    EXPECT_EQ(changed_, (std::set{ip("10.99.1.1"), ip("10.99.1.2")})) << "and nobody else";
  }
}

TEST_F(NeighboursTest, AKnownMacSurvivesTheKernelsForgetting) {
  follow(std::array{"10.7.0.2"});
  run_until_resolved("10.7.0.2");
  // Nobody answers any more, so what is forgotten now cannot be learnt again.
  in_there("ip link set there0 arp off");
  run("ip neigh del 10.7.0.2 dev here0");
  const int before = changes_;
  run("ip neigh add 10.7.0.50 lladdr 02:00:00:00:07:50 dev here0");  // an event after the removal: it was
                                                                     // looked at
  follow(std::array{"10.7.0.2", "10.7.0.50"});
  EXPECT_TRUE(hop("10.7.0.50").resolved);
  EXPECT_TRUE(hop("10.7.0.2").resolved);
  EXPECT_EQ(changes_, before);
  // Asked for and not answered, however, it is gone.
  run_until([&] { return !hop("10.7.0.2").resolved; });
}

TEST_F(NeighboursTest, ARememberedMacBridgesTheTimeUntilTheKernelKnowsBetter) {
  neighbours_->remember(ip("10.7.0.2"), published("02:00:00:00:00:99"));
  neighbours_->remember(ip("10.7.0.98"), published("02:00:00:00:00:98"));
  follow(std::array{"10.7.0.2", "10.7.0.98"});
  EXPECT_TRUE(hop("10.7.0.2").resolved);
  EXPECT_EQ(hop("10.7.0.2").mac, mac("02:00:00:00:00:99"));
  run_until([&] { return hop("10.7.0.2").mac == mac("02:00:00:00:07:02"); });
  run_until([&] { return !hop("10.7.0.98").resolved; });
}

TEST_F(NeighboursTest, ARememberedMacIsNotUsedByAnotherWayOut) {
  NextHop other_interface = published("02:00:00:00:00:97");
  other_interface.source_mac = mac("02:00:00:00:09:01");
  NextHop other_source = published("02:00:00:00:00:98");
  other_source.source = ip("10.9.0.1");
  neighbours_->remember(ip("10.7.0.97"), other_interface);
  neighbours_->remember(ip("10.7.0.98"), other_source);
  follow(std::array{"10.7.0.97", "10.7.0.98"});
  EXPECT_FALSE(hop("10.7.0.97").resolved);
  EXPECT_FALSE(hop("10.7.0.98").resolved);
}

// As a reload does that takes a backend out and later puts it back.
TEST_F(NeighboursTest, WhatIsKnownOfAnAddressThatNobodyUsesIsForgotten) {
  neighbours_->remember(ip("10.7.0.98"), published("02:00:00:00:00:98"));
  follow(std::array{"10.7.0.2"});
  run_until_resolved("10.7.0.2");
  io_.restart();
  io_.run_for(Neighbours::kRetryPeriod * 2);
  follow(std::array{"10.7.0.2", "10.7.0.98"});
  EXPECT_TRUE(hop("10.7.0.2").resolved);
  EXPECT_FALSE(hop("10.7.0.98").resolved);
}

TEST_F(NeighboursTest, WithoutASourceAddressThereIsNoWayToABackendUntilThereIsOne) {
  run("ip addr flush dev here0 scope global");
  run("ip route add 10.7.0.0/24 dev here0");
  follow(std::array{"10.7.0.2"});
  EXPECT_FALSE(hop("10.7.0.2").resolved);
  EXPECT_EQ(hop("10.7.0.2").why_not, "no source address on here0");
  run("ip addr add 10.7.0.1/24 dev here0");
  run_until_resolved("10.7.0.2");
  EXPECT_EQ(hop("10.7.0.2").source, ip("10.7.0.1"));
}

TEST_F(NeighboursTest, RoutesAndLinksThatComeAndGoAreFollowed) {
  follow(std::array{"10.97.0.1"});
  EXPECT_FALSE(hop("10.97.0.1").resolved);
  run("ip route add 10.97.0.0/16 via 10.7.0.2");
  run_until_resolved("10.97.0.1");
  run("ip link set here0 down");
  run_until([&] { return !hop("10.97.0.1").resolved; });
  EXPECT_FALSE(hop("10.97.0.1").why_not.empty());
  run("ip link set here0 up");
  run("ip route replace 10.97.0.0/16 via 10.7.0.2");
  run_until_resolved("10.97.0.1");
}

TEST_F(NeighboursTest, TheEgressInterfaceMustBeAPortOfTheDataPlane) {
  follow(std::array{"10.7.0.2"});
  run_until_resolved("10.7.0.2");
  const uint32_t here = if_nametoindex("here0");
  neighbours_->set_ports({{1000, 0}, {here, 1}});
  run_until([&] { return hop("10.7.0.2").port == 1; });
  neighbours_->set_ports({{1000, 0}});
  run_until([&] { return !hop("10.7.0.2").resolved; });
  EXPECT_NE(hop("10.7.0.2").why_not.find("here0, which is not a port of the data plane"), std::string::npos);
  neighbours_->set_ports(
      {{1000, 0}, {0, 2, mac("02:00:00:00:00:d2")}});  // a port that the kernel does not see
  run_until([&] { return hop("10.7.0.2").resolved; });
  EXPECT_EQ(hop("10.7.0.2").port, 2);
  EXPECT_EQ(hop("10.7.0.2").source_mac, mac("02:00:00:00:00:d2"));
  neighbours_->set_ports({{here, 1, mac("02:00:00:00:00:d1")}});
  run_until([&] { return hop("10.7.0.2").port == 1; });
  EXPECT_EQ(hop("10.7.0.2").source_mac, mac("02:00:00:00:07:01"))
      << "the kernel's, which may be changed there";
}

TEST_F(NeighboursTest, AnInterfaceWithoutNeighboursIsNoWayToABackend) {
  run("ip tuntap add tun0 mode tun");
  run("ip link set tun0 up");
  run("ip route add 10.96.0.0/16 dev tun0");
  follow(std::array{"10.96.0.1"});
  EXPECT_FALSE(hop("10.96.0.1").resolved);
  EXPECT_NE(hop("10.96.0.1").why_not.find("tun0"), std::string::npos) << hop("10.96.0.1").why_not;
}

}  // namespace
}  // namespace sluice
