// What happened, in order: each event goes to the log, to the ring that `sluice show events` reads, and to
// whoever listens (`sluice watch`, hooks).
//
// Owner: sluiced's one thread. The ring keeps the last kEventsKept; numbers go on from 1 without gaps while
// sluiced lives, so a reader sees when it missed some.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <string>
#include <string_view>

#include <nlohmann/json.hpp>

namespace sluice {

struct Event {
  enum class Level : uint8_t { info, warning, error };
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

class Events {
 public:
  static constexpr size_t kEventsKept = 4096;
  using Listener = std::function<void(const Event&)>;

  // Number and time are filled in. Logs it at its level.
  void add(Event event);
  const std::deque<Event>& kept() const { return kept_; }
  uint64_t last_number() const { return last_number_; }
  // Called for each event from now on, from within add. Not to be called from a listener.
  uint64_t listen(Listener listener);
  void unlisten(uint64_t id);

 private:
  std::deque<Event> kept_;
  uint64_t last_number_ = 0;
  uint64_t last_listener_ = 0;
  std::map<uint64_t, Listener> listeners_;
};

}  // namespace sluice
