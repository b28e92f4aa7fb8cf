// The steering program, loaded into the kernel and run over frames: which packets are the data plane's, which
// are the kernel's, and that each is counted once. Needs root (CAP_BPF, CAP_NET_ADMIN).
#include <bpf/libbpf.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>

#include <gtest/gtest.h>

#include "bpf/steer_abi.h"
#include "steer.skel.h"
#include "tests/bpf/frame.h"

namespace sluice::test {
namespace {

constexpr uint16_t kWeb = 80;
constexpr const char* kClient4 = "198.51.100.7";
constexpr const char* kVip4 = "203.0.113.10";
constexpr const char* kAnyPortVip4 = "203.0.113.20";
constexpr const char* kOwn4 = "203.0.113.1";
constexpr const char* kClient6 = "2001:db8:c::7";
constexpr const char* kVip6 = "2001:db8:100::10";
constexpr const char* kOwn6 = "2001:db8:100::1";

class Steer : public testing::Test {
 protected:
  void SetUp() override {
    skeleton_ = steer_bpf__open();
    ASSERT_NE(skeleton_, nullptr);
    // The tests share nothing with a data plane that may run on this machine.
    bpf_map__set_pin_path(skeleton_->maps.sluice_vips, nullptr);
    bpf_map__set_pin_path(skeleton_->maps.sluice_steer_stats, nullptr);
    ASSERT_EQ(steer_bpf__load(skeleton_), 0) << "root is needed";
    add_vip(kVip4, kWeb, wire::kProtoTcp);
    add_vip(kVip6, kWeb, wire::kProtoTcp);
    add_vip(kVip6, 53, wire::kProtoUdp);
    add_vip(kAnyPortVip4, 0, wire::kProtoUdp);
    for (const char* vip : {kVip4, kVip6, kAnyPortVip4})
      add_vip(vip, 0, 0);
    // Enough of a data plane for the map: a socket of the right kind.
    socket_ = socket(AF_XDP, SOCK_RAW | SOCK_CLOEXEC, 0);
    ASSERT_GE(socket_, 0);
    set_socket();
  }
  void TearDown() override {
    if (socket_ >= 0) close(socket_);
    steer_bpf__destroy(skeleton_);
  }

  void add_vip(const char* vip, uint16_t port, uint8_t protocol) {
    sluice_vip_key key{};
    std::memcpy(key.vip, ip(vip).bytes.data(), 16);
    key.port = net16(port);
    key.protocol = protocol;
    const uint32_t value = 1;
    ASSERT_EQ(bpf_map_update_elem(bpf_map__fd(skeleton_->maps.sluice_vips), &key, &value, BPF_ANY), 0);
  }
  void set_socket() {
    const uint32_t queue = 0;
    ASSERT_EQ(bpf_map_update_elem(bpf_map__fd(skeleton_->maps.xsks_map), &queue, &socket_, BPF_ANY), 0);
  }
  uint64_t stat(sluice_steer_stat index) {
    return per_cpu_sum(bpf_map__fd(skeleton_->maps.sluice_steer_stats), index);
  }

  // The verdict; and the frame must leave as it came.
  uint32_t steer(const Bytes& frame) {
    const RunResult result = run(bpf_program__fd(skeleton_->progs.sluice_steer), frame);
    EXPECT_EQ(result.frame, frame);
    return result.action;
  }
  uint32_t steer4(const Bytes& packet) { return steer(ethernet(wire::kEtherIpv4, packet)); }
  uint32_t steer6(const Bytes& packet) { return steer(ethernet(wire::kEtherIpv6, packet)); }

