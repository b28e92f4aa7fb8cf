// sluice session ...
#include <fmt/format.h>

#include "controlplane/cli.h"
#include "controlplane/cli_format.h"
#include "controlplane/exit_codes.h"
#include "src/size_limits.h"

namespace sluice {
namespace {

using nlohmann::json;

constexpr const char* kKeyHelp = "client's address, or the key's bytes in hex, or hash:HASH of session show";

json session_of(const Arguments& arguments) {
  return {{"service", arguments.service}, {"key", arguments.key}};
}

std::string change_text(const Arguments& arguments, const json& response) {
  const auto named = [&](const char* what) {
    const json& value = response.at(what);
    return value.is_null() ? std::string("none") : value.get<std::string>();
  };
  return fmt::format("{} {}: {} -> {}\n", arguments.service, arguments.key, named("before"), named("after"));
}

int change(const Arguments& arguments, json request) {
  request.update(session_of(arguments));
  return ask(arguments, std::move(request), [&](const json& r) { return change_text(arguments, r); });
}

void add_pin(CLI::App& session, Arguments& arguments, Action& action) {
  CLI::App* pin = session.add_subcommand("pin", "new connections of this client, or key, to this backend");
  pin->add_option("SERVICE", arguments.service)->required();
  pin->add_option("KEY", arguments.key, kKeyHelp)->required();
  pin->add_option("BACKEND", arguments.target)->required();
  pin->add_flag("--force", arguments.force, "although the backend has max_sessions already");
  pin->add_option("--ttl", arguments.ttl, "for so long, 90s, 10m or 12h; without: until it is unpinned");
  pin->callback([&, pin] {
    action = [&, pin] {
      json request = {{"cmd", "session.pin"}, {"backend", arguments.target}, {"force", arguments.force}};
      if (pin->count("--ttl") != 0) {
        const auto ttl = parse_time(arguments.ttl);
        if (!ttl || ttl->count() % 1000 != 0)
          return usage_error({fmt::format("time '{}' is not 90s, 10m, 12h or the like", arguments.ttl), ""});
        request["ttl_s"] = static_cast<uint64_t>(ttl->count() / 1000);
      }
      return change(arguments, std::move(request));
    };
  });
  CLI::App* unpin = session.add_subcommand("unpin", "ends a pin: by the lookup table again");
  unpin->add_option("SERVICE", arguments.service)->required();
  unpin->add_option("KEY", arguments.key, kKeyHelp)->required();
  unpin->callback([&] { action = [&] { return change(arguments, {{"cmd", "session.unpin"}}); }; });
}

void add_table(CLI::App& session, Arguments& arguments, Action& action) {
  CLI::App* show =
      session.add_subcommand("show", "which backend sessions are tied to, and how many each has");
  show->add_option("SERVICE", arguments.service, "only of this one and its group");
  show->add_option("KEY", arguments.key, std::string("only this session: ") + kKeyHelp);
  show->add_option("--backend", arguments.target, "only of this backend");
  show->add_flag("--pinned", arguments.only_pinned, "only those that an operator pinned");
  show->add_option("--limit", arguments.listed, "list so many (20)")->check(CLI::Range(0, 10'000));
  show->add_flag("--count", arguments.only_counts, "only how many each backend has");
  show->callback([&, show] {
    action = [&, show] {
      json request = session_of(arguments);
      request.update(
          {{"cmd", "session.show"}, {"backend", arguments.target}, {"pinned", arguments.only_pinned}});
      if (show->count("--limit") != 0 || arguments.only_counts)
        request["limit"] = arguments.only_counts ? 0 : arguments.listed;
      return ask(arguments, std::move(request), format_sessions);
    };
  });
}

}  // namespace

void add_session(CLI::App& app, Arguments& arguments, Action& action) {
  CLI::App* session =
      app.add_subcommand("session", "clients and keys that are tied to a backend")->require_subcommand(1);
  add_pin(*session, arguments, action);
  add_table(*session, arguments, action);
  add_session_file(*session, arguments, action);
}

}  // namespace sluice
