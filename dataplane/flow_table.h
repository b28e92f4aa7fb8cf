// One worker's flow table: flow hash -> backend, state, time of the last packet. Layout: src/flow_layout.h.
//
// One thread writes and reads; no atomics. The memory is the caller's (the `flows` segment, or plain memory)
// and must be all zero or a table that this code wrote.
//
// Cost: a lookup touches one cache line, two where the flow's home bucket has flows in their other bucket;
// prefetch() early for a whole batch, and prefetch_other() where find_home() left it open. An insert touches
// at most 2 + 6 lines: home, other, and, when both are full, the other buckets of the home's six flows, to
// one of which a flow may move. If none can (or none could a moment ago): an unconfirmed flow gives way, the
// one at rest for longest; else an expired one. A confirmed one never does. If nothing helps the flow is not
// tracked (insert says so). Killed at any instant: an entry's state is written last on insert and first on
// removal, so what a successor finds is whole flows (one of a pair being moved may be there twice; the other
// copy expires).
//
// Ageing: the table keeps, for each group of kGroupBuckets buckets, the second at which the first of its
// flows may be over. Packets only postpone that, so a hit writes nothing there; inserts, and changes to a
// state with a shorter timeout, lower it (expect()). sweep() goes round these seconds, not round the flows,
// and looks at the flows of a group only when it is due: exact, and nearly free while flows rest.
#pragma once

#include <bit>
#include <cassert>
#include <cstdint>
#include <vector>

#include "src/flow_layout.h"

namespace sluice {

class FlowTable {
 public:
  // Allocates the groups' seconds: 2 bytes for 1 KiB of table. After construction over a table that may hold
  // flows, and after clear(): everything is due at once.
  FlowTable(FlowBucket* buckets, uint32_t bucket_bits);

  // A flow's place. Valid until the next insert or erase.
  struct Place {
    FlowBucket* bucket = nullptr;
    uint32_t slot = 0;

    explicit operator bool() const { return bucket != nullptr; }
    BackendId backend() const { return backend_of(*bucket, slot); }
    FlowState state() const { return state_of(*bucket, slot); }
    uint32_t idle_s(uint32_t now_s) const { return sluice::idle_s(*bucket, slot, now_s); }
    // Writes only when something changes: a line that is only read stays clean.
    void touch(FlowState state, uint32_t now_s) {
      const uint16_t value = state_and_time(state, now_s);
      if (bucket->state_time[slot] != value) bucket->state_time[slot] = value;
    }
    void set_backend(BackendId id) {
      bucket->backend[slot] = static_cast<uint16_t>(index(id));
      bucket->marks = (bucket->marks & ~(7u << (3 * slot))) | (index(id) >> 16 & 7) << (3 * slot);
    }
  };

  void prefetch(uint64_t hash) const { __builtin_prefetch(&buckets_[hash & mask_], 1, 3); }
  // For a flow that find_home() did not find: what find() and insert() will look at next.
  void prefetch_other(uint64_t hash) const {
    const uint64_t home = hash & mask_;
    __builtin_prefetch(&due_s_[home / kGroupBuckets], 1, 3);
    if (away_count(buckets_[home]) != 0 || free_places(buckets_[home]) == 0) {
      __builtin_prefetch(&buckets_[other_of(home, static_cast<uint32_t>(hash >> kTagShift))], 1, 3);
    }
  }
  // Only in the home bucket: one cache line. Nothing found: ask find().
  Place find_home(uint64_t hash) const {
    FlowBucket& home = buckets_[hash & mask_];
    const uint32_t mask = matching_flows(home, hash);
    return mask != 0 ? Place{&home, static_cast<uint32_t>(std::countr_zero(mask))} : Place{};
  }
  Place find(uint64_t hash) const {
    if (const Place place = find_home(hash)) return place;
    const uint64_t home = hash & mask_;
    if (away_count(buckets_[home]) == 0) [[likely]]
      return {};
    FlowBucket& other = buckets_[other_of(home, static_cast<uint32_t>(hash >> kTagShift))];
    const uint32_t mask = matching_flows(other, hash);
    return mask != 0 ? Place{&other, static_cast<uint32_t>(std::countr_zero(mask))} : Place{};
  }

