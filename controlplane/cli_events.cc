// sluice watch, sluice show events.
#include <cstdio>

#include "controlplane/cli.h"
#include "controlplane/cli_format.h"
#include "controlplane/client.h"
#include "controlplane/exit_codes.h"
#include "controlplane/message.h"
#include "src/segment.h"

namespace sluice {
namespace {

using nlohmann::json;

int watch(const Arguments& arguments) {
  const json request = {
      {"v", kProtocolVersion}, {"cmd", "watch"}, {"kind", arguments.kind}, {"service", arguments.service}};
  const Answer end = follow_daemon(instance_directory(arguments.directory), request,
                                   std::chrono::milliseconds(arguments.timeout_ms), [](const json& line) {
                                     print(to_line(line));
                                     return std::fflush(stdout) == 0;
                                   });
  if (end.exit_code != kExitOk) {
    complain(end.error);
    return end.exit_code;
  }
  if (!end.response.is_object()) return kExitFailure;  // nobody reads stdout any more
  print(to_line(end.response));
  complain({end.response.value("error", "the daemon ended it"), end.response.value("remedy", "")});
  return kExitFailure;
}

}  // namespace

void add_events(CLI::App& app, Arguments& arguments, Action& action) {
  CLI::App* command = app.add_subcommand(
      "watch", "every event as a line of JSON, until you end it: checks, state changes, generations");
  command->add_option("--kind", arguments.kind, "only of this kind (sluice show events has them); * and ?");
  command->add_option("--service", arguments.service, "only of this service; * and ?");
  command->callback([&] { action = [&] { return watch(arguments); }; });
}

}  // namespace sluice
