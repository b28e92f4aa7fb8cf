#include "controlplane/commands.h"

#include <algorithm>

#include <fmt/format.h>

#include "controlplane/command_parts.h"
#include "controlplane/message.h"

namespace sluice {
namespace {

using nlohmann::json;

// What a value may take of an audit event; a whole configuration is told by its size.
constexpr size_t kAuditedTextMax = 256;
// An error quotes what was asked for; it is kept in the ring of events.
constexpr size_t kAuditedErrorMax = 1024;

json audited(const json& value) {
  const std::string text = value.is_string() ? value.get<std::string>()
                                             : value.dump(-1, ' ', false, json::error_handler_t::replace);
  if (text.size() <= kAuditedTextMax) return value;
  return value.is_structured() ? fmt::format("({} of them)", value.size())
                               : fmt::format("({} bytes)", text.size());
}

json audited_arguments(const json& request) {
  json arguments = json::object();
  for (const auto& [key, value] : request.items()) {
    if (key == "v" || key == "cmd") continue;
    arguments[key] = audited(value);
  }
  return arguments;
}

// A line of the log stays one line, whatever a client sends.
std::string on_one_line(std::string text) {
  std::replace_if(
      text.begin(), text.end(), [](unsigned char c) { return c < 0x20 || c == 0x7f; }, '?');
  return text;
}

// " service=web backend=b1 weight=50"
std::string sentence_of(const json& arguments) {
  std::string out;
  for (const auto& [key, value] : arguments.items()) {
    out += fmt::format(" {}={}", key,
                       value.is_string() ? value.get<std::string>()
                                         : value.dump(-1, ' ', false, json::error_handler_t::replace));
  }
  return out;
}

// What it was about, when that is one object.
void name_object(Event& event, const json& arguments, const json& response) {
  const auto text_in = [&](const char* key) {
    const auto found = arguments.find(key);
    return found != arguments.end() && found->is_string() ? found->get<std::string>() : "";
  };
  event.service = text_in("service");
  event.backend = text_in("backend");
  const auto named = response.find("backends");
  if (named == response.end() || !named->is_array() || named->size() != 1 || !named->front().is_string())
    return;
  const auto path = named->front().get<std::string>();
  event.service = path.substr(0, path.find('/'));
  event.backend = path.substr(path.find('/') + 1);
}

void audit(Events& events, const Client& client, const std::string& command, const json& arguments,
           const json& response) {
  const bool ok = response.value("ok", false);
  Event event;
  event.kind = "audit";
  event.level = ok ? Event::Level::info : Event::Level::warning;
  name_object(event, arguments, response);
  event.details = {{"uid", client.peer.uid}, {"pid", client.peer.pid}, {"who", client.who()},
                   {"command", command},     {"arguments", arguments}, {"ok", ok}};
  if (client.peer.login_user) event.details["login_uid"] = *client.peer.login_user;
  event.text = fmt::format("{}: {}{}", client.who(), command, sentence_of(arguments));
  for (const char* key : {"generation", "changed", "before", "after", "code"}) {
    if (response.contains(key)) event.details[key] = audited(response[key]);
  }
  const std::string error = response.value("error", "").substr(0, kAuditedErrorMax);
  if (!ok) event.details["error"] = error;
  if (!ok) {
    event.text += " refused: " + error;
  } else if (response.contains("before") && response.contains("after")) {
    event.text += fmt::format(": {} -> {}", event.details["before"].dump(), event.details["after"].dump());
  }
  event.text = on_one_line(std::move(event.text));
  events.add(std::move(event));
}

// Arguments that would be taken for absent, and mean something else then: a dry run, one of many targets.
json refusal_of_types(const json& request) {
  for (const char* flag : {"dry_run", "force", "pinned", "skip_unknown"}) {
    if (request.contains(flag) && !request[flag].is_boolean())
      return error_response(kCodeBadRequest, {fmt::format("\"{}\" is neither true nor false", flag), ""});
  }
  for (const char* name : {"target", "service", "backend", "key"}) {
    if (request.contains(name) && !request[name].is_string())
      return error_response(kCodeBadRequest, {fmt::format("\"{}\" is no text", name), ""});
  }
  return nullptr;
}

void run(const Command& command, Daemon& daemon, const json& request, uint64_t received_ns,
         const Reply& reply) {
  const Client& client = reply.client();
  if (client.role < command.needs) {
    const Error refusal = daemon.interfaces().access().refusal(client, command.needs);
    audit(daemon.events(), client, std::string(command.name), audited_arguments(request),
          error_response(kCodeDenied, refusal));
    return reply(error_response(kCodeDenied, refusal));
  }
  if (json refusal = refusal_of_types(request); !refusal.is_null()) return reply(std::move(refusal));
  if (command.needs != Role::admin) return command.run(daemon, request, received_ns, reply);
  command.run(daemon, request, received_ns,
              reply.with_tap([&daemon, client, name = std::string(command.name),
                              arguments = audited_arguments(request)](const json& response) {
                audit(daemon.events(), client, name, arguments, response);
              }));
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
  reply(error_response(kCodeBadRequest,
                       with_suggestion("unknown command '" + name + "'", name, names, "sluice --help")));
}

}  // namespace sluice
