// From the model to a generation: what a change becomes before it is published.
//
// Only what differs from the current generation is staged: records that changed, lookup tables whose members
// or weights changed, the VIP table when a VIP changed. Deterministic: lookup tables depend on backend names
// and weights only.
//
// The model notes which backends changed since it was last found in a generation (model.h), and only these
// are looked at. When that generation is not the current one (a start, a takeover, a reload, another
// publisher), or anything may have changed, the whole model is compared with the whole current generation.
// What is published is the same either way.
#pragma once

#include <cstdint>
#include <optional>

#include "controlplane/model.h"
#include "controlplane/publish.h"
#include "src/result.h"
#include "src/stats.h"

namespace sluice {

struct Compiled {
  uint64_t generation = 0;    // what was published; the current one if nothing had changed
  uint32_t tables_built = 0;  // lookup tables built anew
  uint64_t build_ns = 0;      // what maglev_build took for them
  // Set when slots_max left something for the next one, which begins with this service (its position).
  std::optional<uint32_t> left_from;
};

// How much of a model becomes one generation. Unlimited: all of it.
struct Portion {
  uint64_t slots_max = UINT64_MAX;  // of lookup tables built, after which no other service is begun
  uint32_t from = 0;                // the service to begin with, of those that the model notes as changed
};

// Stages and commits the difference between the model and the current generation; every id in the model is
// assigned. A portion is taken only of what the model notes, and each service in it is whole. `stats` may be
// null (no data plane seen yet): it gives the counters' baseline for ids that are handed out anew. Members of
// a table are the backends that take new flows (Service::takes_new), ordered by name. The model is settled
// first (Model::settle). On an Error (segment memory) nothing is published, and the model goes on noting what
// is not.
//
// Cost: of the changed backends, each its records (0.6 us with the generation's root); of a service whose
// members or their weights changed, its lookup table (1 ms, maglev.h) and a walk over its members (50 us for
// 1,000, checksum and copying included). Nothing depends on how many others there are. When everything is
// compared: 14 ms for 100 services of 1,000 backends, besides what is built (perf/publish_bench.cc).
[[nodiscard]] Result<Compiled> compile(Model& model, Publisher& publisher, const StatsSegment* stats,
                                       const Portion& portion = {});

// Gives ids to the model's services and backends that have none. Those that the current generation has under
// the same names get theirs back, and with it what sluiced's predecessor knew: admin state, the operator's
// weight (unless the file's changed since), what a service's failures had come to and what was told of how
// full it is, and, if the address is the same, health, ramp and next hop (its ifindex is 0 until the kernel
// is asked again). A backend that was held for flapping is down for its successor, whose checks
// decide. The others get free ids, none from quarantine (src/tables.h), which begins anew with each data
// plane that starts: while none runs, nobody takes the removed ids out of its flows and sessions.
// `dataplane_since_ns`: when the one that runs was started; kNoDataplane. An Error when limits::kServicesMax
// or kBackendsMax is used up; the model is as it was then.
inline constexpr uint64_t kNoDataplane = UINT64_MAX;
[[nodiscard]] Result<Done> assign_ids(Model& model, const TablesView& current, uint64_t now_ns,
                                      uint64_t dataplane_since_ns);

// How long a removed backend's id is kept back: until the sweep has seen every flow, and erased those of
// removed backends whatever their age. Twice its period, because a pass that was under way may have gone
// past; the minute is for the workers, which take a generation up within microseconds.
inline constexpr uint64_t kQuarantineNs = (uint64_t{limits::kSweepPeriodMax} * 2 + 60) * 1'000'000'000;

}  // namespace sluice
