// One worker's flow table: flow hash -> backend, state, time of the last packet. Layout: src/flow_layout.h.
//
// One thread writes and reads; no atomics. The memory is the caller's (the `flows` segment, or plain memory)
// and must be all zero or a table that this code wrote.
//
// Cost: a lookup touches one cache line, two where the flow's home bucket has flows in their other bucket;
// prefetch() early for a whole batch, and prefetch_other() where find_home() left it open. An insert touches
// at most 2 + 6 lines of the table: home, other, and, when both are full, the other buckets of the home's six
// flows, to one of which a flow may move; besides, its group's second and the home of a flow that gives way.
// If none can move, an unconfirmed flow gives way: of the home bucket first, there one at home first; else an
// expired one. While the table is_crowded(), unconfirmed flows of a full home give way before anything else
// is tried. A confirmed one never does. If nothing helps the flow is not tracked (insert says so).
//
// Killed at any instant: an entry's state is written last on insert and first on removal, so what a successor
// finds is whole flows (one of a pair being moved may be there twice; the other copy expires).
//
// Ageing: the table keeps, for each group of kGroupBuckets buckets, the second at which the first of its
// flows may be over. Packets only postpone that, so a hit writes nothing there; inserts, and changes to a
// state with a shorter timeout, lower it (expect()). sweep() goes round these seconds, not round the flows,
// and looks at the flows of a group only when it is due: exact, and nearly free while flows rest.
#pragma once

#include <algorithm>
#include <atomic>
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
  // For a flow that find_home() did not find: might it be in its other bucket?
  bool may_be_away(uint64_t hash) const { return away_count(home_of(hash)) != 0; }
  void prefetch_other(uint64_t hash) const {
    __builtin_prefetch(&buckets_[other_of(hash & mask_, static_cast<uint32_t>(hash >> kTagShift))], 1, 3);
  }
  FlowBucket& home_of(uint64_t hash) const { return buckets_[hash & mask_]; }
  // Only in the home bucket: one cache line. Nothing found: ask find().
  Place find_home(uint64_t hash) const {
    FlowBucket& home = home_of(hash);
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
    Place place{};                // empty: no place, not tracked
    bool displaced = false;       // another flow lost its place,
    bool victim_expired = false;  //   because it was over; else because it was unconfirmed
    BackendId victim_backend{};   //   and it was this one's
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
  // The same as far as the home bucket goes: no other line is touched. First where, which holds until the
  // next insert or erase; empty: ask insert().
  struct HomePlace {
    uint32_t slot = kBucketFlows;
    bool is_taken = false;  // by an unconfirmed flow that gives way

    explicit operator bool() const { return slot < kBucketFlows; }
  };
  HomePlace place_at_home(uint64_t hash, uint32_t now_s) const;
  Inserted insert_at_home(const NewFlow& flow, HomePlace at, uint32_t now_s);
  // Many flows found neither a place nor one to move this second: a flood, or a table that is too small.
  // Flows that prove nothing (a SYN) should then be content with insert_at_home().
  bool is_crowded(uint32_t now_s) const { return failures_ >= kFailures && failures_of_s_ == now_s; }
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
  static uint32_t away_flows(const FlowBucket& bucket) {
    return bucket.marks >> kAwayBit & ((1u << kBucketFlows) - 1);
  }
  uint64_t number(const FlowBucket* bucket) const { return static_cast<uint64_t>(bucket - buckets_); }

  void put(FlowBucket& bucket, uint32_t slot, uint64_t hash, BackendId backend, uint16_t state_time,
           bool away);
  Place move_and_take(uint64_t home_at, const NewFlow& flow, uint32_t now_s);
  Place take(FlowBucket& bucket, uint32_t slot, const NewFlow& flow, uint32_t now_s, bool away);
  Inserted replace(FlowBucket& bucket, uint32_t slot, const NewFlow& flow, uint32_t now_s, bool away,
                   bool victim_expired);
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
  uint32_t swept_s_ = 0;
  // Inserts of one second that could not even move a flow; each touches eight lines. A table that is just
  // full sees one in many thousand inserts.
  static constexpr uint32_t kFailures = 64;
  uint32_t failures_ = 0;
  uint32_t failures_of_s_ = 0;
};

inline FlowTable::HomePlace FlowTable::place_at_home(uint64_t hash, uint32_t now_s) const {
  const FlowBucket& home = home_of(hash);
  if (const uint32_t free = free_places(home); free != 0)
    return {static_cast<uint32_t>(std::countr_zero(free)), false};
  if (!is_crowded(now_s)) return {};
  const uint32_t candidates = unconfirmed_flows(home) & ~away_flows(home);
  if (candidates == 0) return {};
  // Any of them: in a flood all are of the same second. Which, some bits of the hash say that nothing else
  // uses.
  const auto turn = static_cast<uint32_t>((hash >> 32 & 0xffff) * kBucketFlows >> 16);
  const uint32_t turned = (candidates | candidates << kBucketFlows) >> turn;
  const uint32_t slot = turn + static_cast<uint32_t>(std::countr_zero(turned));
  return {slot < kBucketFlows ? slot : slot - kBucketFlows, true};
}

