// The session table: 64-bit session hash -> backend, kind, times. Layout: src/session_layout.h.
//
// Written and read by all workers at once, without locks: every operation ends after a bounded number of
// steps, whatever the others do. The memory is the caller's (the `flows` segment) and must be all zero, or
// what this code wrote and recover() has seen since.
//
// How a session is made, so that none is ever there twice: its maker claims the first free slot from the home
// line on (tag_low: 0 to the tag, by compare-and-swap), looks at all the lines where the same session could
// be, and only then makes it live (value: 0 to live, by compare-and-swap). Of two that claim for one session
// at once, at least one sees the other's claim, as claims come before looks in the one order of all
// sequentially consistent operations. If it sees a live one, that is the session; if it sees a claim, the one
// further from home gives way: it is killed (value: 0 to kDead), or gives itself up. So a claim of which
// somebody could not know never becomes live beside another.
//
// A slot is freed in steps (value: kDead; tag: dying; value: 0; counted; tag: 0), so nobody claims it before
// it is clean: a claim by its maker, a live one by whoever made its value kDead. The home's `away` counts a
// session elsewhere before that is claimed, and until after it is freed: a lookup never stops short.
//
// Cost: a lookup touches one line, more where the home has sessions elsewhere (5 % of the homes of a table at
// capacity); prefetch() early. An insert touches the same, and at most kReach lines to find no place.
#pragma once

#include <atomic>
#include <bit>
#include <cassert>
#include <cstdint>

#include "dataplane/moved_sessions.h"
#include "src/session_layout.h"

namespace sluice {

class SessionTable {
 public:
  SessionTable(SessionLine* lines, uint64_t count) : lines_(lines), count_(count) {
    assert(count >= kSessionLinesMin && count < 1ULL << 31 && count % 2 == 0);
  }

  // A live session, as it was when looked at.
  struct Found {
    std::atomic<uint64_t>* at = nullptr;
    uint64_t value = 0;

    explicit operator bool() const { return at != nullptr; }
    SessionValue session() const { return unpack(value); }
  };

  void prefetch(uint64_t hash) const { __builtin_prefetch(&lines_[session_home(hash, count_)], 0, 3); }
  // find() is find_home(), and where that is empty and may_be_away(), find_away(): the lines that this looks
  // at are best prefetched for all sessions that may be there before any is looked for.
  Found find(uint64_t hash) const;
  // What find() is for nearly all, in a few instructions: may be empty where find() is not.
  Found glance(uint64_t hash) const;
  Found find_home(uint64_t hash) const;
  Found find_away(uint64_t hash) const;
  bool may_be_away(uint64_t hash) const {
    return reach_of(lines_[session_home(session_identity(hash), count_)]) != 0;
  }
  void prefetch_away(uint64_t hash) const {
    __builtin_prefetch(&line_at(session_home(session_identity(hash), count_), 1), 0, 3);
  }

  struct Made {
    Found found;        // empty: there was no place, or others were at it for too long
    bool made = false;  // else it was there
  };
  // The session of this hash: the one that is there, or a new one. (`session.distance` is ignored.)
  Made find_or_make(uint64_t hash, const SessionValue& session);
  // Changes a session unless somebody else did since `found` was looked at, which then sees it as it is now.
  // False: somebody did, and `found` is that, or empty when it is gone.
  static bool change(Found& found, SessionValue to);
  // The same with removing.
  bool remove(uint64_t hash, Found& found);

  // Visits the live sessions of `count` lines from `first` on (going round): (SessionValue) -> bool. False:
  // it is removed, unless it changed in that moment; `removed(SessionValue)` is then told.
  template <typename Visit, typename Removed>
  void sweep(uint64_t first, uint64_t count, Visit&& visit, Removed&& removed);

  // Before the first use of memory that a killed process may have left, while nobody else uses it: frees what
  // was claimed or half freed, and counts `away` anew. `visit(SessionValue)` sees every session.
  template <typename Visit>
  void recover(Visit&& visit);

  uint64_t lines() const { return count_; }

  MovedSessions moved;

 private:
  struct Slot {
    SessionLine* line;
    uint32_t slot;
    uint32_t distance;
    std::atomic<uint64_t>& value() const { return line->value[slot]; }
    std::atomic<uint32_t>& tag_low() const { return line->tag_low[slot]; }
  };

