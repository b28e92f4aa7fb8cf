#include "dataplane/flow_table.h"

#include <algorithm>
#include <cstring>

namespace sluice {

FlowTable::FlowTable(FlowBucket* buckets, uint32_t bucket_bits)
    : buckets_(buckets),
      mask_((uint64_t{1} << bucket_bits) - 1),
      due_s_((uint64_t{1} << bucket_bits) / kGroupBuckets) {
  assert(bucket_bits >= kBucketBitsMin);
}

int FlowTable::weakest(const FlowBucket& bucket, uint32_t now_s) {
  const uint32_t unconfirmed = unconfirmed_flows(bucket);
  // One that is at home, if there is: erasing it touches no other line. Branches here would be guessed wrong.
  uint32_t weakest = 0;
  for (uint32_t slot = 0; slot < kBucketFlows; slot++) {
    const uint32_t rested = (now_s - bucket.state_time[slot]) & kTimeMask;
    const uint32_t at_home = is_away(bucket, slot) ? 0 : 1;
    const uint32_t rank = 1u << 31 | at_home << (kTimeBits + 3) | rested << 3 | slot;
    weakest = std::max(weakest, (unconfirmed >> slot & 1) * rank);
  }
  return weakest == 0 ? -1 : static_cast<int>(weakest & 7);
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
    // Its group knows nothing of it, and it may be over this second: the sweep finds out.
    expect(to, now_s - 1, 0);
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
