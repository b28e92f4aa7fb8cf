// From the model to a generation: what a change becomes before it is published.
//
// Only what differs from the current generation is staged: records that changed, lookup tables whose members or weights
// changed, the VIP table when a VIP changed. Deterministic: lookup tables depend on backend names and weights only.
#pragma once

#include <cstdint>

#include "controlplane/model.h"
#include "controlplane/publish.h"
#include "src/result.h"
#include "src/stats.h"

namespace sluice {

struct Compiled {
  uint64_t generation = 0;       // what was published; the current one if nothing had changed
  uint32_t tables_built = 0;     // lookup tables built anew
  uint64_t build_ns = 0;
};

// Stages and commits the difference between the model and the current generation. `stats` may be null (no data plane
// seen yet): it gives the counters' baseline for ids that are handed out anew.
[[nodiscard]] Result<Compiled> compile(const Model& model, Publisher& publisher, const StatsSegment* stats);

// Gives ids to the model's services and backends: those that the current generation has under the same names
// keep theirs, with admin state, weight override and health; new ones get free ids (out of quarantine, src/tables.h).
// An Error when limits::kServicesMax or kBackendsMax is used up.
[[nodiscard]] Result<Done> assign_ids(Model& model, const TablesView& current, uint64_t now_ns);

}  // namespace sluice
