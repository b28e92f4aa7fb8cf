// What the generator remembers of each flow: four bytes, so that a million flows are 4 MiB and 100 million
// 400 MiB.
//
// One thread writes and reads. A flow has a number for all time; when it ends by FIN, its number comes back
// as another flow (a new incarnation) with another address and port. The backend is that which the flow's
// packets came back from: of this incarnation, or, until the first packet of this one is back, of the one
// before, whose last packets are still under way. Callers prefetch before they ask.
#pragma once

#include <cstddef>
#include <cstdint>

#include "perf/pktgen/trial.h"

namespace sluice::pktgen {

class FlowBook {
 public:
  static constexpr uint32_t kIncarnationBits = 12;
  static constexpr uint32_t kEchoBits = 5;  // of the incarnation, that travel in a packet
  static constexpr uint32_t kEchoMask = (1u << kEchoBits) - 1;

  FlowBook() = default;
  ~FlowBook();
  FlowBook(const FlowBook&) = delete;
  FlowBook& operator=(const FlowBook&) = delete;

  // Makes room for `flows`; forgets all when `forget` or when the number is another than before. False: no
  // memory.
  bool prepare(uint32_t flows, bool forget);

  void prefetch(uint32_t flow) const { __builtin_prefetch(&states_[flow], 1); }
  uint32_t incarnation(uint32_t flow) const { return states_[flow] >> kIncarnationShift; }
  // True for the first packet of a flow.
  bool begin(uint32_t flow) {
    const uint32_t before = states_[flow];
    states_[flow] = before | kBegun;
    return (before & kBegun) == 0;
  }
  // The flow's number becomes another flow, not begun.
  void renew(uint32_t flow) {
    const uint32_t before = states_[flow];
    const uint32_t old = (before & kHasBackend) != 0 ? kHasOld : 0;
    states_[flow] =
        (((before >> kIncarnationShift) + 1) << kIncarnationShift) | old | (before & kBackendMask);
  }

  // The likely backend of a packet that came back; any number below Trial::kBackendsMax.
  uint32_t guess(uint32_t flow) const { return states_[flow] & kBackendMask; }
  // A packet of this flow came back from `backend`. False: it, or a packet of the same incarnation, had been
  // elsewhere.
  bool came_from(uint32_t flow, uint32_t echo, uint32_t backend) {
    const uint32_t state = states_[flow];
    const uint32_t age = ((state >> kIncarnationShift) - echo) & kEchoMask;
    if (age == 0) {
      const bool same = (state & kHasBackend) == 0 || (state & kBackendMask) == backend;
      states_[flow] = (state & ~(kBackendMask | kHasOld)) | kHasBackend | backend;
      return same;
    }
    // Of an earlier incarnation: its backend is still known if it is the last and nothing of the new one is
    // back.
    return age != 1 || (state & kHasOld) == 0 || (state & kBackendMask) == backend;
  }

 private:
  static constexpr uint32_t kBackendMask = Trial::kBackendsMax - 1;
  static constexpr uint32_t kHasBackend = 1u << 14;
  static constexpr uint32_t kHasOld = 1u << 15;
  static constexpr uint32_t kBegun = 1u << 16;
  static constexpr uint32_t kIncarnationShift = 32 - kIncarnationBits;
  static_assert(Trial::kBackendsMax <= kHasBackend);

  uint32_t* states_ = nullptr;
  uint32_t flows_ = 0;
  size_t bytes_ = 0;
};

}  // namespace sluice::pktgen
