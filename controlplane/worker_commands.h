// The writing side of the `commands` segment (src/commands_layout.h): what the data plane is asked to do with
// sessions, and what became of it.
//
// Owner: sluiced's one thread. Nothing blocks: commands are written as the ring has room, and their answers
// looked for by a timer, at first every 50 us. Commands are done in the order in which they were given.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>

#include "controlplane/dataplane_view.h"
#include "controlplane/publish.h"
#include "src/commands_layout.h"
#include "src/result.h"

namespace sluice {

class WorkerCommands {
 public:
  // Without an answer for so long, those who wait are told so.
  static constexpr std::chrono::milliseconds kPatience{1000};

  struct Outcome {
    std::array<uint64_t, kCommandResults> results{};  // how many of each CommandResult
    CommandResult last = CommandResult::none;         // of the last one answered,
    uint64_t before = 0;                              //   and the session's value before it
    // When not all were answered: why, and how many may be done yet. What is written cannot be taken back: it
    // is done when a data plane takes it. The others are not.
    Error fault;
    uint64_t under_way = 0;

    bool is_whole() const { return fault.what.empty(); }
    uint64_t count(CommandResult result) const { return results[static_cast<size_t>(result)]; }
  };
  using Told = std::function<void(const Outcome&)>;

  static Result<std::unique_ptr<WorkerCommands>> open(boost::asio::io_context& io,
                                                      const std::string& directory,
                                                      const Publisher& publisher, DataplaneView& dataplane);

  // Tables incarnation and generation of the commands are filled in: those of now. Calls back from the loop,
  // or at once when no data plane runs.
  void run(std::vector<CommandEntry> commands, Told told);

 private:
  struct Job {
    std::vector<CommandEntry> commands;
    Told told;
    Outcome outcome;
    size_t written = 0;
    size_t answered = 0;
  };
  WorkerCommands(boost::asio::io_context& io, Segment segment, const Publisher& publisher,
                 DataplaneView& dataplane);

  CommandsSegment& ring() const { return segment_.as<CommandsSegment>(); }
  const CommandsDone* answers() const;
  bool is_taken() const;
  void poll();
  void collect();
  void write();
  void finish();
  void give_up();

  Segment segment_;
  const Publisher& publisher_;
  DataplaneView& dataplane_;
  boost::asio::steady_timer timer_;
  std::deque<Job> jobs_;
  uint64_t collected_;  // answers up to this command are known, or of nobody here
  bool polls_ = false;
  uint64_t progress_ns_ = 0;  // when the data plane last answered, or the first job came
  uint64_t refreshed_ns_ = 0;
};

}  // namespace sluice
