// Frames for C++ tests: an Ethernet frame with IPv4 and TCP or UDP, in a buffer with headroom. Full packet
// tests, field by field and with an independent packet builder, are in tests/packet.
#pragma once

#include <cstdint>
#include <cstring>
#include <vector>

#include "dataplane/batch.h"
#include "src/address.h"
#include "src/size_limits.h"
#include "src/wire.h"

namespace sluice::test {

struct Frame {
  std::vector<uint8_t> buffer;

  uint8_t* start() { return buffer.data() + limits::kHeadroomBytes; }
  uint32_t bytes() const { return static_cast<uint32_t>(buffer.size() - limits::kHeadroomBytes); }
  Packet& add_to(Batch& batch) { return batch.add(start(), bytes(), bytes(), limits::kHeadroomBytes, 0); }
};

struct FrameSpec {
  const char* source = "198.51.100.1";
  const char* destination = "203.0.113.10";
  uint16_t source_port = 40'000;
  uint16_t destination_port = 80;
  uint8_t protocol = wire::kProtoTcp;
  uint8_t tcp_flags = wire::kTcpAck;
  uint32_t payload_bytes = 10;
};

inline Frame make_frame(const FrameSpec& spec) {
  const bool tcp = spec.protocol == wire::kProtoTcp;
  const uint32_t l4_bytes = (tcp ? sizeof(wire::Tcp) : sizeof(wire::Udp)) + spec.payload_bytes;
  Frame frame;
  frame.buffer.resize(limits::kHeadroomBytes + sizeof(wire::Ethernet) + sizeof(wire::Ipv4) + l4_bytes);
  uint8_t* at = frame.start();
  auto& ethernet = *reinterpret_cast<wire::Ethernet*>(at);
  ethernet.ether_type = net16(wire::kEtherIpv4);
  auto& ip = *reinterpret_cast<wire::Ipv4*>(at + sizeof ethernet);
  ip.version_ihl = 0x45;
  ip.total_length = net16(static_cast<uint16_t>(sizeof ip + l4_bytes));
  ip.flags_fragment = net16(wire::kIpv4Df);
  ip.ttl = 64;
  ip.protocol = spec.protocol;
  ip.source = IpAddress::parse(spec.source)->v4_network_order();
  ip.destination = IpAddress::parse(spec.destination)->v4_network_order();
  uint8_t* l4 = at + sizeof ethernet + sizeof ip;
  if (tcp) {
    auto& header = *reinterpret_cast<wire::Tcp*>(l4);
    header.source_port = net16(spec.source_port);
    header.destination_port = net16(spec.destination_port);
    header.data_offset = 5 << 4;
    header.flags = spec.tcp_flags;
  } else {
    auto& header = *reinterpret_cast<wire::Udp*>(l4);
    header.source_port = net16(spec.source_port);
    header.destination_port = net16(spec.destination_port);
    header.length = net16(static_cast<uint16_t>(l4_bytes));
  }
  return frame;
}

}  // namespace sluice::test
