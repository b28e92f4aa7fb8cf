// The packets that benchmarks prepare: frames of numbered flows, and which flow comes next.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "perf/forwarding_model.h"
#include "src/wire.h"

namespace sluice::perf {

// xorshift128+: a few cycles a number, long enough a period.
class Random {
 public:
  explicit Random(uint64_t seed) : a_(seed * 0x9e3779b97f4a7c15ULL | 1), b_(seed ^ 0xd1b54a32d192ed03ULL) {}
  uint64_t next() {
    uint64_t x = a_;
    const uint64_t y = b_;
    a_ = y;
    x ^= x << 23;
    b_ = x ^ y ^ (x >> 17) ^ (y >> 26);
    return b_ + y;
  }
  // Below `limit`, by multiplication.
  uint64_t below(uint64_t limit) { return (next() >> 32) * limit >> 32; }
  // In [0, 1).
  double real() { return static_cast<double>(next() >> 11) * 0x1.0p-53; }

 private:
  uint64_t a_, b_;
};

// Zipf with exponent 1 over 0 .. count - 1, the most frequent first: rejection-inversion (Hoermann and
// Derflinger, "Rejection-inversion to generate variates from monotone discrete distributions", 1996).
class Zipf {
 public:
  explicit Zipf(uint64_t count)
      : integral_at_start_(integral(1.5) - 1.0),
        integral_at_end_(integral(static_cast<double>(count) + 0.5)) {}
  uint64_t next(Random& random) {
    while (true) {
      const double u = integral_at_end_ + random.real() * (integral_at_start_ - integral_at_end_);
      const double x = std::exp(u);
      const double rank = std::floor(x + 0.5);
      if (u >= integral(rank + 0.5) - 1.0 / rank) return static_cast<uint64_t>(rank) - 1;
    }
  }

 private:
  static double integral(double x) { return std::log(x); }
  double integral_at_start_;
  double integral_at_end_;
};

inline constexpr uint32_t kFlowsPerAddress = 50'000;

// Flow n's source address and port; network order.
inline uint32_t source_address(uint64_t flow) {
  return net32(0x0b000000 + static_cast<uint32_t>(flow / kFlowsPerAddress));
}
inline uint16_t source_port(uint64_t flow) {
  return net16(static_cast<uint16_t>(1024 + flow % kFlowsPerAddress));
}

// Frames as the clients of `shape` send them; flow n goes to service n modulo the number of services.
class FrameMaker {
 public:
  explicit FrameMaker(const Shape& shape)
      : v4_(shape.vip == Family::v4), services_(shape.services), clients_(shape.clients) {
    auto& ethernet = *reinterpret_cast<wire::Ethernet*>(frame_);
    ethernet.ether_type = net16(v4_ ? wire::kEtherIpv4 : wire::kEtherIpv6);
    const IpAddress vip = vip_of(shape, 0);
    uint8_t* ip = frame_ + sizeof ethernet;
    if (v4_) {
      auto& header = *reinterpret_cast<wire::Ipv4*>(ip);
      header.version_ihl = 0x45;
      header.total_length = net16(sizeof(wire::Ipv4) + sizeof(wire::Tcp));
      header.flags_fragment = net16(wire::kIpv4Df);
      header.ttl = 64;
      header.protocol = wire::kProtoTcp;
      first_vip_ = net32(vip.v4_network_order());
    } else {
      auto& header = *reinterpret_cast<wire::Ipv6*>(ip);
      header.version_class_flow = net32(6u << 28);
      header.payload_length = net16(sizeof(wire::Tcp));
      header.next_header = wire::kProtoTcp;
      header.hop_limit = 64;
      std::memcpy(header.destination, vip.bytes.data(), 16);
      std::memcpy(&first_vip_, &vip.bytes[12], 4);
      first_vip_ = net32(first_vip_);
    }
    auto& tcp = *reinterpret_cast<wire::Tcp*>(frame_ + transport_at());
    tcp.destination_port = net16(kServicePort);
    tcp.data_offset = 5 << 4;
  }

  // 64 bytes on the wire with the checksum that no buffer holds; IPv6 with TCP needs 74.
  uint32_t bytes() const { return v4_ ? 60 : 74; }

  void write(uint64_t flow, uint8_t tcp_flags, uint8_t* at) {
    std::memcpy(at, frame_, sizeof frame_);
    // Of many clients each has one flow, then each the next.
    const uint32_t source =
        clients_ == 0 ? source_address(flow) : net32(0x0b000000 + static_cast<uint32_t>(flow % clients_));
    const uint32_t vip = net32(first_vip_ + static_cast<uint32_t>(flow % services_));
    std::memcpy(at + (v4_ ? 26 : 34), &source, 4);
    std::memcpy(at + (v4_ ? 30 : 50), &vip, 4);
    auto& tcp = *reinterpret_cast<wire::Tcp*>(at + transport_at());
    tcp.source_port = clients_ == 0 ? source_port(flow) : source_port(flow / clients_);
    tcp.flags = tcp_flags;
  }

 private:
  uint32_t transport_at() const {
    return sizeof(wire::Ethernet) + (v4_ ? sizeof(wire::Ipv4) : sizeof(wire::Ipv6));
  }
  bool v4_;
  uint32_t services_;
  uint32_t clients_;
  uint32_t first_vip_ = 0;  // its last four bytes, host order
  alignas(64) uint8_t frame_[80] = {};
};

}  // namespace sluice::perf
