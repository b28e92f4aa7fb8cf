#include "controlplane/worker_commands.h"

#include <algorithm>
#include <utility>

#include <boost/asio/post.hpp>
#include <fmt/format.h>

namespace sluice {
namespace {

constexpr uint64_t kMillisecondNs = 1'000'000;
constexpr const char* kRemedy = "sluice show workers; is sluice-dataplane started with the same --dir?";

// Short steps at first, as an answer takes microseconds; a busy machine is not kept busier.
std::chrono::microseconds step(uint64_t waited_ns) {
  return std::chrono::microseconds(std::clamp<uint64_t>(waited_ns / 4'000, 50, 10'000));
}

}  // namespace

Result<std::unique_ptr<WorkerCommands>> WorkerCommands::open(boost::asio::io_context& io,
                                                             const std::string& directory,
                                                             const Publisher& publisher,
                                                             DataplaneView& dataplane) {
  Result<Segment> segment = Segment::open_writer(directory, kCommandsSegment, sizeof(CommandsSegment));
  if (!segment) return segment.error();
  if (Result<Done> done = segment->populate(0, sizeof(CommandsSegment)); !done) return done.error();
  return std::unique_ptr<WorkerCommands>(new WorkerCommands(io, std::move(*segment), publisher, dataplane));
}

WorkerCommands::WorkerCommands(boost::asio::io_context& io, Segment segment, const Publisher& publisher,
                               DataplaneView& dataplane)
    : segment_(std::move(segment)),
      publisher_(publisher),
      dataplane_(dataplane),
      timer_(io),
      collected_(ring().head.load(std::memory_order_relaxed)) {}

// Null: nobody takes commands of this segment.
const CommandsDone* WorkerCommands::answers() const {
  if (dataplane_.stats() == nullptr) return nullptr;
  const CommandsDone& done = dataplane_.stats()->commands;
  // Pairs with the worker's release: the count is of that segment.
  return done.incarnation.load(std::memory_order_acquire) == segment_.header().incarnation ? &done : nullptr;
}

// By a data plane that uses these tables?
bool WorkerCommands::is_taken() const {
  return dataplane_.is_running() && answers() != nullptr &&
         acknowledged(dataplane_.stats()->workers[0], publisher_.header().incarnation) != 0;
}

void WorkerCommands::run(std::vector<CommandEntry> commands, Told told) {
  if (jobs_.empty()) {
    dataplane_.refresh();
    progress_ns_ = refreshed_ns_ = monotonic_ns();
  }
  if (!dataplane_.is_running()) {
    Outcome outcome;
    outcome.fault = {"no data plane runs: sessions can only be changed by one", kRemedy};
    return told(outcome);
  }
  for (CommandEntry& command : commands) {
    command.tables_incarnation = publisher_.header().incarnation;
    command.generation = publisher_.current().generation().number;
  }
  jobs_.push_back({std::move(commands), std::move(told), {}, 0, 0});
  if (!std::exchange(polls_, true)) poll();
}

void WorkerCommands::poll() {
  const uint64_t now_ns = monotonic_ns();
  if (now_ns - refreshed_ns_ > 10 * kMillisecondNs) {
    dataplane_.refresh();
    refreshed_ns_ = now_ns;
  }
  collect();
  write();
  if (now_ns > progress_ns_ &&
      now_ns - progress_ns_ > static_cast<uint64_t>(kPatience.count()) * kMillisecondNs)
    give_up();
  finish();
  polls_ = !jobs_.empty();
  if (!polls_) return;
  timer_.expires_after(step(now_ns - std::min(now_ns, progress_ns_)));
  timer_.async_wait([this](const boost::system::error_code& error) {
    if (!error) poll();
  });
}

void WorkerCommands::collect() {
  const CommandsDone* answers = this->answers();
  if (answers == nullptr) return;
  // Acquire: pairs with the worker's release; the answers before it are written.
  const uint64_t done =
      std::min(answers->done.load(std::memory_order_acquire), ring().head.load(std::memory_order_relaxed));
  auto job = jobs_.begin();
  for (; collected_ < done; collected_++) {
    while (job != jobs_.end() && job->answered == job->commands.size())
      ++job;
    if (job == jobs_.end()) break;
    const CommandsDone::Answer& answer = answers->answers[collected_ % kCommandsMax];
    const CommandResult result = answer.result.load(std::memory_order_relaxed);
    job->outcome.results[std::min(static_cast<uint32_t>(result), kCommandResults - 1)]++;
    job->outcome.last = result;
    job->outcome.before = answer.before.load(std::memory_order_relaxed);
    job->answered++;
    progress_ns_ = monotonic_ns();
  }
}

void WorkerCommands::write() {
  if (!is_taken()) return;
  uint64_t head = ring().head.load(std::memory_order_relaxed);
  // Answers that are not collected yet must stay, too.
  const uint64_t free_until =
      std::min(answers()->done.load(std::memory_order_acquire), collected_) + kCommandsMax;
  for (Job& job : jobs_) {
    for (; job.written < job.commands.size() && head < free_until; head++)
      ring().entries[head % kCommandsMax] = job.commands[job.written++];
  }
  // Release: the entries are written. Pairs with the worker's acquire.
  ring().head.store(head, std::memory_order_release);
}

// What has its answers, or its fault, is told from the loop: it may give more.
void WorkerCommands::finish() {
  while (!jobs_.empty() &&
         (jobs_.front().answered == jobs_.front().commands.size() || !jobs_.front().outcome.is_whole())) {
    boost::asio::post(timer_.get_executor(), [told = std::move(jobs_.front().told),
                                              outcome = jobs_.front().outcome] { told(outcome); });
    jobs_.pop_front();
  }
}

void WorkerCommands::give_up() {
  for (Job& job : jobs_) {
    job.outcome.under_way = job.written - job.answered;
    const std::string who = dataplane_.is_running() ? "worker 0 has not answered" : "no data plane has run";
    job.outcome.fault = {
        fmt::format("{} for {:.0f} s: {}", who, static_cast<double>(kPatience.count()) / 1e3,
                    job.outcome.under_way == 0
                        ? std::string("not done")
                        : fmt::format("{} of it will be done when one takes it up", job.outcome.under_way)),
        kRemedy};
  }
  collected_ = ring().head.load(std::memory_order_relaxed);  // their answers are nobody's
}

}  // namespace sluice
