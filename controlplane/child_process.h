// A program run beside the loop: started, read, and ended with everything that it started.
//
// No shell, no inherited descriptors, a process group of its own. Its standard output and error come through
// one pipe; standard input is `input` and then its end. When it ends, or is to end, the whole group gets
// SIGKILL: nothing that it left running outlives it. A process that even SIGKILL does not end at once (a disk
// that hangs) is waited for without anybody having to.
#pragma once

#include <sys/types.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <boost/asio/io_context.hpp>

#include "src/result.h"

namespace sluice {

class ChildProcess {
 public:
  struct Exit {
    int status = 0;         // as exit(2) was called with
    int signal = 0;         // that ended it; 0: none
    bool too_long = false;  // it printed more than output_max and was ended for that
    std::string output;     // the first kOutputKept bytes
  };
  static constexpr size_t kOutputKept = 1024;

  struct Command {
    std::vector<std::string> arguments;    // the first is the program: a path, or searched in PATH
    std::vector<std::string> environment;  // "NAME=value": all of it
    size_t output_max = 1 << 20;           // bytes
    std::string input;
  };
  // `done` is called once, from the loop, when it has ended and is gone from the process table. It is kept,
  // and so is all that it holds, until then.
  using Handler = std::function<void(const Exit&)>;
  static Result<std::unique_ptr<ChildProcess>> start(boost::asio::io_context& io, const Command& command,
                                                     Handler done);
  ~ChildProcess();  // ends it, if it has not ended

  // SIGKILL to the group; `done` follows.
  void kill();

 private:
  class Run;
  explicit ChildProcess(std::shared_ptr<Run> run) : run_(std::move(run)) {}
  std::shared_ptr<Run> run_;
};

}  // namespace sluice
