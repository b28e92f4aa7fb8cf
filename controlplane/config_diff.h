// What another configuration would change, and what that does to flows.
//
// Reads; changes nothing.
#pragma once

#include <nlohmann/json.hpp>

#include "controlplane/config.h"
#include "controlplane/model.h"
#include "src/stats.h"
#include "src/tables.h"

namespace sluice {

// By service and backend, key by key as written: [{"service": "web", "backend": "b1" or "", "change":
// "added" | "removed" | "changed", "keys": [{"key", "from", "to"}]}]; a key that is not there is "". Keys of
// what is added or removed as a whole are listed too. The secret itself is not shown.
nlohmann::json diff_written(const WrittenConfig& from, const WrittenConfig& to);

// The flows: [{"service", "hash_space_moved_percent", "ideal_percent", "flows_active", "flows_moved",
// "flows_forgotten"}], only
// services in which any of it is not zero.
//
//   hash_space_moved_percent   of the lookup table's slots: the share of untracked and future flows that go
//                              to another backend
//   ideal_percent              what any method would have to move, by the weights alone
//   flows_moved                tracked flows of backends that go, and of services that go
//   flows_forgotten            the others, when the service gets affinity "none": those that are elsewhere
//   than
//                              the lookup table says move
//
// `next` is the model as it would be. Backends that nobody has checked yet are taken as up: it says what the
// change comes to. The sorry backend counts while it serves, and then nobody else does. Cost: a lookup table
// (1 ms) for each service that changes.
nlohmann::json diff_flows(const Model& now, const Model& next, const TablesView& current,
                          const StatsSegment* stats);

}  // namespace sluice
