// Limits (not limits.h, which <climits> would find first): every size that bounds a table, a batch or a
// number an operator may write, in one place.
//
// Each limit has its unit and its reason; relations between limits are asserted at the end. What is fixed
// here is part of the shared-memory layout: changing one that sizes a segment changes that segment's layout
// hash (src/segment.h).
#pragma once

#include <cstdint>

namespace sluice::limits {

// ---- Lookup tables
// -------------------------------------------------------------------------------------------------

// Slots of a lookup table. Primes, as the Maglev paper (NSDI'16, 3.4) asks; its own two sizes.
inline constexpr uint32_t kLookupSlotsDefault = 65'537;
inline constexpr uint32_t kLookupSlotsLarge = 655'373;

// Weight of a backend. 0 takes it out for new flows; the upper end keeps accumulated weights within 32 bits
// (kWeightMax rounds of kWeightMax each).
inline constexpr uint32_t kWeightMax = 10'000;
inline constexpr uint32_t kWeightDefault = 100;

// ---- Objects
// -------------------------------------------------------------------------------------------------------

// Services of one instance. Sizes the per-worker service counters (64 B each).
inline constexpr uint32_t kServicesMax = 16'384;

// Backends of one service, those still in quarantine after their removal included (src/tables.h). An index is
// 16 bits in a lookup table; the top is kept for kNoBackend.
inline constexpr uint32_t kBackendsPerServiceMax = 16'384;
inline constexpr uint16_t kNoBackend = 0xffff;

// Backends over all services: sizes the per-worker backend counters (32 B each). 100 services of 1,000
// backends fit.
inline constexpr uint32_t kBackendsMax = 131'072;

// Bytes of a service's or a backend's name, with the terminating zero.
inline constexpr uint32_t kNameBytes = 64;

// ---- Data plane
// ----------------------------------------------------------------------------------------------------

// Packets of one batch. Big enough that prefetches of one stage finish before the next stage needs them,
// small enough that a batch's headers (one or two lines each) stay in a 32 KiB L1 cache.
inline constexpr uint32_t kBatchMax = 64;

inline constexpr uint32_t kWorkersMax = 64;
inline constexpr uint32_t kPortsMax = 16;

// Room that a stage may use before the first byte of a packet: an IPv6 header (40) in front of the packet is
// the most that any mode needs, rounded up to a cache line. DPDK's mbufs leave RTE_PKTMBUF_HEADROOM = 128.
inline constexpr uint32_t kHeadroomBytes = 64;

// Flows of one worker: what --flows-max may say. The least keeps tag bits and bucket bits together at 64
// (src/flow_layout.h); the most is 2^30 flows, 16 GiB of table.
inline constexpr uint64_t kFlowsPerWorkerMin = 1ULL << 18;
inline constexpr uint64_t kFlowsPerWorkerMax = 1ULL << 30;
inline constexpr uint64_t kFlowsPerWorkerDefault = 1ULL << 20;

// Sessions: what --sessions-max may say. 32 bytes each, shared by all workers; the most is 32 GiB of table.
inline constexpr uint64_t kSessionsMin = 1ULL << 18;
inline constexpr uint64_t kSessionsMax = 1ULL << 30;
inline constexpr uint64_t kSessionsDefault = 1ULL << 18;

// A session's key: bytes of a UDP payload. The offset ends where a packet of 1,280 bytes, which every link
// carries, has no payload any more (IPv6 and UDP headers: 48).
inline constexpr uint32_t kKeyBytesMax = 16;
inline constexpr uint32_t kKeyEndMax = 1'232;

// ICMP "packet too big" answers of one worker in a second (RFC 1812 4.3.2.8, RFC 4443 2.4 f ask for a limit).
inline constexpr uint32_t kIcmpAnswersPerSecond = 1'000;

// ---- Times
// ---------------------------------------------------------------------------------------------------------

// Idle timeouts in seconds: of established TCP connections, and of all other states. A flow-table entry keeps
// 13 bits of time, in seconds or, where the timeout is longer than the short maximum, in units of 128 seconds
// (src/flow_layout.h). The sweep sees each entry at least once in kSweepPeriodMax seconds, so ages never
// wrap.
inline constexpr uint32_t kIdleTimeoutMax = 10 * 86'400;
inline constexpr uint32_t kIdleTimeoutShortMax = 7'200;
inline constexpr uint32_t kSweepPeriodMax = 512;
inline constexpr uint32_t kIdleSynDefault = 30;
inline constexpr uint32_t kIdleEstablishedDefault = 900;
// A client that has sent FIN may wait for the rest of an answer; as long as Linux waits in FIN-WAIT-2.
inline constexpr uint32_t kIdleClosingDefault = 60;
inline constexpr uint32_t kIdleUdpDefault = 60;

// Seconds that a session may rest, live or be pinned for: an entry keeps 22 bits of seconds, of which half
// tell past from future (src/session_layout.h).
inline constexpr uint32_t kSessionTimeMax = 20 * 86'400;
inline constexpr uint32_t kSessionIdleDefault = 3'600;

// Health checks: milliseconds between two checks of one backend, and the least time it gets to answer. Below
// 10 ms the checks of 1,000 backends are a load of their own; above an hour nobody waits for one.
inline constexpr uint32_t kCheckIntervalMinMs = 10;
inline constexpr uint32_t kCheckIntervalMaxMs = 3'600'000;
inline constexpr uint32_t kCheckTimeoutMinMs = 1;
// Checks in a row that change a backend's health.
inline constexpr uint32_t kCheckRiseFallMax = 1'000;

// Seconds that a configuration may wait to be confirmed: longer than a day is no trial.
inline constexpr uint32_t kConfirmMaxS = 86'400;
// Slow start: a ramp has ten steps (controlplane/policy.h), each at least one tick of sluiced (100 ms) long.
inline constexpr uint32_t kSlowStartMinMs = 1'000;
inline constexpr uint32_t kSlowStartMaxMs = 86'400'000;
// Flap damping: how many failures are remembered of a backend, and its longest time.
inline constexpr uint32_t kFlapCountMax = 20;
inline constexpr uint32_t kFlapTimeMaxMs = 86'400'000;

static_assert(kBackendsPerServiceMax < kNoBackend);
static_assert(kIdleTimeoutShortMax + kSweepPeriodMax < (1u << 13));
static_assert(kIdleTimeoutMax + kSweepPeriodMax + 2 * 128 < (1u << 13) * 128);
static_assert(static_cast<uint64_t>(kWeightMax) * kWeightMax < (1ULL << 32));
static_assert(kHeadroomBytes >= 40 && kHeadroomBytes <= 128);

}  // namespace sluice::limits
