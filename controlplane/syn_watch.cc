#include "controlplane/syn_watch.h"

#include <algorithm>

namespace sluice {
namespace {

using Seen = SynWatch::Seen;

double share(const Seen& seen) {
  return seen.repeated / std::max(1.0, seen.flows);
}

// `others`: the rest of its service. What is suspect stays so until its repeats are few.
bool is_suspect(const Seen& seen, const Seen& others, bool was_suspect) {
  if (was_suspect) return seen.repeated >= 1 && share(seen) >= SynWatch::kShareLeast / 2;
  return seen.repeated >= SynWatch::kRepeatedLeast && share(seen) >= SynWatch::kShareLeast &&
         share(seen) >= SynWatch::kTimesOthers * share(others);
}

uint32_t ids_end(const Model& model) {
  uint32_t end = 0;
  for (const Service& service : model.services()) {
    for (const Backend& backend : service.backends)
      end = std::max(end, index(backend.id) + 1);
  }
  return end;
}

}  // namespace

void SynWatch::take_down(const StatsSegment& stats, uint32_t count) {
  std::vector<uint64_t> repeated(count, 0), flows(count, 0);
  for (const WorkerStats& worker : stats.workers) {
    // A worker that never ran has no memory behind its counters yet; do not make the kernel provide it.
    if (worker.active.get() == 0 && worker.loops.get() == 0) continue;
    for (uint32_t id = 0; id < count; id++) {
      repeated[id] += worker.syns_repeated[id].get();
      flows[id] += worker.backends[id].flows.get();
    }
  }
  const auto old = static_cast<uint32_t>(watched_.size());
  watched_.resize(count);
  for (uint32_t id = 0; id < count; id++) {
    Watched& watched = watched_[id];
    const bool is_new = !has_looked_ || id >= old;
    // Counters of another segment may be lower.
    const auto since = [&](uint64_t now, uint64_t then) {
      return is_new || now < then ? 0.0 : static_cast<double>(now - then);
    };
    watched.seen.repeated = watched.seen.repeated / 2 + since(repeated[id], watched.repeated);
    watched.seen.flows = watched.seen.flows / 2 + since(flows[id], watched.flows);
    watched.repeated = repeated[id];
    watched.flows = flows[id];
  }
  has_looked_ = true;
}

std::vector<SynWatch::Change> SynWatch::look(const Model& model, const StatsSegment& stats) {
  take_down(stats, ids_end(model));
  std::vector<Change> changes;
  for (uint32_t s = 0; s < model.services().size(); s++) {
    const Service& service = model.services()[s];
    Seen all;
    for (const Backend& backend : service.backends) {
      all.repeated += watched_[index(backend.id)].seen.repeated;
      all.flows += watched_[index(backend.id)].seen.flows;
    }
    for (uint32_t b = 0; b < service.backends.size(); b++) {
      const Seen& seen = watched_[index(service.backends[b].id)].seen;
      const bool was_suspect = service.backends[b].suspect;
      if (!was_suspect && seen.repeated < kRepeatedLeast) continue;
      const Seen others{all.repeated - seen.repeated, all.flows - seen.flows};
      const bool suspect = is_suspect(seen, others, was_suspect);
      if (suspect != was_suspect) changes.push_back({{s, b}, suspect, seen});
    }
  }
  return changes;
}

}  // namespace sluice
