// sluice backend ...
#include <charconv>
#include <optional>

#include <fmt/format.h>

#include "controlplane/cli.h"
#include "controlplane/cli_format.h"
#include "controlplane/exit_codes.h"
#include "src/size_limits.h"

namespace sluice {
namespace {

using nlohmann::json;

std::string joined(const json& names) {
  std::string all;
  for (const json& name : names)
    all += (all.empty() ? "" : ", ") + name.get<std::string>();
  return all;
}

// Sends a command about the targets; its answer names those it was done to.
int change(const Arguments& arguments, json request, const std::string& what) {
  request["targets"] = arguments.targets;
  if (arguments.force) request["force"] = true;
  return ask(arguments, std::move(request),
             [&](const json& r) { return format_change(joined(r.at("backends")) + ": " + what, r); });
}

int drain_and_wait(const Arguments& arguments) {
  const auto limit = parse_time(arguments.time_max);
  if (!limit)
    return usage_error({fmt::format("time '{}' is not 90s, 10m or the like", arguments.time_max), ""});
  json request = {{"cmd", "backend.admin"}, {"admin", "drain"}, {"targets", arguments.targets}};
  if (arguments.force) request["force"] = true;
  std::vector<std::string> drained;
  const int code = ask(
      arguments, std::move(request),
      [](const json& r) { return format_change(joined(r.at("backends")) + ": drain", r); },
      [&](const json& r) {
        drained = r.at("backends").get<std::vector<std::string>>();
        return kExitOk;
      });
  return code == kExitOk ? wait_until_drained(arguments, drained, *limit) : code;
}

void add_waiting(CLI::App& drain, Arguments& arguments, Action& action) {
  drain.add_flag("--wait", arguments.wait, "until they have no flows left; shows how many there are");
  drain.add_option("--timeout", arguments.time_max, "of the waiting: exit code 6 after it (10m)");
  drain.callback([&] {
    action = [&arguments, &drain] {
      if (arguments.wait) return drain_and_wait(arguments);
      if (drain.count("--timeout") != 0) return usage_error({"--timeout is of --wait", "add --wait"});
      return change(arguments, {{"cmd", "backend.admin"}, {"admin", "drain"}}, "drain");
    };
  });
}

std::optional<int64_t> weight_of(const std::string& text) {
  int64_t weight = 0;
  const char* end = text.data() + text.size();
  const auto [stop, fault] = std::from_chars(text.data(), end, weight);
  if (fault == std::errc() && stop == end) return weight;
  complain({fmt::format("weight '{}' is not a whole number", text),
            fmt::format("0 (no new flows) to {}", limits::kWeightMax)});
  return std::nullopt;
}

// The last of the words is the weight.
int backend_weight(Arguments& arguments) {
  const std::optional<int64_t> weight = weight_of(arguments.targets.back());
  if (!weight) return kExitUsage;
  arguments.targets.pop_back();
  return change(arguments, {{"cmd", "backend.weight"}, {"weight", *weight}},
                fmt::format("weight {}", *weight));
}

int backend_add(const Arguments& arguments) {
  const std::string& target = arguments.target;
  const size_t slash = target.find('/');
  if (slash == std::string::npos || slash == 0 || slash + 1 == target.size())
    return usage_error({fmt::format("'{}' is not SERVICE/BACKEND", target), "sluice show services"});
  json request = {{"cmd", "backend.add"},
                  {"service", target.substr(0, slash)},
                  {"backend", target.substr(slash + 1)},
                  {"address", arguments.address}};
  if (!arguments.weight.empty()) {
    const std::optional<int64_t> weight = weight_of(arguments.weight);
    if (!weight) return kExitUsage;
    request["weight"] = *weight;
  }
  return ask(arguments, std::move(request),
             [&](const json& r) { return format_change(joined(r.at("backends")) + ": added", r); });
}

constexpr const char* kTargets = "SERVICE/BACKEND...";
constexpr const char* kForceHelp = "although fewer than min_healthy are left";
constexpr const char* kTargetsHelp = "one or more; * and ? stand for any: 'web/*'";

}  // namespace

void add_backend(CLI::App& app, Arguments& arguments, Action& action) {
  CLI::App* backend = app.add_subcommand("backend", "change backends")->require_subcommand(1);
  struct Verb {
    const char* name;
    const char* help;
  };
  static constexpr Verb kVerbs[] = {{"drain", "keeps its flows, gets no new ones"},
                                    {"ready", "takes flows again"},
                                    {"maint", "out at once: loses its flows, is not checked"}};
  for (const Verb& verb : kVerbs) {
    CLI::App* command = backend->add_subcommand(verb.name, verb.help);
    command->add_option(kTargets, arguments.targets, kTargetsHelp)->required();
    command->add_flag("--force", arguments.force, kForceHelp);
    command->callback([&] {
      action = [&] { return change(arguments, {{"cmd", "backend.admin"}, {"admin", verb.name}}, verb.name); };
    });
    if (std::string_view(verb.name) == "drain") add_waiting(*command, arguments, action);
  }
  CLI::App* weight =
      backend->add_subcommand("weight", "its share of new flows, until the file's weight changes");
  weight
      ->add_option(
          "SERVICE/BACKEND... N", arguments.targets,
          fmt::format("{}; then the weight, 0 (no new flows) to {}", kTargetsHelp, limits::kWeightMax))
      ->required()
      ->expected(2, 100'000);
  weight->add_flag("--force", arguments.force, kForceHelp);
  weight->callback([&] { action = [&] { return backend_weight(arguments); }; });

  CLI::App* add = backend->add_subcommand("add", "adds a backend to a service, until the files have it");
  add->add_option("SERVICE/BACKEND", arguments.target)->required();
  add->add_option("ADDRESS", arguments.address, "IPv4 or IPv6")->required();
  add->add_option("--weight", arguments.weight, fmt::format("0 to {}", limits::kWeightMax));
  add->callback([&] { action = [&] { return backend_add(arguments); }; });

  CLI::App* remove =
      backend->add_subcommand("remove", "takes backends out: their flows go to others; drain first");
  remove->add_option(kTargets, arguments.targets, kTargetsHelp)->required();
  remove->add_flag("--force", arguments.force, kForceHelp);
  remove->callback([&] {
    action = [&] { return change(arguments, {{"cmd", "backend.remove"}}, "removed"); };
  });
}

}  // namespace sluice
