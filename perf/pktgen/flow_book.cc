#include "perf/pktgen/flow_book.h"

#include <sys/mman.h>

#include <cstring>

namespace sluice::pktgen {

FlowBook::~FlowBook() {
  if (states_ != nullptr) munmap(states_, bytes_);
}

bool FlowBook::prepare(uint32_t flows, bool forget) {
  if (flows != flows_) {
    const size_t bytes = (flows * sizeof(uint32_t) + (2u << 20) - 1) & ~size_t{(2u << 20) - 1};
    void* mapped = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapped == MAP_FAILED) return false;
    if (states_ != nullptr) munmap(states_, bytes_);
    // Best effort: fewer TLB misses.
    madvise(mapped, bytes, MADV_HUGEPAGE);
    states_ = static_cast<uint32_t*>(mapped);
    flows_ = flows;
    bytes_ = bytes;
    forget = true;
  }
  // Also takes all the memory now, not in the middle of a trial.
  if (forget) std::memset(states_, 0, bytes_);
  return true;
}

}  // namespace sluice::pktgen
