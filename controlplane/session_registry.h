// The session table as operators see it: what a key names, and what the table holds.
//
// Reads the data plane's `flows` segment (src/session_layout.h), which it never writes: changes are commands
// (worker_commands.h). The table holds hashes, not keys: a session is found by its key, but a list of
// sessions cannot say the keys.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include <nlohmann/json.hpp>

#include "src/commands_layout.h"
#include "src/flow_layout.h"
#include "src/result.h"
#include "src/session_layout.h"

namespace sluice {

inline bool has_sessions(const ServiceRecord& service) {
  return (service.flags & ServiceRecord::kSessions) != 0;
}

// The hash of the session that `key` names: a client's address, of which the service's prefix counts, or the
// key's bytes in hex. An Error when it has another form. `service`: has_sessions.
Result<uint64_t> session_of_key(std::string_view key, const ServiceRecord& service, const HashSecret& secret);

// What must be equal for one key to name one session: of the secret, and of a service's group and kind of
// key.
std::string fingerprint(const HashSecret& secret);
std::string fingerprint(const ServiceRecord& service);

// {"service", "backend", "hash", "kind", "age_s", and of a learnt one "idle_s", of one pinned for a time
// "left_s"}
nlohmann::json report_session(const SessionSeen& seen, const TablesView& tables, uint32_t now_s);
// "b1 (learnt)", "b2 (pinned)", "b3 (pinned for 3600 s)"
std::string session_text(const SessionValue& session, const TablesView& tables, uint32_t now_s);

// Does a pin or an import give its backend one session more? `there`: what is in force of this hash.
bool makes_one_more(const CommandEntry& command, const std::optional<SessionValue>& there);

// CLOCK_MONOTONIC.
uint32_t session_now_s();

// The session of this hash in a table of `count` lines, as it is at some instant.
std::optional<SessionSeen> find_session(const SessionLine* lines, uint64_t count, uint64_t hash);

class SessionRegistry {
 public:
  // Of a slice that holds nobody up: 4 MiB of table.
  static constexpr uint64_t kSliceLines = (4 << 20) / sizeof(SessionLine);

  // An Error when no data plane has run with these tables.
  static Result<SessionRegistry> open(const std::string& directory, uint64_t tables_incarnation);

  // Still the table of the data plane that runs, or ran last, and of these tables? Not after a start with
  // other
  // --sessions-max, --workers or --flows-max. A system call.
  bool is_current(uint64_t tables_incarnation) const;

  std::optional<SessionSeen> find(uint64_t hash) const { return find_session(lines_, count_, hash); }
  uint64_t capacity() const { return sessions_capacity(count_); }

  // A walk over all, in slices: the next `lines` lines. False: there are none left.
  template <typename Visit>
  bool step(uint64_t lines, Visit&& visit) {
    const uint64_t end = std::min(next_ + lines, count_);
    each_session(lines_, count_, next_, end, visit);
    next_ = end;
    return next_ < count_;
  }

 private:
  explicit SessionRegistry(Segment flows);

  Segment flows_;
  const SessionLine* lines_;
  uint64_t count_;
  uint64_t next_ = 0;
};

}  // namespace sluice
