// The `flows` segment: the workers' flow tables as they lie in memory, and how to look into one from outside.
// Behind them lies the session table (src/session_layout.h).
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
//
// Time is coarse: the second of the last packet, modulo 2^13; for flows that may rest for days (long_lived)
// in units of 128 seconds. Such a flow's age is known to 128 seconds and taken at its least: never forgotten
// early, up to 256 seconds late.
#pragma once

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstdint>

#ifdef __SSE2__
#include <emmintrin.h>
#endif

#include "src/segment.h"
#include "src/session_layout.h"
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
  long_lived = 7,  // established, and its service's timeout is longer than limits::kIdleTimeoutShortMax
};
// Unconfirmed flows give their place to others when a bucket is full; confirmed ones never do.
constexpr bool is_unconfirmed(FlowState state) {
  return state >= FlowState::syn && state <= FlowState::udp_new;
}

struct alignas(64) FlowBucket {
  uint32_t tag_low[kBucketFlows];     // hash bits 16..47
  uint16_t tag_high[kBucketFlows];    // hash bits 48..63
  uint16_t backend[kBucketFlows];     // BackendId, low 16 bits
  uint16_t state_time[kBucketFlows];  // FlowState in the top 3 bits; time of the last packet modulo 2^13;
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
inline constexpr uint32_t kLongShift = 7;  // a long_lived flow's unit of time: 2^7 seconds
static_assert(limits::kFlowsPerWorkerMin / 4 == 1u << kBucketBitsMin);

// Buckets for `flows_max` flows: a power of two, four of six places used at most.
constexpr uint32_t bucket_bits_for(uint64_t flows_max) {
  const uint64_t buckets = std::bit_ceil((flows_max + 3) / 4);
  const auto bits = static_cast<uint32_t>(std::countr_zero(buckets));
  return bits < kBucketBitsMin ? kBucketBitsMin : bits;
}

// What such a table is made for.
constexpr uint64_t flows_capacity(uint32_t bucket_bits) {
  return uint64_t{4} << bucket_bits;
}

// The distance (XOR) between a flow's home and its other bucket: from the tag, so that either gives the
// other.
constexpr uint64_t other_bucket_distance(uint32_t tag_low, uint64_t bucket_mask) {
  return ((tag_low * 0x9e3779b1u >> 8) | 1) & bucket_mask;
}

// ---- What a bucket holds, as masks: bit i for flow i
//
// Each as a plain loop, and with SSE2 (part of every x86-64) in a few instructions; tests hold them equal.

namespace portable {
// By tag alone: also places that were free since. For the packet path, which looks at the state by itself: a
// wide load of what was just written in a narrow store would wait for it.
inline uint32_t matching_tags(const FlowBucket& bucket, uint64_t hash) {
  const auto low = static_cast<uint32_t>(hash >> kTagShift);
  const auto high = static_cast<uint16_t>(hash >> 48);
  uint32_t mask = 0;
  for (uint32_t i = 0; i < kBucketFlows; i++)
    mask |= static_cast<uint32_t>((bucket.tag_low[i] == low) & (bucket.tag_high[i] == high)) << i;
  return mask;
}
inline uint32_t matching_flows(const FlowBucket& bucket, uint64_t hash) {
  const auto low = static_cast<uint32_t>(hash >> kTagShift);
  const auto high = static_cast<uint16_t>(hash >> 48);
  uint32_t mask = 0;
  for (uint32_t i = 0; i < kBucketFlows; i++) {
    mask |= static_cast<uint32_t>((bucket.tag_low[i] == low) & (bucket.tag_high[i] == high) &
                                  (bucket.state_time[i] != 0))
            << i;
  }
  return mask;
}
inline uint32_t free_places(const FlowBucket& bucket) {
  uint32_t mask = 0;
  for (uint32_t i = 0; i < kBucketFlows; i++)
    mask |= static_cast<uint32_t>(bucket.state_time[i] == 0) << i;
  return mask;
}
inline uint32_t unconfirmed_flows(const FlowBucket& bucket) {
  uint32_t mask = 0;
  for (uint32_t i = 0; i < kBucketFlows; i++) {
    mask |= static_cast<uint32_t>(is_unconfirmed(static_cast<FlowState>(bucket.state_time[i] >> kTimeBits)))
            << i;
  }
  return mask;
}
}  // namespace portable

#ifdef __SSE2__
namespace sse2 {
inline constexpr int kFlowsMask = (1 << kBucketFlows) - 1;
// 16 bits a flow to one bit a flow.
inline uint32_t bits(__m128i words) {
  return static_cast<uint32_t>(_mm_movemask_epi8(_mm_packs_epi16(words, _mm_setzero_si128())) & kFlowsMask);
}
inline __m128i load(const void* at) {
  return _mm_loadu_si128(static_cast<const __m128i*>(at));
}
// The loads of 16 bytes go beyond six flows, but never beyond the bucket.
static_assert(offsetof(FlowBucket, state_time) + 16 == sizeof(FlowBucket));

inline __m128i tag_matches(const FlowBucket& bucket, uint64_t hash) {
  const __m128i low = _mm_set1_epi32(static_cast<int>(hash >> kTagShift));
  const __m128i high = _mm_set1_epi16(static_cast<short>(hash >> 48));
  const __m128i low_0_to_3 = _mm_cmpeq_epi32(load(&bucket.tag_low[0]), low);
  const __m128i low_4_to_5 = _mm_cmpeq_epi32(load(&bucket.tag_low[4]), low);
  return _mm_and_si128(_mm_packs_epi32(low_0_to_3, low_4_to_5), _mm_cmpeq_epi16(load(bucket.tag_high), high));
}
inline uint32_t matching_tags(const FlowBucket& bucket, uint64_t hash) {
  return bits(tag_matches(bucket, hash));
}
inline uint32_t matching_flows(const FlowBucket& bucket, uint64_t hash) {
  const __m128i free = _mm_cmpeq_epi16(load(bucket.state_time), _mm_setzero_si128());
  return bits(_mm_andnot_si128(free, tag_matches(bucket, hash)));
}
inline uint32_t free_places(const FlowBucket& bucket) {
  return bits(_mm_cmpeq_epi16(load(bucket.state_time), _mm_setzero_si128()));
}
inline uint32_t unconfirmed_flows(const FlowBucket& bucket) {
  // States 1 to 3 of 0 to 7 in the top bits: what is, with a sign, greater than the greatest of state 0.
  static_assert(is_unconfirmed(FlowState{1}) && is_unconfirmed(FlowState{3}) &&
                !is_unconfirmed(FlowState{4}));
  return bits(_mm_cmpgt_epi16(load(bucket.state_time), _mm_set1_epi16(kTimeMask)));
}
}  // namespace sse2
using sse2::free_places, sse2::matching_flows, sse2::matching_tags, sse2::unconfirmed_flows;
#else
using portable::free_places, portable::matching_flows, portable::matching_tags, portable::unconfirmed_flows;
#endif

// ---- One flow of a bucket

// The flow's position in a bucket, or -1.
inline int slot_of(const FlowBucket& bucket, uint64_t hash) {
  const uint32_t mask = matching_flows(bucket, hash);
  return mask == 0 ? -1 : std::countr_zero(mask);
}
// In range whatever the memory holds: it may have been damaged while nobody watched.
inline BackendId backend_of(const FlowBucket& bucket, uint32_t slot) {
  const uint32_t id = bucket.backend[slot] | (bucket.marks >> (3 * slot) & 7) << 16;
  return BackendId{id & (limits::kBackendsMax - 1)};
}
static_assert((limits::kBackendsMax & (limits::kBackendsMax - 1)) == 0);
inline FlowState state_of(const FlowBucket& bucket, uint32_t slot) {
  return static_cast<FlowState>(bucket.state_time[slot] >> kTimeBits);
}
constexpr uint32_t coarse_time(FlowState state, uint32_t now_s) {
  return state == FlowState::long_lived ? now_s >> kLongShift : now_s;
}
constexpr uint16_t state_and_time(FlowState state, uint32_t now_s) {
  return static_cast<uint16_t>(static_cast<uint32_t>(state) << kTimeBits |
                               (coarse_time(state, now_s) & kTimeMask));
}
// Seconds since the flow's last packet, at least; right up to 2^13 - 1 units.
constexpr uint32_t idle_s(uint16_t state_time, uint32_t now_s) {
  const auto state = static_cast<FlowState>(state_time >> kTimeBits);
  const uint32_t units = (coarse_time(state, now_s) - state_time) & kTimeMask;
  if (state != FlowState::long_lived) [[likely]]
    return units;
  return units == 0 ? 0 : (units << kLongShift) - ((1u << kLongShift) - 1);
}
inline uint32_t idle_s(const FlowBucket& bucket, uint32_t slot, uint32_t now_s) {
  return idle_s(bucket.state_time[slot], now_s);
}
inline uint32_t away_count(const FlowBucket& bucket) {
  return bucket.marks >> 24;
}

// Seconds without a packet after which a flow in `state` of this service is forgotten.
inline uint32_t idle_timeout_s(const ServiceRecord& service, FlowState state) {
  using S = ServiceRecord;
  constexpr uint8_t timeout_of_state[8] = {S::kSyn,         S::kSyn,     S::kEstablished, S::kUdp,
                                           S::kEstablished, S::kClosing, S::kUdp,         S::kEstablished};
  const uint32_t timeout_s = service.idle_s[timeout_of_state[static_cast<uint32_t>(state)]];
  // Unconfirmed, so never for days.
  return state == FlowState::midstream ? std::min(timeout_s, limits::kIdleTimeoutShortMax) : timeout_s;
}
// What a confirmed TCP flow of this service is.
inline FlowState established_state(const ServiceRecord& service) {
  return service.idle_s[ServiceRecord::kEstablished] > limits::kIdleTimeoutShortMax ? FlowState::long_lived
                                                                                    : FlowState::established;
}

struct FlowsHeader {
  SegmentHeader segment;
  // The incarnation of the tables segment whose BackendIds the flows name; 0: none yet. Another one: all
  // flows are void.
  uint64_t tables_incarnation;
  uint32_t workers_count;
  uint32_t bucket_bits;
  uint64_t session_lines;
  uint8_t reserved[40];
  // then workers_count tables of 2^bucket_bits buckets, then session_lines lines of sessions
};
static_assert(sizeof(FlowsHeader) == 128);

inline constexpr SegmentKind kFlowsSegment = {
    "flows", "sluice-dataplane", 0x20736f6c46536c53ULL,
    layout_hash({sizeof(FlowsHeader), sizeof(FlowBucket), offsetof(FlowBucket, tag_high),
                 offsetof(FlowBucket, backend), offsetof(FlowBucket, state_time), offsetof(FlowBucket, marks),
                 kTagShift, kTimeBits, kLongShift, offsetof(FlowsHeader, session_lines),
                 offsetof(SessionLine, tag_low), offsetof(SessionLine, tag_high), offsetof(SessionLine, away),
                 kReach, kCreatedShift})};

constexpr uint64_t flow_tables_end(uint32_t workers, uint32_t bucket_bits) {
  return sizeof(FlowsHeader) + workers * (sizeof(FlowBucket) << bucket_bits);
}
constexpr uint64_t flows_bytes(uint32_t workers, uint32_t bucket_bits, uint64_t session_lines) {
  return flow_tables_end(workers, bucket_bits) + session_lines * sizeof(SessionLine);
}
// Does a segment of so many bytes hold what its header says?
inline bool holds_its_tables(const std::byte* base, uint64_t bytes) {
  if (bytes < sizeof(FlowsHeader)) return false;
  const auto& header = *reinterpret_cast<const FlowsHeader*>(base);
  return header.workers_count <= limits::kWorkersMax && header.bucket_bits < 32 &&
         header.session_lines <= limits::kSessionsMax &&
         bytes >= flows_bytes(header.workers_count, header.bucket_bits, header.session_lines);
}
inline SessionLine* session_lines(std::byte* base) {
  const auto& header = *reinterpret_cast<const FlowsHeader*>(base);
  return reinterpret_cast<SessionLine*>(base + flow_tables_end(header.workers_count, header.bucket_bits));
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
