// The session table as it lies in memory, in the `flows` segment: which backend a client, or a key, is tied
// to beyond its connections. And how to look into it from outside.
//
// Writers: the workers of sluice-dataplane, all of them (dataplane/session_table.h). Readers: they, and
// sluiced read-only, for `sluice session`.
//
// An array of lines of four sessions each, two a line at the advertised capacity: 32 bytes a session. A
// session lives in its home line, which the high half of its hash scales to, or, where that was full, in one
// of kReach - 1 others: first the other one of the pair (128 bytes, which processors like to fetch together),
// then those of the next pairs. It never moves. Its home counts those that live elsewhere, and how far the
// farthest does, so a lookup touches one line unless there are some. Place and entry together give the whole
// 64-bit hash back.
//
// An entry is live exactly when its `value` says so. That one word also says everything that changes, so
// every change is one compare-and-swap, and a process killed at any instant leaves whole sessions. Words of a
// value:
//   0            with tag 0: free; with another tag: claimed, not live yet
//   kDead        being freed
//   bit 0 set    live: kind, backend, distance from home, times
//
// Time: `last_s` counts seconds of CLOCK_MONOTONIC modulo 2^22 (48 days), `created` units of 128 seconds
// modulo 2^14 (24 days); limits::kSessionTimeMax is 20 days, so either tells past from future.
#pragma once

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>

#ifdef __SSE2__
#include <emmintrin.h>
#endif

#include "src/size_limits.h"
#include "src/tables.h"
#include "src/wire.h"

