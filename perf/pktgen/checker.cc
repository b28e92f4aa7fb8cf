#include "perf/pktgen/checker.h"

#include <bit>
#include <cstring>

#include "perf/pktgen/frame.h"
#include "src/checksum.h"
#include "src/wire.h"

namespace sluice::pktgen {
namespace {

constexpr uint32_t kEthernet = sizeof(wire::Ethernet);
constexpr uint64_t kMacMask = (1ULL << 48) - 1;
constexpr uint16_t kGoodSum = 0xffff;  // of a header with its checksum (RFC 1071 1)

template <typename T>
T load(const uint8_t* at) {
  T value;
  std::memcpy(&value, at, sizeof value);
  return value;
}

// A ones' complement sum over `words` pieces of four bytes.
template <uint32_t words>
uint64_t sum_of(const uint8_t* at) {
  uint64_t sum = 0;
  for (uint32_t i = 0; i < words; i++)
    sum += load<uint32_t>(at + 4 * i);
  return sum;
}

bool is_good_ipv4(const uint8_t* ip, uint32_t ip_bytes) {
  return ip[0] == 0x45 && net16(load<uint16_t>(ip + 2)) == ip_bytes &&
         checksum_fold(sum_of<5>(ip)) == kGoodSum;
}

bool is_good_ipv6(const uint8_t* ip, uint32_t ip_bytes) {
  return ip[0] >> 4 == 6 && net16(load<uint16_t>(ip + 4)) + sizeof(wire::Ipv6) == ip_bytes;
}

}  // namespace

Checker::Checker(const Trial& trial, FlowBook& flows, Outcome& outcome)
    : path_(trial.path),
      vips_count_(static_cast<uint32_t>(trial.vips.size())),
      v4_(trial.vips.front().address.is_v4()),
      tcp_at_(kEthernet + static_cast<uint32_t>(v4_ ? sizeof(wire::Ipv4) : sizeof(wire::Ipv6))),
      slots_(std::bit_ceil(trial.backends.size() * 4 + 1)),
      flows_(flows),
      outcome_(outcome) {
  for (const BackendTarget& backend : trial.backends) {
    uint64_t mac = 0;
    std::memcpy(&mac, backend.mac.bytes.data(), 6);
    Key key{0, mac};
    if (path_ == Path::ipip && backend.address.is_v4()) {
      key = {0, backend.address.v4_network_order()};
    } else if (path_ == Path::ipip) {
      std::memcpy(&key, backend.address.bytes.data(), 16);
    }
    targets_.push_back({key, mac, backend.vip});
    const auto mask = static_cast<uint32_t>(slots_.size() - 1);
    uint32_t slot = slot_of(key, mask);
    while (slots_[slot] != 0)
      slot = (slot + 1) & mask;
    slots_[slot] = static_cast<uint16_t>(targets_.size());
  }
  outcome_.by_backend.assign(trial.backends.size(), 0);
}

uint32_t Checker::slot_of(const Key& key, uint32_t mask) {
  return static_cast<uint32_t>(((key.high ^ key.low) * 0x9e3779b97f4a7c15ULL) >> 32) & mask;
}

uint32_t Checker::find(const Key& key) const {
  const auto mask = static_cast<uint32_t>(slots_.size() - 1);
  for (uint32_t slot = slot_of(key, mask); slots_[slot] != 0; slot = (slot + 1) & mask) {
    if (targets_[slots_[slot] - 1].key == key) return slots_[slot] - 1u;
  }
  return kNobody;
}

uint32_t Checker::flow_of(const uint8_t* sent_at) const {
  return load<uint32_t>(sent_at + tcp_at_ + offsetof(wire::Tcp, sequence)) >> FlowBook::kEchoBits;
}

uint32_t Checker::stamp_of(const uint8_t* sent_at) const {
  return load<uint32_t>(sent_at + tcp_at_ + offsetof(wire::Tcp, acknowledgement));
}

// Lengths agree, and the checksums are right: what the target must not touch is as it was, the TTL apart.
bool Checker::is_whole(const Returned& frame) const {
  const uint8_t* ip = frame.sent_at + kEthernet;
  const uint32_t frame_header = frame.added_bytes + kEthernet;
  if (frame.bytes < frame_header + (tcp_at_ - kEthernet) + sizeof(wire::Tcp)) return false;
  const uint32_t ip_bytes = frame.bytes - frame_header;
  uint64_t sum = net16(wire::kProtoTcp) + sum_of<5>(frame.sent_at + tcp_at_);
  if (v4_) {
    if (!is_good_ipv4(ip, ip_bytes)) return false;
    sum += sum_of<2>(ip + offsetof(wire::Ipv4, source));
  } else {
    if (!is_good_ipv6(ip, ip_bytes)) return false;
    sum += sum_of<8>(ip + offsetof(wire::Ipv6, source));
  }
  sum += net16(static_cast<uint16_t>(ip_bytes - (tcp_at_ - kEthernet)));
  return checksum_fold(sum) == kGoodSum;  // the payload is all zero
}

bool Checker::has_good_outer(const Returned& frame) const {
  const uint8_t* start = frame.sent_at - frame.added_bytes;
  const uint8_t* ip = start + kEthernet;
  const auto ether_type = load<uint16_t>(start + offsetof(wire::Ethernet, ether_type));
  const uint32_t ip_bytes = frame.bytes - kEthernet;
  const uint8_t inner = v4_ ? wire::kProtoIpip : wire::kProtoIpv6;
  if (frame.added_bytes == sizeof(wire::Ipv4)) {
    return ether_type == net16(wire::kEtherIpv4) && ip[offsetof(wire::Ipv4, protocol)] == inner &&
           is_good_ipv4(ip, ip_bytes);
  }
  return ether_type == net16(wire::kEtherIpv6) && ip[offsetof(wire::Ipv6, next_header)] == inner &&
         is_good_ipv6(ip, ip_bytes);
}

// False: it has none, so nobody's.
bool Checker::key_of(const Returned& frame, Key& key) const {
  const uint8_t* start = frame.sent_at - frame.added_bytes;
  if (path_ == Path::l2dsr) {
    key = {0, load<uint64_t>(start) & kMacMask};
    return frame.added_bytes == 0;
  }
  const uint8_t* inner_ip = frame.sent_at + kEthernet;  // the outer destination ends where it begins
  if (frame.added_bytes == sizeof(wire::Ipv4)) {
    key = {0, load<uint32_t>(inner_ip - 4)};
    return true;
  }
  if (frame.added_bytes != sizeof(wire::Ipv6)) return false;
  std::memcpy(&key, inner_ip - 16, 16);
  return true;
}

void Checker::check_backend(const Returned& frame, uint32_t flow, uint32_t echo) {
  const bool flood = flow == kFloodFlow;
  Key key;
  uint32_t backend = kNobody;
  if (key_of(frame, key)) {
    const uint32_t guess = flood ? 0 : flows_.guess(flow);
    backend = guess < targets_.size() && targets_[guess].key == key ? guess : find(key);
  }
  if (backend == kNobody ||
      (load<uint64_t>(frame.sent_at - frame.added_bytes) & kMacMask) != targets_[backend].mac) {
    outcome_.counts.misdelivered++;
    return;
  }
  outcome_.by_backend[backend]++;
  if (flood) return;
  if (targets_[backend].vip != vip_of(flow, vips_count_)) outcome_.counts.misdelivered++;
  if (!flows_.came_from(flow, echo, backend)) outcome_.counts.moved++;
}

bool Checker::check(const Returned& frame) {
  outcome_.counts.received++;
  const bool tunnel = path_ == Path::ipip && frame.added_bytes != 0;
  if (!is_whole(frame) || (tunnel && !has_good_outer(frame))) {
    outcome_.counts.corrupt++;
    return false;
  }
  const auto sequence = load<uint32_t>(frame.sent_at + tcp_at_ + offsetof(wire::Tcp, sequence));
  if (path_ != Path::macswap)
    check_backend(frame, sequence >> FlowBook::kEchoBits, sequence & FlowBook::kEchoMask);
  return true;
}

}  // namespace sluice::pktgen
