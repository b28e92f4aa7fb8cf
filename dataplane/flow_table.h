// One worker's flow table: flow hash -> backend, state, second of the last packet. Layout: src/flow_layout.h.
//
// One thread writes and reads; no atomics. The memory is the caller's (the `flows` segment, or plain memory)
// and must be all zero or a table that this code wrote.
//
// Cost: a lookup touches one cache line, two where the flow's home bucket has flows in their other bucket;
// prefetch() both early for a whole batch. An insert touches at most 2 + 6 lines: home, other, and, when both
// are full, the other buckets of the home's six flows, to one of which a flow may move. When full: an expired
// flow's place is taken first, then one is made by moving a flow, then an unconfirmed flow gives way; a
// confirmed one never does. If nothing helps the flow is not tracked (insert says so). Killed at any instant:
// an entry's state is written last on insert and first on removal, so what a successor finds is whole flows
// (one of a pair being moved may be there twice; the other copy expires).
#pragma once

#include <cassert>
#include <cstdint>

#include "src/flow_layout.h"

namespace sluice {

class FlowTable {
 public:
  FlowTable(FlowBucket* buckets, uint32_t bucket_bits)
      : buckets_(buckets), mask_((uint64_t{1} << bucket_bits) - 1) {
    assert(bucket_bits >= kBucketBitsMin);
  }

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
      const uint16_t value = pack(state, now_s);
      if (bucket->state_time[slot] != value) bucket->state_time[slot] = value;
    }
    void set_backend(BackendId id) {
      bucket->backend[slot] = static_cast<uint16_t>(index(id));
      bucket->marks = (bucket->marks & ~(7u << (3 * slot))) | (index(id) >> 16 & 7) << (3 * slot);
    }
  };

  void prefetch(uint64_t hash) const { __builtin_prefetch(&buckets_[hash & mask_], 1, 3); }
  Place find(uint64_t hash) const;

  // What an insert did to somebody else.
  struct Inserted {
    Place place;             // empty: no place, not tracked
    bool displaced = false;  // another flow lost its place: `victim_backend` and `victim_expired` tell whose
    bool victim_expired = false;
    BackendId victim_backend{};
  };
  // Adds a flow that is not there. `expired(place)` says whether a flow may be forgotten: Place -> bool.
  template <typename Expired>
  Inserted insert(uint64_t hash, BackendId backend, FlowState state, uint32_t now_s, Expired&& expired);
  void erase(Place place);

  // Looks at `count` buckets, going on where the last call stopped, and erases what `visit` says is over.
  // `visit` sees every flow: Place -> bool.
  template <typename Visit>
  void sweep(uint64_t count, Visit&& visit);

  uint64_t buckets() const { return mask_ + 1; }
  // The whole hash of the flow at `place`.
  uint64_t hash_at(Place place) const;
  void clear();

 private:
  static constexpr uint16_t pack(FlowState state, uint32_t now_s) {
    return static_cast<uint16_t>(static_cast<uint32_t>(state) << kTimeBits | (now_s & kTimeMask));
  }
  static constexpr uint32_t kAwayBit = 18;
  static constexpr uint32_t kAwayCountShift = 24;
  static constexpr uint32_t kAwayCountMany = 255;

  uint64_t other_of(uint64_t at, uint32_t tag_low) const {
    return at ^ other_bucket_distance(tag_low, mask_);
  }
  static bool is_away(const FlowBucket& bucket, uint32_t slot) {
    return bucket.marks >> (kAwayBit + slot) & 1;
  }
  static int free_slot(const FlowBucket& bucket);
  void put(FlowBucket& bucket, uint32_t slot, uint64_t hash, BackendId backend, uint16_t state_time,
           bool away);
  // Moves one of this bucket's flows to its other bucket, if one of those has room. Returns the slot it left,
  // or -1.
  int make_room(uint64_t at);
  uint64_t number(const FlowBucket* bucket) const { return static_cast<uint64_t>(bucket - buckets_); }

  FlowBucket* buckets_;
  uint64_t mask_;
  uint64_t sweep_at_ = 0;
};

inline FlowTable::Place FlowTable::find(uint64_t hash) const {
  FlowBucket& home = buckets_[hash & mask_];
  if (const int slot = slot_of(home, hash); slot >= 0) return {&home, static_cast<uint32_t>(slot)};
  if (away_count(home) == 0) [[likely]]
    return {};
  FlowBucket& other = buckets_[other_of(hash & mask_, static_cast<uint32_t>(hash >> kTagShift))];
  if (const int slot = slot_of(other, hash); slot >= 0) return {&other, static_cast<uint32_t>(slot)};
  return {};
}

template <typename Expired>
FlowTable::Inserted FlowTable::insert(uint64_t hash, BackendId backend, FlowState state, uint32_t now_s,
                                      Expired&& expired) {
  const uint64_t home_at = hash & mask_;
  const uint64_t other_at = other_of(home_at, static_cast<uint32_t>(hash >> kTagShift));
  FlowBucket& home = buckets_[home_at];
  FlowBucket& other = buckets_[other_at];
  Inserted result;

  auto take = [&](FlowBucket& bucket, uint32_t slot) {
    put(bucket, slot, hash, backend, pack(state, now_s), &bucket == &other);
    result.place = {&bucket, slot};
    return result;
  };
  auto evict = [&](FlowBucket& bucket, auto&& may_go) -> int {
    for (uint32_t slot = 0; slot < kBucketFlows; slot++) {
      const Place place{&bucket, slot};
      if (!may_go(place)) continue;
      result.displaced = true;
      result.victim_backend = place.backend();
      result.victim_expired = expired(place);
      erase(place);
      return static_cast<int>(slot);
    }
    return -1;
  };

  if (const int slot = free_slot(home); slot >= 0) return take(home, static_cast<uint32_t>(slot));
  if (const int slot = free_slot(other); slot >= 0) return take(other, static_cast<uint32_t>(slot));
  if (const int slot = evict(home, expired); slot >= 0) return take(home, static_cast<uint32_t>(slot));
  if (const int slot = evict(other, expired); slot >= 0) return take(other, static_cast<uint32_t>(slot));
  if (const int slot = make_room(home_at); slot >= 0) return take(home, static_cast<uint32_t>(slot));
  const auto unconfirmed = [](Place place) { return is_unconfirmed(place.state()); };
  if (const int slot = evict(home, unconfirmed); slot >= 0) return take(home, static_cast<uint32_t>(slot));
  if (const int slot = evict(other, unconfirmed); slot >= 0) return take(other, static_cast<uint32_t>(slot));
  return result;
}

template <typename Visit>
void FlowTable::sweep(uint64_t count, Visit&& visit) {
  for (; count > 0; count--) {
    FlowBucket& bucket = buckets_[sweep_at_];
    for (uint32_t slot = 0; slot < kBucketFlows; slot++) {
      if (bucket.state_time[slot] == 0) continue;
      if (const Place place{&bucket, slot}; visit(place)) erase(place);
    }
    sweep_at_ = (sweep_at_ + 1) & mask_;
  }
}

}  // namespace sluice
