// Arbitrary frames through the whole pipeline, over a configuration with every mode and family.
//
// Input: frames, each behind two bytes: its length, big-endian, and in the top bit whether the wire carried
// more than was captured (a packet in several segments). Every frame lies in a buffer of exactly its size and
// headroom, so that AddressSanitizer sees any byte read or written outside; what leaves is checked against
// what came. The flow table lives on from input to input, as a worker's does.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <numeric>
#include <span>
#include <vector>

#include "dataplane/replay.h"
#include "src/checksum.h"
#include "src/wire.h"

namespace sluice {
namespace {

constexpr uint32_t kEthernetBytes = sizeof(wire::Ethernet);
constexpr uint32_t kMtuBytes = 1500;
constexpr uint32_t kUncapturedBytes = 700;

// Not assert: says what, in any build.
void must(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "invariant broken: %s\n", what);
  std::abort();
}

constexpr const char* kConfig = R"(
[[service]]
name = "ipip4"
vip = "203.0.113.10"
port = 80
protocol = "tcp"
forward = "ipip"
backend = [ { name = "a", address = "10.0.1.11" }, { name = "b", address = "fd00:1::11" } ]
[[service]]
name = "ipip6"
vip = "2001:db8:10::10"
port = 0
protocol = "udp"
forward = "ipip"
backend = [ { name = "a", address = "10.0.1.11" }, { name = "b", address = "fd00:1::11" } ]
[[service]]
name = "direct4"
vip = "203.0.113.11"
port = 0
protocol = "udp"
forward = "l2dsr"
backend = [ { name = "a", address = "10.0.1.11" } ]
[[service]]
name = "direct6"
vip = "2001:db8:10::11"
port = 443
protocol = "tcp"
forward = "l2dsr"
backend = [ { name = "a", address = "fd00:1::11" } ]
[[service]]
name = "nobody"
vip = "203.0.113.12"
port = 80
protocol = "tcp"
forward = "ipip"
backend = [ { name = "a", address = "10.0.1.11", weight = 0 } ]
)";

Replay& replay() {
  static const std::unique_ptr<Replay> instance = [] {
    const ConfigResult loaded = parse_config(kConfig, "fuzz.toml");
    for (const Diagnostic& error : loaded.errors)
      std::fprintf(stderr, "%s\n", error.text().c_str());
    must(loaded.config.has_value(), "the configuration of this fuzzer is right");
    ReplayNetwork network;
    network.source_mac = *MacAddress::parse("02:00:00:00:0b:02");
    network.destination_mac = *MacAddress::parse("02:00:00:00:0d:01");
    network.tunnel_source4 = *IpAddress::parse("10.0.1.1");
    network.tunnel_source6 = *IpAddress::parse("fd00:1::1");
    network.mtu_bytes = kMtuBytes;
    Result<std::unique_ptr<Replay>> made = Replay::make(*loaded.config, network);
    must(static_cast<bool>(made), "a replay can be made");
    return std::move(*made);
  }();
  return *instance;
}

struct Sent {
  std::span<const uint8_t> captured;
  uint32_t bytes;
};

std::span<const uint8_t> frame_of(const Packet& packet) {
  return {packet.data, contiguous_bytes_out(packet)};
}

// The IP header at the start of `ip`: lengths that agree with the frame, and a right checksum. Returns header
// bytes.
uint32_t check_new_header(std::span<const uint8_t> ip, uint32_t ip_bytes) {
  if (ip[0] >> 4 == 4) {
    const auto& header = *reinterpret_cast<const wire::Ipv4*>(ip.data());
    must(header.version_ihl == 0x45, "a new IPv4 header has no options");
    must(net16(header.total_length) == ip_bytes, "a new IPv4 header counts the packet");
    must(checksum_fold(checksum_add(0, &header, sizeof header)) == 0xffff, "a new IPv4 header sums up");
    return sizeof header;
  }
  const auto& header = *reinterpret_cast<const wire::Ipv6*>(ip.data());
  must(ip[0] >> 4 == 6, "a new header is IPv4 or IPv6");
  must(net16(header.payload_length) + sizeof header == ip_bytes, "a new IPv6 header counts the packet");
  return sizeof header;
}

