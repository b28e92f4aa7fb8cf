// Configuration texts that tests put together, with lines that they can count on.
#pragma once

#include <string>
#include <vector>

#include "controlplane/config.h"

namespace sluice::config_texts {

// A service of seven lines, the last of them the case's own; backends follow.
inline std::string service_with(const std::string& line7, const std::string& protocol = "tcp",
                                const std::string& port = "80") {
  return "[[service]]\nname = \"web\"\nvip = \"203.0.113.10\"\nport = " + port + "\nprotocol = \"" +
         protocol + "\"\nforward = \"ipip\"\n" + line7 + "\n";
}

// Three lines, and the rest.
inline std::string backend(const std::string& name, const std::string& address,
                           const std::string& rest = "") {
  return "[[service.backend]]\nname = \"" + name + "\"\naddress = \"" + address + "\"\n" + rest;
}

// `text` with its one `from` replaced.
inline std::string with(std::string text, const std::string& from, const std::string& to) {
  return text.replace(text.find(from), from.size(), to);
}

// Ten lines without a fault, the seventh the case's own.
inline std::string right_service(const std::string& line7 = "") {
  return service_with(line7) + backend("b1", "10.0.1.11");
}

inline std::string all_texts(const std::vector<Diagnostic>& diagnostics) {
  std::string all;
  for (const Diagnostic& d : diagnostics) all += d.text() + "\n";
  return all;
}

}  // namespace sluice::config_texts
