// Commands about the configuration as a whole.
#include <array>

#include <fmt/format.h>

#include "controlplane/command_parts.h"
#include "controlplane/exit_codes.h"
#include "controlplane/message.h"

namespace sluice {
namespace {

using nlohmann::json;

json texts_of(const std::vector<Diagnostic>& diagnostics) {
  json texts = json::array();
  for (const Diagnostic& diagnostic : diagnostics)
    texts.push_back(diagnostic.text());
  return texts;
}

// `origin`: the file that was asked for; a fault between two files is seen from there alone.
json refusal_of(const Daemon::Applied& applied, const std::string& origin) {
  const std::string& file = applied.errors.front().file;
  json refusal = error_response(exit_code_of(applied.errors) == kExitSemantic ? kCodeSemantic : kCodeSyntax,
                                {fmt::format("{} has {} error{}; the old configuration stays in force", file,
                                             applied.errors.size(), applied.errors.size() == 1 ? "" : "s"),
                                 "sluice check " + origin});
  refusal["diagnostics"] = texts_of(applied.errors);
  return refusal;
}

void answer_applied(Daemon& daemon, const Daemon::Applied& applied, const std::string& origin, bool dry_run,
                    uint64_t received_ns, const Reply& reply) {
  if (!applied.errors.empty()) return reply(refusal_of(applied, origin));
  json response = ok_response();
  response["warnings"] = texts_of(applied.warnings);
  response["services"] = daemon.model().services().size();
  response["objects"] = applied.objects;
  response["flows"] = applied.flows;
  response["overrides_dropped"] = applied.overrides_dropped;
  if (!applied.change || !dry_run)
    return finish_change(daemon, applied.change, received_ns, std::move(response), reply);
  reply(std::move(response));
}

void reload(Daemon& daemon, const json&, uint64_t received_ns, const Reply& reply) {
  answer_applied(daemon, daemon.reload(), daemon.configuration().path(), false, received_ns, reply);
}

// {"sources": [{"file", "text"}, ...]}; nothing: it is not that.
std::optional<std::vector<ConfigSource>> sources_in(const json& request) {
  const auto list = request.find("sources");
  if (list == request.end() || !list->is_array() || list->empty()) return std::nullopt;
  std::vector<ConfigSource> sources;
  for (const json& source : *list) {
    const auto file = source.is_object() ? text_of(source, "file") : std::nullopt;
    const auto text = source.is_object() ? text_of(source, "text") : std::nullopt;
    if (!file || !text) return std::nullopt;
    sources.push_back({*file, *text});
  }
  return sources;
}

void apply(Daemon& daemon, const json& request, uint64_t received_ns, const Reply& reply) {
  auto sources = sources_in(request);
  if (!sources) return reply(missing("sources", "a list of {\"file\", \"text\"}"));
  Daemon::ApplyOptions options;
  options.dry_run = request.value("dry_run", json(false)) == json(true);
  if (const auto confirm = request.find("confirm_s"); confirm != request.end()) {
    const bool fits = confirm->is_number_integer() && *confirm >= 1 && *confirm <= limits::kConfirmMaxS;
    if (!fits) {
      return reply(error_response(kCodeBadRequest, {"\"confirm_s\" is out of range",
                                                    fmt::format("1 to {} seconds", limits::kConfirmMaxS)}));
    }
    options.confirm = std::chrono::seconds(confirm->get<int64_t>());
  }
  const std::string origin = sources->front().file;
  answer_applied(daemon, daemon.apply(std::move(*sources), options), origin, options.dry_run, received_ns,
                 reply);
}

void confirm(Daemon& daemon, const json&, uint64_t received_ns, const Reply& reply) {
  finish_change(daemon, daemon.confirm(), received_ns, ok_response(), reply);
}

void roll_back(Daemon& daemon, const json&, uint64_t received_ns, const Reply& reply) {
  finish_change(daemon, daemon.roll_back(), received_ns, ok_response(), reply);
}

}  // namespace

std::span<const Command> config_commands() {
  static constexpr std::array kCommands = {
      Command{"reload", "", reload},
      Command{"config.apply", "sources dry_run confirm_s", apply},
      Command{"config.confirm", "", confirm},
      Command{"config.rollback", "", roll_back},
  };
  return kCommands;
}

}  // namespace sluice