  steer_bpf* skeleton_ = nullptr;
  int socket_ = -1;
};

TEST_F(Steer, HasTheMapsThatItsAbiNames) {
  EXPECT_STREQ(bpf_map__name(skeleton_->maps.xsks_map), SLUICE_XSKS_MAP_NAME);
  EXPECT_STREQ(bpf_map__name(skeleton_->maps.sluice_vips), SLUICE_VIPS_MAP_NAME);
  EXPECT_STREQ(bpf_map__name(skeleton_->maps.sluice_steer_stats), SLUICE_STEER_STATS_MAP_NAME);
  EXPECT_EQ(bpf_map__key_size(skeleton_->maps.sluice_vips), sizeof(sluice_vip_key));
  EXPECT_EQ(bpf_map__max_entries(skeleton_->maps.sluice_vips), uint32_t{SLUICE_VIPS_MAX});
  EXPECT_STREQ(bpf_program__name(skeleton_->progs.sluice_steer), SLUICE_STEER_PROGRAM_NAME);
}

TEST_F(Steer, ServiceTrafficGoesToTheDataPlane) {
  EXPECT_EQ(steer4(ipv4(kClient4, kVip4, wire::kProtoTcp, tcp(kWeb))), uint32_t{XDP_REDIRECT});
  EXPECT_EQ(steer6(ipv6(kClient6, kVip6, wire::kProtoTcp, tcp(kWeb))), uint32_t{XDP_REDIRECT});
  EXPECT_EQ(steer6(ipv6(kClient6, kVip6, wire::kProtoUdp, udp(53))), uint32_t{XDP_REDIRECT});
  EXPECT_EQ(stat(SLUICE_STEER_REDIRECTED), 3u);
  EXPECT_EQ(stat(SLUICE_STEER_PASSED), 0u);
}

TEST_F(Steer, OtherPortsAndProtocolsOfAVipStayWithTheKernel) {
  EXPECT_EQ(steer4(ipv4(kClient4, kVip4, wire::kProtoTcp, tcp(22))), uint32_t{XDP_PASS});
  EXPECT_EQ(steer4(ipv4(kClient4, kVip4, wire::kProtoUdp, udp(kWeb))), uint32_t{XDP_PASS});
  EXPECT_EQ(steer4(ipv4(kClient4, kVip4, wire::kProtoIcmp, {8, 0, 0, 0, 0, 0, 0, 0})), uint32_t{XDP_PASS});
  EXPECT_EQ(steer6(ipv6(kClient6, kVip6, wire::kProtoTcp, tcp(53))), uint32_t{XDP_PASS});
  EXPECT_EQ(steer6(ipv6(kClient6, kVip6, wire::kProtoIcmpv6, {128, 0, 0, 0, 0, 0, 0, 0})),
            uint32_t{XDP_PASS});
  EXPECT_EQ(stat(SLUICE_STEER_PASSED), 5u);
}

TEST_F(Steer, AnyPortMeansEveryPortOfThatProtocol) {
  for (const uint16_t port : {1, 53, 65535}) {
    EXPECT_EQ(steer4(ipv4(kClient4, kAnyPortVip4, wire::kProtoUdp, udp(port))), uint32_t{XDP_REDIRECT})
        << port;
    EXPECT_EQ(steer4(ipv4(kClient4, kAnyPortVip4, wire::kProtoTcp, tcp(port))), uint32_t{XDP_PASS}) << port;
  }
}

TEST_F(Steer, TheHostsOwnTrafficStaysWithTheKernel) {
  EXPECT_EQ(steer4(ipv4(kClient4, kOwn4, wire::kProtoTcp, tcp(kWeb))), uint32_t{XDP_PASS});
  EXPECT_EQ(steer6(ipv6(kClient6, kOwn6, wire::kProtoTcp, tcp(kWeb))), uint32_t{XDP_PASS});
  EXPECT_EQ(steer(ethernet(0x0806, Bytes(28))), uint32_t{XDP_PASS});                             // ARP
  EXPECT_EQ(steer6(ipv6("fe80::1", kVip6, wire::kProtoIcmpv6, Bytes(24))), uint32_t{XDP_PASS});  // ND
  // From a VIP is not to a VIP.
  EXPECT_EQ(steer4(ipv4(kVip4, kClient4, wire::kProtoTcp, tcp(kWeb))), uint32_t{XDP_PASS});
}

TEST_F(Steer, FragmentsOfTcpAndUdpToAVipGoToTheDataPlane) {
  for (const uint16_t fragment : {uint16_t{wire::kIpv4Mf}, uint16_t{1}, uint16_t{wire::kIpv4Mf | 185}}) {
    EXPECT_EQ(steer4(ipv4(kClient4, kVip4, wire::kProtoTcp, tcp(kWeb), {.fragment = fragment})),
              uint32_t{XDP_REDIRECT});
    // A large ping is the kernel's, as a small one is.
    EXPECT_EQ(steer4(ipv4(kClient4, kVip4, wire::kProtoIcmp, Bytes(8), {.fragment = fragment})),
              uint32_t{XDP_PASS});
    EXPECT_EQ(steer4(ipv4(kClient4, kOwn4, wire::kProtoTcp, tcp(kWeb), {.fragment = fragment})),
              uint32_t{XDP_PASS});
  }
  const Bytes fragment_header{wire::kProtoTcp, 0, 0, 1, 0, 0, 0, 7};
  EXPECT_EQ(steer6(ipv6(kClient6, kVip6, wire::kProtoFragment, fragment_header + tcp(kWeb))),
            uint32_t{XDP_REDIRECT});
  EXPECT_EQ(steer6(ipv6(kClient6, kOwn6, wire::kProtoFragment, fragment_header + tcp(kWeb))),
            uint32_t{XDP_PASS});
}

TEST_F(Steer, DontFragmentIsNotAFragment) {
  EXPECT_EQ(steer4(ipv4(kClient4, kVip4, wire::kProtoTcp, tcp(22), {.fragment = wire::kIpv4Df})),
            uint32_t{XDP_PASS});
}

TEST_F(Steer, OptionsAreFollowedToThePorts) {
  for (const size_t bytes : {4, 20, 40}) {
    const Ipv4Fields fields{.options = Bytes(bytes, 1)};  // no-operation
    EXPECT_EQ(steer4(ipv4(kClient4, kVip4, wire::kProtoTcp, tcp(kWeb), fields)), uint32_t{XDP_REDIRECT})
        << bytes;
    EXPECT_EQ(steer4(ipv4(kClient4, kVip4, wire::kProtoTcp, tcp(22), fields)), uint32_t{XDP_PASS}) << bytes;
  }
}

TEST_F(Steer, ExtensionHeadersToAVipGoToTheDataPlane) {
  for (const uint8_t header : {0, 43, 60}) {
    const Bytes extension{wire::kProtoTcp, 0, 1, 4, 0, 0, 0, 0};
    EXPECT_EQ(steer6(ipv6(kClient6, kVip6, header, extension + tcp(kWeb))), uint32_t{XDP_REDIRECT})
        << int{header};
    EXPECT_EQ(steer6(ipv6(kClient6, kOwn6, header, extension + tcp(kWeb))), uint32_t{XDP_PASS})
        << int{header};
  }
}

TEST_F(Steer, GroupAddressedAndTaggedFramesStayWithTheKernel) {
  const Bytes packet = ipv4(kClient4, kVip4, wire::kProtoTcp, tcp(kWeb));
  EXPECT_EQ(steer(ethernet(wire::kEtherIpv4, packet, MacAddress{{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}})),
            uint32_t{XDP_PASS});
  EXPECT_EQ(steer(ethernet(wire::kEtherIpv4, packet, MacAddress{{0x01, 0, 0x5e, 0, 0, 1}})),
            uint32_t{XDP_PASS});
  const Bytes tag{0, 7, 8, 0};  // VLAN 7, IPv4
  EXPECT_EQ(steer(ethernet(wire::kEtherVlan, tag + packet)), uint32_t{XDP_PASS});
  EXPECT_EQ(steer(ethernet(wire::kEtherQinq, tag + packet)), uint32_t{XDP_PASS});
}

TEST_F(Steer, WrongVersionAndHeaderLengthStayWithTheKernel) {
  Bytes packet = ipv4(kClient4, kVip4, wire::kProtoTcp, tcp(kWeb));
  for (const uint8_t version_ihl : {0x44, 0x40, 0x65, 0x05, 0x4f}) {
    packet[0] = version_ihl;  // 0x4f: a header of 60 bytes, beyond the frame
    EXPECT_EQ(steer4(packet), uint32_t{XDP_PASS}) << int{version_ihl};
  }
  Bytes packet6 = ipv6(kClient6, kVip6, wire::kProtoTcp, tcp(kWeb));
  packet6[0] = 0x40;
  EXPECT_EQ(steer6(packet6), uint32_t{XDP_PASS});
}

// Cut at every byte: the data plane's from the byte on with which the ports are whole, never before, and
// never an error.
TEST_F(Steer, TruncatedAtEveryByte) {
  constexpr size_t kEthernet = sizeof(wire::Ethernet);
  const Bytes frame4 = ethernet(wire::kEtherIpv4, ipv4(kClient4, kVip4, wire::kProtoTcp, tcp(kWeb)));
  for (size_t bytes = kEthernet; bytes <= frame4.size(); bytes++) {
    const Bytes cut(frame4.begin(), frame4.begin() + static_cast<long>(bytes));
    EXPECT_EQ(steer(cut), uint32_t{bytes < kEthernet + 20 + 4 ? XDP_PASS : XDP_REDIRECT}) << bytes;
  }
  const Bytes frame6 = ethernet(wire::kEtherIpv6, ipv6(kClient6, kVip6, wire::kProtoTcp, tcp(kWeb)));
  for (size_t bytes = kEthernet; bytes <= frame6.size(); bytes++) {
    const Bytes cut(frame6.begin(), frame6.begin() + static_cast<long>(bytes));
    EXPECT_EQ(steer(cut), uint32_t{bytes < kEthernet + 40 + 4 ? XDP_PASS : XDP_REDIRECT}) << bytes;
  }
}

TEST_F(Steer, WithoutADataPlaneItsTrafficIsDroppedAndTheKernelsPasses) {
  const uint32_t queue = 0;
  ASSERT_EQ(bpf_map_delete_elem(bpf_map__fd(skeleton_->maps.xsks_map), &queue), 0);
  EXPECT_EQ(steer4(ipv4(kClient4, kVip4, wire::kProtoTcp, tcp(kWeb))), uint32_t{XDP_DROP});
  EXPECT_EQ(steer4(ipv4(kClient4, kOwn4, wire::kProtoTcp, tcp(22))), uint32_t{XDP_PASS});
  EXPECT_EQ(stat(SLUICE_STEER_DROPPED_NO_SOCKET), 1u);
  EXPECT_EQ(stat(SLUICE_STEER_PASSED), 1u);
  EXPECT_EQ(stat(SLUICE_STEER_REDIRECTED), 0u);
  set_socket();
  EXPECT_EQ(steer4(ipv4(kClient4, kVip4, wire::kProtoTcp, tcp(kWeb))), uint32_t{XDP_REDIRECT});
}

}  // namespace
}  // namespace sluice::test
