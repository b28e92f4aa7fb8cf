// What the model says of one service or backend, in the form that the tables hold it (src/tables.h).
//
// For compile.cc. Pure functions: no ids are handed out and nothing is compared here.
#pragma once

#include "controlplane/model.h"
#include "src/stats.h"
#include "src/tables.h"

namespace sluice {

// Next hop, outer header and flags. Every byte is a function of the arguments.
BackendRecord backend_record(const Service& service, const Backend& backend);

// `published` is what the id has now: its baseline of counters stays while the name does. Under another name
// the baseline is what `stats` says at this moment; null: no data plane was seen yet, it is 0.
BackendCold backend_cold(const Service& service, const Backend& backend, const BackendCold& published,
                         const StatsSegment* stats);
ServiceCold service_cold(const Service& service, const ServiceCold& published, const StatsSegment* stats);

// `published` with what the configuration says; its lookup table and members are the publisher's and stay.
ServiceRecord service_record(const Service& service, const ServiceRecord& published);

}  // namespace sluice
