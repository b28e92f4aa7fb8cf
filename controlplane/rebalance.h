// Which sessions to move so that each backend has the packets that its weight says. Pure.
//
// A session may move when it is learnt and has no live TCP connection: a connection stays where it is, and
// its client must find that backend again. (Unless connections may be reset: then after those without one.)
// Of a TCP service (or a group with one) such a session has been without a sign of life for quiet_s
// (src/session_layout.h). A UDP service's may always move, and the flows that go on follow it with
// their next packet.
//
// How busy one session is nobody counts: each is taken for its backend's mean. So is a quiet one of a TCP
// service, for when its client comes back.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "src/tables.h"

namespace sluice {

struct BackendActivity {
  BackendId id{};
  uint32_t weight = 0;  // 0: it takes no new flows; nothing is moved from it, or to it
  uint64_t packets = 0;
  uint64_t sessions = 0;
  uint64_t room = UINT64_MAX;  // how many sessions more it may have
};
struct MovableSession {
  uint64_t hash;
  BackendId named;  // in the table: in a group it may be another service's
  bool is_live = false;

  // In this order they are moved.
  friend bool operator<(const MovableSession& a, const MovableSession& b) {
    return a.is_live != b.is_live ? b.is_live : a.hash < b.hash;
  }
};
struct SessionMove {
  uint64_t hash;
  BackendId from;  // as the table names it
  BackendId to;
  bool is_live = false;

  bool operator==(const SessionMove&) const = default;
};
struct RebalancePlan {
  std::vector<SessionMove> moves;
  // By position: packets afterwards, and how many sessions it gives and gets.
  std::vector<double> packets;
  std::vector<uint64_t> gives, gets;
};

// Above its due by no more than this, a backend is left alone.
inline constexpr double kDueTolerance = 0.05;

// How many packets each should have had, by weight, of those that backends with a weight had. 0 without one.
std::vector<double> packets_due(std::span<const BackendActivity> backends);
// The share of these packets that was on the wrong backend: 0 to 1.
double imbalance(std::span<const BackendActivity> backends, std::span<const double> packets);

// At most `moves_max`, from the backend that has most too much to the one that has most too little, in the
// order of the sessions: the same for the same input. No move takes either of the two farther from
// its due. `movable`: of each backend by position, each session once. O(movable x log + moves x log
// backends).
RebalancePlan plan_rebalance(std::span<const BackendActivity> backends,
                             std::vector<std::vector<MovableSession>> movable, uint64_t moves_max);

}  // namespace sluice
