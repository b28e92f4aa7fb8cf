// Looks at a packet that came back: is it whole, which backend did it reach, and had its flow another one
// before?
//
// Plain memory, no DPDK: the generator calls it for each returned frame, and the tests with frames of their
// own making. One thread. Cost: the frame's two or three cache lines and the flow's four bytes, which the
// caller prefetches; some 25 cycles when they are there.
#pragma once

#include <cstdint>
#include <vector>

#include "perf/pktgen/flow_book.h"
#include "perf/pktgen/trial.h"

namespace sluice::pktgen {

// A frame that came back. `sent_at` is where the generator had written its first byte: a target that puts a
// header in front begins its frame before that, by `added_bytes`.
struct Returned {
  const uint8_t* sent_at;
  uint32_t added_bytes;  // 0; 20 or 40 for a tunnel header
  uint32_t bytes;        // of the whole frame, in one piece
};

class Checker {
 public:
  // Keeps references: all outlive the checker.
  Checker(const Trial& trial, FlowBook& flows, Outcome& outcome);

  // The flow whose state check() will want, for the caller to prefetch. Any number for a frame that is not
  // ours.
  uint32_t flow_of(const uint8_t* sent_at) const;
  // The low 32 bits of the TSC when the packet was made.
  uint32_t stamp_of(const uint8_t* sent_at) const;
  // Adds it to the outcome's counts. False: it is corrupt, and neither its flow nor its stamp mean anything.
  bool check(const Returned& frame);

 private:
  // What tells a backend: its address, or with l2dsr its MAC address.
  struct Key {
    uint64_t high = 0, low = 0;
    bool operator==(const Key& other) const { return ((high ^ other.high) | (low ^ other.low)) == 0; }
  };
  struct Target {
    Key key;
    uint64_t mac;  // low 48 bits, as they lie in memory
    uint32_t vip;
  };
  static constexpr uint32_t kNobody = 0xffffffff;

  bool is_whole(const Returned& frame) const;
  bool has_good_outer(const Returned& frame) const;
  bool key_of(const Returned& frame, Key& key) const;
  uint32_t find(const Key& key) const;
  static uint32_t slot_of(const Key& key, uint32_t mask);
  void check_backend(const Returned& frame, uint32_t flow, uint32_t echo);

  const Path path_;
  const uint32_t vips_count_;
  const bool v4_;
  const uint32_t tcp_at_;  // offset in the frame as it was sent
  std::vector<Target> targets_;
  std::vector<uint16_t> slots_;  // open addressing: number in targets_ + 1; 0: free
  FlowBook& flows_;
  Outcome& outcome_;
};

}  // namespace sluice::pktgen
