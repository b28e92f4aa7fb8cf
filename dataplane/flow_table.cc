#include "dataplane/flow_table.h"

#include <atomic>
#include <cstring>

namespace sluice {

int FlowTable::free_slot(const FlowBucket& bucket) {
  for (uint32_t slot = 0; slot < kBucketFlows; slot++) {
    if (bucket.state_time[slot] == 0) return static_cast<int>(slot);
  }
  return -1;
}

void FlowTable::put(FlowBucket& bucket, uint32_t slot, uint64_t hash, BackendId backend, uint16_t state_time,
                    bool away) {
  const uint32_t away_bit = 1u << (kAwayBit + slot);
  if (away) {
    // The home counts it before it can be found, so that a lookup never misses a flow that is there.
    FlowBucket& home = buckets_[other_of(number(&bucket), static_cast<uint32_t>(hash >> kTagShift))];
    if (away_count(home) < kAwayCountMany) home.marks += 1u << kAwayCountShift;
    bucket.marks |= away_bit;
  } else {
    bucket.marks &= ~away_bit;
  }
  bucket.tag_low[slot] = static_cast<uint32_t>(hash >> kTagShift);
  bucket.tag_high[slot] = static_cast<uint16_t>(hash >> 48);
  Place{&bucket, slot}.set_backend(backend);
  // The state makes it a flow: last, also for who takes over after a SIGKILL (stores of one core reach the
  // memory that outlives it in program order; the fence keeps the compiler to that order).
  std::atomic_signal_fence(std::memory_order_release);
  bucket.state_time[slot] = state_time;
}

void FlowTable::erase(Place place) {
  FlowBucket& bucket = *place.bucket;
  bucket.state_time[place.slot] = 0;
  std::atomic_signal_fence(std::memory_order_release);
  if (is_away(bucket, place.slot)) {
    FlowBucket& home = buckets_[other_of(number(&bucket), bucket.tag_low[place.slot])];
    // Once "many", a home keeps the mark: only cost, no harm.
    if (away_count(home) != 0 && away_count(home) < kAwayCountMany) home.marks -= 1u << kAwayCountShift;
    bucket.marks &= ~(1u << (kAwayBit + place.slot));
  }
}

int FlowTable::make_room(uint64_t at) {
  FlowBucket& bucket = buckets_[at];
  for (uint32_t slot = 0; slot < kBucketFlows; slot++) {
    FlowBucket& other = buckets_[other_of(at, bucket.tag_low[slot])];
    const int free = free_slot(other);
    if (free < 0) continue;
    const Place from{&bucket, slot};
    // First a second copy, then the first one goes: at no instant is the flow nowhere.
    put(other, static_cast<uint32_t>(free), hash_at(from), from.backend(), bucket.state_time[slot],
        !is_away(bucket, slot));
    erase(from);
    return static_cast<int>(slot);
  }
  return -1;
}

uint64_t FlowTable::hash_at(Place place) const {
  const FlowBucket& bucket = *place.bucket;
  const uint64_t at = number(&bucket);
  const uint64_t home = is_away(bucket, place.slot) ? other_of(at, bucket.tag_low[place.slot]) : at;
  return uint64_t{bucket.tag_high[place.slot]} << 48 | uint64_t{bucket.tag_low[place.slot]} << kTagShift |
         (home & ((1u << kTagShift) - 1));
}

void FlowTable::clear() {
  std::memset(static_cast<void*>(buckets_), 0, (mask_ + 1) * sizeof(FlowBucket));
  sweep_at_ = 0;
}

}  // namespace sluice
