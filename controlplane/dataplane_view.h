// What sluiced knows of the data plane: is it running, and which generation has every worker of it
// acknowledged.
//
// Reads the `stats` segment (src/stats.h) and the data plane's instance lock; owns neither. The data plane
// may start, die and come back at any time: refresh() follows it.
//
// Who is waited for: while the lock is held, every worker that says it is active. A data plane that holds the
// lock with no active worker is starting: it may have read any generation, so it counts as having
// acknowledged none. One whose lock is free uses no memory of ours, and a later one begins with what is then
// current.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "src/segment.h"
#include "src/stats.h"

namespace sluice {

class DataplaneView {
 public:
  explicit DataplaneView(std::string directory) : directory_(std::move(directory)) {}

  // Looks at the lock and maps the segment when it has appeared or was replaced. A few system calls.
  void refresh();

  bool is_running() const { return running_; }  // as of the last refresh
  // Null until a data plane of this version has run once; stays when it dies.
  const StatsSegment* stats() const {
    return segment_.is_open() ? &segment_.as<const StatsSegment>() : nullptr;
  }
  // Changes with each start of a data plane. 0: none has started yet.
  uint64_t starts() const;
  // Why stats() is null although the file is there: another version; else empty.
  const std::string& fault() const { return fault_; }

  struct Acknowledged {
    uint64_t least = 0;  // by every active worker; meaningless when there is none
    uint32_t workers_active = 0;
    uint32_t slowest_worker = 0;  // its number
  };
  // Of the tables segment with this incarnation. One cache line per worker.
  Acknowledged acknowledged(uint64_t tables_incarnation) const;

 private:
  const std::string directory_;
  Segment segment_;
  bool running_ = false;
  std::string fault_;
};

}  // namespace sluice
