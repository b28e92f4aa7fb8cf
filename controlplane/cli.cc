// sluice: what operators type.
#include "controlplane/cli.h"

#include <chrono>
#include <cstdio>

#include "controlplane/client.h"
#include "controlplane/exit_codes.h"
#include "controlplane/message.h"
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
  add_config(app, arguments, action);
  add_overrides(app, arguments, action);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? kExitOk : kExitUsage;
  }
  return action();
}

}  // namespace

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

int ask(const Arguments& arguments, json request, const std::function<std::string(const json&)>& format,
        const std::function<int(const json&)>& exit_code) {
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
  if (!response.value("acknowledged", true)) return kExitTimeout;
  return exit_code ? exit_code(response) : kExitOk;
}

}  // namespace sluice

int main(int argc, char** argv) {
  return sluice::run(argc, argv);
}