inline FlowTable::Inserted FlowTable::insert_at_home(const NewFlow& flow, HomePlace at, uint32_t now_s) {
  FlowBucket& home = home_of(flow.hash);
  if (at.is_taken) return replace(home, at.slot, flow, now_s, false, false);
  return {.place = take(home, at.slot, flow, now_s, false)};
}

template <typename Expired>
FlowTable::Inserted FlowTable::insert(const NewFlow& flow, uint32_t now_s, Expired&& expired) {
  if (const HomePlace at = place_at_home(flow.hash, now_s)) return insert_at_home(flow, at, now_s);
  const uint64_t home_at = flow.hash & mask_;
  FlowBucket& home = buckets_[home_at];
  FlowBucket& other = buckets_[other_of(home_at, static_cast<uint32_t>(flow.hash >> kTagShift))];
  if (const uint32_t free = free_places(other); free != 0) {
    return {.place = take(other, static_cast<uint32_t>(std::countr_zero(free)), flow, now_s, true)};
  }
  if (!is_crowded(now_s)) {
    if (const Place place = move_and_take(home_at, flow, now_s)) return {.place = place};
    failures_ = failures_of_s_ == now_s ? failures_ + 1 : 1;
    failures_of_s_ = now_s;
  }
  for (FlowBucket* bucket : {&home, &other}) {
    if (const int slot = weakest(*bucket, now_s); slot >= 0) {
      return replace(*bucket, static_cast<uint32_t>(slot), flow, now_s, bucket == &other, false);
    }
  }
  for (FlowBucket* bucket : {&home, &other}) {
    if (!is_due(number(bucket) / kGroupBuckets, now_s)) continue;  // none of these is over
    for (uint32_t slot = 0; slot < kBucketFlows; slot++) {
      if (expired(Place{bucket, slot})) return replace(*bucket, slot, flow, now_s, bucket == &other, true);
    }
  }
  return {.place = move_and_take(home_at, flow, now_s)};
}

inline FlowTable::Place FlowTable::take(FlowBucket& bucket, uint32_t slot, const NewFlow& flow,
                                        uint32_t now_s, bool away) {
  put(bucket, slot, flow.hash, flow.backend, state_and_time(flow.state, now_s), away);
  const Place place{&bucket, slot};
  expect(place, now_s, flow.idle_timeout_s);
  return place;
}

inline FlowTable::Inserted FlowTable::replace(FlowBucket& bucket, uint32_t slot, const NewFlow& flow,
                                              uint32_t now_s, bool away, bool victim_expired) {
  const Place victim{&bucket, slot};
  const BackendId victim_backend = victim.backend();
  erase(victim);
  return {take(bucket, slot, flow, now_s, away), true, victim_expired, victim_backend};
}

inline FlowTable::Place FlowTable::move_and_take(uint64_t home_at, const NewFlow& flow, uint32_t now_s) {
  const int slot = make_room(home_at, now_s);
  return slot < 0 ? Place{} : take(buckets_[home_at], static_cast<uint32_t>(slot), flow, now_s, false);
}

inline void FlowTable::put(FlowBucket& bucket, uint32_t slot, uint64_t hash, BackendId backend,
                           uint16_t state_time, bool away) {
  if (away) [[unlikely]] {
    // The home counts it before it can be found, so that a lookup never misses a flow that is there.
    FlowBucket& home = buckets_[other_of(number(&bucket), static_cast<uint32_t>(hash >> kTagShift))];
    home.marks += static_cast<uint32_t>(away_count(home) < kAwayCountMany) << kAwayCountShift;
  }
  bucket.tag_low[slot] = static_cast<uint32_t>(hash >> kTagShift);
  bucket.tag_high[slot] = static_cast<uint16_t>(hash >> 48);
  bucket.backend[slot] = static_cast<uint16_t>(index(backend));
  const uint32_t kept = ~(7u << (3 * slot) | 1u << (kAwayBit + slot));
  bucket.marks = (bucket.marks & kept) | (index(backend) >> 16 & 7) << (3 * slot) |
                 static_cast<uint32_t>(away) << (kAwayBit + slot);
  // The state makes it a flow: last, also for who takes over after a SIGKILL (stores of one core reach the
  // memory that outlives it in program order; the fence keeps the compiler to that order).
  std::atomic_signal_fence(std::memory_order_release);
  bucket.state_time[slot] = state_time;
}

inline void FlowTable::erase(Place place) {
  FlowBucket& bucket = *place.bucket;
  bucket.state_time[place.slot] = 0;
  std::atomic_signal_fence(std::memory_order_release);
  if (is_away(bucket, place.slot)) [[unlikely]] {
    FlowBucket& home = buckets_[other_of(number(&bucket), bucket.tag_low[place.slot])];
    // Once "many", a home keeps the mark: only cost, no harm. No branch: it would wait for this line.
    const bool counts = away_count(home) - 1 < kAwayCountMany - 1;
    home.marks -= static_cast<uint32_t>(counts) << kAwayCountShift;
    bucket.marks &= ~(1u << (kAwayBit + place.slot));
  }
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
  // Nobody looked for long, and the groups' seconds are modulo 2^16: they say nothing any more.
  all_due_ |= now_s - swept_s_ > limits::kSweepPeriodMax;
  swept_s_ = now_s;
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
