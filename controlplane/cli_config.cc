// sluice check, diff, apply, confirm, rollback, reload: the configuration as a whole.
#include <filesystem>
#include <optional>

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
    tell("warning: " + warning.text());
  for (const Diagnostic& error : loaded.errors)
    tell(error.text());
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
        list.push_back({{"file", d.file},
                        {"line", d.line},
                        {"column", d.column},
                        {"message", d.message},
                        {"suggestion", d.suggestion}});
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

// The files as they are, for the daemon to judge; nothing, with the complaint made, when they cannot be read.
std::optional<json> sources_of(const Arguments& arguments) {
  const ConfigFiles files =
      read_config_files(std::filesystem::absolute(arguments.file).lexically_normal().string());
  json sources = json::array();
  for (const ConfigSource& source : files.sources)
    sources.push_back({{"file", source.file}, {"text", source.text}});
  for (const Diagnostic& error : files.errors)
    tell(error.text());
  if (files.errors.empty()) return sources;
  if (arguments.as_json)
    print(to_line(error_response(kCodeSyntax, {files.errors.front().text(), "sluice check FILE"})));
  return std::nullopt;
}

int diff(const Arguments& arguments) {
  const std::optional<json> sources = sources_of(arguments);
  if (!sources) return kExitParse;
  return ask(arguments, {{"cmd", "config.apply"}, {"sources", *sources}, {"dry_run", true}}, format_diff,
             [](const json& r) {
               return r.at("objects").empty() && r.at("flows").empty() ? kExitOk : kExitDiffers;
             });
}

int apply(const Arguments& arguments) {
  const std::optional<json> sources = sources_of(arguments);
  if (!sources) return kExitParse;
  json request = {{"cmd", "config.apply"}, {"sources", *sources}, {"dry_run", arguments.dry_run}};
  if (!arguments.confirm.empty()) {
    const auto time = parse_time(arguments.confirm);
    if (!time || *time < std::chrono::seconds(1))
      return usage_error({fmt::format("'{}' is no time", arguments.confirm), "--confirm 60s, or 5m"});
    request["confirm_s"] = std::chrono::ceil<std::chrono::seconds>(*time).count();
  }
  return ask(arguments, std::move(request), [&](const json& r) {
    if (arguments.dry_run) return format_diff(r);
    std::string text =
        format_diff(r) +
        format_change(fmt::format("applied: {} services", r.at("services").get<uint64_t>()), r);
    if (!arguments.confirm.empty())
      text += fmt::format("goes back by itself in {}, unless: sluice confirm\n", arguments.confirm);
    return text;
  });
}

}  // namespace

void add_config(CLI::App& app, Arguments& arguments, Action& action) {
  CLI::App* check_command =
      app.add_subcommand("check", "is this configuration file right? (needs no daemon)");
  check_command->add_option("FILE", arguments.file)->required();
  check_command->callback([&] { action = [&] { return check(arguments); }; });

  CLI::App* diff_command = app.add_subcommand(
      "diff", "what would change, key by key, and how many flows would move; exit code 7 if anything would");
  diff_command->add_option("FILE", arguments.file)->required();
  diff_command->callback([&] { action = [&] { return diff(arguments); }; });

  CLI::App* apply_command =
      app.add_subcommand("apply", "takes this configuration over, as a whole or not at all");
  apply_command->add_option("FILE", arguments.file)->required();
  apply_command->add_flag("--dry-run", arguments.dry_run, "only says what would change");
  apply_command->add_option("--confirm", arguments.confirm,
                            "goes back by itself after this time, unless confirmed: 60s");
  apply_command->callback([&] { action = [&] { return apply(arguments); }; });
  struct Verb {
    const char* name;
    const char* command;
    const char* help;
    const char* done;
  };
  static constexpr Verb kVerbs[] = {
      {"confirm", "config.confirm", "keeps what apply --confirm took over", "confirmed"},
      {"rollback", "config.rollback", "goes back at once from what apply --confirm took over",
       "rolled back"}};
  for (const Verb& verb : kVerbs) {
    app.add_subcommand(verb.name, verb.help)->callback([&] {
      action = [&] {
        return ask(arguments, {{"cmd", verb.command}},
                   [&](const json& r) { return format_change(verb.done, r); });
      };
    });
  }

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