  SessionLine& line_at(uint64_t home, uint32_t distance) const {
    return lines_[line_from(home, distance, count_)];
  }
  static uint32_t reach_of(const SessionLine& home) {
    return home.away.load(std::memory_order_seq_cst) >> kReachShift;
  }
  static uint16_t tag_high_of(uint64_t hash) { return static_cast<uint16_t>(hash >> 32); }
  template <typename Otherwise>
  static Found look(SessionLine& line, uint32_t tag_low, uint32_t tag_high, uint32_t distance,
                    Otherwise&& when_unclear);
  static Found look(SessionLine& line, uint32_t tag_low, uint32_t tag_high, uint32_t distance) {
    return look(line, tag_low, tag_high, distance,
                [&] { return look_closely(line, tag_low, tag_high, distance); });
  }
  static Found look_closely(SessionLine& line, uint32_t tag_low, uint32_t tag_high, uint32_t distance);
  static void raise_away(SessionLine& home, uint32_t distance);
  static void lower_away(SessionLine& home);
  void free(SessionLine& home, const Slot& slot);
  bool claim(uint64_t home, uint32_t tag_low, Slot& slot);

  static constexpr uint32_t kReachShift = 24;
  static constexpr uint32_t kAwayMask = (1u << kReachShift) - 1;
  // How often one starts again because of others, and looks whether another's claim has become live.
  static constexpr int kAttempts = 8;
  static constexpr int kLooks = 64;

  SessionLine* const lines_;
  const uint64_t count_;
};

// Which of the line's sessions it is, if any: read_line() written out for what nearly always is. A tag that
// is nowhere needs no second look: a session that stays has its tags all the while.
template <typename Otherwise>
[[gnu::always_inline]] inline SessionTable::Found SessionTable::look(SessionLine& line, uint32_t tag_low,
                                                                     uint32_t tag_high, uint32_t distance,
                                                                     Otherwise&& when_unclear) {
  const uint32_t before = line.freed.load(std::memory_order_acquire);
  const uint32_t mask = matching_sessions(line, tag_low, tag_high);
  if (mask == 0) return {};
  // Without a branch for each slot: which it is nobody can guess.
  const auto slot = static_cast<uint32_t>(std::countr_zero(mask));
  // Acquire: pairs with the publishing compare-and-swap; the tags were written before it.
  const uint64_t value = line.value[slot].load(std::memory_order_seq_cst);
  const bool is_it = is_live(value) && unpack(value).distance == distance;
  if (is_it && line.freed.load(std::memory_order_relaxed) == before) [[likely]]
    return {&line.value[slot], value};
  return when_unclear();
}

inline SessionTable::Found SessionTable::glance(uint64_t hash) const {
  const uint64_t identity = session_identity(hash);
  return look(lines_[session_home(identity, count_)], static_cast<uint32_t>(identity), tag_high_of(identity),
              0, [] { return Found{}; });
}

inline SessionTable::Found SessionTable::find_home(uint64_t hash) const {
  const uint64_t identity = session_identity(hash);
  return look(lines_[session_home(identity, count_)], static_cast<uint32_t>(identity), tag_high_of(identity),
              0);
}

inline SessionTable::Found SessionTable::find(uint64_t hash) const {
  if (const Found found = find_home(hash)) [[likely]]
    return found;
  return may_be_away(hash) ? find_away(hash) : Found{};
}

template <typename Visit, typename Removed>
void SessionTable::sweep(uint64_t first, uint64_t count, Visit&& visit, Removed&& removed) {
  for (uint64_t i = 0; i < count; i++) {
    const uint64_t at = (first + i) % count_;
    SessionLine& line = lines_[at];
    for (uint32_t slot = 0; slot < kLineSessions; slot++) {
      uint64_t value = line.value[slot].load(std::memory_order_acquire);
      if (!is_live(value)) continue;
      const SessionValue session = unpack(value);
      if (visit(session)) continue;
      if (!line.value[slot].compare_exchange_strong(value, kDead, std::memory_order_seq_cst)) continue;
      free(lines_[home_from(at, session.distance, count_)], {&line, slot, session.distance});
      removed(session);
    }
  }
}

template <typename Visit>
void SessionTable::recover(Visit&& visit) {
  for (uint64_t at = 0; at < count_; at++)
    lines_[at].away.store(0, std::memory_order_relaxed);
  for (uint64_t at = 0; at < count_; at++) {
    SessionLine& line = lines_[at];
    for (uint32_t slot = 0; slot < kLineSessions; slot++) {
      const uint64_t value = line.value[slot].load(std::memory_order_relaxed);
      const uint32_t tag_low = line.tag_low[slot].load(std::memory_order_relaxed);
      if (!is_live(value) || tag_low <= kTagDying) {
        if (value != 0) line.value[slot].store(0, std::memory_order_relaxed);
        if (tag_low != 0) line.tag_low[slot].store(0, std::memory_order_relaxed);
        continue;
      }
      const SessionValue session = unpack(value);
      if (session.distance != 0)
        raise_away(lines_[home_from(at, session.distance, count_)], session.distance);
      visit(session);
    }
  }
}

}  // namespace sluice
