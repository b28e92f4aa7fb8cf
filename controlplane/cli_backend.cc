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

const char* drain_word(const Arguments& arguments) {
  return arguments.migrate ? "migrate" : "drain";
}

// How much longer than --reset-after sluiced may take.
constexpr std::chrono::seconds kResetSlack{10};

// When the first of them will be reset, as sluiced has it, and who will not be any more; empty: nobody.
std::string reset_text(const json& response) {
  const json resets = response.value("reset_in_s", json::object());
  std::optional<double> in_s;
  for (const auto& [name, seconds] : resets.items())
    in_s = std::min(in_s.value_or(seconds.get<double>()), seconds.get<double>());
  std::string text = in_s ? fmt::format(", reset in {:.0f} s", *in_s) : "";
  const json called_off = response.value("reset_called_off", json::object());
  for (const auto& [name, seconds] : called_off.items())
    text += fmt::format(", the reset of {} in {:.0f} s is called off", name, seconds.get<double>());
  return text;
}

// `has_time_max`, `has_reset_after`: of the command line.
int drain_backends(const Arguments& arguments, bool has_time_max, bool has_reset_after) {
  json request = {{"cmd", "backend.admin"}, {"admin", drain_word(arguments)}, {"targets", arguments.targets}};
  if (arguments.force) request["force"] = true;
  std::optional<std::chrono::milliseconds> limit = parse_time(arguments.time_max), reset_after;
  const auto no_time = [](const std::string& time) {
    return usage_error({fmt::format("time '{}' is not 90s, 10m or the like", time), ""});
  };
  if (!limit) return no_time(arguments.time_max);
  if (has_reset_after) {
    reset_after = parse_time(arguments.reset_after);
    if (!reset_after) return no_time(arguments.reset_after);
    request["reset_after_ms"] = static_cast<uint64_t>(reset_after->count());
    if (!has_time_max) limit = *reset_after + kResetSlack;
  }
  std::vector<std::string> drained;
  const int code = ask(
      arguments, std::move(request),
      [&](const json& r) {
        return format_change(joined(r.at("backends")) + ": " + drain_word(arguments) + reset_text(r), r);
      },
      [&](const json& r) {
        drained = r.at("backends").get<std::vector<std::string>>();
        return kExitOk;
      });
  if (code != kExitOk || !arguments.wait) return code;
  return wait_until_drained(arguments, drained, *limit);
}

void add_waiting(CLI::App& drain, Arguments& arguments, Action& action) {
  drain.add_flag("--wait", arguments.wait, "until they have no flows left; shows how many there are");
  drain.add_option("--timeout", arguments.time_max, "of the waiting: exit code 6 after it (10m)");
  drain.add_flag("--migrate", arguments.migrate, "its sessions go elsewhere with their next connection");
  drain
      .add_option("--reset-after", arguments.reset_after,
                  "then sluiced resets it (see backend reset), unless it is no longer drained")
      ->type_name("TIME");
  drain.callback([&] {
    action = [&arguments, &drain] {
      const bool has_time_max = drain.count("--timeout") != 0;
      if (has_time_max && !arguments.wait) return usage_error({"--timeout is of --wait", "add --wait"});
      return drain_backends(arguments, has_time_max, drain.count("--reset-after") != 0);
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
                                    {"maint", "out at once: its flows go elsewhere, it is not checked"},
                                    {"reset", "the same, and clients of its TCP flows are told by a reset"}};
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
