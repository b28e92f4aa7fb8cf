// The decapsulation program, loaded into the kernel and run over frames: what comes out of each of the four
// tunnels, the ECN table of RFC 6040, and everything it must leave alone. Needs root (CAP_BPF, CAP_NET_ADMIN,
// CAP_SYS_ADMIN).
#include <bpf/libbpf.h>
#include <linux/bpf.h>
#include <sched.h>

#include <memory>
#include <optional>

#include <gtest/gtest.h>
#include <stdlib.h>

#include "bpf/decap_abi.h"
#include "decap.skel.h"
#include "tests/bpf/frame.h"

namespace sluice::test {
namespace {

constexpr const char* kBalancer4 = "10.0.1.10";
constexpr const char* kBackend4 = "10.0.1.11";
constexpr const char* kBalancer6 = "2001:db8:1::10";
constexpr const char* kBackend6 = "2001:db8:1::11";

Bytes inner4(uint8_t tos = 0) {
  return ipv4("198.51.100.7", "203.0.113.10", wire::kProtoTcp, tcp(80), {.tos = tos});
}
Bytes inner6(uint8_t traffic_class = 0) {
  return ipv6("2001:db8:c::7", "2001:db8:100::10", wire::kProtoTcp, tcp(80), traffic_class);
}
Bytes outer4(const Bytes& inner, uint8_t protocol, const Ipv4Fields& fields = {}) {
  return ethernet(wire::kEtherIpv4, ipv4(kBalancer4, kBackend4, protocol, inner, fields));
}
Bytes outer6(const Bytes& inner, uint8_t protocol, uint8_t traffic_class = 0) {
  return ethernet(wire::kEtherIpv6, ipv6(kBalancer6, kBackend6, protocol, inner, traffic_class));
}

class Decap : public testing::Test {
 protected:
  // The program asks the kernel for routes: a network namespace of our own, so the answers do not depend on
  // the machine.
  static void SetUpTestSuite() {
    ASSERT_EQ(unshare(CLONE_NEWNET), 0) << "root is needed";
    ASSERT_EQ(system("ip link set lo up && ip addr add 10.0.1.11/32 dev lo && ip -6 addr add "
                     "2001:db8:1::11/128 dev lo "
                     "&& ip route add 10.0.2.0/24 dev lo && ip -6 route add 2001:db8:2::/64 dev lo"),
              0);
  }
  void SetUp() override {
    set_forwarding(false);
    skeleton_ = decap_bpf__open_and_load();
    ASSERT_NE(skeleton_, nullptr);
    sluice_decap_config config{};
    std::memcpy(config.mac, kOurMac.bytes.data(), 6);
    const uint32_t zero = 0;
    ASSERT_EQ(bpf_map_update_elem(bpf_map__fd(skeleton_->maps.sluice_decapcfg), &zero, &config, BPF_ANY), 0);
  }
  void TearDown() override { decap_bpf__destroy(skeleton_); }

  static void set_forwarding(bool on) {
    const std::string value = on ? "1" : "0";
    ASSERT_EQ(
        system(("sysctl -qw net.ipv4.conf.all.forwarding=" + value + " net.ipv6.conf.all.forwarding=" + value)
                   .c_str()),
        0);
  }
  RunResult decap(const Bytes& frame) { return run(bpf_program__fd(skeleton_->progs.sluice_decap), frame); }
  uint64_t stat(sluice_decap_stat index) {
    return per_cpu_sum(bpf_map__fd(skeleton_->maps.sluice_decaps), index);
  }

  void expect_decapsulated(const Bytes& frame, const Bytes& expected, const std::string& what) {
    const RunResult result = decap(frame);
    EXPECT_EQ(result.action, uint32_t{XDP_PASS}) << what;
    EXPECT_EQ(result.frame, expected) << what;
  }
  void expect_untouched(const Bytes& frame, const std::string& what) {
    expect_decapsulated(frame, frame, what);
  }

