// The `flows` segment: the workers' flow tables as they lie in memory, and how to look into one from outside.
//
// Writer: sluice-dataplane; each table has one writing worker (dataplane/flow_table.h). Readers: that worker;
// sluiced read-only, for `sluice explain` (what it sees of a bucket that is being written is a guess, never a
// crash). The segment outlives the data plane: a restarted one goes on with the flows it finds, if the tables
// segment is still the same.
//
// A table is an array of 2^bits buckets of one cache line with six flows each; sized so that the advertised
// number of flows fills four of six: 16 bytes a flow. A flow lives in its home bucket (the low bits of its
// hash) or, when that was full, in its other bucket; the home counts those, so a miss costs a second line
// only where one is away from home. An entry keeps the upper 48 bits of the hash, so bucket and entry give
// the whole 64-bit hash back.
#pragma once

#include <atomic>
#include <bit>
#include <cstdint>

#include "src/segment.h"
#include "src/size_limits.h"
#include "src/tables.h"

namespace sluice {

inline constexpr uint32_t kBucketFlows = 6;

enum class FlowState : uint8_t {
  empty = 0,
  syn = 1,        // unconfirmed: nothing but SYNs seen
  midstream = 2,  // unconfirmed: one packet of a TCP connection that began before it was seen here
  udp_new = 3,    // unconfirmed: one datagram
  established = 4,
  closing = 5,  // FIN or RST seen
  udp = 6,
};
// Unconfirmed flows give their place to others when a bucket is full; confirmed ones never do.
constexpr bool is_unconfirmed(FlowState state) {
  return state >= FlowState::syn && state <= FlowState::udp_new;
}

struct alignas(64) FlowBucket {
  uint32_t tag_low[kBucketFlows];     // hash bits 16..47
  uint16_t tag_high[kBucketFlows];    // hash bits 48..63
  uint16_t backend[kBucketFlows];     // BackendId, low 16 bits
  uint16_t state_time[kBucketFlows];  // FlowState in the top 3 bits; second of the last packet modulo 2^13;
                                      // 0: no flow
  uint32_t marks;  // bits 0..17: BackendId bits 16..18, three a flow; 18..23: this flow is not in its
                   // home bucket; 24..31: flows of this home that live in their other bucket (255: many)
};
static_assert(sizeof(FlowBucket) == 64);
static_assert(limits::kBackendsMax <= 1u << 19);

inline constexpr uint32_t kTagShift = 16;
inline constexpr uint32_t kBucketBitsMin =
    kTagShift;  // fewer would lose hash bits between bucket number and tag
inline constexpr uint32_t kTimeBits = 13;
inline constexpr uint32_t kTimeMask = (1u << kTimeBits) - 1;
static_assert(limits::kFlowsPerWorkerMin / 4 == 1u << kBucketBitsMin);

// Buckets for `flows_max` flows: a power of two, four of six places used at most.
constexpr uint32_t bucket_bits_for(uint64_t flows_max) {
  const uint64_t buckets = std::bit_ceil((flows_max + 3) / 4);
  const auto bits = static_cast<uint32_t>(std::countr_zero(buckets));
  return bits < kBucketBitsMin ? kBucketBitsMin : bits;
}

// The distance (XOR) between a flow's home and its other bucket: from the tag, so that either gives the
// other.
constexpr uint64_t other_bucket_distance(uint32_t tag_low, uint64_t bucket_mask) {
  return ((tag_low * 0x9e3779b1u >> 8) | 1) & bucket_mask;
}

// The flow's position in a bucket, or -1.
inline int slot_of(const FlowBucket& bucket, uint64_t hash) {
  const auto low = static_cast<uint32_t>(hash >> kTagShift);
  const auto high = static_cast<uint16_t>(hash >> 48);
  uint32_t matches = 0;
  for (uint32_t i = 0; i < kBucketFlows; i++) {
    matches |= static_cast<uint32_t>((bucket.tag_low[i] == low) & (bucket.tag_high[i] == high) &
                                     (bucket.state_time[i] != 0))
               << i;
  }
  return matches == 0 ? -1 : std::countr_zero(matches);
}

inline BackendId backend_of(const FlowBucket& bucket, uint32_t slot) {
  return BackendId{bucket.backend[slot] | (bucket.marks >> (3 * slot) & 7) << 16};
}
inline FlowState state_of(const FlowBucket& bucket, uint32_t slot) {
  return static_cast<FlowState>(bucket.state_time[slot] >> kTimeBits);
}
// Seconds since the flow's last packet; right up to 2^13 - 1.
inline uint32_t idle_s(const FlowBucket& bucket, uint32_t slot, uint32_t now_s) {
  return (now_s - bucket.state_time[slot]) & kTimeMask;
}
inline uint32_t away_count(const FlowBucket& bucket) {
  return bucket.marks >> 24;
}

// Seconds without a packet after which a flow in `state` of this service is forgotten.
inline uint32_t idle_timeout_s(const ServiceRecord& service, FlowState state) {
  switch (state) {
    case FlowState::syn:
      return service.idle_syn_s;
    case FlowState::midstream:
    case FlowState::established:
      return service.idle_established_s;
    case FlowState::closing:
      return service.idle_closing_s;
    case FlowState::udp_new:
    case FlowState::udp:
      return service.idle_udp_s;
    case FlowState::empty:
      break;
  }
  return 0;
}

struct FlowsHeader {
  SegmentHeader segment;
  // The incarnation of the tables segment whose BackendIds the flows name; 0: none yet. Another one: all
  // flows are void.
  uint64_t tables_incarnation;
  uint32_t workers_count;
  uint32_t bucket_bits;
  uint8_t reserved[48];
  // then workers_count tables of 2^bucket_bits buckets
};
static_assert(sizeof(FlowsHeader) == 128);

inline constexpr SegmentKind kFlowsSegment = {
    "flows", "sluice-dataplane", 0x20736f6c46536c53ULL,
    layout_hash({sizeof(FlowsHeader), sizeof(FlowBucket), offsetof(FlowBucket, tag_high),
                 offsetof(FlowBucket, backend), offsetof(FlowBucket, state_time), offsetof(FlowBucket, marks),
                 kTagShift, kTimeBits})};

constexpr uint64_t flows_bytes(uint32_t workers, uint32_t bucket_bits) {
  return sizeof(FlowsHeader) + workers * (sizeof(FlowBucket) << bucket_bits);
}
inline FlowBucket* flow_buckets(std::byte* base, uint32_t worker) {
  const auto& header = *reinterpret_cast<const FlowsHeader*>(base);
  return reinterpret_cast<FlowBucket*>(base + sizeof(FlowsHeader)) + (uint64_t{worker} << header.bucket_bits);
}

// A look from outside, for `sluice explain`: which worker tracks this hash, and what it holds.
struct FlowSeen {
  uint32_t worker;
  BackendId backend;
  FlowState state;
  uint32_t idle_s;
};
inline bool find_flow(const std::byte* base, uint64_t hash, uint32_t now_s, FlowSeen& seen) {
  const auto& header = *reinterpret_cast<const FlowsHeader*>(base);
  const uint64_t mask = (uint64_t{1} << header.bucket_bits) - 1;
  const uint64_t home = hash & mask;
  const uint64_t other = home ^ other_bucket_distance(static_cast<uint32_t>(hash >> kTagShift), mask);
  for (uint32_t worker = 0; worker < header.workers_count; worker++) {
    const FlowBucket* buckets = flow_buckets(const_cast<std::byte*>(base), worker);
    for (const uint64_t at : {home, other}) {
      const int slot = slot_of(buckets[at], hash);
      if (slot < 0) continue;
      const auto i = static_cast<uint32_t>(slot);
      seen = {worker, backend_of(buckets[at], i), state_of(buckets[at], i), idle_s(buckets[at], i, now_s)};
      return true;
    }
  }
  return false;
}

}  // namespace sluice