  // What an insert did to somebody else.
  struct Inserted {
    Place place;             // empty: no place, not tracked
    bool displaced = false;  // another flow lost its place: `victim_backend` and `victim_expired` tell whose
    bool victim_expired = false;
    BackendId victim_backend{};
  };
  struct NewFlow {
    uint64_t hash;
    BackendId backend;
    FlowState state;
    uint32_t idle_timeout_s;
  };
  // Adds a flow that is not there. `expired(place)` says whether a flow may be forgotten: Place -> bool.
  template <typename Expired>
  Inserted insert(const NewFlow& flow, uint32_t now_s, Expired&& expired);
  void erase(Place place);

  // The flow at `place` may be over in `remaining_s` seconds: needed when that is earlier than before.
  void expect(Place place, uint32_t now_s, uint32_t remaining_s) {
    uint16_t& due_s = due_s_[number(place.bucket) / kGroupBuckets];
    const auto at_s = static_cast<uint16_t>(now_s + std::min(remaining_s, kRescanMax) + 1);
    if (static_cast<int16_t>(at_s - due_s) < 0) due_s = at_s;
  }

  // Goes on where the last call stopped, over at most `groups` groups, and stops early when it has looked
  // into `scans_max` that were due. In those, `visit` sees every flow: Place -> seconds that it may still
  // rest; 0: it is over, and is erased. Returns how many groups it passed.
  template <typename Visit>
  uint64_t sweep(uint64_t groups, uint32_t scans_max, uint32_t now_s, Visit&& visit);
  // Every flow: Place -> void. For starts; everything is due afterwards.
  template <typename Visit>
  void each(Visit&& visit);

  uint64_t buckets() const { return mask_ + 1; }
  uint64_t groups() const { return buckets() / kGroupBuckets; }
  // The whole hash of the flow at `place`.
  uint64_t hash_at(Place place) const;
  void clear();

  static constexpr uint32_t kGroupBuckets = 16;
  // A group is looked into at least this often, in seconds: timeouts may have become shorter, backends
  // removed.
  static constexpr uint32_t kRescanMax = limits::kSweepPeriodMax / 2;

 private:
  static constexpr uint32_t kAwayBit = 18;
  static constexpr uint32_t kAwayCountShift = 24;
  static constexpr uint32_t kAwayCountMany = 255;

  uint64_t other_of(uint64_t at, uint32_t tag_low) const {
    return at ^ other_bucket_distance(tag_low, mask_);
  }
  static bool is_away(const FlowBucket& bucket, uint32_t slot) {
    return (bucket.marks >> (kAwayBit + slot) & 1) != 0;
  }
  static uint32_t away_flows(const FlowBucket& bucket) { return bucket.marks >> kAwayBit & 63; }
  uint64_t number(const FlowBucket* bucket) const { return static_cast<uint64_t>(bucket - buckets_); }

  void put(FlowBucket& bucket, uint32_t slot, uint64_t hash, BackendId backend, uint16_t state_time,
           bool away);
  // The unconfirmed flow that gives way, or -1.
  static int weakest(const FlowBucket& bucket, uint32_t now_s);
  // Moves one flow of the bucket to its other bucket. The place that it left, or -1.
  int make_room(uint64_t at, uint32_t now_s);
  bool is_due(uint64_t group, uint32_t now_s) const {
    return static_cast<int16_t>(static_cast<uint16_t>(now_s) - due_s_[group]) >= 0;
  }
  bool any_due(uint64_t first, uint64_t count, uint32_t now_s) const;
  template <typename Visit>
  void scan(uint64_t group, uint32_t now_s, Visit&& visit);

