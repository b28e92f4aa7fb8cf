#include <algorithm>
#include <charconv>

#include "controlplane/config_schema.h"
#include "src/wire.h"

namespace sluice {
namespace {

// `status = 204` or `status = "200-399"`
void read_status(TableReader& table, HealthConfig& health) {
  constexpr int64_t kMin = 100, kMax = 599;  // RFC 9110 15
  if (!table.has("status") || !table.node("status")->is_string()) {
    const std::optional<int64_t> status = table.integer("status", kMin, kMax);
    set_if(health.status_min, status);
    set_if(health.status_max, status);
    return;
  }
  const std::string range = *table.text("status");
  const char* end = range.data() + range.size();
  const auto from = std::from_chars(range.data(), end, health.status_min);
  bool valid = from.ec == std::errc() && from.ptr != end && *from.ptr == '-';
  if (valid) {
    const auto to = std::from_chars(from.ptr + 1, end, health.status_max);
    valid = to.ec == std::errc() && to.ptr == end;
  }
  if (!valid || health.status_min < kMin || health.status_max > kMax ||
      health.status_min > health.status_max) {
    table.reject("status", "one status like 200 or a range like \"200-399\", from 100 to 599");
  }
}

// What goes into an HTTP request must not be able to end its line.
bool is_visible(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](unsigned char c) { return c > 0x20 && c < 0x7f; });
}

void read_http(TableReader& table, HealthConfig& health, bool type_is_known) {
  set_if(health.path, table.text("path"));
  if (!health.path.starts_with('/') || !is_visible(health.path)) {
    table.reject("path", "an absolute path without blanks, like \"/health\"");
  }
  set_if(health.host, table.text("host"));
  if (!is_visible(health.host)) table.reject("host", "a host name");
  read_status(table, health);
  if (health.type == HealthConfig::Type::http || !type_is_known) return;
  for (const char* key : {"path", "host", "status"}) {
    if (!table.has(key)) continue;
    table.sink().warning(table.where(key), "'" + std::string(key) + "' has no effect unless type = \"http\"");
  }
}

void read_check_times(TableReader& table, HealthConfig& health) {
  const Milliseconds interval_max{limits::kCheckIntervalMaxMs};
  const auto interval = table.duration("interval", Milliseconds(limits::kCheckIntervalMinMs), interval_max);
  set_if(health.interval, interval);
  health.timeout = std::min(health.timeout, health.interval);
  const auto timeout = table.duration("timeout", Milliseconds(limits::kCheckTimeoutMinMs), interval_max);
  set_if(health.timeout, timeout);
  const bool interval_is_known = interval || !table.has("interval");
  if (health.timeout > health.interval && interval_is_known) {
    table.reject("timeout", "at most the interval of " + std::to_string(health.interval.count()) +
                                "ms: checks of one backend do not overlap");
  }
  set_if(health.rise, table.integer("rise", 1, limits::kCheckRiseFallMax));
  set_if(health.fall, table.integer("fall", 1, limits::kCheckRiseFallMax));
}

// The TCP port that is checked has to be known. `where` is the place to mend.
void require_check_port(const TableReader& service, const ServiceConfig& config, Position where) {
  const bool udp = config.protocol == wire::kProtoUdp;
  const bool has_port = config.health.port != 0 || (config.port != 0 && !udp);
  if (has_port || config.health.type == HealthConfig::Type::none) return;
  service.sink().error(where,
                       service.what() + (udp ? " is udp: a check needs a TCP port to ask"
                                             : " has any port: a check needs one of its own"),
                       "health = { type = \"tcp\", port = N }, or { type = \"none\" }");
}

}  // namespace

void read_health(TableReader& service, const toml::table& table, bool port_is_known, ServiceConfig& config) {
  HealthConfig& health = config.health;
  TableReader reader(table, "health of " + service.what(), service.sink(), &service);
  using Type = HealthConfig::Type;
  const auto type = reader.choice<Type>(
      "type", {{"none", Type::none}, {"tcp", Type::tcp}, {"http", Type::http}}, TableReader::Need::required);
  set_if(health.type, type);
  set_if(health.port, reader.integer("port", 1, UINT16_MAX));
  read_http(reader, health, type.has_value());
  read_check_times(reader, health);
  reader.finish();
  if (type && port_is_known && !reader.has("port")) require_check_port(service, config, reader.where("type"));
}

void default_health(const TableReader& service, ServiceConfig& config) {
  if (config.protocol == wire::kProtoUdp) {
    config.health.type = HealthConfig::Type::none;
    service.sink().warning(service.where("protocol"),
                           "the backends of " + service.what() + " are not checked",
                           "health = { type = \"tcp\", port = N }, or { type = \"none\" } if that is meant");
  }
  require_check_port(service, config, service.where("port"));
}

}  // namespace sluice
