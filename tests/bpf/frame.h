// Ethernet frames for the tests of the XDP programs: a byte vector, built header by header from the outside
// in, and a run of a loaded program over it with the kernel's BPF_PROG_TEST_RUN.
#pragma once

#include <bpf/bpf.h>
#include <linux/bpf.h>

#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "src/address.h"
#include "src/checksum.h"
#include "src/wire.h"

namespace sluice::test {

using Bytes = std::vector<uint8_t>;

inline const MacAddress kOurMac{{0x02, 0, 0, 0, 0, 0x0a}};
inline const MacAddress kOtherMac{{0x02, 0, 0, 0, 0, 0x0b}};

inline IpAddress ip(std::string_view text) {
  return IpAddress::parse(text).value();
}

template <typename T>
void append(Bytes& bytes, const T& value) {
  const auto* from = reinterpret_cast<const uint8_t*>(&value);
  bytes.insert(bytes.end(), from, from + sizeof value);
}
inline Bytes operator+(Bytes left, const Bytes& right) {
  left.insert(left.end(), right.begin(), right.end());
  return left;
}

inline Bytes ethernet(uint16_t ether_type, const Bytes& payload, const MacAddress& to = kOurMac) {
  wire::Ethernet header{};
  std::memcpy(header.destination, to.bytes.data(), 6);
  std::memcpy(header.source, kOtherMac.bytes.data(), 6);
  header.ether_type = net16(ether_type);
  Bytes frame;
  append(frame, header);
  return frame + payload;
}

struct Ipv4Fields {
  uint8_t tos = 0;
  uint16_t fragment = wire::kIpv4Df;  // host order
  Bytes options{};                    // a multiple of four bytes
};

inline Bytes ipv4(const std::string& from, const std::string& to, uint8_t protocol, const Bytes& payload,
                  const Ipv4Fields& fields = {}) {
  wire::Ipv4 header{};
  const size_t header_bytes = sizeof header + fields.options.size();
  header.version_ihl = static_cast<uint8_t>(0x40 | header_bytes / 4);
  header.tos = fields.tos;
  header.total_length = net16(static_cast<uint16_t>(header_bytes + payload.size()));
  header.id = net16(0x1234);
  header.flags_fragment = net16(fields.fragment);
  header.ttl = 64;
  header.protocol = protocol;
  header.source = ip(from).v4_network_order();
  header.destination = ip(to).v4_network_order();
  uint64_t sum = checksum_add(0, &header, sizeof header);
  sum = checksum_add(sum, fields.options.data(), fields.options.size());
  header.checksum = checksum_finish(sum);
  Bytes packet;
  append(packet, header);
  return packet + fields.options + payload;
}

inline Bytes ipv6(const std::string& from, const std::string& to, uint8_t next_header, const Bytes& payload,
                  uint8_t traffic_class = 0) {
  wire::Ipv6 header{};
  header.version_class_flow = net32(0x60000000u | static_cast<uint32_t>(traffic_class) << 20 | 0xabcde);
  header.payload_length = net16(static_cast<uint16_t>(payload.size()));
  header.next_header = next_header;
  header.hop_limit = 64;
  std::memcpy(header.source, ip(from).bytes.data(), 16);
  std::memcpy(header.destination, ip(to).bytes.data(), 16);
  Bytes packet;
  append(packet, header);
  return packet + payload;
}

inline Bytes udp(uint16_t to_port, const Bytes& payload = {1, 2, 3}) {
  Bytes segment;
  append(segment,
         wire::Udp{net16(40000), net16(to_port), net16(static_cast<uint16_t>(8 + payload.size())), 0});
  return segment + payload;
}

inline Bytes tcp(uint16_t to_port, const Bytes& payload = {}) {
  wire::Tcp header{};
  header.source_port = net16(40000);
  header.destination_port = net16(to_port);
  header.data_offset = 0x50;
  header.flags = wire::kTcpSyn;
  Bytes segment;
  append(segment, header);
  return segment + payload;
}

struct RunResult {
  uint32_t action;  // enum xdp_action
  Bytes frame;      // as the program left it
};

// The kernel pads nothing, but takes no frame shorter than an Ethernet header.
inline RunResult run(int program, const Bytes& frame) {
  Bytes out(frame.size() + 256);
  LIBBPF_OPTS(bpf_test_run_opts, options, .data_in = frame.data(), .data_out = out.data(),
              .data_size_in = static_cast<uint32_t>(frame.size()),
              .data_size_out = static_cast<uint32_t>(out.size()), .repeat = 1);
  if (const int error = bpf_prog_test_run_opts(program, &options); error != 0) {
    throw std::runtime_error(std::string("BPF_PROG_TEST_RUN: ") + std::strerror(-error));
  }
  out.resize(options.data_size_out);
  return {options.retval, out};
}

// A PERCPU_ARRAY's entry, summed.
inline uint64_t per_cpu_sum(int map, uint32_t index) {
  std::vector<uint64_t> values(static_cast<size_t>(libbpf_num_possible_cpus()));
  if (bpf_map_lookup_elem(map, &index, values.data()) != 0) throw std::runtime_error("no such counter");
  uint64_t sum = 0;
  for (const uint64_t value : values)
    sum += value;
  return sum;
}

}  // namespace sluice::test
