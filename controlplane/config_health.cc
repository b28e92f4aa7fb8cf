#include <algorithm>
#include <charconv>
#include <initializer_list>

#include <re2/re2.h>

#include "controlplane/config_schema.h"
#include "controlplane/dns_message.h"
#include "controlplane/grpc_health.h"
#include "controlplane/pattern.h"
#include "src/wire.h"

namespace sluice {
namespace {

using Type = HealthConfig::Type;

const std::initializer_list<std::pair<std::string_view, Type>> kTypes = {
    {"none", Type::none},   {"tcp", Type::tcp},         {"tls", Type::tls}, {"http", Type::http},
    {"https", Type::https}, {"udp", Type::udp},         {"dns", Type::dns}, {"icmp", Type::icmp},
    {"grpc", Type::grpc},   {"command", Type::command},
};

std::string_view name_of(Type type) {
  return std::find_if(kTypes.begin(), kTypes.end(), [type](const auto& t) { return t.second == type; })
      ->first;
}

// Whom each key is for that not every check knows.
constexpr uint32_t bit(Type type) {
  return 1u << static_cast<uint32_t>(type);
}
constexpr uint32_t kHttpTypes = bit(Type::http) | bit(Type::https);
constexpr uint32_t kTlsTypes = bit(Type::tls) | bit(Type::https) | bit(Type::grpc);
struct KeyUse {
  std::string_view key;
  uint32_t types;  // bits
};
constexpr KeyUse kKeyUses[] = {
    {"method", kHttpTypes},          {"path", kHttpTypes},       {"headers", kHttpTypes},
    {"status", kHttpTypes},          {"body", kHttpTypes},       {"host", kHttpTypes | bit(Type::grpc)},
    {"service", bit(Type::grpc)},    {"tls", bit(Type::grpc)},   {"verify", kTlsTypes},
    {"server_name", kTlsTypes},      {"ca_file", kTlsTypes},     {"send", bit(Type::udp)},
    {"send_hex", bit(Type::udp)},    {"expect", bit(Type::udp)}, {"expect_hex", bit(Type::udp)},
    {"query", bit(Type::dns)},       {"record", bit(Type::dns)}, {"rcode", bit(Type::dns)},
    {"command", bit(Type::command)},
};

void warn_of_idle_keys(const TableReader& table, const HealthConfig& health) {
  for (const KeyUse& use : kKeyUses) {
    if (!table.has(use.key) || (use.types & bit(health.type)) != 0) continue;
    std::string types;
    for (const auto& [name, type] : kTypes) {
      if ((use.types & bit(type)) == 0) continue;
      types += (types.empty() ? "\"" : " or \"") + std::string(name) + "\"";
    }
    table.sink().warning(table.where(use.key),
                         "'" + std::string(use.key) + "' has no effect unless type = " + types);
  }
  if (health.to_vip && (health.type == Type::command || health.type == Type::none))
    table.sink().warning(table.where("to"),
                         "'to' has no effect with type = \"" + std::string(name_of(health.type)) + "\"");
  const bool without_tls = health.type == Type::grpc && !health.tls;
  for (const std::string_view key : {"verify", "server_name", "ca_file"}) {
    if (without_tls && table.has(key))
      table.sink().warning(table.where(key), "'" + std::string(key) + "' has no effect unless tls = true");
  }
  if (health.uses_tls() && !health.verify && table.has("ca_file"))
    table.sink().warning(table.where("ca_file"), "'ca_file' has no effect with verify = false");
}

// ---- http, https ------------------------------------------------------------------------------------------

constexpr uint16_t kStatusMin = 100, kStatusMax = 599;  // RFC 9110 15

// "204" or "200-399"
std::optional<StatusRange> parse_status_range(std::string_view text) {
  const char* end = text.data() + text.size();
  StatusRange range;
  const auto from = std::from_chars(text.data(), end, range.min);
  if (from.ec != std::errc()) return std::nullopt;
  range.max = range.min;
  if (from.ptr != end) {
    if (*from.ptr != '-') return std::nullopt;
    const auto to = std::from_chars(from.ptr + 1, end, range.max);
    if (to.ec != std::errc() || to.ptr != end) return std::nullopt;
  }
  if (range.min < kStatusMin || range.max > kStatusMax || range.min > range.max) return std::nullopt;
  return range;
}

// `status = 204`, `status = "200-399"` or `status = "200-299,401"`
void read_status(TableReader& table, HealthConfig& health) {
  if (!table.has("status") || !table.node("status")->is_string()) {
    const std::optional<int64_t> status = table.integer("status", kStatusMin, kStatusMax);
    if (status) health.status = {{static_cast<uint16_t>(*status), static_cast<uint16_t>(*status)}};
    return;
  }
  const std::string text = *table.text("status");
  health.status.clear();
  for (std::string_view rest = text;;) {
    const std::string_view one = rest.substr(0, rest.find(','));
    const std::optional<StatusRange> range = parse_status_range(one);
    if (!range) {
      return table.reject(
          "status",
          "one status like 200, a range like \"200-399\" or several of them like \"200-299,401\", "
          "from 100 to 599");
    }
    health.status.push_back(*range);
    if (one.size() == rest.size()) return;
    rest.remove_prefix(one.size() + 1);
  }
}

// What goes into an HTTP request must not be able to end its line.
bool is_visible(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](unsigned char c) { return c > 0x20 && c < 0x7f; });
}

