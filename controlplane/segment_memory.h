// Which parts of a segment are in use: bookkeeping in the process's own memory, in units of 64 bytes
// (Offset64).
//
// For the segment's one writer; never touches the segment itself. First fit from the low end, so that what
// was never used stays untouched at the high end; neighbouring free ranges are merged at once. Sizes in bytes
// are rounded up to the unit, and a part is given back with the size it was allocated with (asserted as far
// as it can be seen). Cost: allocate O(free ranges), take and release O(log free ranges).
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <vector>

#include "src/tables.h"

namespace sluice {

class SegmentMemory {
 public:
  struct Range {
    Offset64 offset;
    uint64_t bytes;
  };

  // All of [first, end) is free.
  SegmentMemory(Offset64 first, Offset64 end);

  // Nothing when no free range is large enough. `bytes` is not 0.
  std::optional<Offset64> allocate(uint64_t bytes);
  // Takes this very range; false when it is empty or not all of it is free.
  bool take(Offset64 offset, uint64_t bytes);
  void release(Offset64 offset, uint64_t bytes);

  // The free ranges, cut off at `end`, ascending.
  std::vector<Range> free_below(Offset64 end) const;
  // Nothing from here on is in use.
  Offset64 used_end() const;
  uint64_t used_bytes() const { return used_units_ * 64; }
  uint64_t size_bytes() const { return uint64_t{end_ - first_} * 64; }

 private:
  using Free = std::map<uint64_t, uint64_t>;  // begin to end; disjoint and never touching
  void cut(Free::iterator range, uint64_t begin, uint64_t end);

  Free free_;
  Offset64 first_;
  Offset64 end_;
  uint64_t used_units_ = 0;
};

}  // namespace sluice
