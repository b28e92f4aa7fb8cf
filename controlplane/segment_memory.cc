#include "controlplane/segment_memory.h"

#include <algorithm>
#include <cassert>
#include <iterator>

namespace sluice {
namespace {

uint64_t units(uint64_t bytes) {
  return bytes / 64 + (bytes % 64 != 0 ? 1 : 0);
}

}  // namespace

SegmentMemory::SegmentMemory(Offset64 first, Offset64 end) : first_(first), end_(end) {
  assert(first < end);
  free_.emplace(first, end);
}

// Takes [begin, end) out of a free range that holds it.
void SegmentMemory::cut(Free::iterator range, uint64_t begin, uint64_t end) {
  const auto [free_begin, free_end] = *range;
  free_.erase(range);
  if (free_begin < begin) free_.emplace(free_begin, begin);
  if (end < free_end) free_.emplace(end, free_end);
  used_units_ += end - begin;
}

std::optional<Offset64> SegmentMemory::allocate(uint64_t bytes) {
  assert(bytes > 0);
  const uint64_t wanted = units(bytes);
  const auto range = std::find_if(free_.begin(), free_.end(),
                                  [&](const auto& free) { return free.second - free.first >= wanted; });
  if (range == free_.end()) return std::nullopt;
  const uint64_t begin = range->first;
  cut(range, begin, begin + wanted);
  return static_cast<Offset64>(begin);
}

bool SegmentMemory::take(Offset64 offset, uint64_t bytes) {
  const uint64_t end = offset + units(bytes);
  auto range = free_.upper_bound(offset);
  if (bytes == 0 || range == free_.begin()) return false;
  --range;
  if (end > range->second) return false;
  cut(range, offset, end);
  return true;
}

void SegmentMemory::release(Offset64 offset, uint64_t bytes) {
  uint64_t begin = offset;
  uint64_t end = begin + units(bytes);
  assert(begin < end && used_units_ >= end - begin);
  used_units_ -= end - begin;
  auto next = free_.lower_bound(begin);
  assert(next == free_.end() || end <= next->first);
  if (next != free_.end() && next->first == end) {
    end = next->second;
    next = free_.erase(next);
  }
  if (next != free_.begin()) {
    const auto previous = std::prev(next);
    assert(previous->second <= begin);
    if (previous->second == begin) {
      begin = previous->first;
      free_.erase(previous);
    }
  }
  free_.emplace(begin, end);
}

Offset64 SegmentMemory::used_end() const {
  if (free_.empty() || free_.rbegin()->second != end_) return end_;
  return static_cast<Offset64>(free_.rbegin()->first);
}

std::vector<SegmentMemory::Range> SegmentMemory::free_below(Offset64 end) const {
  std::vector<Range> ranges;
  for (const auto& [from, to] : free_) {
    if (from >= end) break;
    ranges.push_back({static_cast<Offset64>(from), (std::min<uint64_t>(to, end) - from) * 64});
  }
  return ranges;
}

}  // namespace sluice
