// How many flows each backend has, by state: a walk over the flow tables, for `sluice show flows`.
//
// The workers go on meanwhile: what is counted is of the time of the walk, not of one instant. The tables
// hold a hash of each flow, not its addresses, so that is all that can be listed of one. A walk is done in
// slices of kSliceBytes between the loop's other work: some milliseconds in all at a million flows a worker.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include <boost/asio/io_context.hpp>

#include "src/flow_layout.h"
#include "src/result.h"

namespace sluice {

const char* text(FlowState state);

struct FlowCensus {
  static constexpr uint64_t kSliceBytes = 4 << 20;
  static constexpr size_t kFlowStates = 8;
  static constexpr size_t kListedMax = 1000;

  struct Listed {
    uint64_t hash;
    FlowSeen seen;
  };
  uint32_t workers = 0;
  uint64_t capacity = 0;                                          // flows that the tables are made for
  std::map<BackendId, std::array<uint64_t, kFlowStates>> counts;  // by FlowState
  std::vector<Listed> listed;                                     // the first ones found
};

// Counts the flows of `directory`'s data plane and calls `done` from the loop; with an Error when there are
// no flow tables, or none of this tables segment. `list`: how many to list, of `only` if that is a backend.
void take_flow_census(boost::asio::io_context& io, const std::string& directory, uint64_t tables_incarnation,
                      size_t list, std::function<bool(BackendId)> is_listed,
                      std::function<void(const Result<FlowCensus>&)> done);

}  // namespace sluice
