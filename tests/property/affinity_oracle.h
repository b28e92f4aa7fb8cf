// What sessions promise, held against each packet: where it must go, and where it may. Knows the backends'
// states, the services' rules and each client's signs of life; of the data plane's memory nothing, but in
// the one case that says so.
//
// A client's session is live until idle_s after its last sign of life, over refresh_s later, and may be
// either in between. A packet that makes one is a sign when the next one follows, and of TCP each that begins
// a flow near its session's end. A flow that goes on without a session makes one where it is.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "controlplane/policy_config.h"

namespace sluice {

inline constexpr uint16_t kNoNumber = 0xffff;
inline constexpr uint32_t kGroupServices = 2;

// A backend, by a number that is never used again, in one service. All false: removed.
struct BackendState {
  bool exists = false;
  bool keeps_flows = false;
  bool is_well = false;  // it keeps its flows, and did not fail
  bool takes_new = false;
  bool migrates = false;
  uint32_t weight = 0;
};

// How often what happened; `expect` in the test says which of them must have.
struct Ways {
  uint64_t met = 0;            // new flows of live sessions, at their backend;
  uint64_t on_drained = 0;     //   of them to one that takes no new flows
  uint64_t by_refresh = 0;     //   whose session lived by a connection that went on, by nothing else
  uint64_t other_service = 0;  //   whose last flow was of the other service
  uint64_t other_worker = 0;   //   or of the other worker
  uint64_t waited = 0;         //   to a backend that failed (keep)
  uint64_t came_back = 0;      //   lent before (return)
  uint64_t between = 0;        // of sessions that may be over: they were not,
  uint64_t between_anew = 0;   //   or were
  uint64_t moved = 0;          // sessions whose backend failed
  uint64_t migrated = 0;       // or migrates
  uint64_t lent = 0;
  uint64_t over = 0;            // sessions that were over, chosen anew;
  uint64_t over_elsewhere = 0;  //   to another backend, though theirs was well
  uint64_t over_on_trial = 0;   //   made by a packet that no other followed
  uint64_t over_removed = 0;    // sessions whose backend was removed
  uint64_t flows_moved = 0;
  uint64_t joined = 0;  // connections that are part of a flow there was (key)
};

class AffinityOracle {
 public:
  struct Rules {
    OnFailure on_failure;
    bool is_udp;
    uint32_t idle_s, refresh_s, trial_s;
    uint32_t flow_s;   // a flow rests for so long
    uint32_t proof_s;  // its first packet is remembered for so long
  };
  struct Client {
    uint16_t home = kNoNumber;
    uint16_t lent_to = kNoNumber;
    uint16_t lent_epoch = 0;
    uint16_t opened = 0;  // the world's, as is in_batch
    uint32_t live_until_s = 0;
    uint32_t over_after_s = 0;
    uint32_t opened_s = 0;
    uint32_t in_batch[2] = {};
    uint8_t last_service = 0;
    uint8_t last_worker = 0;
    bool on_trial = false;  // its last sign is not proven yet
  };
  struct Flow {
    uint32_t last_s = 0;
    uint16_t backend = kNoNumber;
    bool proves = false;    // its next packet is the sign that its first was not
    bool is_moved = false;  // its backend was gone: of TCP it rests as a SYN's until the next packet
  };
  struct Where {
    uint32_t service;
    uint32_t worker;
  };

  // `whose`: the backend that a client's session names in the table; asked only where it may be over and may
  // as well have lent, which does not show.
  AffinityOracle(const Rules& rules, std::function<uint16_t(const Client&)> whose)
      : rules_(rules), whose_(std::move(whose)) {}

  // ---- A change: states anew

  void begin_epoch() {
    count_spread();
    epoch_++;
    for (std::vector<BackendState>& states : states_)
      std::fill(states.begin(), states.end(), BackendState{});
  }
  void set(uint32_t service, uint16_t number, const BackendState& state) {
    for (uint32_t i = 0; i < kGroupServices; i++) {
      if (states_[i].size() <= number) states_[i].resize(number + 1);
      if (spread_[i].size() <= number) spread_[i].resize(number + 1);
    }
    states_[service][number] = state;
  }

  // ---- A packet: where it went

