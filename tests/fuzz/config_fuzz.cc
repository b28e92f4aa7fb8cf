// Arbitrary text as a configuration file: a configuration that keeps every promise of controlplane/config.h,
// or errors that point into the text; never a crash, never both, and the same again for the same text.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <set>
#include <string>
#include <string_view>
#include <tuple>

#include "controlplane/config.h"

namespace sluice {
namespace {

void must(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "invariant broken: %s\n", what);
  std::abort();
}

void check_name(const std::string& name, std::set<std::string>& seen) {
  must(!name.empty() && name.size() < limits::kNameBytes, "a name fits");
  must(std::all_of(name.begin(), name.end(),
                   [](char c) {
                     return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                            c == '.' || c == '_' || c == '-';
                   }),
       "a name is of the letters allowed");
  must(seen.insert(name).second, "a name is unique");
}

void check_service(const ServiceConfig& service) {
  must(service.vip.is_set(), "a VIP is set");
  must(service.protocol == wire::kProtoTcp || service.protocol == wire::kProtoUdp,
       "a protocol is TCP or UDP");
  must(service.forward == Forward::l2dsr || service.forward == Forward::ipip, "a way to forward is given");
  must(service.lookup_slots == limits::kLookupSlotsDefault ||
           service.lookup_slots == limits::kLookupSlotsLarge,
       "a table has one of two sizes");
  must(service.idle_established_s > 0 && service.idle_established_s <= limits::kIdleTimeoutMax,
       "an idle timeout is in range");
  for (const uint32_t seconds : {service.idle_syn_s, service.idle_closing_s, service.idle_udp_s}) {
    must(seconds > 0 && seconds <= limits::kIdleTimeoutShortMax, "a short idle timeout is in range");
  }
  must(!service.backends.empty() && service.backends.size() <= limits::kBackendsPerServiceMax,
       "backends are there");
  std::set<std::string> names;
  for (const BackendConfig& backend : service.backends) {
    check_name(backend.name, names);
    must(backend.address.is_set(), "a backend has an address");
    must(backend.weight <= limits::kWeightMax, "a weight is in range");
  }
}

void check_config(const Config& config) {
  must(config.services.size() <= limits::kServicesMax, "services are not too many");
  std::set<std::string> names;
  std::set<std::tuple<IpAddress, uint16_t, uint8_t>> vips;
  for (const ServiceConfig& service : config.services) {
    check_name(service.name, names);
    must(vips.insert({service.vip, service.port, service.protocol}).second,
         "a VIP, port and protocol is one service's");
    check_service(service);
  }
}

void check_diagnostic(const Diagnostic& diagnostic, uint32_t lines) {
  must(!diagnostic.message.empty(), "a diagnostic says something");
  must(diagnostic.line <= lines, "a diagnostic points into the text");
  must(diagnostic.text().find("fuzz.") == 0, "a diagnostic names the file first");
}

}  // namespace
}  // namespace sluice

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace sluice;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto lines = static_cast<uint32_t>(std::count(text.begin(), text.end(), '\n')) + 1;
  // Both notations: what begins like JSON is read as that.
  const char* file = text.starts_with('{') ? "fuzz.json" : "fuzz.toml";
  const ConfigResult result = parse_config(text, file);
  must(result.config.has_value() == result.errors.empty(), "a configuration, or errors");
  if (result.config) check_config(*result.config);
  for (const auto* list : {&result.errors, &result.warnings}) {
    for (const Diagnostic& diagnostic : *list)
      check_diagnostic(diagnostic, lines);
  }
  const ConfigResult again = parse_config(text, file);
  must(again.errors.size() == result.errors.size(), "the same text gives the same errors");
  must(!result.config || again.config->services == result.config->services,
       "the same text gives the same services");
  return 0;
}
