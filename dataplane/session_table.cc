#include "dataplane/session_table.h"

#include <algorithm>

namespace sluice {
namespace {

void pause() {
#ifdef __x86_64__
  __builtin_ia32_pause();
#endif
}

}  // namespace

void SessionTable::raise_away(SessionLine& home, uint32_t distance) {
  uint32_t away = home.away.load(std::memory_order_relaxed);
  uint32_t raised;
  do {
    raised = std::max(away >> kReachShift, distance) << kReachShift | ((away & kAwayMask) + 1);
    // seq_cst: before the claim that follows, in the order in which others look.
  } while (!home.away.compare_exchange_weak(away, raised, std::memory_order_seq_cst));
}

void SessionTable::lower_away(SessionLine& home) {
  uint32_t away = home.away.load(std::memory_order_relaxed);
  uint32_t lowered;
  do {
    // The last one takes the reach with it.
    lowered = (away & kAwayMask) <= 1 ? 0 : away - 1;
    // Release: the slot was free before.
  } while (!home.away.compare_exchange_weak(away, lowered, std::memory_order_release));
}

void SessionTable::free(SessionLine& home, const Slot& slot) {
  // Nobody who finds the tag may take a value of 0 for a claim's.
  slot.tag_low().store(kTagDying, std::memory_order_seq_cst);
  slot.value().store(0, std::memory_order_seq_cst);
  slot.line->freed.fetch_add(1, std::memory_order_seq_cst);  // before the slot can be another's: read_line()
  slot.tag_low().store(kTagFree, std::memory_order_seq_cst);
  if (slot.distance != 0) lower_away(home);
}

// The first free slot from the home on. False: there is none.
bool SessionTable::claim(uint64_t home, uint32_t tag_low, Slot& slot) {
  for (uint32_t distance = 0; distance < kReach; distance++) {
    SessionLine& line = line_at(home, distance);
    for (uint32_t i = 0; i < kLineSessions; i++) {
      uint32_t free = kTagFree;
      if (line.tag_low[i].load(std::memory_order_relaxed) != free) continue;
      if (distance != 0) raise_away(lines_[home], distance);
      if (line.tag_low[i].compare_exchange_strong(free, tag_low, std::memory_order_seq_cst)) {
        slot = {&line, i, distance};
        return true;
      }
      if (distance != 0) lower_away(lines_[home]);
    }
  }
  return false;
}

SessionTable::Found SessionTable::look_closely(SessionLine& line, uint32_t tag_low, uint32_t tag_high,
                                               uint32_t distance) {
  return read_line(
      line,
      [&](const SessionLine&) -> Found {
        for (uint32_t mask = matching_sessions(line, tag_low, tag_high); mask != 0; mask &= mask - 1) {
          const auto slot = static_cast<uint32_t>(std::countr_zero(mask));
          const uint64_t value = line.value[slot].load(std::memory_order_seq_cst);  // as in look()
          if (is_live(value) && unpack(value).distance == distance) return {&line.value[slot], value};
        }
        return {};
      },
      Found{});
}

SessionTable::Found SessionTable::find_away(uint64_t hash) const {
  const uint64_t identity = session_identity(hash);
  const uint64_t home = session_home(identity, count_);
  const auto tag_low = static_cast<uint32_t>(identity);
  const uint16_t tag_high = tag_high_of(identity);
  const uint32_t reach = reach_of(lines_[home]);
  for (uint32_t distance = 1; distance <= reach; distance++) {
    if (const Found found = look(line_at(home, distance), tag_low, tag_high, distance)) return found;
  }
  return {};
}

SessionTable::Made SessionTable::find_or_make(uint64_t hash, const SessionValue& session) {
  const uint64_t identity = session_identity(hash);
  const uint64_t home = session_home(identity, count_);
  const auto tag_low = static_cast<uint32_t>(identity);
  const uint16_t tag_high = tag_high_of(identity);

  for (int attempt = 0; attempt < kAttempts; attempt++) {
    if (const Found found = find(hash)) return {found, false};
    Slot own;
    if (!claim(home, tag_low, own)) return {};
    const auto give_up = [&] {
      uint64_t claimed = 0;
      own.value().compare_exchange_strong(claimed, kDead, std::memory_order_seq_cst);  // or it is already
      free(lines_[home], own);
    };
    own.line->tag_high[own.slot].store(tag_high, std::memory_order_relaxed);

    // Does anybody else claim, or have, this session? Further than the reach that is seen here, others claim
    // only later, and see ours.
    Found theirs;
    bool is_first = true;
    const uint32_t reach = std::max(reach_of(lines_[home]), own.distance);
    for (uint32_t distance = 0; distance <= reach && !theirs && is_first; distance++) {
      SessionLine& line = line_at(home, distance);
      for (uint32_t slot = 0; slot < kLineSessions && !theirs && is_first; slot++) {
        if (&line == own.line && slot == own.slot) continue;
        if (line.tag_low[slot].load(std::memory_order_seq_cst) != tag_low) continue;
        const bool is_before = distance < own.distance || (distance == own.distance && slot < own.slot);
        uint64_t claimed = 0;
        if (is_before) {
          // It is to be the session: wait until it is, or given up. Its maker is a few instructions from it.
          for (int look = 0; look < kLooks && line.value[slot].load(std::memory_order_seq_cst) == 0 &&
                             line.tag_low[slot].load(std::memory_order_seq_cst) == tag_low;
               look++) {
            pause();
          }
          is_first = line.value[slot].load(std::memory_order_seq_cst) != 0 ||
                     line.tag_low[slot].load(std::memory_order_seq_cst) != tag_low;
        } else {
          // Killed; its maker frees it.
          line.value[slot].compare_exchange_strong(claimed, kDead, std::memory_order_seq_cst);
        }
        theirs = look(line, tag_low, tag_high, distance);
      }
    }
    if (theirs || !is_first) {
      give_up();
      if (theirs) return {theirs, false};
      continue;
    }

    SessionValue value = session;
    value.distance = own.distance;
    uint64_t claimed = 0;
    const uint64_t live = pack(value);
    // Release: tag_high is written. Pairs with the loads of `value`.
    if (own.value().compare_exchange_strong(claimed, live, std::memory_order_seq_cst))
      return {{&own.value(), live}, true};
    free(lines_[home], own);  // killed by one nearer to the home
  }
  return {find(hash), false};
}

bool SessionTable::change(Found& found, SessionValue to) {
  to.distance = unpack(found.value).distance;
  const uint64_t wanted = pack(to);
  uint64_t seen = found.value;
  if (found.at->compare_exchange_strong(seen, wanted, std::memory_order_seq_cst)) {
    found.value = wanted;
    return true;
  }
  found = is_live(seen) ? Found{found.at, seen} : Found{};
  return false;
}

bool SessionTable::remove(uint64_t hash, Found& found) {
  uint64_t seen = found.value;
  if (!found.at->compare_exchange_strong(seen, kDead, std::memory_order_seq_cst)) {
    found = is_live(seen) ? Found{found.at, seen} : Found{};
    return false;
  }
  const uint64_t home = session_home(session_identity(hash), count_);
  const SessionValue session = unpack(found.value);
  SessionLine& line = line_at(home, session.distance);
  free(lines_[home], {&line, static_cast<uint32_t>(found.at - line.value), session.distance});
  found = {};
  return true;
}

}  // namespace sluice