namespace sluice {

inline constexpr uint32_t kLineSessions = 4;

struct alignas(64) SessionLine {
  std::atomic<uint64_t> value[kLineSessions];
  std::atomic<uint32_t> tag_low[kLineSessions];   // hash bits 0..31; 0: free, 1: being freed
  std::atomic<uint16_t> tag_high[kLineSessions];  // bits 32..47: what the home line leaves open
  std::atomic<uint32_t>
      away;  // bits 0..23: sessions of this home in other lines; 24..31: the farthest's distance
  std::atomic<uint32_t> freed;  // how often a slot of this line was: modulo 2^32
};
static_assert(sizeof(SessionLine) == 64 && std::atomic<uint64_t>::is_always_lock_free);

enum class SessionKind : uint8_t {
  learnt = 0,        // by a connection: rests for the service's idle time
  pinned = 1,        // by an operator, until unpinned
  pinned_until = 2,  // by an operator, until `last_s`
  moved = 3,         // learnt, then moved by `sluice rebalance`: datagrams that go on follow it,
  moved_resets = 4,  //   and here TCP connections that go on elsewhere are reset; `created` is when it was
                     //   moved, and that is so as long as they may have begun before (followed_s)
};
// Else it was learnt.
constexpr bool is_pinned(SessionKind kind) {
  return kind == SessionKind::pinned || kind == SessionKind::pinned_until;
}

struct SessionValue {
  BackendId backend;
  SessionKind kind;
  uint32_t distance;  // of its line from its home
  uint32_t last_s;    // modulo 2^22: the last sign of life; of pinned_until, when it ends
  uint32_t created;   // modulo 2^14: in units of 128 s
};

inline constexpr uint32_t kReach = 32;
inline constexpr uint64_t kDead = 2;
inline constexpr uint32_t kTagFree = 0, kTagDying = 1;
inline constexpr uint32_t kSessionTimeMask = (1u << 22) - 1;
inline constexpr uint32_t kCreatedShift = 7;
inline constexpr uint32_t kCreatedMask = (1u << 14) - 1;

constexpr bool is_live(uint64_t value) {
  return (value & 1) != 0;
}
constexpr uint64_t pack(const SessionValue& v) {
  return 1 | uint64_t{static_cast<uint8_t>(v.kind)} << 1 | uint64_t{v.distance & (kReach - 1)} << 4 |
         uint64_t{index(v.backend)} << 9 | uint64_t{v.last_s & kSessionTimeMask} << 28 |
         uint64_t{v.created & kCreatedMask} << 50;
}
constexpr SessionValue unpack(uint64_t value) {
  return {BackendId{static_cast<uint32_t>(value >> 9) & (limits::kBackendsMax - 1)},
          static_cast<SessionKind>(value >> 1 & 7), static_cast<uint32_t>(value >> 4) & (kReach - 1),
          static_cast<uint32_t>(value >> 28) & kSessionTimeMask,
          static_cast<uint32_t>(value >> 50) & kCreatedMask};
}
static_assert(limits::kBackendsMax <= 1u << 19 && kReach <= 1u << 5);

// Each worker looks at the clock now and then, so what another wrote may lie a moment ahead: that is no age,
// and not one of 48 days.
inline constexpr uint32_t kAheadMax_s = 1u << kCreatedShift;
constexpr uint32_t since_s(uint32_t last_s, uint32_t now_s) {
  const uint32_t since = (now_s - last_s) & kSessionTimeMask;
  return since > kSessionTimeMask - kAheadMax_s ? 0 : since;
}
// At least: up to 127 s more.
constexpr uint32_t age_s(const SessionValue& session, uint32_t now_s) {
  constexpr uint32_t unit_s = 1u << kCreatedShift;
  const uint32_t units = ((now_s >> kCreatedShift) - session.created) & kCreatedMask;
  return units == 0 || units == kCreatedMask ? 0 : units * unit_s + now_s % unit_s - (unit_s - 1);
}
// Has a pinned_until ended? Half of the circle is the past.
constexpr bool is_past(uint32_t until_s, uint32_t now_s) {
  return ((now_s - until_s) & kSessionTimeMask) < 1u << 21;
}

// Live connections refresh their session once in so many seconds (a power of two), and a session rests so
// much longer than was asked for: it must not end under them.
constexpr uint32_t refresh_s(uint32_t session_idle_s) {
  return std::bit_floor(std::clamp(session_idle_s / 8, 1u, 128u));
}
// A session without a sign of life for so many seconds has no live TCP connection of this service: one that
// lives sends packets, or is forgotten as idle itself; of its packets the first in each refresh_s refreshes
// the session. Times of long_lived flows are known to 128 s, and they are forgotten up to 256 s late;
// workers' clocks lag by a second at most. Datagrams have no connection to break: 0.
inline uint32_t quiet_s(const ServiceRecord& service) {
  if (service.protocol != wire::kProtoTcp) return 0;
  const uint32_t idle_s =
      std::max({service.idle_s[ServiceRecord::kSyn], service.idle_s[ServiceRecord::kEstablished],
                service.idle_s[ServiceRecord::kClosing]});
  return idle_s + refresh_s(service.session_idle_s) + (idle_s > limits::kIdleTimeoutShortMax ? 3 * 128 : 0) +
         2;
}
// Flows follow a session that was moved, or are reset, no later than so many seconds after that: those from
// before have been, or are forgotten. Later ones that are elsewhere were lent.
inline uint32_t followed_s(const ServiceRecord& service) {
  const uint32_t flows_s = service.protocol == wire::kProtoTcp
                               ? quiet_s(service)
                               : service.idle_s[ServiceRecord::kUdp] + refresh_s(service.session_idle_s) + 2;
  return flows_s + (1u << kCreatedShift);
}
// Longer than any of that. From then on it is one as others are, before its age begins anew.
inline constexpr uint32_t kFollowedMax_s = 1u << 20;
// Nobody's next connection follows it any more?
constexpr bool is_over(const SessionValue& session, const ServiceRecord& service, uint32_t now_s) {
  switch (session.kind) {
    case SessionKind::pinned:
      return false;
    case SessionKind::pinned_until:
      return is_past(session.last_s, now_s);
    default:
      return since_s(session.last_s, now_s) > service.session_idle_s + refresh_s(service.session_idle_s) ||
             (service.session_life_s != 0 && age_s(session, now_s) > service.session_life_s);
  }
}

// Does it still say something? Its backend may be removed.
inline bool is_in_force(const SessionValue& session, const TablesView& tables, uint32_t now_s) {
  const BackendRecord& backend = tables.backend(session.backend);
  return (backend.flags & BackendRecord::kConfigured) != 0 &&
         !is_over(session, tables.service(backend.service), now_s);
}

// ---- Which sessions of a line have these tags: bit i for slot i. A hint, as the slot may be another's by
// the time that its value is read. As a plain loop, and with SSE2; a test holds them equal.

namespace portable {
inline uint32_t matching_sessions(const SessionLine& line, uint32_t tag_low, uint32_t tag_high) {
  uint32_t mask = 0;
  for (uint32_t slot = 0; slot < kLineSessions; slot++) {
    const uint32_t differs = (line.tag_low[slot].load(std::memory_order_relaxed) ^ tag_low) |
                             (line.tag_high[slot].load(std::memory_order_relaxed) ^ tag_high);
    mask |= static_cast<uint32_t>(differs == 0) << slot;
  }
  return mask;
}
}  // namespace portable

// ThreadSanitizer does not know such loads.
#if defined(__SSE2__) && !defined(__SANITIZE_THREAD__)
namespace sse2 {
inline uint32_t matching_sessions(const SessionLine& line, uint32_t tag_low, uint32_t tag_high) {
  const __m128i lows = _mm_load_si128(reinterpret_cast<const __m128i*>(line.tag_low));
  const __m128i highs = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(line.tag_high));
  const __m128i low_matches = _mm_cmpeq_epi32(lows, _mm_set1_epi32(static_cast<int>(tag_low)));
  const __m128i high_matches = _mm_cmpeq_epi16(highs, _mm_set1_epi16(static_cast<short>(tag_high)));
  const __m128i both = _mm_and_si128(low_matches, _mm_unpacklo_epi16(high_matches, high_matches));
  return static_cast<uint32_t>(_mm_movemask_ps(_mm_castsi128_ps(both)));
}
}  // namespace sse2
static_assert(offsetof(SessionLine, tag_low) % 16 == 0);
using sse2::matching_sessions;
#else
using portable::matching_sessions;
#endif

