// The generator's parts that need no DPDK: what it sends is right, and what comes back wrong is noticed.
#include <cmath>
#include <set>
#include <string>
#include <utility>

#include <gtest/gtest.h>

#include "perf/pktgen/checker.h"
#include "perf/pktgen/flow_book.h"
#include "perf/pktgen/frame.h"
#include "perf/pktgen/latency.h"
#include "perf/pktgen/picker.h"
#include "perf/pktgen/trial.h"

namespace sluice::pktgen {
namespace {

constexpr uint32_t kEthernet = sizeof(wire::Ethernet);
constexpr uint32_t kRoom = 64;  // in front of a frame, for an outer header

// RFC 1071's sum as it is written there, word by word: not the code under test.
uint16_t plain_sum(const uint8_t* data, size_t bytes, uint32_t sum = 0) {
  for (size_t i = 0; i + 1 < bytes; i += 2)
    sum += static_cast<uint32_t>(data[i] << 8 | data[i + 1]);
  if (bytes % 2 != 0) sum += static_cast<uint32_t>(data[bytes - 1] << 8);
  while (sum >> 16 != 0)
    sum = (sum & 0xffff) + (sum >> 16);
  return static_cast<uint16_t>(sum);
}

std::string request(const std::string& path, bool v6 = false, const std::string& more = "") {
  const std::string prefix = v6 ? "2001:db8:1::" : "10.1.0.";
  std::string backends;
  for (int i = 1; i <= 4; i++) {
    backends += std::string(i > 1 ? "," : "") + R"({"address":")" + prefix + std::to_string(i) +
                R"(","mac":"02:00:00:00:01:0)" + std::to_string(i) + R"(","vip":)" +
                std::to_string(i == 4 ? 1 : 0) + "}";
  }
  const std::string vip = v6 ? "2001:db8:100::" : "203.0.113.";
  return R"({"flows":1000,"path":")" + path + R"(","backends":[)" + backends + R"(],"vips":[{"address":")" +
         vip + R"(1","port":80},{"address":")" + vip + R"(2","port":443}])" + more + "}";
}

Trial trial_of(const std::string& text) {
  Result<Trial> trial = Trial::parse(text);
  EXPECT_TRUE(trial) << trial.error().text();
  return *trial;
}

// A generator and a target in one: writes a frame, and does to it what a balancer does.
struct Bench {
  explicit Bench(const std::string& text)
      : trial(trial_of(text)), writer(trial), checker(trial, flows, outcome) {
    EXPECT_TRUE(flows.prepare(trial.flows, true));
  }

  uint8_t* frame() { return buffer + kRoom; }

  void write(uint32_t flow, uint8_t flags = wire::kTcpAck) {
    std::memset(buffer, 0, sizeof buffer);
    const uint32_t incarnation = flows.incarnation(flow);
    bytes = writer.write(frame(), client_of(flow, incarnation), flow, vip_of(flow, 2),
                         flow << FlowBook::kEchoBits | (incarnation & FlowBook::kEchoMask), 12345, flags);
    added = 0;
  }
  void forward_l2dsr(uint32_t backend) { std::memcpy(frame(), trial.backends[backend].mac.bytes.data(), 6); }
  void forward_ipip(uint32_t backend) {
    const BackendTarget& to = trial.backends[backend];
    const bool v4 = to.address.is_v4();
    added = v4 ? sizeof(wire::Ipv4) : sizeof(wire::Ipv6);
    uint8_t* start = frame() - added;
    std::memcpy(start, to.mac.bytes.data(), 6);
    const uint16_t type = net16(v4 ? wire::kEtherIpv4 : wire::kEtherIpv6);
    std::memcpy(start + 12, &type, 2);
    const uint8_t protocol = writer.is_v4() ? wire::kProtoIpip : wire::kProtoIpv6;
    uint8_t* ip = start + kEthernet;
    const auto inner = static_cast<uint16_t>(bytes - kEthernet);
    if (v4) {
      auto& outer = *reinterpret_cast<wire::Ipv4*>(ip);
      outer = {0x45,
               0,
               net16(static_cast<uint16_t>(inner + 20)),
               0,
               0,
               64,
               protocol,
               0,
               0x0100a8c0,
               to.address.v4_network_order()};
      outer.checksum = net16(static_cast<uint16_t>(~plain_sum(ip, sizeof outer)));
    } else {
      auto& outer = *reinterpret_cast<wire::Ipv6*>(ip);
      outer = {net32(6u << 28), net16(inner), protocol, 64, {}, {}};
      std::memcpy(outer.destination, to.address.bytes.data(), 16);
    }
  }
  bool check() { return checker.check({frame(), added, bytes + added}); }

