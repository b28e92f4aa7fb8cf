#include "controlplane/commands.h"

#include <algorithm>

#include <fmt/format.h>

#include "controlplane/command_parts.h"
#include "controlplane/escaped.h"
#include "controlplane/message.h"

namespace sluice {
namespace {

using nlohmann::json;

bool is_flag(const json& value) {
  return value.is_boolean();
}
bool is_text(const json& value) {
  return value.is_string();
}
bool is_count(const json& value) {
  return value.is_number_unsigned();
}
bool is_list(const json& value) {
  return value.is_array();
}
bool is_list_of_texts(const json& value) {
  return value.is_array() && std::all_of(value.begin(), value.end(), is_text);
}
bool is_object(const json& value) {
  return value.is_object();
}

bool is_anything(const json&) {
  return true;
}

// Arguments that would be taken for absent, or for something else, if they are misspelt or of another type: a
// dry run, one of many targets. One name is one type in all commands; where it is not, or a range counts, the
// command looks itself.
json refusal_of_arguments(const json& request) {
  struct Type {
    bool (*fits)(const json&);
    const char* must_be;
    std::vector<std::string_view> arguments;
  };
  static const Type kTypes[] = {
      {is_flag, "true or false", {"dry_run", "enabled", "force", "more", "pinned", "reset", "skip_unknown"}},
      {is_text,
       "text",
       {"address", "admin", "backend", "client", "key", "kind", "protocol", "secret", "service", "target",
        "vip"}},
      {is_count, "a whole number", {"last", "list", "total"}},
      {is_list, "a list", {"backends", "sessions", "sources"}},
      {is_list_of_texts, "a list of texts", {"targets"}},
      {is_object, "an object", {"definition"}},
      {is_anything,
       "",
       {"cmd", "confirm_s", "limit", "max_moves", "over_s", "rate", "reset_after_ms", "services", "ttl_s",
        "v", "weight"}},
  };
  for (const auto& [name, given] : request.items()) {
    const auto type = std::find_if(std::begin(kTypes), std::end(kTypes), [&](const Type& of) {
      return std::find(of.arguments.begin(), of.arguments.end(), name) != of.arguments.end();
    });
    if (type == std::end(kTypes)) {
      std::vector<std::string_view> names;
      for (const Type& of : kTypes)
        names.insert(names.end(), of.arguments.begin(), of.arguments.end());
      return error_response(kCodeBadRequest,
                            with_suggestion("unknown argument '" + quotable(name) + "'", name, names, ""));
    }
    if (type->fits(given)) continue;
    const std::string value = quotable(given.dump(-1, ' ', false, json::error_handler_t::replace));
    return error_response(kCodeBadRequest,
                          {fmt::format("\"{}\" is {}; it must be {}", name, value, type->must_be), ""});
  }
  return nullptr;
}

void run(const Command& command, Daemon& daemon, const json& request, uint64_t received_ns,
         const Reply& reply) {
  const Client& client = reply.client();
  if (client.role < command.needs) {
    const Error refusal = daemon.interfaces().access().refusal(client, command.needs);
    daemon.audit().add(client, {std::string(command.name), request, command.in_parts},
                       error_response(kCodeDenied, refusal));
    return reply(error_response(kCodeDenied, refusal));
  }
  if (json refusal = refusal_of_arguments(request); !refusal.is_null()) return reply(std::move(refusal));
  if (command.needs != Role::admin) return command.run(daemon, request, received_ns, reply);
  command.run(daemon, request, received_ns,
              reply.with_tap([&daemon, client,
                              audited = Audit::Request(std::string(command.name), request, command.in_parts)](
                                 const json& response) { daemon.audit().add(client, audited, response); }));
}

}  // namespace

void handle_command(Daemon& daemon, const json& request, uint64_t received_ns, const Reply& reply) {
  const auto name = request.at("cmd").get<std::string>();
  std::vector<std::string_view> names;
  for (const std::span<const Command> commands :
       {show_commands(), event_commands(), backend_commands(), override_commands(), config_commands(),
        session_commands(), session_file_commands(), rebalance_commands()}) {
    for (const Command& command : commands) {
      if (command.name == name) return run(command, daemon, request, received_ns, reply);
      names.push_back(command.name);
    }
  }
  reply(error_response(kCodeBadRequest, with_suggestion("unknown command '" + quotable(name) + "'", name,
                                                        names, "sluice --help")));
}

}  // namespace sluice
