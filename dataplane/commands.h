// Commands from sluiced (src/commands_layout.h), done by worker 0 between two batches.
//
//   commands.use(base);                 // when the segment was mapped, or mapped anew
//   commands.run(tables, incarnation, now_s);   // once a loop: one acquire load when there is nothing
//
// At most kCommandsAtOnce a call, each a lookup and a change in the session table; no allocation, no system
// call.
#pragma once

#include "dataplane/session_table.h"
#include "src/commands_layout.h"
#include "src/stats.h"

namespace sluice {

class Commands {
 public:
  static constexpr uint32_t kCommandsAtOnce = 32;

  // `stats`: of the worker that runs them; its session counters count what they do.
  Commands(SessionTable& sessions, WorkerStats& stats, CommandsDone& done)
      : sessions_(sessions), stats_(stats), done_(done) {}

  // `base`: of the segment; stays mapped. Null, or the same again: nothing to do.
  void use(const std::byte* base);
  // `tables`: not empty; of the tables segment of this incarnation.
  void run(const TablesView& tables, uint64_t incarnation, uint32_t now_s);

 private:
  struct Outcome {
    CommandResult result;
    uint64_t before = 0;
  };
  Outcome perform(const CommandEntry& command, const TablesView& tables, uint64_t incarnation,
                  uint32_t now_s);
  Outcome place(const CommandEntry& command, const TablesView& tables, uint32_t now_s);
  Outcome unpin(const CommandEntry& command, const TablesView& tables, uint32_t now_s);
  Outcome move(const CommandEntry& command, const TablesView& tables, uint32_t now_s);
  bool change(SessionTable::Found& found, const SessionValue& to);

  SessionTable& sessions_;
  WorkerStats& stats_;
  CommandsDone& done_;
  const CommandsSegment* commands_ = nullptr;
  uint64_t next_ = 0;         // the command to go on with
  bool is_repeated_ = false;  // a predecessor was killed at it
};

}  // namespace sluice
