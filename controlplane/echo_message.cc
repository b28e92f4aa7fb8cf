#include "controlplane/echo_message.h"

#include <netinet/icmp6.h>
#include <netinet/ip_icmp.h>

#include <cstring>
#include <utility>

namespace sluice {
namespace {

constexpr size_t kEchoHeaderBytes = 8;  // RFC 792, RFC 4443 4.1
constexpr size_t kCookieBytes = 8;
constexpr size_t kIpv4HeaderBytes = 20;
constexpr size_t kIpv6HeaderBytes = 40;

uint8_t byte_at(std::string_view packet, size_t at) {
  return static_cast<uint8_t>(packet[at]);
}

uint16_t number_at(std::string_view packet, size_t at) {
  return static_cast<uint16_t>(byte_at(packet, at) << 8 | byte_at(packet, at + 1));
}

void put16(std::string& packet, size_t at, uint16_t value) {
  packet[at] = static_cast<char>(value >> 8);
  packet[at + 1] = static_cast<char>(value);
}

// Behind the IPv4 header; empty when there is no whole one.
std::string_view ipv4_payload(std::string_view packet) {
  if (packet.size() < kIpv4HeaderBytes || byte_at(packet, 0) >> 4 != 4) return {};
  const size_t header_bytes = (byte_at(packet, 0) & 0xfu) * 4;
  if (header_bytes < kIpv4HeaderBytes || header_bytes > packet.size()) return {};
  return packet.substr(header_bytes);
}

// The ICMP packet that an error quotes.
std::string_view quoted(Family family, std::string_view icmp) {
  icmp.remove_prefix(kEchoHeaderBytes);
  if (family == Family::v4) return ipv4_payload(icmp);
  return icmp.size() < kIpv6HeaderBytes ? std::string_view() : icmp.substr(kIpv6HeaderBytes);
}

std::string reason_text(Family family, uint8_t type, uint8_t code) {
  if (type == (family == Family::v4 ? ICMP_TIME_EXCEEDED : ICMP6_TIME_EXCEEDED))
    return "time to live exceeded on the way (ICMP)";
  static constexpr std::pair<uint8_t, const char*> kV4[] = {
      {ICMP_NET_UNREACH, "network"}, {ICMP_HOST_UNREACH, "host"}, {ICMP_PROT_UNREACH, "protocol"}};
  static constexpr std::pair<uint8_t, const char*> kV6[] = {{ICMP6_DST_UNREACH_NOROUTE, "network"},
                                                            {ICMP6_DST_UNREACH_ADDR, "host"}};
  const auto named = [code](const auto& all) {
    for (const auto& [value, name] : all) {
      if (value == code) return std::string(name) + " unreachable (ICMP)";
    }
    return "unreachable (ICMP code " + std::to_string(code) + ")";
  };
  return family == Family::v4 ? named(kV4) : named(kV6);
}

void fill_numbers(EchoAnswer& answer, std::string_view echo) {
  answer.identifier = number_at(echo, 4);
  answer.sequence = number_at(echo, 6);
  if (echo.size() < kEchoHeaderBytes + kCookieBytes) return;
  uint64_t cookie = 0;
  std::memcpy(&cookie, echo.data() + kEchoHeaderBytes, sizeof cookie);
  answer.cookie = cookie;
}

}  // namespace

EchoAnswer parse_echo_answer(Family family, std::string_view packet) {
  EchoAnswer answer;
  const bool v4 = family == Family::v4;
  const std::string_view icmp = v4 ? ipv4_payload(packet) : packet;
  if (icmp.size() < kEchoHeaderBytes) return answer;
  const uint8_t type = byte_at(icmp, 0);
  if (type == (v4 ? ICMP_ECHOREPLY : ICMP6_ECHO_REPLY)) {
    answer.kind = EchoAnswer::Kind::reply;
    fill_numbers(answer, icmp);
    return answer;
  }
  const bool is_error = type == (v4 ? ICMP_DEST_UNREACH : ICMP6_DST_UNREACH) ||
                        type == (v4 ? ICMP_TIME_EXCEEDED : ICMP6_TIME_EXCEEDED);
  const std::string_view request = is_error ? quoted(family, icmp) : std::string_view();
  if (request.size() < kEchoHeaderBytes || byte_at(request, 0) != (v4 ? ICMP_ECHO : ICMP6_ECHO_REQUEST))
    return answer;
  answer.kind = EchoAnswer::Kind::unreachable;
  answer.reason = reason_text(family, type, byte_at(icmp, 1));
  fill_numbers(answer, request);
  return answer;
}

std::string echo_request(Family family, uint16_t identifier, uint16_t sequence, uint64_t cookie) {
  std::string packet(kEchoHeaderBytes + kCookieBytes, '\0');
  packet[0] = static_cast<char>(family == Family::v4 ? ICMP_ECHO : ICMP6_ECHO_REQUEST);
  put16(packet, 4, identifier);
  put16(packet, 6, sequence);
  std::memcpy(packet.data() + kEchoHeaderBytes, &cookie, sizeof cookie);
  if (family == Family::v4) {
    uint32_t sum = 0;  // RFC 1071
    for (size_t at = 0; at < packet.size(); at += 2)
      sum += number_at(packet, at);
    while (sum >> 16 != 0)
      sum = (sum & 0xffff) + (sum >> 16);
    put16(packet, 2, static_cast<uint16_t>(~sum));
  }
  return packet;
}

}  // namespace sluice
