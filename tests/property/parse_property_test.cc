// The short way for well-formed IPv4 says what the careful parser says, whatever the packet.
#include <cstring>
#include <random>
#include <vector>

#include <gtest/gtest.h>
#include <rapidcheck.h>
#include <rapidcheck/gtest.h>

#include "dataplane/parse.h"
#include "src/wire.h"
#include "tests/unit/frames.h"

namespace sluice {
namespace {

// Everything that the stages behind the parser read.
void expect_same(const Packet& a, const Packet& b) {
  RC_ASSERT((a.verdict == Verdict::refused) == (b.verdict == Verdict::refused));
  if (a.verdict == Verdict::refused) {
    RC_ASSERT(a.reason == b.reason);
    return;
  }
  RC_ASSERT(a.family == b.family);
  RC_ASSERT(a.protocol == b.protocol);
  RC_ASSERT(a.tcp_flags == b.tcp_flags);
  RC_ASSERT(a.source_port == b.source_port);
  RC_ASSERT(a.destination_port == b.destination_port);
  RC_ASSERT(a.ip_bytes == b.ip_bytes);
}

RC_GTEST_PROP(ParseProperty, short_and_careful_way_agree, ()) {
  std::mt19937 random(*rc::gen::arbitrary<uint32_t>());
  for (int round = 0; round < 100; round++) {
    test::FrameSpec spec;
    spec.protocol = random() % 2 == 0 ? wire::kProtoTcp : wire::kProtoUdp;
    spec.payload_bytes = random() % 40;
    spec.tcp_flags = static_cast<uint8_t>(random());
    test::Frame frame = test::make_frame(spec);
    // A few headers' bytes are anything, or at the edge of what is right.
    const size_t header_bytes = std::min<size_t>(frame.bytes(), 54);
    for (uint32_t flips = random() % 4; flips > 0; flips--) {
      uint8_t& byte = frame.start()[random() % header_bytes];
      byte = static_cast<uint8_t>(random() % 2 == 0 ? random() : byte + random() % 3 - 1);
    }
    const auto bytes =
        static_cast<uint32_t>(random() % 3 == 0 ? random() % (frame.bytes() + 1) : frame.bytes());
    const auto contiguous = static_cast<uint32_t>(random() % 3 == 0 ? random() % (bytes + 1) : bytes);

    Batch batch;
    batch.add(frame.start(), bytes, contiguous, limits::kHeadroomBytes, 0);
    parse(batch);
    Batch careful;
    Packet& packet = careful.add(frame.start(), bytes, contiguous, limits::kHeadroomBytes, 0);
    parse_packet(packet);
    expect_same(batch.packets[0], packet);
  }
}

}  // namespace
}  // namespace sluice