  uint8_t buffer[kRoom + 1600] = {};
  uint32_t bytes = 0, added = 0;
  Trial trial;
  FlowBook flows;
  Outcome outcome;
  FrameWriter writer;
  Checker checker;
};

// ---- Frames

TEST(PktgenFrame, ChecksumsAndLengthsAreRightInEverySizeAndFamily) {
  for (const bool v6 : {false, true}) {
    for (const char* frame : {"64", "65", "570", "1518", "\"imix\""}) {
      Bench bench(request("macswap", v6, std::string(",\"frame\":") + frame));
      for (uint32_t flow = 0; flow < 24; flow++) {
        bench.write(flow);
        const uint8_t* ip = bench.frame() + kEthernet;
        const uint32_t header = v6 ? 40 : 20, ip_bytes = bench.bytes - kEthernet;
        EXPECT_EQ(v6 ? ip[4] << 8 | ip[5] : (ip[2] << 8 | ip[3]) - 20, ip_bytes - header);
        if (!v6) {
          EXPECT_EQ(plain_sum(ip, header), 0xffff);
        }
        const uint32_t addresses = plain_sum(ip + (v6 ? 8 : 12), v6 ? 32 : 8);
        EXPECT_EQ(plain_sum(ip + header, ip_bytes - header, addresses + wire::kProtoTcp + ip_bytes - header),
                  0xffff);
      }
    }
  }
}

TEST(PktgenFrame, TheInternetMixIsSevenFourOne) {
  Bench bench(request("macswap", false, R"(,"frame":"imix")"));
  std::multiset<uint32_t> sizes;
  for (uint32_t i = 0; i < 120; i++) {
    bench.write(i);
    sizes.insert(bench.bytes + kCheckSequenceBytes);
  }
  EXPECT_EQ(sizes.count(64), 70u);
  EXPECT_EQ(sizes.count(570), 40u);
  EXPECT_EQ(sizes.count(1518), 10u);
}