  FlowBucket* const buckets_;
  const uint64_t mask_;
  // Modulo 2^16; never more than kRescanMax away from now.
  std::vector<uint16_t> due_s_;
  bool all_due_ = true;  // due_s_ says nothing yet
  uint64_t sweep_at_ = 0;
  // Of inserts between two full buckets, after a move failed: not tried, if somebody can give way.
  static constexpr uint32_t kMovesSkipped = 63;
  uint32_t moves_to_skip_ = 0;
};

template <typename Expired>
FlowTable::Inserted FlowTable::insert(const NewFlow& flow, uint32_t now_s, Expired&& expired) {
  const uint64_t home_at = flow.hash & mask_;
  FlowBucket& home = buckets_[home_at];
  Inserted result;

  const auto take = [&](FlowBucket& bucket, uint32_t slot, bool away) {
    put(bucket, slot, flow.hash, flow.backend, state_and_time(flow.state, now_s), away);
    result.place = {&bucket, slot};
    expect(result.place, now_s, flow.idle_timeout_s);
  };
  if (const uint32_t free = free_places(home); free != 0) {
    take(home, static_cast<uint32_t>(std::countr_zero(free)), false);
    return result;
  }
  FlowBucket& other = buckets_[other_of(home_at, static_cast<uint32_t>(flow.hash >> kTagShift))];
  if (const uint32_t free = free_places(other); free != 0) {
    take(other, static_cast<uint32_t>(std::countr_zero(free)), true);
    return result;
  }
  const auto replace = [&](FlowBucket& bucket, int slot) {
    const Place victim{&bucket, static_cast<uint32_t>(slot)};
    result.displaced = true;
    result.victim_backend = victim.backend();
    result.victim_expired = expired(victim);
    erase(victim);
    take(bucket, victim.slot, &bucket == &other);
    return result;
  };
  // Each move tried in vain costs six lines, and in a full table under a flood all would be.
  const bool try_move = moves_to_skip_ == 0;
  moves_to_skip_ -= try_move ? 0 : 1;
  const auto move = [&] {
    const int slot = make_room(home_at, now_s);
    moves_to_skip_ = slot < 0 ? kMovesSkipped : 0;
    if (slot >= 0) take(home, static_cast<uint32_t>(slot), false);
    return slot >= 0;
  };
  if (try_move && move()) return result;
  if (const int slot = weakest(home, now_s); slot >= 0) return replace(home, slot);
  if (const int slot = weakest(other, now_s); slot >= 0) return replace(other, slot);
  for (FlowBucket* bucket : {&home, &other}) {
    for (uint32_t slot = 0; slot < kBucketFlows; slot++) {
      if (expired(Place{bucket, slot})) return replace(*bucket, static_cast<int>(slot));
    }
  }
  if (!try_move) move();
  return result;
}

template <typename Visit>
void FlowTable::scan(uint64_t group, uint32_t now_s, Visit&& visit) {
  // Not all on the same second.
  uint32_t rest_s = kRescanMax - static_cast<uint32_t>(group % (kRescanMax / 2));
  for (uint64_t at = group * kGroupBuckets; at < (group + 1) * kGroupBuckets; at++) {
    FlowBucket& bucket = buckets_[at];
    for (uint32_t slot = 0; slot < kBucketFlows; slot++) {
      if (bucket.state_time[slot] == 0) continue;
      const Place place{&bucket, slot};
      const uint32_t remaining_s = visit(place);
      if (remaining_s == 0) {
        erase(place);
      } else {
        rest_s = std::min(rest_s, remaining_s);
      }
    }
  }
  due_s_[group] = static_cast<uint16_t>(now_s + rest_s);
}

template <typename Visit>
uint64_t FlowTable::sweep(uint64_t groups, uint32_t scans_max, uint32_t now_s, Visit&& visit) {
  if (all_due_) [[unlikely]] {
    due_s_.assign(due_s_.size(), static_cast<uint16_t>(now_s));
    all_due_ = false;
  }
  constexpr uint64_t kLook = 64;  // seconds of a cache line or two: mostly none is due
  uint64_t passed = 0;
  for (uint32_t scans = 0; passed < groups && scans < scans_max;) {
    if (sweep_at_ % kLook == 0 && !any_due(sweep_at_, kLook, now_s)) {
      sweep_at_ += kLook;
      passed += kLook;
    } else {
      if (is_due(sweep_at_, now_s)) {
        scan(sweep_at_, now_s, visit);
        scans++;
      }
      sweep_at_++;
      passed++;
    }
    if (sweep_at_ >= this->groups()) sweep_at_ = 0;
  }
  return passed;
}

template <typename Visit>
void FlowTable::each(Visit&& visit) {
  for (uint64_t at = 0; at < buckets(); at++) {
    for (uint32_t slot = 0; slot < kBucketFlows; slot++) {
      if (buckets_[at].state_time[slot] != 0) visit(Place{&buckets_[at], slot});
    }
  }
  all_due_ = true;
}

}  // namespace sluice