  decap_bpf* skeleton_ = nullptr;
};

TEST_F(Decap, AllFourTunnels) {
  expect_decapsulated(outer4(inner4(), wire::kProtoIpip), ethernet(wire::kEtherIpv4, inner4()), "4 in 4");
  expect_decapsulated(outer4(inner6(), wire::kProtoIpv6), ethernet(wire::kEtherIpv6, inner6()), "6 in 4");
  expect_decapsulated(outer6(inner4(), wire::kProtoIpip), ethernet(wire::kEtherIpv4, inner4()), "4 in 6");
  expect_decapsulated(outer6(inner6(), wire::kProtoIpv6), ethernet(wire::kEtherIpv6, inner6()), "6 in 6");
  for (const auto kind :
       {SLUICE_DECAP_V4_IN_V4, SLUICE_DECAP_V6_IN_V4, SLUICE_DECAP_V4_IN_V6, SLUICE_DECAP_V6_IN_V6}) {
    EXPECT_EQ(stat(kind), 1u) << kind;
  }
  EXPECT_EQ(stat(SLUICE_DECAP_PASSED), 0u);
}

TEST_F(Decap, FullSizedPacketsAndEthernetPadding) {
  const Bytes big = ipv4("198.51.100.7", "203.0.113.10", wire::kProtoTcp, tcp(80, Bytes(1460, 0x5a)));
  expect_decapsulated(outer4(big, wire::kProtoIpip), ethernet(wire::kEtherIpv4, big), "1500 bytes inside");
  const Bytes padding(6, 0);
  expect_decapsulated(outer4(inner4(), wire::kProtoIpip) + padding,
                      ethernet(wire::kEtherIpv4, inner4()) + padding, "padded");
}

// RFC 6040 4.2, figure 4, row by row: the inner field after decapsulation by [inner][outer]; none: drop.
TEST_F(Decap, EcnByRfc6040) {
  enum : uint8_t { kNot = 0, kEct1 = 1, kEct0 = 2, kCe = 3 };
  std::optional<uint8_t> expected[4][4];
  for (const uint8_t outer : {kNot, kEct1, kEct0}) {
    expected[kNot][outer] = kNot;
    expected[kEct0][outer] = outer == kEct1 ? kEct1 : kEct0;
    expected[kEct1][outer] = kEct1;
    expected[kCe][outer] = kCe;
  }
  expected[kEct0][kCe] = expected[kEct1][kCe] = expected[kCe][kCe] = uint8_t{kCe};

  constexpr uint8_t kDscp = 46 << 2;  // must survive
  uint64_t dropped = 0;
  for (uint8_t inner = 0; inner < 4; inner++) {
    for (uint8_t outer = 0; outer < 4; outer++) {
      const std::string what = "inner " + std::to_string(inner) + ", outer " + std::to_string(outer);
      const auto in = static_cast<uint8_t>(kDscp | inner);
      const std::pair<Bytes, bool> frames[] = {
          {outer4(inner4(in), wire::kProtoIpip, {.tos = outer}), true},
          {outer4(inner6(in), wire::kProtoIpv6, {.tos = outer}), false},
          {outer6(inner4(in), wire::kProtoIpip, outer), true},
          {outer6(inner6(in), wire::kProtoIpv6, outer), false},
      };
      for (const auto& [frame, is_v4] : frames) {
        if (const auto ecn = expected[inner][outer]; ecn) {
          // Built afresh, so with a checksum computed over the whole header.
          const auto out = static_cast<uint8_t>(kDscp | *ecn);
          expect_decapsulated(
              frame,
              is_v4 ? ethernet(wire::kEtherIpv4, inner4(out)) : ethernet(wire::kEtherIpv6, inner6(out)),
              what);
        } else {
          EXPECT_EQ(decap(frame).action, uint32_t{XDP_DROP}) << what;
          dropped++;
        }
      }
    }
  }
  EXPECT_EQ(dropped, 4u);
  EXPECT_EQ(stat(SLUICE_DECAP_DROPPED_ECN), 4u);
}

// The inner header's checksum field takes every value, the ones next to 0 and 0xffff among them (RFC 1624 3).
TEST_F(Decap, EcnKeepsTheChecksumRight) {
  for (uint32_t last = 0; last < 65536; last += 7) {
    const std::string client = "198.51." + std::to_string(last >> 8) + "." + std::to_string(last & 0xff);
    const Bytes packet = ipv4(client, "203.0.113.10", wire::kProtoTcp, tcp(80), {.tos = 2});
    const RunResult result = decap(outer4(packet, wire::kProtoIpip, {.tos = 3}));
    ASSERT_EQ(result.frame.size(), sizeof(wire::Ethernet) + packet.size());
    ASSERT_EQ(result.frame[15], 3) << client;
    ASSERT_EQ(checksum_fold(checksum_add(0, result.frame.data() + 14, 20)), 0xffff) << client;
  }
}

TEST_F(Decap, LeavesAloneWhatIsNoTunnel) {
  expect_untouched(ethernet(wire::kEtherIpv4, inner4()), "plain TCP");
  expect_untouched(ethernet(wire::kEtherIpv6, inner6()), "plain TCP over IPv6");
  expect_untouched(ethernet(0x0806, Bytes(28)), "ARP");
  expect_untouched(ethernet(wire::kEtherVlan, Bytes{0, 7, 8, 0} + inner4()), "VLAN");
  expect_untouched(outer4(Bytes(40), 47), "GRE");
  EXPECT_EQ(stat(SLUICE_DECAP_PASSED), 0u);
}

TEST_F(Decap, LeavesAloneFramesToAnotherMac) {
  expect_untouched(
      ethernet(wire::kEtherIpv4, ipv4(kBalancer4, kBackend4, wire::kProtoIpip, inner4()), kOtherMac),
      "other MAC");
  const MacAddress broadcast{{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}};
  expect_untouched(
      ethernet(wire::kEtherIpv4, ipv4(kBalancer4, kBackend4, wire::kProtoIpip, inner4()), broadcast),
      "broadcast");
}

TEST_F(Decap, LeavesAloneOuterFragmentsOptionsAndBadChecksums) {
  expect_untouched(outer4(inner4(), wire::kProtoIpip, {.fragment = wire::kIpv4Mf}), "first fragment");
  expect_untouched(outer4(inner4(), wire::kProtoIpip, {.fragment = 3}), "later fragment");
  expect_untouched(outer4(inner4(), wire::kProtoIpip, {.options = Bytes(4, 1)}), "options");
  Bytes corrupt = outer4(inner4(), wire::kProtoIpip);
  corrupt[24] ^= 1;  // checksum
  expect_untouched(corrupt, "checksum");
  EXPECT_EQ(stat(SLUICE_DECAP_PASSED), 4u);
  expect_untouched(outer6(Bytes{wire::kProtoIpip, 0, 0, 1, 0, 0, 0, 7} + inner4(), wire::kProtoFragment),
                   "IPv6 fragment");
}

TEST_F(Decap, LeavesAloneInnerPacketsThatDoNotFit) {
  Bytes longer = inner4();
  longer[3]++;
  expect_untouched(outer4(longer, wire::kProtoIpip), "IPv4 longer than its tunnel packet");
  Bytes longer6 = inner6();
  longer6[5]++;
  expect_untouched(outer4(longer6, wire::kProtoIpv6), "IPv6 longer than its tunnel packet");
  expect_untouched(outer4(inner6(), wire::kProtoIpip), "IPv6 called IPv4");
  expect_untouched(outer6(inner4(), wire::kProtoIpv6), "IPv4 called IPv6");
  for (const uint8_t version_ihl : {0x44, 0x40, 0x55}) {
    Bytes bad = inner4();
    bad[0] = version_ihl;
    expect_untouched(outer6(bad, wire::kProtoIpip), "version and IHL " + std::to_string(version_ihl));
  }
  Bytes below = inner4();
  below[2] = 0;
  below[3] = 19;
  expect_untouched(outer4(below, wire::kProtoIpip), "total length below the header");
  EXPECT_EQ(stat(SLUICE_DECAP_PASSED), 8u);
}

// Cut at every byte of every tunnel: whole, or untouched.
TEST_F(Decap, TruncatedAtEveryByte) {
  for (const Bytes& frame : {outer4(inner4(), wire::kProtoIpip), outer4(inner6(), wire::kProtoIpv6),
                             outer6(inner4(), wire::kProtoIpip), outer6(inner6(), wire::kProtoIpv6)}) {
    for (size_t bytes = sizeof(wire::Ethernet); bytes < frame.size(); bytes++) {
      expect_untouched(Bytes(frame.begin(), frame.begin() + static_cast<long>(bytes)),
                       std::to_string(bytes) + " bytes");
    }
  }
  EXPECT_EQ(stat(SLUICE_DECAP_V4_IN_V4) + stat(SLUICE_DECAP_V6_IN_V4) + stat(SLUICE_DECAP_V4_IN_V6) +
                stat(SLUICE_DECAP_V6_IN_V6),
            0u);
}

// On a router: tunnels that end here are opened, those on their way through stay whole.
TEST_F(Decap, OnARouterOnlyTunnelsToItself) {
  set_forwarding(true);
  expect_decapsulated(outer4(inner4(), wire::kProtoIpip), ethernet(wire::kEtherIpv4, inner4()),
                      "to the host itself");
  expect_decapsulated(outer6(inner6(), wire::kProtoIpv6), ethernet(wire::kEtherIpv6, inner6()),
                      "to the host itself, IPv6");
  expect_untouched(ethernet(wire::kEtherIpv4, ipv4(kBalancer4, "10.0.2.5", wire::kProtoIpip, inner4())),
                   "forwarded");
  expect_untouched(ethernet(wire::kEtherIpv6, ipv6(kBalancer6, "2001:db8:2::5", wire::kProtoIpv6, inner6())),
                   "forwarded, IPv6");
}

}  // namespace
}  // namespace sluice::test