TEST(PktgenFrame, NoTwoFlowsShareAClient) {
  std::set<std::pair<uint32_t, uint16_t>> seen, flood;
  for (uint32_t flow = 0; flow < 20'000; flow++) {
    for (const uint32_t incarnation : {0u, 1u, 2u, 4095u}) {
      const Client client = client_of(flow, incarnation);
      EXPECT_LT(client.host, 1u << 24);
      seen.insert({client.host, client.port});
    }
    const Client client = flood_client(flow);
    EXPECT_LT(client.host, 1u << 22);
    flood.insert({client.host, client.port});
  }
  EXPECT_EQ(seen.size(), 80'000u);
  EXPECT_EQ(flood.size(), 20'000u);
}

// ---- What the checker notices

class PktgenPath : public testing::TestWithParam<std::pair<std::string, bool>> {
 protected:
  Bench bench{request(GetParam().first, GetParam().second)};
  void forward(uint32_t backend) {
    GetParam().first == "ipip" ? bench.forward_ipip(backend) : bench.forward_l2dsr(backend);
  }
  // A flow to the first VIP, whose backends are 0 to 2.
  static uint32_t some_flow() {
    uint32_t flow = 7;
    while (vip_of(flow, 2) != 0)
      flow++;
    return flow;
  }
};
INSTANTIATE_TEST_SUITE_P(All, PktgenPath,
                         testing::Values(std::pair("ipip", false), std::pair("ipip", true),
                                         std::pair("l2dsr", false)));

TEST_P(PktgenPath, GoodPacketsAreCountedForTheirBackend) {
  for (int i = 0; i < 3; i++) {
    bench.write(some_flow());
    forward(2);
    EXPECT_TRUE(bench.check());
    EXPECT_EQ(bench.checker.flow_of(bench.frame()), some_flow());
    EXPECT_EQ(bench.checker.stamp_of(bench.frame()), 12345u);
  }
  const Counts& counts = bench.outcome.counts;
  EXPECT_EQ(counts.received, 3u);
  EXPECT_EQ(bench.outcome.by_backend, (std::vector<uint64_t>{0, 0, 3, 0}));
  EXPECT_EQ(counts.corrupt + counts.misdelivered + counts.moved, 0u);
}

TEST_P(PktgenPath, AFlowAtAnotherBackendIsMoved) {
  for (const uint32_t backend : {1u, 1u, 0u, 0u, 1u}) {
    bench.write(some_flow());
    forward(backend);
    EXPECT_TRUE(bench.check());
  }
  EXPECT_EQ(bench.outcome.counts.moved, 2u);
  EXPECT_EQ(bench.outcome.counts.misdelivered, 0u);
}

TEST_P(PktgenPath, AnotherServicesBackendAndAStrangersAddressAreMisdelivered) {
  bench.write(some_flow());
  forward(3);
  EXPECT_TRUE(bench.check());
  EXPECT_EQ(bench.outcome.counts.misdelivered, 1u);
  bench.trial.backends[0].address = bench.trial.vips[0].address;
  bench.trial.backends[0].mac = *MacAddress::parse("02:00:00:00:99:99");
  bench.write(some_flow());
  forward(0);
  EXPECT_TRUE(bench.check());
  EXPECT_EQ(bench.outcome.counts.misdelivered, 2u);
  bench.write(some_flow());  // as it was sent: to no backend at all
  EXPECT_TRUE(bench.check());
  EXPECT_EQ(bench.outcome.counts.misdelivered, 3u);
}

// What a target may change, or what no checksum covers, in IPv6: class and label, hop limit, the outer source
// address.
bool is_free_in_ipv6(uint32_t offset, bool outer) {
  return offset < 4 || offset == 7 || (outer ? offset >= 8 && offset < 24 : offset == 6);
}

TEST_P(PktgenPath, EveryFlippedBitIsNoticed) {
  const bool v6 = GetParam().second;
  bench.write(some_flow());
  forward(1);
  const uint32_t ip_at = bench.added + kEthernet;
  const uint32_t payload_at = ip_at + (v6 ? 60 : 40);
  for (uint32_t byte = 0; byte < payload_at; byte++) {
    // The Ethernet source, and of a frame without a tunnel the type, are not looked at.
    if (byte >= 6 && byte < (bench.added != 0 ? 12u : kEthernet)) continue;
    if (v6 && byte >= ip_at && is_free_in_ipv6(byte - ip_at, false)) continue;
    if (v6 && byte >= kEthernet && byte < ip_at && is_free_in_ipv6(byte - kEthernet, true)) continue;
    for (uint32_t bit = 0; bit < 8; bit++) {
      ASSERT_TRUE(bench.check()) << "the flow's backend is known again";
      const Counts before = bench.outcome.counts;
      uint8_t& at = *(bench.frame() - bench.added + byte);
      at = static_cast<uint8_t>(at ^ (1u << bit));
      bench.check();
      at = static_cast<uint8_t>(at ^ (1u << bit));
      const Counts& after = bench.outcome.counts;
      EXPECT_GT(after.corrupt + after.misdelivered + after.moved,
                before.corrupt + before.misdelivered + before.moved)
          << "byte " << byte << " bit " << bit;
    }
  }
}

TEST_P(PktgenPath, ATruncatedOrStretchedFrameIsCorrupt) {
  bench.write(some_flow());
  forward(1);
  for (const uint32_t bytes : {bench.bytes - 1, bench.bytes + 1, 0u, 20u}) {
    EXPECT_FALSE(bench.checker.check({bench.frame(), bench.added, bytes == 0 ? 0 : bytes + bench.added}));
  }
  EXPECT_EQ(bench.outcome.counts.corrupt, 4u);
}

// ---- Flows that end and come again

TEST(PktgenFlowBook, TheLastPacketsOfAnEndedFlowAreStillHeldAgainstItsBackend) {
  FlowBook flows;
  ASSERT_TRUE(flows.prepare(10, true));
  EXPECT_TRUE(flows.begin(3));
  EXPECT_FALSE(flows.begin(3));
  EXPECT_TRUE(flows.came_from(3, 0, 5));
  flows.renew(3);
  EXPECT_TRUE(flows.begin(3)) << "a new flow begins with a SYN";
  EXPECT_EQ(flows.incarnation(3), 1u);
  EXPECT_TRUE(flows.came_from(3, 0, 5)) << "the old flow's FIN, where it belongs";
  EXPECT_FALSE(flows.came_from(3, 0, 6)) << "and elsewhere";
  EXPECT_TRUE(flows.came_from(3, 1, 6)) << "the new flow may go anywhere";
  EXPECT_FALSE(flows.came_from(3, 1, 5)) << "but only once";
}

TEST(PktgenFlowBook, IncarnationsWrapWithoutTouchingOthers) {
  FlowBook flows;
  ASSERT_TRUE(flows.prepare(2, true));
  for (uint32_t i = 1; i <= 5000; i++) {
    flows.renew(1);
    EXPECT_EQ(flows.incarnation(1), i % 4096);
    EXPECT_TRUE(flows.came_from(1, i & FlowBook::kEchoMask, i % 7));
  }
  EXPECT_EQ(flows.incarnation(0), 0u);
}

// ---- Picking, latency, requests

TEST(PktgenPicker, ZipfGivesEachFlowItsShare) {
  constexpr uint32_t kFlows = 1'000'000;
  constexpr uint64_t kPicks = 4'000'000;
  const Zipf zipf(kFlows);
  Random random(7);
  std::vector<uint32_t> counts(kFlows);
  for (uint64_t i = 0; i < kPicks; i++) {
    const uint32_t flow = zipf.pick(random.next());
    ASSERT_LT(flow, kFlows);
    counts[flow]++;
  }
  double harmonic = 0;
  for (uint32_t k = 1; k <= kFlows; k++)
    harmonic += 1.0 / k;
  // Single flows at the head, then ranges; within five standard deviations.
  for (const auto& [first, last] : std::vector<std::pair<uint32_t, uint32_t>>{{1, 1},
                                                                              {2, 2},
                                                                              {3, 3},
                                                                              {100, 100},
                                                                              {2000, 2100},
                                                                              {5000, 6000},
                                                                              {100'000, 110'000},
                                                                              {900'000, 1'000'000}}) {
    double expected = 0;
    uint64_t seen = 0;
    for (uint32_t k = first; k <= last; k++) {
      expected += static_cast<double>(kPicks) / k / harmonic;
      seen += counts[k - 1];
    }
    EXPECT_NEAR(static_cast<double>(seen), expected, 5 * std::sqrt(expected)) << first << " to " << last;
  }
}

TEST(PktgenLatency, BucketsAreWithinOneThirtySecond) {
  for (uint64_t value = 0; value < (1ULL << 32); value += value / 64 + 1) {
    const auto v = static_cast<uint32_t>(value);
    const uint32_t bucket = LatencyHistogram::bucket_of(v);
    ASSERT_LT(bucket, LatencyHistogram::kBuckets);
    const uint32_t upper = LatencyHistogram::upper(bucket);
    ASSERT_GE(upper, v);
    ASSERT_LE(upper - v, v / 32) << v;
    if (bucket > 0) {
      ASSERT_LT(LatencyHistogram::upper(bucket - 1), v);
    }
  }
  EXPECT_EQ(LatencyHistogram::bucket_of(0xffffffff), LatencyHistogram::kBuckets - 1);
}

TEST(PktgenLatency, Quantiles) {
  LatencyHistogram histogram;
  for (uint32_t value = 1; value <= 1000; value++)
    histogram.add(value, 10);
  EXPECT_EQ(histogram.total(), 10'000u);
  for (const double share : {0.1, 0.5, 0.9, 0.99}) {
    EXPECT_GE(histogram.quantile(share), share * 1000);
    EXPECT_LE(histogram.quantile(share), share * 1000 * 33 / 32);
  }
  EXPECT_EQ(histogram.quantile(1), 1000u);
  EXPECT_EQ(histogram.max(), 1000u);
  EXPECT_EQ(LatencyHistogram().quantile(0.5), 0u);
}

TEST(PktgenTrial, RefusesWhatMakesNoSense) {
  for (const char* wrong : {"", "{}", R"({"vips":[]})", R"({"vips":[{"address":"x","port":80}]})",
                            R"({"vips":[{"address":"10.0.0.1","port":80}],"flows":0})",
                            R"({"vips":[{"address":"10.0.0.1","port":80}],"flows":134217728})",
                            R"({"vips":[{"address":"10.0.0.1","port":80}],"frame":63})",
                            R"({"vips":[{"address":"10.0.0.1","port":80}],"churn":0.4,"syn_flood":0.3})",
                            R"({"vips":[{"address":"10.0.0.1","port":80}],"path":"ipip"})",
                            R"({"vips":[{"address":"10.0.0.1","port":80},{"address":"::1","port":80}]})",
                            R"({"vips":[{"address":"10.0.0.1","port":80}],"order":"random"})"}) {
    const Result<Trial> trial = Trial::parse(wrong);
    EXPECT_FALSE(trial) << wrong;
    EXPECT_TRUE(trial || !trial.error().what.empty());
  }
  EXPECT_TRUE(Trial::parse(R"({"vips":[{"address":"10.0.0.1","port":80}]})"));
}

}  // namespace
}  // namespace sluice::pktgen
