// sluice service add|remove, sluice overrides ...: what is decided at run time.
#include <fmt/format.h>

#include "controlplane/cli.h"
#include "controlplane/cli_format.h"
#include "controlplane/config.h"
#include "controlplane/exit_codes.h"
#include "controlplane/json_tree.h"

namespace sluice {
namespace {

using nlohmann::json;

// The [[service]] tables of a file, as JSON. Empty, with the complaint made and `exit_code` set, when there
// are none.
json services_in(const std::string& file, int& exit_code) {
  const ConfigFiles files = read_config_files(file);
  if (!files.errors.empty()) {
    complain({files.errors.front().text(), ""});
    exit_code = exit_code_of(files.errors);
    return json::array();
  }
  const ConfigSource& source = files.sources.front();
  const ConfigResult read = parse_config(source.text, source.file);
  for (const Diagnostic& error : read.errors)
    tell(error.text());
  exit_code = exit_code_of(read.errors);
  if (!read.config) return json::array();
  if (source.file.ends_with(".json")) return json::parse(source.text).at("service");
  std::ostringstream out;
  out << toml::json_formatter{toml::parse(source.text)};
  return json::parse(out.str()).at("service");
}

int service_add(const Arguments& arguments) {
  int exit_code = kExitSemantic;
  const json services = services_in(arguments.file, exit_code);
  if (services.empty()) return exit_code;
  for (const json& service : services) {
    const int code = ask(arguments, {{"cmd", "service.add"}, {"definition", service}}, [](const json& r) {
      return format_change("service " + r.at("service").get<std::string>() + ": added", r);
    });
    if (code != kExitOk) return code;
  }
  return kExitOk;
}

int service_remove(const Arguments& arguments) {
  return ask(arguments, {{"cmd", "service.remove"}, {"service", arguments.service}},
             [&](const json& r) { return format_change("service " + arguments.service + ": removed", r); });
}

int overrides_write(const Arguments& arguments) {
  return ask(arguments, {{"cmd", "overrides.write"}, {"dry_run", arguments.dry_run}}, [&](const json& r) {
    const std::string file = r.at("file").get<std::string>();
    if (arguments.dry_run) return file + " would be:\n\n" + r.at("text").get<std::string>();
    return format_change("the overrides are in " + file + " now", r);
  });
}

}  // namespace

void add_overrides(CLI::App& app, Arguments& arguments, Action& action) {
  CLI::App* service = app.add_subcommand("service", "change services")->require_subcommand(1);
  CLI::App* add = service->add_subcommand("add", "adds the services of a file, until the files have them");
  add->add_option("FILE", arguments.file, "[[service]] tables, as in the configuration")->required();
  add->callback([&] { action = [&] { return service_add(arguments); }; });
  CLI::App* remove = service->add_subcommand("remove", "takes a service out: its VIP is not served any more");
  remove->add_option("SERVICE", arguments.service)->required();
  remove->callback([&] { action = [&] { return service_remove(arguments); }; });

  struct Verb {
    const char* name;
    bool enabled;
    const char* help;
    const char* done;
  };
  static constexpr Verb kVerbs[] = {
      {"enable", true, "serves it again", "enabled"},
      {"disable", false, "its VIP is not served: packets to it are the kernel's", "disabled"}};
  for (const Verb& verb : kVerbs) {
    CLI::App* command = service->add_subcommand(verb.name, verb.help);
    command->add_option("SERVICE...", arguments.targets, "one or more; * and ? stand for any")->required();
    command->callback([&] {
      action = [&] {
        return ask(arguments,
                   {{"cmd", "service.enable"}, {"services", arguments.targets}, {"enabled", verb.enabled}},
                   [&](const json& r) {
                     std::string names;
                     for (const json& name : r.at("services"))
                       names += (names.empty() ? "" : ", ") + name.get<std::string>();
                     return format_change(names + ": " + verb.done, r);
                   });
      };
    });
  }

  CLI::App* overrides =
      app.add_subcommand("overrides", "what was decided at run time (sluice show overrides)")
          ->require_subcommand(1);
  CLI::App* clear = overrides->add_subcommand("clear", "back to what the files say");
  const CLI::Option* target =
      clear->add_option("TARGET", arguments.target, "of this SERVICE or SERVICE/BACKEND only");
  clear->callback([&, target] {
    action = [&, target] {
      // sluice overrides clear "$BACKEND", without a value: not all of them.
      if (target->count() > 0 && arguments.target.empty())
        return usage_error({"the name is empty", "sluice overrides clear, without one, clears all"});
      return ask(arguments, {{"cmd", "overrides.clear"}, {"target", arguments.target}},
                 [](const json& r) { return format_change("overrides cleared", r); });
    };
  });
  CLI::App* write =
      overrides->add_subcommand("write", "into conf.d/overrides.toml beside the configuration file");
  write->add_flag("--dry-run", arguments.dry_run, "only shows that file");
  write->callback([&] { action = [&] { return overrides_write(arguments); }; });
}

}  // namespace sluice
