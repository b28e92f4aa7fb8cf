#include "controlplane/events.h"

#include <chrono>
#include <utility>

#include <spdlog/spdlog.h>

namespace sluice {
namespace {

spdlog::level::level_enum log_level(Event::Level level) {
  if (level == Event::Level::error) return spdlog::level::err;
  return level == Event::Level::warning ? spdlog::level::warn : spdlog::level::info;
}

}  // namespace

const char* text(Event::Level level) {
  if (level == Event::Level::error) return "error";
  return level == Event::Level::warning ? "warning" : "info";
}

void Events::add(Event event) {
  event.number = ++last_number_;
  event.time_unix_ms = std::chrono::duration_cast<std::chrono::milliseconds>(
                           std::chrono::system_clock::now().time_since_epoch())
                           .count();
  if (event.details.is_null()) event.details = nlohmann::json::object();
  spdlog::log(log_level(event.level), "{}", event.text);
  kept_.push_back(std::move(event));
  if (kept_.size() > kEventsKept) kept_.pop_front();
  for (const auto& [id, listener] : listeners_)
    listener(kept_.back());
}

uint64_t Events::listen(Listener listener) {
  listeners_.emplace(++last_listener_, std::move(listener));
  return last_listener_;
}

void Events::unlisten(uint64_t id) {
  listeners_.erase(id);
}

}  // namespace sluice
