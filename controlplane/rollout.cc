#include "controlplane/rollout.h"

#include <algorithm>
#include <utility>

#include <fmt/format.h>

namespace sluice {
namespace {

constexpr uint64_t kMillisecondNs = 1'000'000;

// Workers acknowledge within a loop, so the answer is nearly always there in the first steps.
std::chrono::microseconds step(uint64_t waited_ns) {
  if (waited_ns < 5 * kMillisecondNs) return Rollout::kFirstStep;
  if (waited_ns < 100 * kMillisecondNs) return std::chrono::milliseconds(1);
  return std::chrono::milliseconds(10);
}

}  // namespace

Rollout::Rollout(boost::asio::io_context& io, Model& model, Publisher& publisher, DataplaneView& dataplane,
                 Events& events, std::function<void()> on_settled)
    : model_(model),
      publisher_(publisher),
      dataplane_(dataplane),
      events_(events),
      on_settled_(std::move(on_settled)),
      gather_(io),
      poll_(io) {}

Result<Compiled> Rollout::publish() {
  return publish(Portion());
}

Result<Compiled> Rollout::publish(const Portion& portion) {
  const TablesView before = publisher_.current();
  const uint64_t number_before = before ? before.generation().number : 0;
  if (asked_ns_ == 0) asked_ns_ = monotonic_ns();
  Result<Compiled> compiled = compile(model_, publisher_, dataplane_.stats(), portion);
  if (!compiled) return compiled.error();
  // All that was gathered is in it, or will be in the next one.
  if (std::exchange(gathers_, false)) gather_.cancel();
  if (std::exchange(fault_logged_, false))
    events_.add(Event::Level::info, "publish_works", "publishing works again");
  if (compiled->generation != number_before) {
    last_ = *compiled;
    published_ns_ = monotonic_ns();
    changed_ns_ = asked_ns_;
    settled_ = false;
    Event event;
    event.kind = "generation_published";
    event.text =
        fmt::format("published generation {}: {} lookup tables built, {:.2f} ms", compiled->generation,
                    compiled->tables_built, static_cast<double>(compiled->build_ns) / 1e6);
    event.details = {{"generation", compiled->generation},
                     {"tables_built", compiled->tables_built},
                     {"build_us", static_cast<double>(compiled->build_ns) / 1e3}};
    events_.add(std::move(event));
  }
  next_service_ = compiled->left_from.value_or(0);
  if (compiled->left_from) {
    publish_soon();
  } else {
    asked_ns_ = 0;
  }
  start_polling();
  return compiled;
}

// The first change is published as soon as the loop is through with what it does now; those that follow
// closely share the next generation.
void Rollout::publish_soon() {
  if (gathers_) return;
  gathers_ = true;
  const uint64_t now_ns = monotonic_ns();
  if (asked_ns_ == 0) asked_ns_ = now_ns;
  const std::chrono::nanoseconds since(now_ns - published_ns_);
  publish_after(since >= kGather ? std::chrono::nanoseconds(0) : kGather - since);
}

void Rollout::publish_after(std::chrono::nanoseconds delay) {
  gather_.expires_after(delay);
  gather_.async_wait([this](const boost::system::error_code& error) {
    if (error || !gathers_) return;
    const Result<Compiled> done = publish({kSlotsAtOnce, next_service_});
    if (done) return;
    if (!std::exchange(fault_logged_, true))
      events_.add(Event::Level::error, "publish_failed",
                  "not published, will be tried again: " + done.error().text());
    publish_after(kRetry);
  });
}

void Rollout::wait(uint64_t generation, uint64_t received_ns, Waiter done) {
  waiting_.push_back({generation, received_ns, std::move(done)});
  start_polling();
}

void Rollout::start_polling() {
  if (polls_) return;
  polls_ = true;
  refreshed_ns_ = 0;
  poll_.expires_after(std::chrono::microseconds(0));
  poll_.async_wait([this](const boost::system::error_code& error) {
    if (!error) poll();
  });
}

void Rollout::poll() {
  const uint64_t now_ns = monotonic_ns();
  // The lock costs system calls: not in each of the short steps.
  if (now_ns - refreshed_ns_ > 10 * kMillisecondNs) {
    dataplane_.refresh();
    refreshed_ns_ = now_ns;
  }
  const TablesView current = publisher_.current();
  const uint64_t newest = current ? current.generation().number : 0;
  const DataplaneView::Acknowledged seen = dataplane_.acknowledged(publisher_.header().incarnation);
  uint64_t acknowledged = newest;
  if (dataplane_.is_running()) acknowledged = seen.workers_active == 0 ? 0 : seen.least;

  if (acknowledged != 0) publisher_.reclaim(std::min(acknowledged, newest));
  answer(seen, acknowledged, now_ns);
  const uint64_t waited_ns = now_ns - published_ns_;
  const bool out_of_patience = waited_ns > static_cast<uint64_t>(std::chrono::nanoseconds(kPatience).count());
  if (!settled_ && (acknowledged >= newest || out_of_patience)) {
    settled_ = true;
    tell_settled(seen, newest, acknowledged >= newest, waited_ns);
    on_settled_();
  }
  if (acknowledged >= newest && waiting_.empty()) {
    polls_ = false;
    return;
  }
  poll_.expires_after(step(waited_ns));
  poll_.async_wait([this](const boost::system::error_code& error) {
    if (!error) poll();
  });
}

void Rollout::tell_settled(const DataplaneView::Acknowledged& seen, uint64_t newest, bool acknowledged,
                           uint64_t waited_ns) {
  if (!dataplane_.is_running() || (acknowledged && !events_.wants_debug())) return;
  Event event;
  event.level = acknowledged ? Event::Level::debug : Event::Level::warning;
  event.kind = acknowledged ? "generation_acknowledged" : "generation_late";
  event.text = acknowledged
                   ? fmt::format("generation {} acknowledged by {} workers", newest, seen.workers_active)
                   : fmt::format("generation {} is not acknowledged by {} after {:.1f} s", newest,
                                 seen.workers_active == 0 ? "the data plane, which is starting,"
                                                          : fmt::format("worker {}", seen.slowest_worker),
                                 static_cast<double>(waited_ns) / 1e9);
  event.details = {{"generation", newest},
                   {"workers", seen.workers_active},
                   {"waited_us", static_cast<double>(waited_ns) / 1e3},
                   {"since_change_us", static_cast<double>(monotonic_ns() - changed_ns_) / 1e3}};
  events_.add(std::move(event));
}

void Rollout::answer(const DataplaneView::Acknowledged& seen, uint64_t acknowledged, uint64_t now_ns) {
  std::vector<Waiting> still_waiting;
  std::vector<std::pair<Waiter, Outcome>> answers;
  for (Waiting& waiting : waiting_) {
    const uint64_t elapsed_ns = now_ns - std::min(now_ns, waiting.received_ns);
    Outcome outcome{waiting.generation, seen.workers_active, acknowledged >= waiting.generation, elapsed_ns,
                    ""};
    if (!dataplane_.is_running()) {
      outcome.workers = 0;
      outcome.note = fmt::format("published as generation {}; no data plane is running", waiting.generation);
    } else if (!outcome.acknowledged) {
      if (elapsed_ns < static_cast<uint64_t>(std::chrono::nanoseconds(kPatience).count())) {
        still_waiting.push_back(std::move(waiting));
        continue;
      }
      const std::string who = seen.workers_active == 0 ? "the data plane is starting and"
                                                       : fmt::format("worker {}", seen.slowest_worker);
      outcome.note = fmt::format("published as generation {}; {} has not acknowledged for {:.1f} s",
                                 waiting.generation, who, static_cast<double>(elapsed_ns) / 1e9);
    }
    answers.emplace_back(std::move(waiting.done), std::move(outcome));
  }
  waiting_ = std::move(still_waiting);
  for (const auto& [done, outcome] : answers)
    done(outcome);
}

}  // namespace sluice
