// From a changed model to "every worker uses it": compile, publish, wait for the acknowledgements, give
// memory back.
//
// Owner: sluiced's one thread. Publishing happens at once and costs what changed (compile.h); waiting is a
// timer, at first every kFirstStep, later in longer steps, and never blocks the loop. Several generations may
// be on their way.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <vector>

#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>

#include "controlplane/compile.h"
#include "controlplane/dataplane_view.h"
#include "controlplane/events.h"
#include "controlplane/model.h"
#include "controlplane/publish.h"

namespace sluice {

// How a change ended for whoever waited for it.
struct Outcome {
  uint64_t generation = 0;
  uint32_t workers = 0;       // that acknowledged; 0 when none runs
  bool acknowledged = false;  // by all of them; true also when no data plane runs (nobody uses an older one)
  uint64_t elapsed_ns = 0;    // from the receipt of the command to here
  std::string note;           // what the operator should know: nobody runs, or who is late
};

class Rollout {
 public:
  using Waiter = std::function<void(const Outcome&)>;
  static constexpr std::chrono::microseconds kFirstStep{50};
  // After this a waiter is told that a worker is late. The wait for memory goes on without limit.
  static constexpr std::chrono::milliseconds kPatience{1000};
  // How long after a generation a change that nobody waits for may be held, to share the next one with
  // others.
  static constexpr std::chrono::milliseconds kGather{2};
  // About 20 ms of building.
  static constexpr uint64_t kSlotsAtOnce = 1 << 20;
  // How often such a change is tried again while it cannot be published (no memory until workers
  // acknowledge).
  static constexpr std::chrono::milliseconds kRetry{100};

  // `on_settled` is called whenever everything published is acknowledged, or kPatience has passed. Events:
  // generation_published; generation_acknowledged (level debug: one for each would be a line more for each
  // command) or generation_late; publish_failed and publish_works.
  Rollout(boost::asio::io_context& io, Model& model, Publisher& publisher, DataplaneView& dataplane,
          Events& events, std::function<void()> on_settled);

  // Publishes what the model says now. The current generation when nothing differs. On an Error nothing is
  // published, and what publish_soon was asked for stays due.
  [[nodiscard]] Result<Compiled> publish();
  // The same within kGather, or as soon as it can be: a fault is logged once and tried again every kRetry.
  // Where many services changed, it takes several generations of kSlotsAtOnce, with what else is to be done
  // between them.
  void publish_soon();
  // Calls `done` from the loop when the generation is acknowledged or kPatience has passed.
  void wait(uint64_t generation, uint64_t received_ns, Waiter done);

  // Everything published is acknowledged, or kPatience has passed: on_settled has been called for it.
  bool settled() const { return settled_; }
  // Last build, for `show dataplane`.
  const Compiled& last() const { return last_; }

 private:
  struct Waiting {
    uint64_t generation;
    uint64_t received_ns;
    Waiter done;
  };
  [[nodiscard]] Result<Compiled> publish(const Portion& portion);
  void publish_after(std::chrono::nanoseconds delay);
  void start_polling();
  void poll();
  void tell_settled(const DataplaneView::Acknowledged& seen, uint64_t newest, bool acknowledged,
                    uint64_t waited_ns);
  void answer(const DataplaneView::Acknowledged& seen, uint64_t acknowledged, uint64_t now_ns);

  Model& model_;
  Publisher& publisher_;
  DataplaneView& dataplane_;
  Events& events_;
  const std::function<void()> on_settled_;
  boost::asio::steady_timer gather_;
  boost::asio::steady_timer poll_;
  bool gathers_ = false;       // a publish_soon is not done yet
  uint32_t next_service_ = 0;  // where it begins
  bool fault_logged_ = false;  // since the last publish that worked
  bool polls_ = false;
  bool settled_ = false;
  uint64_t published_ns_ = monotonic_ns();  // of the newest generation
  uint64_t asked_ns_ = 0;                   // first change that is not published; 0: there is none
  uint64_t changed_ns_ = 0;                 // first change that the newest generation has
  uint64_t refreshed_ns_ = 0;               // last look at the instance lock
  Compiled last_;
  std::vector<Waiting> waiting_;
};

}  // namespace sluice
