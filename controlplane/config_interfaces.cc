// [control], [http] and [[hook]] of the configuration (interface_config.h).
#include "controlplane/config_schema.h"
#include "controlplane/interface_config.h"

namespace sluice {
namespace {

using Need = TableReader::Need;

constexpr uint32_t kHooksMax = 16;
constexpr uint32_t kHookBurstMax = 1000;

ControlConfig read_control(const toml::table& table, const TableReader& root) {
  TableReader reader(table, "[control]", root.sink(), &root);
  ControlConfig config;
  set_if(config.admin_group, reader.text("admin_group"));
  set_if(config.read_group, reader.text("read_group"));
  if (config.admin_group == "*")
    reader.reject("admin_group", "a group: not everybody may command", "read_group = \"*\" lets all read");
  reader.finish();
  return config;
}

bool is_loopback(const IpAddress& address) {
  if (address.is_v4()) return address.bytes[12] == 127;
  return address == *IpAddress::parse("::1");
}

HttpConfig read_http(const toml::table& table, const TableReader& root) {
  TableReader reader(table, "[http]", root.sink(), &root);
  HttpConfig config;
  if (const auto listen = reader.text("listen", Need::required)) {
    config.listen = parse_endpoint(*listen);
    if (!config.listen || config.listen->port == 0) {
      reader.reject("listen", "ADDRESS:PORT", "listen = \"127.0.0.1:9095\"");
    } else if (!is_loopback(config.listen->address)) {
      reader.sink().warning(reader.where("listen"),
                            "who reaches " + *listen + " can read all metrics: there is no password",
                            "listen on 127.0.0.1, behind a proxy of yours");
    }
  }
  reader.finish();
  return config;
}

// A list of one text or more; empty when absent or reported.
std::vector<std::string> read_texts(TableReader& reader, std::string_view key, Need need) {
  const toml::node* node = reader.node(key, need);
  if (node == nullptr) return {};
  std::vector<std::string> texts;
  const toml::array* array = node->as_array();
  if (array != nullptr) {
    for (const toml::node& entry : *array) {
      if (const auto text = entry.value_exact<std::string>(); text && !text->empty()) texts.push_back(*text);
    }
  }
  if (array != nullptr && !texts.empty() && texts.size() == array->size()) return texts;
  reader.sink().error(reader.where(key), "'" + std::string(key) + "' must be a list of texts",
                      std::string(key) + " = [\"...\"]");
  return {};
}

HookConfig read_hook(const toml::table& table, const TableReader& root) {
  TableReader reader(table, "[[hook]]", root.sink(), &root);
  HookConfig config;
  config.command = read_texts(reader, "command", Need::required);
  if (!config.command.empty() && config.command.front().front() != '/') {
    reader.sink().error(reader.where("command"),
                        "'" + config.command.front() + "' is not an absolute path: nobody looks in $PATH");
  }
  config.events = read_texts(reader, "events", Need::required);
  set_if(config.timeout, reader.duration("timeout", Milliseconds(100), Milliseconds(3'600'000)));
  set_if(config.burst, reader.integer("burst", 1, kHookBurstMax));
  set_if(config.per, reader.duration("per", Milliseconds(1'000), Milliseconds(86'400'000)));
  reader.finish();
  return config;
}

}  // namespace

InterfaceConfig read_interfaces(TableReader& root) {
  InterfaceConfig config;
  // All keys are asked for before the tables inside are read: those suggest them.
  const toml::table* control = root.table("control");
  const toml::table* http = root.table("http");
  const auto hooks = root.tables("hook", "[[hook]]");
  if (control != nullptr) config.control = read_control(*control, root);
  if (http != nullptr) config.http = read_http(*http, root);
  for (const toml::table* table : hooks.value_or(std::vector<const toml::table*>()))
    config.hooks.push_back(read_hook(*table, root));
  if (config.hooks.size() > kHooksMax) {
    root.sink().error(root.where("hook"), "there are " + std::to_string(config.hooks.size()) +
                                              " hooks; at most " + std::to_string(kHooksMax) +
                                              " are possible");
  }
  return config;
}

}  // namespace sluice