// RFC 9110 5.6.2
bool is_token(std::string_view text) {
  constexpr std::string_view kMarks = "!#$%&'*+-.^_`|~";
  return !text.empty() && std::all_of(text.begin(), text.end(), [kMarks](char c) {
    return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') ||
           kMarks.find(c) != std::string_view::npos;
  });
}

bool is_field_value(std::string_view text) {
  return is_visible(text.substr(0, 1)) &&
         std::all_of(text.begin(), text.end(), [](unsigned char c) { return c >= 0x20 && c < 0x7f; });
}

void read_headers(TableReader& table, HealthConfig& health) {
  const toml::table* headers = table.table("headers");
  if (headers == nullptr) return;
  TableReader reader(*headers, "headers of " + table.what(), table.sink(), &table);
  for (const auto& [key, node] : *headers) {
    const std::string name(key.str());
    const std::optional<std::string> value = reader.text(key.str());
    if (!is_token(name)) {
      table.sink().error(position(key.source()), "'" + name + "' is no name of a header",
                         "letters, digits and '-'");
    } else if (value && !is_field_value(*value)) {
      reader.reject(key.str(), "a header's value: printable characters of ASCII");
    } else if (value) {
      health.headers.emplace_back(name, *value);
    }
  }
  reader.finish();
}

void read_body_pattern(TableReader& table, HealthConfig& health) {
  constexpr size_t kPatternBytesMax = 1024;
  set_if(health.body, table.text("body"));
  if (health.body.empty()) return;
  if (health.body.size() > kPatternBytesMax)
    return table.reject("body",
                        "a regular expression of at most " + std::to_string(kPatternBytesMax) + " bytes");
  const RE2 pattern(health.body, pattern_options());
  if (!pattern.ok()) return table.reject("body", "a regular expression (RE2): " + pattern.error());
  if (health.method == "HEAD")
    table.sink().error(table.where("body"), "the answer to a HEAD has no body to look at",
                       "method = \"GET\"");
}

void read_http(TableReader& table, HealthConfig& health) {
  set_if(health.method,
         table.choice<std::string>("method", {{"GET", "GET"}, {"HEAD", "HEAD"}, {"OPTIONS", "OPTIONS"}}));
  set_if(health.path, table.text("path"));
  if (!health.path.starts_with('/') || !is_visible(health.path)) {
    table.reject("path", "an absolute path without blanks, like \"/health\"");
  }
  set_if(health.host, table.text("host"));
  if (!is_visible(health.host)) table.reject("host", "a host name");
  read_headers(table, health);
  read_status(table, health);
  read_body_pattern(table, health);
}

// ---- TLS, gRPC --------------------------------------------------------------------------------------------

void read_tls(TableReader& table, HealthConfig& health) {
  set_if(health.tls, table.boolean("tls"));
  set_if(health.verify, table.boolean("verify"));
  set_if(health.server_name, table.text("server_name"));
  if (table.has("server_name") &&
      (health.server_name.empty() || health.server_name.size() > 253 || !is_visible(health.server_name))) {
    table.reject("server_name", "a host name or address, as the certificate has it");
  }
  set_if(health.ca_file, table.text("ca_file"));
  if (table.has("ca_file") && !health.ca_file.starts_with('/'))
    table.reject("ca_file", "an absolute path of a PEM file");
  set_if(health.grpc_service, table.text("service"));
  if (health.grpc_service.size() > kGrpcServiceBytesMax || !is_visible(health.grpc_service))
    table.reject("service", "the name of a gRPC service, like \"shop.v1.Cart\"");
}

// ---- udp, dns, command ------------------------------------------------------------------------------------

constexpr size_t kDatagramBytesMax = 1400;  // in one packet, whatever the tunnel

std::optional<std::string> bytes_of_hex(std::string_view hex) {
  std::string bytes;
  for (size_t at = 0; at < hex.size(); at += 2) {
    uint8_t value = 0;
    const char* end = hex.data() + at + 2;
    if (at + 2 > hex.size() || std::from_chars(hex.data() + at, end, value, 16).ptr != end)
      return std::nullopt;
    bytes += static_cast<char>(value);
  }
  return bytes;
}