  void begins(Client& client, Flow& flow, Where at, uint16_t backend, uint32_t now_s) {
    if (flow.backend != kNoNumber) {  // of a key's flow
      ways.joined += now_s - flow.last_s <= rules_.flow_s;
      return goes_on(client, flow, at, backend, now_s);
    }
    choose(client, flow, at, backend, now_s);
    flow.backend = backend;
    flow.last_s = now_s;
  }
  void goes_on(Client& client, Flow& flow, Where at, uint16_t backend, uint32_t now_s) {
    const bool is_short = flow.is_moved && !rules_.is_udp && now_s - flow.last_s > rules_.trial_s;
    const bool rests_too_long = is_short || now_s - flow.last_s > rules_.flow_s;
    ASSERT_TRUE(rules_.is_udp || is_short || !rests_too_long);
    if (is_short && backend == flow.backend) {
      // Unless the sweep had been there first: then it is a new one, which may have taken its session along.
      adopt(client, now_s);
      flow.proves = false;
    } else if (!rests_too_long && state(at, flow.backend).keeps_flows) {
      ASSERT_EQ(backend, flow.backend) << "a live flow's packet, in epoch " << epoch_;
      sign(client, flow, now_s);
      flow.is_moved = false;
    } else {
      ways.flows_moved += !rests_too_long;
      choose(client, flow, at, backend, now_s);
      flow.is_moved = true;
    }
    flow.backend = backend;
    flow.last_s = now_s;
  }

  // Is it certain where its next flow goes?
  bool is_live(const Client& client, uint32_t now_s) const {
    return client.home != kNoNumber && states_[0][client.home].exists && now_s <= client.live_until_s;
  }
  // And the same backend by either service?
  bool is_settled(const Client& client, uint32_t now_s) const {
    if (!is_live(client, now_s)) return false;
    const BackendState& a = states_[0][client.home];
    const BackendState& b = states_[1][client.home];
    return a.is_well && b.is_well && !a.migrates && !b.migrates;
  }
  // Sum of squares, over what they should be on the average, of how sessions of backends that failed or
  // migrate spread by the weights of those that take new flows. 1 if by chance alone.
  double spread() const { return cells_ == 0 ? 0 : squares_ / static_cast<double>(cells_); }

  Ways ways;

 private:
  const BackendState& state(Where at, uint16_t number) const { return states_[at.service][number]; }

  // Where the session sends a flow that begins, or whose backend is gone.
  void choose(Client& client, Flow& flow, Where at, uint16_t backend, uint32_t now_s) {
    const bool is_known = client.home != kNoNumber;
    const BackendState home = is_known ? state(at, client.home) : BackendState{};
    const bool is_over = !home.exists || now_s > client.over_after_s;
    const bool is_live = !is_over && now_s <= client.live_until_s;
    const bool waits = rules_.on_failure == OnFailure::keep && home.keeps_flows;
    const bool stays = !is_over && !home.migrates && (home.is_well || waits);
    const bool lends = !is_over && !home.migrates && !stays && rules_.on_failure != OnFailure::rehash;
    if (stays && (is_live || backend == client.home)) {
      ASSERT_EQ(backend, client.home) << "a live session's connection, in epoch " << epoch_;
      meet(client, home, at, is_live, now_s);
      follow(client, flow, is_live, now_s);
    } else {
      ASSERT_TRUE(state(at, backend).takes_new) << "chosen anew, in epoch " << epoch_;
      if (lends && (is_live || whose_(client) == client.home)) {
        lend(client, at, backend);
        follow(client, flow, is_live, now_s);
        client.on_trial |= std::exchange(flow.proves, false);
      } else {
        if (is_known) count_made(client, home, at, backend, is_over, is_live, now_s);
        make(client, flow, backend, is_live, !is_over, now_s);
      }
    }
    client.opened_s = now_s;
    client.last_service = static_cast<uint8_t>(at.service);
    client.last_worker = static_cast<uint8_t>(at.worker);
  }

  void meet(Client& client, const BackendState& home, Where at, bool is_live, uint32_t now_s) {
    ways.between += !is_live;
    ways.came_back += client.lent_to != kNoNumber;
    client.lent_to = kNoNumber;
    if (!is_live) return;
    ways.met++;
    ways.on_drained += home.is_well && !home.takes_new;
    ways.waited += !home.is_well;
    ways.by_refresh += now_s > client.opened_s + rules_.idle_s + rules_.refresh_s;
    ways.other_service += client.last_service != at.service;
    ways.other_worker += client.last_worker != at.worker;
  }
  // The same each time, as long as nothing changes.
  void lend(Client& client, Where at, uint16_t backend) {
    const auto place = static_cast<uint16_t>(epoch_ * kGroupServices + at.service);
    if (client.lent_to != kNoNumber && client.lent_epoch == place) {
      ASSERT_EQ(backend, client.lent_to) << "lent, in epoch " << epoch_;
    }
    client.lent_to = backend;
    client.lent_epoch = place;
    ways.lent++;
  }
  void count_made(Client& client, const BackendState& home, Where at, uint16_t backend, bool is_over,
                  bool is_live, uint32_t now_s) {
    if (is_live) {
      (home.migrates ? ways.migrated : ways.moved)++;
      spread_[at.service][backend]++;
      return;
    }
    ways.between_anew += !is_over;
    if (!is_over) return;
    ways.over_removed += !home.exists;
    ways.over += home.exists;
    ways.over_elsewhere += home.is_well && !home.migrates && backend != client.home;
    ways.over_on_trial += home.exists && now_s <= client.opened_s + rules_.idle_s;
  }