void check_forwarded(const Packet& packet, const Sent& sent, bool tunnel) {
  const auto out = frame_of(packet);
  must(packet.bytes <= kEthernetBytes + kMtuBytes || !tunnel, "what leaves fits the link");
  const uint32_t outer_bytes =
      tunnel ? check_new_header(out.subspan(kEthernetBytes), packet.bytes - kEthernetBytes) : 0;
  const auto inner = out.subspan(kEthernetBytes + outer_bytes);
  const auto original = sent.captured.subspan(kEthernetBytes);
  must(inner.size() <= original.size(), "nothing is added behind the packet");
  const size_t hops_at = inner[0] >> 4 == 4 ? 8 : 7;
  for (size_t i = 0; i < inner.size(); i++) {
    const bool may_change = tunnel && (i == hops_at || (hops_at == 8 && (i == 10 || i == 11)));
    must(may_change || inner[i] == original[i], "the inner packet stays");
  }
  if (tunnel) must(inner[hops_at] + 1 == original[hops_at], "the inner packet loses one hop");
}

void check_answer(const Packet& packet, const Sent& sent) {
  const auto out = frame_of(packet);
  must(out.size() == packet.bytes, "an answer is in one piece");
  const uint32_t ip_bytes = packet.bytes - kEthernetBytes;
  const uint32_t header_bytes = check_new_header(out.subspan(kEthernetBytes), ip_bytes);
  must(ip_bytes <= (header_bytes == sizeof(wire::Ipv4) ? 576u : 1280u),
       "an answer is as short as the RFCs say");
  const auto quoted = out.subspan(kEthernetBytes + header_bytes + sizeof(wire::Icmp));
  must(std::memcmp(quoted.data(), sent.captured.data() + kEthernetBytes, quoted.size()) == 0,
       "an answer quotes what came");
  must(std::memcmp(out.data(), sent.captured.data() + 6, 6) == 0,
       "an answer goes back where the packet came from");
}

void check_frame(const Replay::Frame& frame, const Sent& sent) {
  const Packet& packet = *frame.packet;
  const auto out = frame_of(packet);
  // Reads every byte: AddressSanitizer objects to any outside the buffer.
  volatile unsigned sink = std::accumulate(out.begin(), out.end(), 0u);
  (void)sink;
  const std::string text = replay().verdict_text(packet);
  switch (packet.verdict) {
    case Verdict::forward:
      return check_forwarded(packet, sent, text.find(" ipip") != std::string::npos);
    case Verdict::answer:
      return check_answer(packet, sent);
    case Verdict::refused:
      must(static_cast<size_t>(packet.reason) < kReasonCount, "a reason is one of the list");
  }
}

void check_counters(const PacketSnapshot& before, const PacketSnapshot& after, size_t frames) {
  must(after.received - before.received == frames, "every frame is counted");
  const uint64_t refused =
      std::accumulate(std::begin(after.by_reason), std::end(after.by_reason), uint64_t{0});
  must(after.received == after.forwarded + after.answered + refused, "the counters add up");
}

}  // namespace
}  // namespace sluice

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace sluice;
  static uint64_t number = 0;
  const PacketSnapshot before = replay().counters();
  const uint64_t first = number + 1;
  std::vector<Sent> sent;
  const auto done = [&](const Replay::Frame& frame) { check_frame(frame, sent[frame.number - first]); };
  for (std::span<const uint8_t> rest(data, size); rest.size() >= 2;) {
    const uint32_t length = (rest[0] & 0x7fu) << 8 | rest[1];
    const bool more_on_wire = (rest[0] & 0x80) != 0;
    rest = rest.subspan(2);
    const auto captured = rest.first(std::min<size_t>(length, rest.size()));
    rest = rest.subspan(captured.size());
    const auto captured_bytes = static_cast<uint32_t>(captured.size());
    sent.push_back({captured, captured_bytes + (more_on_wire ? kUncapturedBytes : 0)});
    // A second passes every 64 frames: flows age, and answers are granted again.
    replay().add(++number / 64 * 1'000'000, captured.data(), captured_bytes, sent.back().bytes, done);
  }
  replay().flush(done);
  check_counters(before, replay().counters(), sent.size());
  return 0;
}
