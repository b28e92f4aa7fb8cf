// What happened, in order: each event goes to the log, to the ring that `sluice show events` reads, and to
// whoever listens (`sluice watch`, hooks).
//
// Owner: sluiced's one thread. The ring keeps the last kEventsKept; numbers go on from 1 without gaps while
// sluiced lives, so a reader sees when it missed some. Events of level debug, which may be thousands a second
// (each check's result), are for listeners only: not kept, not numbered, and logged only on demand.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>

#include <nlohmann/json.hpp>

namespace sluice {

struct Event {
  enum class Level : uint8_t { debug, info, warning, error };
  uint64_t number = 0;
  int64_t time_unix_ms = 0;  // the wall clock: for people, never for decisions
  Level level = Level::info;
  std::string kind;     // what happened, for machines: "backend_down", "config_applied"
  std::string service;  // the object; empty when it is about none
  std::string backend;
  std::string text;        // the sentence, for people
  nlohmann::json details;  // an object: what the sentence says, for machines
};
const char* text(Event::Level level);
// {"number":17,"time":"2026-01-31T03:00:00.123Z","level":"warning","kind":"backend_down","service":"web",
// "backend":"b1","text":"...","details":{...}}; number, service, backend and details only where there are
// any.
nlohmann::json to_json(const Event& event);
// Shell patterns: * and ?.
bool matches(std::string_view pattern, std::string_view text);

class Events {
 public:
  static constexpr size_t kEventsKept = 4096;
  using Listener = std::function<void(const Event&)>;
  enum class LogFormat : uint8_t { text, json };

  // What goes to the log (spdlog's default logger), and how. The start: text, from info on.
  void set_log(LogFormat format, Event::Level least);

  // Number and time are filled in.
  void add(Event event);
  void add(Event::Level level, std::string kind, std::string sentence);
  // Would anybody notice an event of level debug? Else it need not be made.
  bool wants_debug() const { return debug_listeners_ > 0 || log_least_ == Event::Level::debug; }

  const std::deque<Event>& kept() const { return kept_; }
  uint64_t last_number() const { return last_number_; }
  // How many of this level so far.
  uint64_t count(Event::Level level) const { return counts_[static_cast<size_t>(level)]; }

  // Called for each event from now on, from within add; for those of level debug only `with_debug`. Neither
  // this, add nor unlisten may be called from a listener.
  uint64_t listen(Listener listener, bool with_debug = false);
  void unlisten(uint64_t id);

 private:
  void log(const Event& event) const;

  LogFormat log_format_ = LogFormat::text;
  Event::Level log_least_ = Event::Level::info;
  std::deque<Event> kept_;
  uint64_t last_number_ = 0;
  uint64_t counts_[4] = {};
  uint64_t last_listener_ = 0;
  struct Listening {
    Listener call;
    bool with_debug;
  };
  std::map<uint64_t, Listening> listeners_;
  uint32_t debug_listeners_ = 0;
};

}  // namespace sluice