// `key` as text, or `key`_hex.
void read_bytes(TableReader& table, const std::string& key, std::string_view key_hex, std::string& bytes) {
  set_if(bytes, table.text(key == "send" ? "send" : "expect"));
  if (bytes.size() > kDatagramBytesMax)
    table.reject(key, "at most " + std::to_string(kDatagramBytesMax) + " bytes");
  const std::optional<std::string> hex = table.text(key_hex);
  if (!hex) return;
  const std::optional<std::string> read = bytes_of_hex(*hex);
  if (table.has(key)) {
    table.sink().error(table.where(key_hex),
                       "'" + std::string(key_hex) + "' and '" + key + "' say the same thing",
                       "leave one of them out");
  } else if (!read || read->size() > kDatagramBytesMax) {
    table.reject(key_hex, "pairs of hexadecimal digits, like \"0a1b2c\", at most " +
                              std::to_string(kDatagramBytesMax));
  } else {
    bytes = *read;
  }
}

template <typename Named, typename NameOf>
void reject_name(TableReader& table, std::string_view key, const std::string& written, const Named& all,
                 const NameOf& name_of_one) {
  std::vector<std::string_view> names;
  std::string list;
  for (const auto& one : all) {
    names.push_back(name_of_one(one));
    list += (list.empty() ? "" : ", ") + std::string(names.back());
  }
  const std::string_view near = nearest(written, names);
  table.reject(key, "one of " + list, near.empty() ? "" : "did you mean \"" + std::string(near) + "\"?");
}

void read_dns(TableReader& table, HealthConfig& health) {
  set_if(health.query, table.text("query"));
  if (!dns_labels(health.query)) table.reject("query", "a domain name, like \"example.net\", or \".\"");
  if (const std::optional<std::string> record = table.text("record")) {
    const auto found = std::find_if(kDnsRecords.begin(), kDnsRecords.end(),
                                    [&](const auto& known) { return known.first == *record; });
    if (found != kDnsRecords.end()) {
      health.record = found->second;
    } else {
      reject_name(table, "record", *record, kDnsRecords, [](const auto& known) { return known.first; });
    }
  }
  if (const std::optional<std::string> rcode = table.text("rcode")) {
    const auto found = std::find(kDnsRcodes.begin(), kDnsRcodes.end(), *rcode);
    if (*rcode == "any") {
      health.rcode = kAnyRcode;
    } else if (found != kDnsRcodes.end()) {
      health.rcode = static_cast<int>(found - kDnsRcodes.begin());
    } else {
      std::vector<std::string_view> all(kDnsRcodes.begin(), kDnsRcodes.end());
      all.push_back("any");
      reject_name(table, "rcode", *rcode, all, [](std::string_view name) { return name; });
    }
  }
}

void read_command(TableReader& table, HealthConfig& health) {
  const auto command = table.texts("command");
  set_if(health.command, command);
  const auto holds_zero = [](const std::string& text) { return text.find('\0') != std::string::npos; };
  if (command && (command->empty() || !command->front().starts_with('/') ||
                  std::any_of(command->begin(), command->end(), holds_zero))) {
    table.sink().error(
        table.where("command"),
        "'command' must begin with the absolute path of a program; its arguments follow",
        "command = [\"/usr/local/bin/check\", \"--fast\"]; for a shell: [\"/bin/sh\", \"-c\", \"...\"]");
  } else if (health.type == Type::command && !table.has("command")) {
    table.sink().error(table.where("type"), "a check of type \"command\" needs a key 'command'",
                       "command = [\"/usr/local/bin/check\", \"--fast\"]");
  }
}

// ---- All of them ------------------------------------------------------------------------------------------

// "50ms", or "10%" of the interval.
void read_jitter(TableReader& table, HealthConfig& health) {
  constexpr std::string_view kMustBe =
      "a duration below the interval, like \"50ms\", or a share of it, like \"10%\"";
  const toml::node* found = table.node("jitter");
  const std::string text = found != nullptr && found->is_string() ? found->as_string()->get() : "";
  if (!text.ends_with('%')) {
    const auto jitter = table.duration("jitter", Milliseconds(0), Milliseconds(limits::kCheckIntervalMaxMs));
    set_if(health.jitter, jitter);
    if (jitter && *jitter >= health.interval) table.reject("jitter", kMustBe);
    return;
  }
  uint32_t per_cent = 0;
  const char* end = text.data() + text.size() - 1;
  const auto read = std::from_chars(text.data(), end, per_cent);
  if (read.ec != std::errc() || read.ptr != end || per_cent >= 100) return table.reject("jitter", kMustBe);
  health.jitter = health.interval * per_cent / 100;
}

