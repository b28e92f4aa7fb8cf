// The frames of a trial: Ethernet, IPv4 or IPv6, TCP, and a payload of zeroes.
//
// A packet carries what the checker needs, in the fields that a load balancer neither reads nor changes:
//   TCP sequence number         the flow's number (27 bits), and the low bits of its incarnation (5)
//   TCP acknowledgement number  the low 32 bits of the time-stamp counter when it was made
// both in the host's byte order. All checksums are right, so the checker can tell a packet that was damaged.
//
// The client's address and port are a one-to-one mapping of (flow, incarnation): 10.0.0.0/8 or
// 2001:db8:a::/64, ports from 32768; a flood's are of a counter: 100.64.0.0/10 or 2001:db8:f::/64. A flow
// always goes to the same VIP.
//
// Writing one costs a copy of the template and half a dozen stores, some 15 cycles. Prepared once a trial;
// one thread.
#pragma once

#include <cstdint>
#include <cstring>
#include <vector>

#include "perf/pktgen/flow_book.h"
#include "perf/pktgen/picker.h"
#include "perf/pktgen/trial.h"
#include "src/checksum.h"
#include "src/wire.h"

namespace sluice::pktgen {

inline constexpr uint32_t kCheckSequenceBytes = 4;  // of an Ethernet frame; not in memory
inline constexpr uint32_t kFloodFlow = Trial::kFlowsMax;
inline constexpr uint32_t kFlowBits = 27;
static_assert(kFlowBits + FlowBook::kEchoBits == 32 && kFloodFlow == (1u << kFlowBits) - 1);

constexpr uint32_t vip_of(uint32_t flow, uint32_t vips_count) {
  return scale(flow * 0x9e3779b1u, vips_count);
}

// Who sends a packet: `host` within the prefix, and a TCP port.
struct Client {
  uint32_t host;  // 24 bits; a flood's 22
  uint16_t port;  // host order
};
inline Client client_of(uint32_t flow, uint32_t incarnation) {
  // An odd factor permutes 39 bits.
  const uint64_t mixed =
      ((uint64_t{incarnation} << kFlowBits | flow) * 0x5851f42d4c957f2dULL) & ((1ULL << 39) - 1);
  return {static_cast<uint32_t>(mixed >> 15), static_cast<uint16_t>(0x8000 | (mixed & 0x7fff))};
}
inline Client flood_client(uint64_t number) {
  const uint64_t mixed = (number * 0x5851f42d4c957f2dULL) & ((1ULL << 37) - 1);
  return {static_cast<uint32_t>(mixed >> 15), static_cast<uint16_t>(0x8000 | (mixed & 0x7fff))};
}

class FrameWriter {
 public:
  explicit FrameWriter(const Trial& trial);

  bool is_v4() const { return v4_; }

  // Writes the next frame's headers at `at` (room for kHeaderBytes; the payload there is zero already) and
  // returns its bytes in memory.
  static constexpr uint32_t kHeaderBytes = 80;
  uint32_t write(uint8_t* at, const Client& client, uint32_t flow, uint32_t vip, uint32_t sequence,
                 uint32_t stamp, uint8_t tcp_flags) {
    const Template& form = templates_[next_];
    next_ = next_ + 1 == templates_.size() ? 0 : next_ + 1;
    return v4_ ? write4(at, form, client, flow == kFloodFlow, vips_[vip], sequence, stamp, tcp_flags)
               : write6(at, form, client, flow == kFloodFlow, vips_[vip], sequence, stamp, tcp_flags);
  }

 private:
  struct Template {
    alignas(16) uint8_t bytes[kHeaderBytes];
    uint32_t frame_bytes;
    uint32_t ip_sum;   // of what is constant in the IPv4 header
    uint32_t tcp_sum;  // of what is constant in TCP and pseudo header
  };
  struct VipWords {
    IpAddress address;
    uint32_t v4;    // network order
    uint16_t port;  // network order
    uint64_t sum;   // of the address
  };

  static uint32_t host_v4(const Client& client, bool flood) {
    return net32((flood ? 100u << 24 | 64u << 16 : 10u << 24) | client.host);
  }
  static uint64_t tcp_words(const Template& form, const VipWords& vip, uint16_t port, uint32_t sequence,
                            uint32_t stamp, uint8_t tcp_flags) {
    return uint64_t{form.tcp_sum} + vip.sum + port + vip.port + sequence + stamp + (uint32_t{tcp_flags} << 8);
  }
  static void write_tcp(uint8_t* at, uint16_t port, const VipWords& vip, uint32_t sequence, uint32_t stamp,
                        uint8_t tcp_flags, uint16_t checksum) {
    const uint32_t ports = uint32_t{vip.port} << 16 | port;
    std::memcpy(at, &ports, 4);
    std::memcpy(at + 4, &sequence, 4);
    std::memcpy(at + 8, &stamp, 4);
    at[13] = tcp_flags;
    std::memcpy(at + 16, &checksum, 2);
  }
  static uint32_t write4(uint8_t* at, const Template& form, const Client& client, bool flood,
                         const VipWords& vip, uint32_t sequence, uint32_t stamp, uint8_t tcp_flags) {
    const uint32_t source = host_v4(client, flood);
    const uint16_t port = net16(client.port);
    std::memcpy(at, form.bytes, 64);
    const uint16_t ip_checksum = checksum_finish(uint64_t{form.ip_sum} + source + vip.sum);
    const uint64_t addresses = uint64_t{vip.v4} << 32 | source;
    std::memcpy(at + 24, &ip_checksum, 2);
    std::memcpy(at + 26, &addresses, 8);
    const uint64_t sum = tcp_words(form, vip, port, sequence, stamp, tcp_flags) + source;
    write_tcp(at + 34, port, vip, sequence, stamp, tcp_flags, checksum_finish(sum));
    return form.frame_bytes;
  }
  static uint32_t write6(uint8_t* at, const Template& form, const Client& client, bool flood,
                         const VipWords& vip, uint32_t sequence, uint32_t stamp, uint8_t tcp_flags) {
    const uint32_t source = net32(client.host);
    const uint16_t subnet = net16(flood ? 0xf : 0xa);
    const uint16_t port = net16(client.port);
    std::memcpy(at, form.bytes, kHeaderBytes);
    std::memcpy(at + 26, &subnet, 2);
    std::memcpy(at + 34, &source, 4);
    std::memcpy(at + 38, vip.address.bytes.data(), 16);
    const uint64_t sum = tcp_words(form, vip, port, sequence, stamp, tcp_flags) + source + subnet;
    write_tcp(at + 54, port, vip, sequence, stamp, tcp_flags, checksum_finish(sum));
    return form.frame_bytes;
  }
  Template make(const Trial& trial, uint32_t frame_bytes) const;

  bool v4_;
  std::vector<Template> templates_;
  size_t next_ = 0;
  std::vector<VipWords> vips_;
};

}  // namespace sluice::pktgen
