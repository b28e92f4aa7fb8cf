#include "controlplane/events.h"

#include <algorithm>
#include <chrono>
#include <ctime>
#include <utility>

#include <fmt/chrono.h>
#include <fmt/format.h>
#include <fnmatch.h>
#include <spdlog/spdlog.h>

namespace sluice {
namespace {

spdlog::level::level_enum log_level(Event::Level level) {
  switch (level) {
    case Event::Level::debug:
      return spdlog::level::debug;
    case Event::Level::info:
      return spdlog::level::info;
    case Event::Level::warning:
      return spdlog::level::warn;
    case Event::Level::error:
      return spdlog::level::err;
  }
  return spdlog::level::err;
}

int64_t unix_ms_now() {
  return std::chrono::duration_cast<std::chrono::milliseconds>(
             std::chrono::system_clock::now().time_since_epoch())
      .count();
}

}  // namespace

const char* text(Event::Level level) {
  switch (level) {
    case Event::Level::debug:
      return "debug";
    case Event::Level::info:
      return "info";
    case Event::Level::warning:
      return "warning";
    case Event::Level::error:
      return "error";
  }
  return "?";
}

nlohmann::json to_json(const Event& event) {
  const std::time_t seconds = event.time_unix_ms / 1000;
  nlohmann::json out = {
      {"time", fmt::format("{:%Y-%m-%dT%H:%M:%S}.{:03}Z", fmt::gmtime(seconds), event.time_unix_ms % 1000)},
      {"level", text(event.level)},
      {"kind", event.kind},
      {"text", event.text}};
  if (event.number != 0) out["number"] = event.number;
  if (!event.service.empty()) out["service"] = event.service;
  if (!event.backend.empty()) out["backend"] = event.backend;
  if (event.details.is_object() && !event.details.empty()) out["details"] = event.details;
  return out;
}

bool matches(std::string_view pattern, std::string_view text) {
  return fnmatch(std::string(pattern).c_str(), std::string(text).c_str(), 0) == 0;
}

void Events::set_log(LogFormat format, Event::Level least) {
  log_format_ = format;
  log_least_ = least;
  spdlog::set_level(log_level(least));
  spdlog::set_pattern(format == LogFormat::json ? "%v" : "%Y-%m-%dT%H:%M:%S.%e %l %v");
}

void Events::log(const Event& event) const {
  if (event.level < log_least_) return;
  if (log_format_ == LogFormat::text) {
    spdlog::log(log_level(event.level), "{}", event.text);
  } else {
    spdlog::log(log_level(event.level), "{}",
                to_json(event).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
  }
}

void Events::add(Event event) {
  // Texts may quote what hooks print or clients send: nothing of it commands the reader's terminal.
  std::replace_if(
      event.text.begin(), event.text.end(),
      [](unsigned char c) { return (c < 0x20 && c != '\n') || c == 0x7f; }, '?');
  counts_[static_cast<size_t>(event.level)]++;
  event.time_unix_ms = unix_ms_now();
  const bool is_kept = event.level != Event::Level::debug;
  if (is_kept) event.number = ++last_number_;
  log(event);
  for (const auto& [id, listener] : listeners_) {
    if (is_kept || listener.with_debug) listener.call(event);
  }
  if (!is_kept) return;
  kept_.push_back(std::move(event));
  if (kept_.size() > kEventsKept) kept_.pop_front();
}

void Events::add(Event::Level level, std::string kind, std::string sentence) {
  Event event;
  event.level = level;
  event.kind = std::move(kind);
  event.text = std::move(sentence);
  add(std::move(event));
}

uint64_t Events::listen(Listener listener, bool with_debug) {
  listeners_.emplace(++last_listener_, Listening{std::move(listener), with_debug});
  if (with_debug) debug_listeners_++;
  return last_listener_;
}

void Events::unlisten(uint64_t id) {
  const auto found = listeners_.find(id);
  if (found == listeners_.end()) return;
  if (found->second.with_debug) debug_listeners_--;
  listeners_.erase(found);
}

}  // namespace sluice