void read_check_times(TableReader& table, HealthConfig& health) {
  const Milliseconds interval_max{limits::kCheckIntervalMaxMs};
  const auto interval = table.duration("interval", Milliseconds(limits::kCheckIntervalMinMs), interval_max);
  set_if(health.interval, interval);
  health.timeout = std::min(health.timeout, health.interval);
  const auto timeout = table.duration("timeout", Milliseconds(limits::kCheckTimeoutMinMs), interval_max);
  set_if(health.timeout, timeout);
  const bool interval_is_known = interval || !table.has("interval");
  const std::string interval_text = std::to_string(health.interval.count()) + "ms";
  if (health.timeout > health.interval && interval_is_known) {
    table.reject("timeout",
                 "at most the interval of " + interval_text + ": checks of one backend do not overlap");
  }
  health.fast_interval = health.interval;
  const auto fast = table.duration("fast_interval", Milliseconds(limits::kCheckIntervalMinMs), interval_max);
  set_if(health.fast_interval, fast);
  if (health.fast_interval > health.interval && interval_is_known)
    table.reject("fast_interval", "at most the interval of " + interval_text);
  read_jitter(table, health);
  set_if(health.rise, table.integer("rise", 1, limits::kCheckRiseFallMax));
  set_if(health.fall, table.integer("fall", 1, limits::kCheckRiseFallMax));
}

bool asks_by_udp(Type type) {
  return type == Type::udp || type == Type::dns;
}

// The port that is checked has to be known. `where` is the place to mend.
void require_check_port(const TableReader& service, const ServiceConfig& config, Position where) {
  const Type type = config.health.type;
  if (type == Type::none || type == Type::icmp || type == Type::command || config.health.port != 0) return;
  const bool udp = config.protocol == wire::kProtoUdp;
  if (config.port != 0 && udp == asks_by_udp(type)) return;
  const std::string suggestion =
      "health = { type = \"" + std::string(name_of(type)) + "\", port = N }, or { type = \"none\" }";
  if (config.port == 0)
    return service.sink().error(where, service.what() + " has any port: a check needs one of its own",
                                suggestion);
  service.sink().error(where,
                       service.what() + (udp ? " is udp: a check needs a TCP port to ask"
                                             : " is tcp: a check of this type needs a UDP port to ask"),
                       suggestion);
}

}  // namespace

void read_health(TableReader& service, const toml::table& table, bool port_is_known, ServiceConfig& config) {
  HealthConfig& health = config.health;
  TableReader reader(table, "health of " + service.what(), service.sink(), &service);
  const auto type = reader.choice<Type>("type", kTypes, TableReader::Need::required);
  set_if(health.type, type);
  set_if(health.port, reader.integer("port", 1, UINT16_MAX));
  set_if(health.source, reader.address("source"));
  set_if(health.to_vip, reader.choice<bool>("to", {{"backend", false}, {"vip", true}}));
  read_http(reader, health);
  read_tls(reader, health);
  read_bytes(reader, "send", "send_hex", health.send);
  read_bytes(reader, "expect", "expect_hex", health.expect);
  read_dns(reader, health);
  read_command(reader, health);
  read_check_times(reader, health);
  reader.finish();
  if (type) warn_of_idle_keys(reader, health);
  if (type && port_is_known && !reader.has("port")) require_check_port(service, config, reader.where("type"));
}

void check_source(const TableReader& service, const toml::table& table, const ServiceConfig& config) {
  const IpAddress& source = config.health.source;
  if (!source.is_set()) return;
  TableReader reader(table, "health of " + service.what(), service.sink(), &service);
  if (config.health.to_vip) {
    if (config.vip.is_set() && config.vip.family() != source.family())
      reader.reject("source", "of the same family as the VIP, which is asked");
    return;
  }
  const auto other = std::find_if(
      config.backends.begin(), config.backends.end(),
      [&](const BackendConfig& b) { return b.address.is_set() && b.address.family() != source.family(); });
  if (other == config.backends.end()) return;
  reader.reject("source",
                "of the same family as the backends: '" + other->name + "' has " + other->address.text());
}

void default_health(const TableReader& service, ServiceConfig& config) {
  if (config.protocol == wire::kProtoUdp) {
    config.health.type = HealthConfig::Type::none;
    service.sink().warning(
        service.where("protocol"), "the backends of " + service.what() + " are not checked",
        "health = { type = \"udp\" } or { type = \"tcp\", port = N }; { type = \"none\" } if that is meant");
  }
  require_check_port(service, config, service.where("port"));
}

}  // namespace sluice
