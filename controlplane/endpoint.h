// ADDRESS:PORT, as operators write it: 192.0.2.1:80, [2001:db8::1]:80.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "src/address.h"

namespace sluice {

struct Endpoint {
  IpAddress address;
  uint16_t port = 0;

  std::string text() const;
  bool operator==(const Endpoint&) const = default;
};

// Nothing when it is not one. An IPv6 address needs its brackets: without them it is open where the port
// begins.
std::optional<Endpoint> parse_endpoint(std::string_view text);

}  // namespace sluice
