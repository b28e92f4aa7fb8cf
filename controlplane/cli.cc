// sluice: what operators type.
#include "controlplane/cli.h"

#include <charconv>
#include <chrono>
#include <cstdio>

#include "controlplane/client.h"
#include "controlplane/escaped.h"
#include "controlplane/exit_codes.h"
#include "controlplane/message.h"
#include "controlplane/toml_reader.h"
#include "src/segment.h"

namespace sluice {
namespace {

using nlohmann::json;

int exit_code_of_refusal(const json& refusal) {
  const std::string code = refusal.value("code", "");
  if (code == kCodeBadRequest) return kExitUsage;
  if (code == kCodeSyntax) return kExitParse;
  if (code == kCodeSemantic) return kExitSemantic;
  return kExitFailure;
}

// A word that is no command, or none at all: what was meant, or what there is.
int complain_of_command(const CLI::App& app) {
  const CLI::App* at = &app;
  std::string path;
  while (!at->get_subcommands().empty()) {
    at = at->get_subcommands().front();
    path += (path.empty() ? "" : " ") + at->get_name();
  }
  std::vector<std::string_view> names;
  std::string all;
  for (const CLI::App* command : at->get_subcommands([](const CLI::App*) { return true; })) {
    names.push_back(command->get_name());
    all += (all.empty() ? "" : ", ") + command->get_name();
  }
  const std::vector<std::string> words = app.remaining(true);
  if (words.empty())
    return usage_error({path.empty() ? "no command was given" : path + " what?", "one of " + all});
  const std::string_view near = nearest(words.front(), names);
  return usage_error(
      {(path.empty() ? "there is" : "'" + path + "' has") + " no command '" + words.front() + "'",
       near.empty() ? "one of " + all : "did you mean '" + std::string(near) + "'?"});
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
  add_events(app, arguments, action);
  add_backend(app, arguments, action);
  add_config(app, arguments, action);
  add_overrides(app, arguments, action);
  add_session(app, arguments, action);
  add_rebalance(app, arguments, action);
  try {
    app.parse(argc, argv);
  } catch (const CLI::RequiredError& error) {
    if (std::string_view(error.what()).find("subcommand") != std::string_view::npos)
      return complain_of_command(app);
    app.exit(error);
    return kExitUsage;
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? kExitOk : kExitUsage;
  }
  return action();
}

}  // namespace

void print(const std::string& text) {
  const std::string out = escaped(text);
  std::fwrite(out.data(), 1, out.size(), stdout);
}

void tell(const std::string& sentence) {
  std::fprintf(stderr, "%s\n", escaped(sentence).c_str());
}

void complain(const Error& error) {
  tell("sluice: " + error.text());
}

int usage_error(const Error& error) {
  complain(error);
  return kExitUsage;
}

int answer(const Arguments& arguments, json request, const std::function<int(const json&)>& show) {
  request["v"] = kProtocolVersion;
  const Answer received = ask_daemon(instance_directory(arguments.directory), request,
                                     std::chrono::milliseconds(arguments.timeout_ms));
  if (received.exit_code != kExitOk) {
    complain(received.error);
    return received.exit_code;
  }
  const json& response = received.response;
  if (!response.value("ok", false)) {
    if (arguments.as_json) print(to_line(response));
    for (const json& diagnostic : response.value("diagnostics", json::array()))
      tell(diagnostic.get<std::string>());
    complain({response.value("error", "the daemon refused without a reason"), response.value("remedy", "")});
    return exit_code_of_refusal(response);
  }
  for (const json& warning : response.value("warnings", json::array()))
    tell("warning: " + warning.get<std::string>());
  return show(response);
}

int ask(const Arguments& arguments, json request, const std::function<std::string(const json&)>& format,
        const std::function<int(const json&)>& exit_code) {
  return answer(arguments, std::move(request), [&](const json& response) {
    print(arguments.as_json ? to_line(response) : format(response));
    if (!response.value("acknowledged", true)) return kExitTimeout;
    return exit_code ? exit_code(response) : kExitOk;
  });
}

std::optional<std::chrono::milliseconds> parse_time(const std::string& text) {
  uint64_t number = 0;
  const char* end = text.data() + text.size();
  const auto [unit, fault] = std::from_chars(text.data(), end, number);
  if (fault != std::errc() || number > 1'000'000'000) return std::nullopt;
  const std::string_view name(unit, static_cast<size_t>(end - unit));
  for (const auto& [unit_name, unit_ms] :
       {std::pair{"ms", 1}, std::pair{"s", 1'000}, std::pair{"m", 60'000}, std::pair{"h", 3'600'000}}) {
    if (name == unit_name) return std::chrono::milliseconds(number * static_cast<uint64_t>(unit_ms));
  }
  return std::nullopt;
}

}  // namespace sluice

int main(int argc, char** argv) {
  return sluice::run(argc, argv);
}
