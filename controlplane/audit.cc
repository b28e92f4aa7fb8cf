#include "controlplane/audit.h"

#include <algorithm>
#include <utility>

#include <fmt/format.h>

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

Event event_of(const Client& client, const Audit::Request& request, bool ok) {
  Event event;
  event.kind = "audit";
  event.level = ok ? Event::Level::info : Event::Level::warning;
  event.details = {{"uid", client.peer.uid},     {"pid", client.peer.pid},         {"who", client.who()},
                   {"command", request.command}, {"arguments", request.arguments}, {"ok", ok}};
  if (client.peer.login_user) event.details["login_uid"] = *client.peer.login_user;
  event.text = fmt::format("{}: {}{}", client.who(), request.command, sentence_of(request.arguments));
  return event;
}

void add_error(Event& event, const char* how, const std::string& error) {
  event.details["error"] = error.substr(0, kAuditedErrorMax);
  event.text += how + error.substr(0, kAuditedErrorMax);
}

Event event_of(const Client& client, const Audit::Request& request, const json& response) {
  const bool ok = response.value("ok", false);
  Event event = event_of(client, request, ok);
  name_object(event, request.arguments, response);
  for (const char* key : {"generation", "changed", "before", "after", "code"}) {
    if (response.contains(key)) event.details[key] = audited(response[key]);
  }
  if (!ok) {
    add_error(event, " refused: ", response.value("error", ""));
  } else if (response.contains("before") && response.contains("after")) {
    event.text += fmt::format(": {} -> {}", event.details["before"].dump(), event.details["after"].dump());
  }
  event.text = on_one_line(std::move(event.text));
  return event;
}

}  // namespace

Audit::Request::Request(std::string name, const json& request, bool may_be_in_parts)
    : command(std::move(name)), arguments(json::object()) {
  has_more = may_be_in_parts && request.value("more", json(false)) == json(true);
  for (const auto& [key, value] : request.items()) {
    if (key == "v" || key == "cmd") continue;
    // What parts differ in is told by the sums.
    if (may_be_in_parts && (key == "more" || key == "sessions")) continue;
    arguments[key] = audited(value);
  }
}

void Audit::add(const Client& client, const Request& request, const json& response) {
  const Key key{client.peer.uid, client.peer.pid, request.command};
  if (const auto other = series_.find(key);
      other != series_.end() && other->second.request.arguments != request.arguments)
    end(key, "another one began");
  const bool ok = response.value("ok", false);
  if (!series_.contains(key)) {
    if (!request.has_more || !ok) return events_.add(event_of(client, request, response));
    begin(key, client, request);
  }
  Series& series = series_.at(key);
  series.requests++;
  const json after = response.value("after", json());
  for (const auto& [name, count] : after.items()) {
    if (count.is_number_unsigned()) series.sums[name] += count.get<uint64_t>();
  }
  if (!ok) return end(key, response.value("error", "no reason was given"));
  if (!request.has_more) return end(key, "");
  wait(key);
}

void Audit::begin(const Key& key, const Client& client, const Request& request) {
  series_.try_emplace(key, io_, client, request, ++last_number_);
  Event event = event_of(client, request, true);
  event.details["part"] = "begin";
  event.text = on_one_line(event.text + ": begins");
  events_.add(std::move(event));
}

void Audit::wait(const Key& key) {
  Series& series = series_.at(key);
  series.patience.expires_after(patience_);
  series.patience.async_wait([this, key, number = series.number](const boost::system::error_code& error) {
    if (error) return;
    const auto found = series_.find(key);
    if (found != series_.end() && found->second.number == number) end(key, "no more of it came");
  });
}

void Audit::end(const Key& key, const std::string& error) {
  const Series& series = series_.at(key);
  Event event = event_of(series.client, series.request, error.empty());
  event.details["part"] = "end";
  event.details["requests"] = series.requests;
  event.details["after"] = series.sums;
  event.text += fmt::format(": {} in {} request{}", json(series.sums).dump(), series.requests,
                            series.requests == 1 ? "" : "s");
  if (!error.empty()) add_error(event, ", ended early: ", error);
  event.text = on_one_line(std::move(event.text));
  series_.erase(key);
  events_.add(std::move(event));
}

}  // namespace sluice
