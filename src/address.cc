#include "src/address.h"

#include <arpa/inet.h>

#include <cstdio>

namespace sluice {

std::optional<IpAddress> IpAddress::parse(std::string_view text) {
  // inet_pton would stop at a zero inside the text and accept what stands before it.
  if (text.find('\0') != std::string_view::npos) return std::nullopt;
  const std::string zero_terminated(text);
  uint8_t raw[16];
  if (inet_pton(AF_INET, zero_terminated.c_str(), raw) == 1) {
    uint32_t network_order;
    std::memcpy(&network_order, raw, 4);
    return v4(network_order);
  }
  if (inet_pton(AF_INET6, zero_terminated.c_str(), raw) == 1) return v6(raw);
  return std::nullopt;
}

std::string IpAddress::text() const {
  char out[INET6_ADDRSTRLEN];
  if (is_v4()) {
    inet_ntop(AF_INET, &bytes[12], out, sizeof out);
  } else {
    inet_ntop(AF_INET6, bytes.data(), out, sizeof out);
  }
  return out;
}

std::optional<MacAddress> MacAddress::parse(std::string_view text) {
  if (text.size() != 17) return std::nullopt;
  MacAddress mac;
  for (size_t i = 0; i < 6; i++) {
    unsigned value = 0;
    for (size_t digit = 0; digit < 2; digit++) {
      const char c = text[i * 3 + digit];
      unsigned nibble;
      if (c >= '0' && c <= '9') {
        nibble = static_cast<unsigned>(c - '0');
      } else if (c >= 'a' && c <= 'f') {
        nibble = static_cast<unsigned>(c - 'a' + 10);
      } else if (c >= 'A' && c <= 'F') {
        nibble = static_cast<unsigned>(c - 'A' + 10);
      } else {
        return std::nullopt;
      }
      value = value * 16 + nibble;
    }
    if (i < 5 && text[i * 3 + 2] != ':') return std::nullopt;
    mac.bytes[i] = static_cast<uint8_t>(value);
  }
  return mac;
}

std::string MacAddress::text() const {
  char out[18];
  std::snprintf(out, sizeof out, "%02x:%02x:%02x:%02x:%02x:%02x", bytes[0], bytes[1], bytes[2], bytes[3],
                bytes[4], bytes[5]);
  return out;
}

}  // namespace sluice
