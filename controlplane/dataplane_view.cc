#include "controlplane/dataplane_view.h"

#include <unistd.h>

#include <algorithm>

namespace sluice {

void DataplaneView::refresh() {
  running_ = InstanceLock::is_held(directory_, kDataplaneLock);
  if (segment_.is_open() && !segment_.is_stale()) return;
  segment_ = Segment();
  fault_.clear();
  if (access((directory_ + "/" + kStatsSegment.file).c_str(), F_OK) != 0) return;
  Result<Segment> opened = Segment::open_reader(directory_, kStatsSegment);
  if (!opened) {
    fault_ = opened.error().text();
  } else if (opened->size() < sizeof(StatsSegment)) {
    fault_ = "the data plane's statistics are shorter than this version's";
  } else {
    segment_ = std::move(*opened);
  }
}

uint64_t DataplaneView::starts() const {
  // Pairs with the data plane's release: its ports and workers are visible after a new value.
  return stats() == nullptr ? 0 : stats()->header.starts.load(std::memory_order_acquire);
}

DataplaneView::Acknowledged DataplaneView::acknowledged(uint64_t tables_incarnation) const {
  Acknowledged result;
  if (starts() == 0) return result;
  result.least = UINT64_MAX;
  const uint32_t count = std::min(stats()->header.workers_count, limits::kWorkersMax);
  for (uint32_t i = 0; i < count; i++) {
    const WorkerStats& worker = stats()->workers[i];
    if (worker.active.get() == 0) continue;
    result.workers_active++;
    const uint64_t number = sluice::acknowledged(worker, tables_incarnation);
    if (number >= result.least) continue;
    result.least = number;
    result.slowest_worker = i;
  }
  return result;
}

}  // namespace sluice