  // Signs of life.
  void make(Client& client, Flow& flow, uint16_t backend, bool is_moved, bool may_be_moved, uint32_t now_s) {
    client.home = backend;
    client.lent_to = kNoNumber;
    const uint32_t live_until_s = now_s + rules_.trial_s;
    flow.proves = true;
    // One that moves is as it was.
    client.on_trial = is_moved ? client.on_trial && live_until_s >= client.live_until_s : true;
    client.live_until_s = is_moved ? std::max(client.live_until_s, live_until_s) : live_until_s;
    const uint32_t over_after_s = live_until_s + rules_.refresh_s;
    client.over_after_s = may_be_moved ? std::max(client.over_after_s, over_after_s) : over_after_s;
  }
  // What the table says where it is not known.
  void adopt(Client& client, uint32_t now_s) {
    const uint16_t home = whose_(client);
    if (home != kNoNumber && home != client.home) {
      client.home = home;
      client.live_until_s = 0;
    }
    may_be_signed(client, now_s);
  }
  void follow(Client& client, Flow& flow, bool is_live, uint32_t now_s) {
    may_be_signed(client, now_s);
    // Near its end it rests no longer for this.
    const bool is_sign =
        is_live && (rules_.is_udp ||
                    (!client.on_trial && now_s + rules_.trial_s + rules_.refresh_s < client.live_until_s));
    if (is_sign) client.live_until_s = now_s + rules_.idle_s;
    flow.proves = !is_sign;
  }
  void sign(Client& client, Flow& flow, uint32_t now_s) {
    const bool is_live = now_s <= client.live_until_s;
    // Was it over, and does the flow make another?
    if (!is_live || !states_[0][client.home].exists) adopt(client, now_s);
    may_be_signed(client, now_s);
    // A flow tells so in each piece of refresh_s once.
    const bool is_new_piece = now_s / rules_.refresh_s != flow.last_s / rules_.refresh_s;
    const bool proves = flow.proves && now_s - flow.last_s <= rules_.proof_s;
    if (proves || (is_live && (!client.on_trial || is_new_piece))) {
      client.live_until_s = now_s + rules_.idle_s;
      client.on_trial = false;
    }
    if (proves) client.opened_s = now_s;
    flow.proves = false;
  }
  void may_be_signed(Client& client, uint32_t now_s) {
    client.over_after_s = std::max(client.over_after_s, now_s + rules_.idle_s + rules_.refresh_s);
  }

  // Pearson's, of what the epoch's moves came to.
  void count_spread() {
    for (uint32_t service = 0; service < kGroupServices; service++) {
      std::vector<uint32_t>& to = spread_[service];
      double moves = 0, weights = 0;
      for (size_t i = 0; i < to.size(); i++) {
        moves += to[i];
        if (states_[service][i].takes_new) weights += states_[service][i].weight;
      }
      uint64_t cells = 0;
      double squares = 0, rest = 0, rest_wanted = 0;
      const auto cell = [&](double count, double wanted) {
        squares += (count - wanted) * (count - wanted) / wanted;
        cells++;
      };
      for (size_t i = 0; i < to.size(); i++) {
        const BackendState& state = states_[service][i];
        const double wanted = state.takes_new ? moves * state.weight / weights : 0;
        if (wanted >= 5) {
          cell(to[i], wanted);
        } else {
          rest += to[i];
          rest_wanted += wanted;
        }
      }
      if (rest_wanted >= 5) cell(rest, rest_wanted);
      if (cells > 1) {
        squares_ += squares;
        cells_ += cells - 1;
      }
      std::fill(to.begin(), to.end(), 0);
    }
  }

  const Rules rules_;
  const std::function<uint16_t(const Client&)> whose_;
  uint32_t epoch_ = 0;
  std::vector<BackendState> states_[kGroupServices];  // by number
  std::vector<uint32_t> spread_[kGroupServices];      // by number: sessions that moved there
  double squares_ = 0;
  uint64_t cells_ = 0;
};

}  // namespace sluice
