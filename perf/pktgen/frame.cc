#include "perf/pktgen/frame.h"

#include <algorithm>

namespace sluice::pktgen {
namespace {

constexpr uint32_t kEthernet = sizeof(wire::Ethernet);
constexpr uint8_t kTtl = 64;
constexpr uint8_t kOurMac[6] = {0x02, 0, 0, 0, 0xfe, 0x01};  // locally administered

uint32_t folded(const void* data, size_t bytes) {
  return checksum_fold(checksum_add(0, data, bytes));
}

}  // namespace

FrameWriter::FrameWriter(const Trial& trial) : v4_(trial.vips.front().address.is_v4()) {
  for (const uint16_t bytes : trial.frame_bytes)
    templates_.push_back(make(trial, bytes - kCheckSequenceBytes));
  for (const Vip& vip : trial.vips) {
    const uint8_t* address = vip.address.bytes.data();
    const uint64_t sum = v4_ ? folded(address + 12, 4) : folded(address, 16);
    vips_.push_back({vip.address, v4_ ? vip.address.v4_network_order() : 0, net16(vip.port), sum});
  }
}

// All fields but those that write4 and write6 fill in are set, these are zero.
FrameWriter::Template FrameWriter::make(const Trial& trial, uint32_t frame_bytes) const {
  Template form{};
  const uint32_t ip_header = v4_ ? sizeof(wire::Ipv4) : sizeof(wire::Ipv6);
  form.frame_bytes = std::max<uint32_t>(frame_bytes, kEthernet + ip_header + sizeof(wire::Tcp));
  const auto ip_bytes = static_cast<uint16_t>(form.frame_bytes - kEthernet);
  const auto tcp_bytes = static_cast<uint16_t>(ip_bytes - ip_header);

  auto& ethernet = *reinterpret_cast<wire::Ethernet*>(form.bytes);
  std::memcpy(ethernet.destination, trial.station.bytes.data(), 6);
  std::memcpy(ethernet.source, kOurMac, 6);
  ethernet.ether_type = net16(v4_ ? wire::kEtherIpv4 : wire::kEtherIpv6);
  uint8_t* ip = form.bytes + kEthernet;
  if (v4_) {
    auto& header = *reinterpret_cast<wire::Ipv4*>(ip);
    header.version_ihl = 0x45;
    header.total_length = net16(ip_bytes);
    header.flags_fragment = net16(wire::kIpv4Df);
    header.ttl = kTtl;
    header.protocol = wire::kProtoTcp;
    form.ip_sum = folded(ip, sizeof header);
  } else {
    auto& header = *reinterpret_cast<wire::Ipv6*>(ip);
    header.version_class_flow = net32(6u << 28);
    header.payload_length = net16(tcp_bytes);
    header.next_header = wire::kProtoTcp;
    header.hop_limit = kTtl;
    const uint8_t prefix[4] = {0x20, 0x01, 0x0d, 0xb8};
    std::memcpy(header.source, prefix, sizeof prefix);
  }
  auto& tcp = *reinterpret_cast<wire::Tcp*>(ip + ip_header);
  tcp.data_offset = (sizeof tcp / 4) << 4;
  tcp.window = net16(0xffff);
  form.tcp_sum = folded(&tcp, sizeof tcp) + net16(wire::kProtoTcp) + net16(tcp_bytes);
  if (!v4_) form.tcp_sum += folded(reinterpret_cast<wire::Ipv6*>(ip)->source, 16);
  return form;
}

}  // namespace sluice::pktgen