// ---- Hash and place. Tags 0 and 1 mean something else, so no session has them.

constexpr uint64_t session_identity(uint64_t hash) {
  return static_cast<uint32_t>(hash) <= kTagDying ? hash + 2 : hash;
}
constexpr uint64_t session_home(uint64_t hash, uint64_t lines) {
  return (hash >> 32) * lines >> 32;
}
// The line `distance` steps from the home, and back. `lines` is even.
constexpr uint64_t line_from(uint64_t home, uint32_t distance, uint64_t lines) {
  const uint64_t at = (home ^ (distance & 1)) + (distance & ~1u);
  return at < lines ? at : at - lines;
}
constexpr uint64_t home_from(uint64_t at, uint32_t distance, uint64_t lines) {
  const uint64_t pairs = distance & ~1u;
  return (at >= pairs ? at - pairs : at + lines - pairs) ^ (distance & 1);
}
// The least high half of a hash whose home is this line.
constexpr uint64_t first_high(uint64_t home, uint64_t lines) {
  return ((home << 32) + lines - 1) / lines;
}
// A home leaves 2^32 / lines high halves open, and tag_high tells 2^16 apart.
inline constexpr uint64_t kSessionLinesMin = 1ULL << 17;

constexpr uint64_t session_lines_for(uint64_t sessions_max) {
  return sessions_max / 2 < kSessionLinesMin ? kSessionLinesMin : (sessions_max + 3) / 4 * 2;
}
constexpr uint64_t sessions_capacity(uint64_t lines) {
  return lines * 2;
}

// ---- What a slot holds

// Reads tags and value of a line's slots as they were together: `read(SessionLine) -> T` is asked again while
// slots are freed meanwhile, so that it may have the tags of one session and the value of the next. After
// kReads it gives up, and `otherwise` is the answer.
template <typename Read, typename T>
[[gnu::always_inline]] inline T read_line(const SessionLine& line, Read&& read, T otherwise) {
  constexpr int kReads = 16;
  for (int attempt = 0; attempt < kReads; attempt++) {
    // Acquire, before the tags are read. A slot is freed in the order: count, then tag 0; so a tag that is
    // seen after this count is of a session that was not freed before it.
    const uint32_t before = line.freed.load(std::memory_order_acquire);
    const T seen = read(line);
    // The value was loaded with acquire: if it is of a later session, its maker found the slot free, after
    // the count.
    if (line.freed.load(std::memory_order_relaxed) == before) [[likely]]
      return seen;
  }
  return otherwise;
}

// The hash of a session, and what it is.
struct SessionSeen {
  uint64_t hash;
  SessionValue session;
};
// For readers of another process: every live session in the lines from `first` to before `end` of a table of
// `count`, as each is at some instant. `visit`: SessionSeen -> void.
template <typename Visit>
void each_session(const SessionLine* lines, uint64_t count, uint64_t first, uint64_t end, Visit&& visit) {
  struct Slot {
    uint64_t value = 0;
    uint32_t tag_low = 0;
    uint32_t tag_high = 0;
  };
  for (uint64_t at = first; at < end; at++) {
    for (uint32_t i = 0; i < kLineSessions; i++) {
      const Slot slot = read_line(
          lines[at],
          [&](const SessionLine& line) {
            const uint32_t tag_low = line.tag_low[i].load(std::memory_order_relaxed);
            const uint64_t value = line.value[i].load(std::memory_order_acquire);
            return Slot{value, tag_low, line.tag_high[i].load(std::memory_order_relaxed)};
          },
          Slot{});
      if (!is_live(slot.value) || slot.tag_low <= kTagDying) continue;
      const SessionValue session = unpack(slot.value);
      const uint64_t least = first_high(home_from(at, session.distance, count), count);
      visit(SessionSeen{(least + ((slot.tag_high - least) & 0xffff)) << 32 | slot.tag_low, session});
    }
  }
}

}  // namespace sluice
