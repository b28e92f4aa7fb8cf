// Why a packet was not forwarded: one list, from which the counters' names, the CLI's text and the
// documentation come.
//
// A reason is of one of two kinds. `pass`: not for the load balancer; it belongs to the host's own network
// stack. `drop`: for the load balancer, and lost here. Every packet ends as forwarded, answered, or under
// exactly one reason:
//   received = forwarded + answered + sum(passed by reason) + sum(dropped by reason).
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>

namespace sluice {

// X(name, kind, text)
#define SLUICE_REASONS(X)                                                                                   \
  X(not_ip, pass, "neither IPv4 nor IPv6 (ARP, LLDP, ...)")                                                 \
  X(vlan_tagged, pass, "802.1Q or 802.1ad tag")                                                             \
  X(no_service, pass, "no service has this address, protocol and port")                                     \
  X(not_tcp_udp, pass, "neither TCP nor UDP")                                                               \
  X(other_station, drop, "destination MAC is another host's: the port hears more than its own")             \
  X(truncated, drop, "ends before its headers, or before its IP length says")                               \
  X(bad_ip_version, drop, "IP version does not match the EtherType")                                        \
  X(bad_ip_header, drop, "IPv4 header length below 20 bytes")                                               \
  X(bad_ip_length, drop, "IP length shorter than its own header")                                           \
  X(bad_l4_header, drop, "TCP or UDP header with an impossible length")                                     \
  X(ttl_expired, drop, "TTL or hop limit used up")                                                          \
  X(ip_options, drop, "IPv4 options or IPv6 extension headers (source routing among them)")                 \
  X(fragment, drop, "IP fragment: its ports cannot be known for all of it")                                 \
  X(no_generation, drop, "no configuration published yet")                                                  \
  X(no_backend, drop, "no backend of the service takes new flows")                                          \
  X(backends_full, drop, "every backend that may take the new flow has its max_flows or max_sessions")      \
  X(next_hop_unresolved, drop, "the backend's next hop has no MAC address yet")                             \
  X(mtu_exceeded, drop, "too big for the next hop with the tunnel header, and may be fragmented by nobody") \
  X(icmp_rate_limited, drop, "too big, and more 'packet too big' answers were due than a second allows")    \
  X(no_headroom, drop, "no room in the buffer for the tunnel header")                                       \
  X(no_exception_path, drop, "for the host itself, but the port has no way to it")                          \
  X(tx_full, drop, "the port's transmit ring was full")

enum class ReasonKind : uint8_t { pass, drop };

enum class Reason : uint8_t {
#define SLUICE_X(name, kind, text) name,
  SLUICE_REASONS(SLUICE_X)
#undef SLUICE_X
};

struct ReasonInfo {
  std::string_view name;
  ReasonKind kind;
  std::string_view text;
};

inline constexpr std::array kReasons = {
#define SLUICE_X(name, kind, text) ReasonInfo{#name, ReasonKind::kind, text},
    SLUICE_REASONS(SLUICE_X)
#undef SLUICE_X
};
inline constexpr size_t kReasonCount = kReasons.size();

constexpr const ReasonInfo& info(Reason reason) {
  return kReasons[static_cast<size_t>(reason)];
}
constexpr bool is_pass(Reason reason) {
  return info(reason).kind == ReasonKind::pass;
}

}  // namespace sluice
