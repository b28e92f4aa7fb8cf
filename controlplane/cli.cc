// sluice: what operators type. Data goes to stdout, everything else to stderr; exit codes as in exit_codes.h.
#include <charconv>
#include <chrono>
#include <cstdio>
#include <functional>
#include <string>

#include <CLI/CLI.hpp>
#include <fmt/format.h>

#include "controlplane/cli_format.h"
#include "controlplane/client.h"
#include "controlplane/config.h"
#include "controlplane/exit_codes.h"
#include "controlplane/message.h"
#include "src/segment.h"

namespace sluice {
namespace {

using nlohmann::json;

// What the command line said.
struct Arguments {
  std::string directory;
  bool as_json = false;
  uint32_t timeout_ms = 10'000;
  bool with_stats = false;
  bool all_reasons = false;
  std::string file;
  std::string target;  // SERVICE/BACKEND
  std::string service;
  std::string weight;
  std::string protocol, client, vip;
};

void print(const std::string& text) {
  std::fwrite(text.data(), 1, text.size(), stdout);
}

void complain(const Error& error) {
  std::fprintf(stderr, "sluice: %s\n", error.text().c_str());
}

int usage_error(const Error& error) {
  complain(error);
  return kExitUsage;
}

int exit_code_of_refusal(const json& refusal) {
  const std::string code = refusal.value("code", "");
  if (code == kCodeBadRequest) return kExitUsage;
  if (code == kCodeSyntax) return kExitParse;
  if (code == kCodeSemantic) return kExitSemantic;
  return kExitFailure;
}

// Asks the daemon and prints its answer, through `format` unless --json.
int ask(const Arguments& arguments, json request, const std::function<std::string(const json&)>& format) {
  request["v"] = kProtocolVersion;
  const Answer answer = ask_daemon(instance_directory(arguments.directory), request,
                                   std::chrono::milliseconds(arguments.timeout_ms));
  if (answer.exit_code != kExitOk) {
    complain(answer.error);
    return answer.exit_code;
  }
  const json& response = answer.response;
  if (arguments.as_json) print(to_line(response));
  if (!response.value("ok", false)) {
    for (const json& diagnostic : response.value("diagnostics", json::array())) {
      std::fprintf(stderr, "%s\n", diagnostic.get<std::string>().c_str());
    }
    complain({response.value("error", "the daemon refused without a reason"), response.value("remedy", "")});
    return exit_code_of_refusal(response);
  }
  for (const json& warning : response.value("warnings", json::array())) {
    std::fprintf(stderr, "warning: %s\n", warning.get<std::string>().c_str());
  }
  if (!arguments.as_json) print(format(response));
  return response.value("acknowledged", true) ? kExitOk : kExitTimeout;
}

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

// SERVICE/BACKEND into the request; false, with the complaint made, when it is not that.
bool set_target(const Arguments& arguments, json& request) {
  const size_t slash = arguments.target.find('/');
  if (slash == std::string::npos || slash == 0 || slash + 1 == arguments.target.size()) {
    complain({fmt::format("'{}' is not SERVICE/BACKEND", arguments.target), "sluice show backends"});
    return false;
  }
  request["service"] = arguments.target.substr(0, slash);
  request["backend"] = arguments.target.substr(slash + 1);
  return true;
}

int backend_admin(const Arguments& arguments, const char* admin) {
  json request = {{"cmd", "backend.admin"}, {"admin", admin}};
  if (!set_target(arguments, request)) return kExitUsage;
  return ask(arguments, std::move(request),
             [&](const json& r) { return format_change(arguments.target + ": " + admin, r); });
}

int backend_weight(const Arguments& arguments) {
  json request = {{"cmd", "backend.weight"}};
  if (!set_target(arguments, request)) return kExitUsage;
  int64_t weight = 0;
  const char* end = arguments.weight.data() + arguments.weight.size();
  const auto [stop, fault] = std::from_chars(arguments.weight.data(), end, weight);
  if (fault != std::errc() || stop != end) {
    return usage_error({fmt::format("weight '{}' is not a whole number", arguments.weight),
                        fmt::format("0 (no new flows) to {}", limits::kWeightMax)});
  }
  request["weight"] = weight;
  return ask(arguments, std::move(request), [&](const json& r) {
    return format_change(fmt::format("{}: weight {}", arguments.target, weight), r);
  });
}

// Each subcommand sets what main then runs.
using Action = std::function<int()>;

void add_show(CLI::App& app, Arguments& arguments, Action& action) {
  CLI::App* show =
      app.add_subcommand("show", "what is configured, and how it is doing")->require_subcommand(1);
  CLI::App* services = show->add_subcommand("services", "VIPs and how many backends they have");
  services->add_flag("--stats", arguments.with_stats, "counters, too");
  services->callback([&] {
    action = [&] {
      return ask(arguments, {{"cmd", "show.services"}},
                 [&](const json& r) { return format_services(r, arguments.with_stats); });
    };
  });
  CLI::App* backends =
      show->add_subcommand("backends", "state, health, weight, share and next hop of each backend");
  backends->add_option("SERVICE", arguments.service, "of this service only");
  backends->add_flag("--stats", arguments.with_stats, "counters, too");
  backends->callback([&] {
    action = [&] {
      return ask(arguments, {{"cmd", "show.backends"}, {"service", arguments.service}},
                 [&](const json& r) { return format_backends(r, arguments.with_stats); });
    };
  });
  CLI::App* dataplane = show->add_subcommand("dataplane", "generation, ports, workers, drops by reason");
  dataplane->add_flag("--all", arguments.all_reasons, "reasons that never occurred, too");
  dataplane->callback([&] {
    action = [&] {
      return ask(arguments, {{"cmd", "show.dataplane"}},
                 [&](const json& r) { return format_dataplane(r, arguments.all_reasons); });
    };
  });
}

void add_backend(CLI::App& app, Arguments& arguments, Action& action) {
  CLI::App* backend = app.add_subcommand("backend", "change one backend")->require_subcommand(1);
  struct Verb {
    const char* name;
    const char* help;
  };
  static constexpr Verb kVerbs[] = {{"drain", "keeps its flows, gets no new ones"},
                                    {"ready", "takes flows again"},
                                    {"maint", "out at once: loses its flows, is not checked"}};
  for (const Verb& verb : kVerbs) {
    CLI::App* command = backend->add_subcommand(verb.name, verb.help);
    command->add_option("SERVICE/BACKEND", arguments.target)->required();
    command->callback([&] { action = [&] { return backend_admin(arguments, verb.name); }; });
  }
  CLI::App* weight =
      backend->add_subcommand("weight", "its share of new flows, until the file's weight changes");
  weight->add_option("SERVICE/BACKEND", arguments.target)->required();
  weight->add_option("N", arguments.weight, fmt::format("0 (no new flows) to {}", limits::kWeightMax))
      ->required();
  weight->callback([&] { action = [&] { return backend_weight(arguments); }; });
}

void add_others(CLI::App& app, Arguments& arguments, Action& action) {
  CLI::App* check_command =
      app.add_subcommand("check", "is this configuration file right? (needs no daemon)");
  check_command->add_option("FILE", arguments.file)->required();
  check_command->callback([&] { action = [&] { return check(arguments); }; });

  CLI::App* explain = app.add_subcommand("explain", "which backend a flow gets, and why");
  explain->add_option("PROTO", arguments.protocol, "tcp or udp")->required();
  explain->add_option("CLIENT:PORT", arguments.client, "IPv6 as [ADDRESS]:PORT")->required();
  explain->add_option("VIP:PORT", arguments.vip)->required();
  explain->callback([&] {
    action = [&] {
      return ask(arguments,
                 {{"cmd", "explain"},
                  {"protocol", arguments.protocol},
                  {"client", arguments.client},
                  {"vip", arguments.vip}},
                 format_explain);
    };
  });

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

int run(int argc, char** argv) {
  Arguments arguments;
  Action action;
  CLI::App app("sluice, the command line of the Sluice load balancer", "sluice");
  app.set_version_flag("--version", std::string("sluice " SLUICE_VERSION));
  app.add_option("--dir", arguments.directory,
                 "directory of the instance (default: $SLUICE_DIR or /dev/shm/sluice)");
  app.add_flag("--json", arguments.as_json, "the answer as JSON");
  app.add_option("--timeout", arguments.timeout_ms, "milliseconds to wait for sluiced (10000)");
  app.require_subcommand(1);
  app.fallthrough();  // global options may also stand behind the command
  add_show(app, arguments, action);
  add_backend(app, arguments, action);
  add_others(app, arguments, action);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? kExitOk : kExitUsage;
  }
  return action();
}

}  // namespace
}  // namespace sluice

int main(int argc, char** argv) {
  return sluice::run(argc, argv);
}
