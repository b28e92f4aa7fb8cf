// The hash of a packet is that of its flow key as src/flow_key.h defines it: what `sluice explain` computes
// from an operator's words is what the worker computes from the packet.
#include "dataplane/classify.h"

#include <cstring>
#include <vector>

#include <gtest/gtest.h>

#include "dataplane/parse.h"
#include "src/flow_key.h"
#include "tests/unit/frames.h"

namespace sluice {
namespace {

const HashSecret& secret() {
  static const HashSecret value = HashSecret::from_text("a cluster's secret");
  return value;
}

// IPv6 of the same frame: its transport header behind an IPv6 header.
test::Frame make_ipv6_frame(const IpAddress& source, const IpAddress& destination) {
  test::Frame v4 = test::make_frame({});
  const size_t l4_at = sizeof(wire::Ethernet) + sizeof(wire::Ipv4);
  const size_t l4_bytes = v4.bytes() - l4_at;
  test::Frame frame;
  frame.buffer.resize(limits::kHeadroomBytes + sizeof(wire::Ethernet) + sizeof(wire::Ipv6) + l4_bytes);
  uint8_t* at = frame.start();
  reinterpret_cast<wire::Ethernet*>(at)->ether_type = net16(wire::kEtherIpv6);
  auto& ip = *reinterpret_cast<wire::Ipv6*>(at + sizeof(wire::Ethernet));
  ip.version_class_flow = net32(6u << 28);
  ip.payload_length = net16(static_cast<uint16_t>(l4_bytes));
  ip.next_header = wire::kProtoTcp;
  ip.hop_limit = 64;
  std::memcpy(ip.source, source.bytes.data(), 16);
  std::memcpy(ip.destination, destination.bytes.data(), 16);
  std::memcpy(&ip + 1, v4.start() + l4_at, l4_bytes);
  return frame;
}

TEST(ClassifyTest, TheHashOfAnIpv4PacketIsThatOfItsKey) {
  for (const uint8_t protocol : {wire::kProtoTcp, wire::kProtoUdp}) {
    test::FrameSpec spec;
    spec.protocol = protocol;
    test::Frame frame = test::make_frame(spec);
    Batch batch;
    Packet& packet = frame.add_to(batch);
    ASSERT_TRUE(parse_packet(packet));
    const FlowKey4 key{IpAddress::parse(spec.source)->v4_network_order(),
                       IpAddress::parse(spec.destination)->v4_network_order(), net16(spec.source_port),
                       net16(spec.destination_port), protocol};
    EXPECT_EQ(hash_of(packet, secret()), flow_hash(key, secret()));
    EXPECT_EQ(destination_of(packet), *IpAddress::parse(spec.destination));
  }
}

TEST(ClassifyTest, TheHashOfAnIpv6PacketIsThatOfItsKey) {
  const IpAddress source = *IpAddress::parse("2001:db8:c::7");
  const IpAddress destination = *IpAddress::parse("2001:db8:10::10");
  test::Frame frame = make_ipv6_frame(source, destination);
  Batch batch;
  Packet& packet = frame.add_to(batch);
  ASSERT_TRUE(parse_packet(packet));
  FlowKey6 key;
  key.source = source.bytes;
  key.destination = destination.bytes;
  key.source_port = net16(test::FrameSpec{}.source_port);
  key.destination_port = net16(test::FrameSpec{}.destination_port);
  key.protocol = wire::kProtoTcp;
  EXPECT_EQ(hash_of(packet, secret()), flow_hash(key, secret()));
  EXPECT_EQ(destination_of(packet), destination);
}

}  // namespace
}  // namespace sluice
