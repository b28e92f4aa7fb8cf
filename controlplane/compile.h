// From the model to a generation: what a change becomes before it is published.
//
// Only what differs from the current generation is staged: records that changed, lookup tables whose members
// or weights changed, the VIP table when a VIP changed. Deterministic: lookup tables depend on backend names
// and weights only.
#pragma once

#include <cstdint>

#include "controlplane/model.h"
#include "controlplane/publish.h"
#include "src/result.h"
#include "src/stats.h"

namespace sluice {

struct Compiled {
  uint64_t generation = 0;    // what was published; the current one if nothing had changed
  uint32_t tables_built = 0;  // lookup tables built anew
  uint64_t build_ns = 0;
};

// Stages and commits the difference between the model and the current generation; every id in the model is
// assigned. `stats` may be null (no data plane seen yet): it gives the counters' baseline for ids that are
// handed out anew. Members of a table are the backends that take new flows (Service::takes_new), ordered by
// name. Cost: a walk over all services and backends, configured and published, to compare them, however small
// the change; then only what differs is built (about 2 ms a lookup table) and staged. On an Error (segment
// memory) nothing is published.
[[nodiscard]] Result<Compiled> compile(const Model& model, Publisher& publisher, const StatsSegment* stats);

// Gives ids to the model's services and backends that have none. Those that the current generation has under
// the same names get theirs back, and with it what sluiced's predecessor knew: admin state, the operator's
// weight (unless the file's changed since), and, if the address is the same, health and next hop (its ifindex
// is 0 until the kernel is asked again). The others get free ids, none from quarantine (src/tables.h). An
// Error when limits::kServicesMax or kBackendsMax is used up; the model is as it was then.
[[nodiscard]] Result<Done> assign_ids(Model& model, const TablesView& current, uint64_t now_ns);

// How long a removed backend's id is kept back: until the sweep has seen every flow, and erased those of removed
// backends whatever their age. Twice its period, because a pass that was under way may have gone past; the
// minute is for the workers, which take a generation up within microseconds.
inline constexpr uint64_t kQuarantineNs = (uint64_t{limits::kSweepPeriodMax} * 2 + 60) * 1'000'000'000;

}  // namespace sluice
