// sluice rebalance ...
#include <unistd.h>

#include <charconv>
#include <cstdio>

#include <fmt/format.h>

#include "controlplane/cli.h"
#include "controlplane/client.h"
#include "controlplane/exit_codes.h"
#include "controlplane/message.h"
#include "src/segment.h"

namespace sluice {
namespace {

using nlohmann::json;

std::string text_of_plan(const json& response) {
  TextTable table({"BACKEND", "WEIGHT", "DUE", "PACKETS", "SHARE", "EXCESS", "SESSIONS", "SHARE", "PINNED",
                   "LIVE", "FLOWS", "GIVES", "GETS", "EXPECTED"});
  for (const json& row : response.at("backends")) {
    const auto count = [&](const char* key) { return std::to_string(row.at(key).get<uint64_t>()); };
    const auto share = [&](const char* key, const char* format = "{:.1f}%") {
      return row.contains(key) ? fmt::format(fmt::runtime(format), row.at(key).get<double>())
                               : std::string("-");
    };
    table.add({row.at("backend").get<std::string>(), count("weight"), share("due_percent"), count("packets"),
               share("packets_percent"), share("excess_percent", "{:+.1f}%"), count("sessions"),
               share("sessions_percent"), count("pinned"), count("live"), count("flows_active"),
               count("gives"), count("gets"), share("expected_percent")});
  }
  uint64_t pinned = 0, live = 0;
  for (const json& row : response.at("backends")) {
    pinned += row.at("pinned").get<uint64_t>();
    live += row.at("live").get<uint64_t>();
  }
  std::string out =
      table.text() +
      fmt::format("\n{}: {} packets in {} s, {:.1f} % of them on the wrong backend\n",
                  response.at("service").get<std::string>(), response.at("packets").get<uint64_t>(),
                  response.at("over_s").get<uint64_t>(), response.at("imbalance_percent").get<double>());
  if (pinned != 0) out += fmt::format("{} sessions may not move: pinned\n", pinned);
  if (live != 0 && !response.at("reset").get<bool>())
    out += fmt::format("{} sessions may not move: seen in the last {} s, so a connection may be live\n", live,
                       response.at("quiet_s").get<uint64_t>());
  if (const auto resets = response.at("planned_live").get<uint64_t>(); resets != 0)
    out += fmt::format("{} of those to move were seen in the last {} s: their connections are reset\n",
                       resets, response.at("quiet_s").get<uint64_t>());
  const uint64_t planned = response.at("planned").get<uint64_t>();
  if (planned == 0) return out + "nothing to move\n";
  const double expected = response.at("expected_imbalance_percent").get<double>();
  if (!response.contains("moved"))
    return out + fmt::format("{} sessions would be moved; expected then: {:.1f} %\n", planned, expected);
  out += fmt::format("{} of {} sessions moved; expected: {:.1f} %\n", response.at("moved").get<uint64_t>(),
                     planned, expected);
  if (const auto left = response.at("left_alone").get<uint64_t>(); left != 0)
    out += fmt::format("{} were left alone: they, or who may take them, changed meanwhile\n", left);
  return out;
}

// "100/s", or 100.
std::optional<uint64_t> parse_rate(std::string_view text) {
  if (text.ends_with("/s")) text.remove_suffix(2);
  uint64_t rate = 0;
  const auto [end, fault] = std::from_chars(text.data(), text.data() + text.size(), rate);
  if (fault != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return rate;
}

int rebalance(const Arguments& arguments) {
  const auto rate = parse_rate(arguments.rate);
  if (!rate) return usage_error({fmt::format("rate '{}' is not 100/s or the like", arguments.rate), ""});
  const auto over = parse_time(arguments.over);
  if (!over || over->count() % 1000 != 0)
    return usage_error({fmt::format("time '{}' is not 3s, 10s or the like", arguments.over), ""});
  const json request = {{"v", kProtocolVersion},
                        {"cmd", arguments.dry_run ? "rebalance.plan" : "rebalance"},
                        {"service", arguments.service},
                        {"over_s", static_cast<uint64_t>(over->count() / 1000)},
                        {"max_moves", arguments.moves_max},
                        {"rate", *rate},
                        {"reset", arguments.resets}};
  const bool is_terminal = isatty(STDERR_FILENO) == 1;
  const Answer end =
      follow_daemon(instance_directory(arguments.directory), request,
                    std::chrono::milliseconds(arguments.timeout_ms), [&](const json& line) {
                      if (is_terminal && line.contains("moved"))
                        std::fprintf(stderr, "\r%llu of %llu sessions moved ",
                                     static_cast<unsigned long long>(line.at("moved").get<uint64_t>()),
                                     static_cast<unsigned long long>(line.at("of").get<uint64_t>()));
                      return true;
                    });
  if (is_terminal) std::fputs("\r\x1b[K", stderr);
  if (end.exit_code != kExitOk) {
    complain(end.error);
    return end.exit_code;
  }
  if (!end.response.value("ok", false)) {
    if (arguments.as_json) print(to_line(end.response));
    if (end.response.contains("moved"))
      std::fprintf(stderr, "%llu sessions were moved\n",
                   static_cast<unsigned long long>(end.response.at("moved").get<uint64_t>()));
    complain({end.response.value("error", ""), end.response.value("remedy", "")});
    return end.response.value("code", "") == kCodeBadRequest ? kExitUsage : kExitFailure;
  }
  print(arguments.as_json ? to_line(end.response) : text_of_plan(end.response));
  return kExitOk;
}

}  // namespace

void add_rebalance(CLI::App& app, Arguments& arguments, Action& action) {
  CLI::App* command = app.add_subcommand("rebalance",
                                         "moves sessions, until each backend has the packets that its weight "
                                         "says; without --reset no connection breaks");
  command->add_option("SERVICE", arguments.service)->required();
  command->add_option("--over", arguments.over, "measure so long (3s)");
  command->add_option("--max-moves", arguments.moves_max, "move at most so many sessions (1000)");
  command->add_option("--rate", arguments.rate, "so many a second (100/s)");
  command->add_flag("--reset", arguments.resets,
                    "also sessions with live TCP connections: these are reset, so that clients come anew");
  command->add_flag("--dry-run", arguments.dry_run, "only show the imbalance, and what would be moved");
  command->callback([&] { action = [&] { return rebalance(arguments); }; });
}

}  // namespace sluice
