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

std::vector<std::string_view> words_of(std::string_view text) {
  std::vector<std::string_view> words;
  while (!text.empty()) {
    const size_t end = std::min(text.find(' '), text.size());
    words.push_back(text.substr(0, end));
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return words;
}

// Arguments that would be taken for absent, or for something else, if they are misspelt, another command's or
// of another type: a dry run, one of many targets. One name is one type in all commands; where it is not, or
// a range counts, the command looks itself.
json refusal_of_arguments(const Command& command, const json& request) {
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
  };
  const std::vector<std::string_view> taken = words_of(command.takes);
  for (const auto& [name, given] : request.items()) {
    if (name == "v" || name == "cmd") continue;
    if (std::find(taken.begin(), taken.end(), name) == taken.end()) {
      const std::string what = fmt::format("{} takes no argument '{}'", command.name, quotable(name));
      return error_response(
          kCodeBadRequest,
          with_suggestion(what, name, taken,
                          taken.empty() ? "it takes none" : fmt::format("it takes: {}", command.takes)));
    }
    for (const Type& type : kTypes) {
      if (std::find(type.arguments.begin(), type.arguments.end(), name) == type.arguments.end() ||
          type.fits(given))
        continue;
      const std::string value = quotable(given.dump(-1, ' ', false, json::error_handler_t::replace));
      return error_response(kCodeBadRequest,
                            {fmt::format("\"{}\" is {}; it must be {}", name, value, type.must_be), ""});
    }
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
  if (json refusal = refusal_of_arguments(command, request); !refusal.is_null())
    return reply(std::move(refusal));
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
