#include "dataplane/flow_table.h"

#include <atomic>
#include <cstring>

namespace sluice {

FlowTable::FlowTable(FlowBucket* buckets, uint32_t bucket_bits)
    : buckets_(buckets),
      mask_((uint64_t{1} << bucket_bits) - 1),
      due_s_((uint64_t{1} << bucket_bits) / kGroupBuckets) {
  assert(bucket_bits >= kBucketBitsMin);
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

int FlowTable::weakest(const FlowBucket& bucket, uint32_t now_s) {
  uint32_t candidates = unconfirmed_flows(bucket);
  // One that is at home, if there is: erasing it touches no other line.
  if ((candidates & ~away_flows(bucket)) != 0) candidates &= ~away_flows(bucket);
  int weakest = -1;
  uint32_t longest_s = 0;
  for (; candidates != 0; candidates &= candidates - 1) {
    const int slot = std::countr_zero(candidates);
    const uint32_t rested_s = idle_s(bucket, static_cast<uint32_t>(slot), now_s);
    if (weakest >= 0 && rested_s <= longest_s) continue;
    weakest = slot;
    longest_s = rested_s;
  }
  return weakest;
}

int FlowTable::make_room(uint64_t at, uint32_t now_s) {
  FlowBucket& bucket = buckets_[at];
  for (uint32_t slot = 0; slot < kBucketFlows; slot++) {
    FlowBucket& other = buckets_[other_of(at, bucket.tag_low[slot])];
    const uint32_t free = free_places(other);
    if (free == 0) continue;
    const Place from{&bucket, slot};
    const Place to{&other, static_cast<uint32_t>(std::countr_zero(free))};
    // First a second copy, then the first one goes: at no instant is the flow nowhere.
    put(other, to.slot, hash_at(from), from.backend(), bucket.state_time[slot], !is_away(bucket, slot));
    erase(from);
    // Its group knows nothing of it yet; the sweep finds out.
    expect(to, now_s, 0);
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

// A plain loop without an early end: the compiler makes vectors of it.
bool FlowTable::any_due(uint64_t first, uint64_t count, uint32_t now_s) const {
  const auto now = static_cast<uint16_t>(now_s);
  uint16_t any = 0;
  for (uint64_t group = first; group < first + count; group++)
    any |= static_cast<uint16_t>(static_cast<uint16_t>(now - due_s_[group]) ^ 0x8000);
  return (any & 0x8000) != 0;
}

void FlowTable::clear() {
  std::memset(static_cast<void*>(buckets_), 0, (mask_ + 1) * sizeof(FlowBucket));
  sweep_at_ = 0;
  all_due_ = true;
}

}  // namespace sluice
