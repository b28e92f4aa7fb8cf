// sluice backend ...
#include <charconv>

#include <fmt/format.h>

#include "controlplane/cli.h"
#include "controlplane/cli_format.h"
#include "controlplane/exit_codes.h"
#include "src/size_limits.h"

namespace sluice {
namespace {

using nlohmann::json;

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

}  // namespace

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

}  // namespace sluice
