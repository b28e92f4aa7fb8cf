// The `commands` segment: what sluiced asks the data plane to do with sessions.
//
// Writer: sluiced (controlplane/worker_commands.h). Reader: worker 0 of the data plane
// (dataplane/commands.h), once a loop: one acquire load when there is nothing. Its answers are in the stats
// segment (CommandsDone).
//
// A ring: command n, counted from 0 over all restarts of sluiced, stands in entries[n % kCommandsMax]. `head`
// is how many were ever written, CommandsDone::done how many were taken; sluiced never has more than
// kCommandsMax under way, so no entry is overwritten before its answer is there.
//
// Who is killed, at any instant:
//   sluiced         What was written is done all the same; nobody hears the answer. Its successor goes on at
//                   `head`.
//   the data plane  Its successor goes on at `done`. The one command that was under way (`begun`) is done
//                   again, which changes nothing if it was done already; its answer is then `repeated`.
// And what is made anew:
//   tables    The ids in older commands mean others; they carry its incarnation, and are answered `stale`.
//   stats     Nobody knows what was taken. All that was written before is passed over, its answer `none`.
//   commands  The count starts again. The data plane says by CommandsDone::incarnation whose it takes, and
//             sluiced writes none before that is its own.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "src/segment.h"
#include "src/session_layout.h"
#include "src/tables.h"

namespace sluice {

// 256 KiB; some milliseconds of work for a busy worker.
inline constexpr uint32_t kCommandsMax = 4096;

enum class CommandKind : uint32_t {
  pin = 1,     // `hash` goes to `backend`: as `session` says pinned, or until `last_s`
  unpin = 2,   // removed, if it is pinned
  import = 3,  // made, with these times, unless there is one; a pin replaces what was learnt
  move = 4,    // learnt: from `from` to `backend`, as `session` says moved or moved_resets; flows that go on
               // follow, or are reset, with their next packet
};

struct alignas(64) CommandEntry {
  uint64_t tables_incarnation;  // whose ids these are,
  uint64_t generation;          //   and the first one that has them: not done before the worker uses it
  uint64_t hash;                // of the session, as session_hash() has it
  CommandKind kind;
  BackendId backend;
  BackendId from;       // move
  SessionKind session;  // of pin, import and move
  uint8_t reserved[3];
  uint32_t last_s;   // as in SessionValue
  uint32_t created;  // import: as in SessionValue
  uint8_t reserved2[16];
};
static_assert(sizeof(CommandEntry) == 64);

enum class CommandResult : uint32_t {
  none = 0,      // not known: passed over with an old stats segment
  made = 1,      // it is as asked; there was no session before
  changed = 2,   // there was one: `before`
  removed = 3,   // unpinned: `before`
  absent = 4,    // unpin, move: there is no session
  other = 5,     // there is one that stays: learnt for unpin, pinned or on another backend for move; for
                 // import: `before`, which is as good
  no_place = 6,  // the table has none around the session's home
  gone = 7,      // the backend is not configured any more
  stale = 8,     // of other tables
  repeated = 9,  // it is as asked; a data plane was killed at it, so nobody knows how it was before
};
inline constexpr uint32_t kCommandResults = 10;

// In the stats segment. Writer: worker 0.
struct alignas(64) CommandsDone {
  // Of the commands segment that the counts are of. Changed only while `done` is 0 or right for both: sluiced
  // reads this first (acquire), and trusts `done` only if it is its own segment's.
  std::atomic<uint64_t> incarnation;
  // Answers of all before are written (release; pairs with sluiced's acquire).
  std::atomic<uint64_t> done;
  std::atomic<uint64_t> begun;  // done, or one more
  struct alignas(16) Answer {
    std::atomic<uint64_t> before;  // SessionValue, packed; 0: none
    std::atomic<CommandResult> result;
    uint32_t reserved;
  } answers[kCommandsMax];
};
static_assert(sizeof(CommandsDone::Answer) == 16);

struct CommandsSegment {
  SegmentHeader segment;
  // Release after the entries before it are written; acquire by the worker before it reads them.
  alignas(64) std::atomic<uint64_t> head;
  alignas(64) CommandEntry entries[kCommandsMax];
};

inline constexpr SegmentKind kCommandsSegment = {
    "commands", "sluiced", 0x73646d6d436c53ULL,  // "SlCmmds"
    layout_hash({sizeof(CommandsSegment), offsetof(CommandsSegment, head), offsetof(CommandsSegment, entries),
                 sizeof(CommandEntry), offsetof(CommandEntry, kind), offsetof(CommandEntry, session),
                 offsetof(CommandEntry, last_s), kCommandsMax, kCommandResults})};

}  // namespace sluice
