// The packets' way: a generator's loop over its two rings, for one trial after the other.
//
// Everything in bursts, and each memory line asked for a turn before it is used, since the target's core
// wrote it last:
//
//   collect   check the packets asked for a turn ago, by the flow's state that was asked for then
//             take a burst from the target, ask for its mbufs and frames
//   offer     write as many new packets as may go, of flows picked and asked for a turn ago; hand them over
//
// Without a rate, packets wait for room in the target's ring: none is lost, and the pace is the target's.
// With one, a packet that finds the ring full is lost, as on a NIC. A generator whose CPU was taken away
// stops the trial's clock for that time and offers at most kBehindMax packets late; one that is too slow for
// the rate gives packets up and counts them.
#pragma once

#include <cstdint>
#include <functional>

#include "perf/pktgen/checker.h"
#include "perf/pktgen/control.h"
#include "perf/pktgen/flow_book.h"
#include "perf/pktgen/frame.h"
#include "perf/pktgen/picker.h"
#include "perf/pktgen/port.h"
#include "perf/pktgen/trial.h"

struct rte_mbuf;

namespace sluice::pktgen {

class Engine {
 public:
  explicit Engine(const Port& port);

  // Runs a trial to its end, or until `stop` says so (asked now and then), and until its packets are back.
  Result<Outcome> run(const Trial& trial, Progress& progress, const std::function<bool()>& stop);

 private:
  static constexpr uint32_t kBurst = 64;
  static constexpr uint32_t kBehindMax = 4 * kBurst;

  enum class Kind : uint32_t { normal, last, renewed, flood };
  struct Item {
    uint32_t flow;
    Kind kind;
  };
  // Where a trial stands.
  struct Turn;

  void pick(Turn& turn);
  void write(Turn& turn, const Item& item, rte_mbuf* mbuf, uint32_t stamp);
  void collect(Turn& turn);
  void offer(Turn& turn, uint64_t now);
  uint32_t due(Turn& turn, uint64_t now) const;
  void drain(Turn& turn);
  void take_back_all();
  uint64_t missing_mbufs() const;

  const Port& port_;
  FlowBook flows_;
  uint64_t flood_number_ = 0;  // over all trials: a flood's flows are never heard of again
  // Mbufs in our hands: to be written, written and waiting for room, and asked for.
  rte_mbuf* free_[kPoolPackets];
  uint32_t free_count_ = 0;
  rte_mbuf* ready_[kBurst];
  uint32_t ready_count_ = 0;
  rte_mbuf* arrived_[kBurst];
  uint32_t arrived_count_ = 0;
};

}  // namespace sluice::pktgen
