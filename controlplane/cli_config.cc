// sluice check, reload: the configuration as a whole.
#include <cstdio>

#include <fmt/format.h>

#include "controlplane/cli.h"
#include "controlplane/cli_format.h"
#include "controlplane/config.h"
#include "controlplane/exit_codes.h"
#include "controlplane/message.h"

namespace sluice {
namespace {

using nlohmann::json;

int check(const Arguments& arguments) {
  const ConfigResult loaded = load_config(arguments.file);
  for (const Diagnostic& warning : loaded.warnings)
    std::fprintf(stderr, "warning: %s\n", warning.text().c_str());
  for (const Diagnostic& error : loaded.errors)
    std::fprintf(stderr, "%s\n", error.text().c_str());
  size_t services = 0, backends = 0;
  if (loaded.config) {
    services = loaded.config->services.size();
    for (const ServiceConfig& service : loaded.config->services)
      backends += service.backends.size();
  }
  if (arguments.as_json) {
    const auto listed = [](const std::vector<Diagnostic>& diagnostics) {
      json list = json::array();
      for (const Diagnostic& d : diagnostics) {
        list.push_back(
            {{"line", d.line}, {"column", d.column}, {"message", d.message}, {"suggestion", d.suggestion}});
      }
      return list;
    };
    json result = loaded.config ? ok_response() : json{{"v", kProtocolVersion}, {"ok", false}};
    result.update({{"file", arguments.file},
                   {"services", services},
                   {"backends", backends},
                   {"errors", listed(loaded.errors)},
                   {"warnings", listed(loaded.warnings)}});
    print(to_line(result));
  } else if (loaded.config) {
    print(fmt::format("{}: ok, {} service{}, {} backend{}\n", arguments.file, services,
                      services == 1 ? "" : "s", backends, backends == 1 ? "" : "s"));
  }
  return exit_code_of(loaded.errors);
}

}  // namespace

void add_config(CLI::App& app, Arguments& arguments, Action& action) {
  CLI::App* check_command =
      app.add_subcommand("check", "is this configuration file right? (needs no daemon)");
  check_command->add_option("FILE", arguments.file)->required();
  check_command->callback([&] { action = [&] { return check(arguments); }; });

  CLI::App* reload =
      app.add_subcommand("reload", "read the configuration file again; with errors the old one stays");
  reload->callback([&] {
    action = [&] {
      return ask(arguments, {{"cmd", "reload"}}, [](const json& r) {
        return format_change(fmt::format("reloaded: {} services", r.at("services").get<uint64_t>()), r);
      });
    };
  });
}

}  // namespace sluice
