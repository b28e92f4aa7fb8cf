#include "controlplane/child_process.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>

#include <boost/asio/posix/stream_descriptor.hpp>
#include <spawn.h>

namespace sluice {
namespace {

using boost::asio::posix::stream_descriptor;
using boost::system::error_code;

std::vector<char*> pointers(const std::vector<std::string>& texts) {
  std::vector<char*> all;
  for (const std::string& text : texts)
    all.push_back(const_cast<char*>(text.c_str()));
  all.push_back(nullptr);
  return all;
}

// posix_spawn's two kinds of settings, freed.
struct SpawnSettings {
  posix_spawn_file_actions_t files;
  posix_spawnattr_t attributes;

  SpawnSettings(int input, int output) {
    posix_spawn_file_actions_init(&files);
    posix_spawn_file_actions_adddup2(&files, input, STDIN_FILENO);
    posix_spawn_file_actions_adddup2(&files, output, STDOUT_FILENO);
    posix_spawn_file_actions_adddup2(&files, output, STDERR_FILENO);
    posix_spawn_file_actions_addclosefrom_np(&files, STDERR_FILENO + 1);
    posix_spawnattr_init(&attributes);
    posix_spawnattr_setpgroup(&attributes, 0);
    sigset_t none, all;
    sigemptyset(&none);
    sigfillset(&all);
    posix_spawnattr_setsigmask(&attributes, &none);
    posix_spawnattr_setsigdefault(&attributes, &all);
    posix_spawnattr_setflags(&attributes,
                             POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
  }
  ~SpawnSettings() {
    posix_spawn_file_actions_destroy(&files);
    posix_spawnattr_destroy(&attributes);
  }
};

// A file that holds this text and nothing else: unlike a pipe it takes all of it at once, however long. -1:
// errno.
int readable(const std::string& text) {
  const int file = memfd_create("sluice-input", MFD_CLOEXEC);
  if (file < 0) return -1;
  for (size_t written = 0; written < text.size();) {
    const ssize_t n = write(file, text.data() + written, text.size() - written);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) {
      close(file);
      return -1;
    }
    written += static_cast<size_t>(n);
  }
  lseek(file, 0, SEEK_SET);
  return file;
}

Error cannot(const std::string& program, int error) {
  return {"cannot run " + program + ": " + std::strerror(error),
          error == ENOENT || error == EACCES ? "ls -l " + program : ""};
}

}  // namespace

class ChildProcess::Run : public std::enable_shared_from_this<Run> {
 public:
  Run(boost::asio::io_context& io, pid_t pid, int pidfd, int output, size_t output_max, Handler done)
      : pid_(pid), pidfd_(io, pidfd), output_(io, output), output_max_(output_max), done_(std::move(done)) {}

  void begin() {
    read_later();
    end_later();
  }

  // The leader is not waited for yet: as long as it is in the process table nobody else has its number.
  void kill() {
    if (!is_gone_) ::kill(-pid_, SIGKILL);
  }

 private:
  // Both waits may be told of something that is not there, so both look for themselves.
  void read_later() {
    output_.async_wait(stream_descriptor::wait_read, [self = shared_from_this()](const error_code& error) {
      if (!error && self->read()) self->read_later();
    });
  }

  void end_later() {
    pidfd_.async_wait(stream_descriptor::wait_read, [self = shared_from_this()](const error_code& error) {
      if (error) return;
      siginfo_t info = {};
      const int looked = waitid(P_PID, static_cast<id_t>(self->pid_), &info, WEXITED | WNOHANG | WNOWAIT);
      if (looked == 0 && info.si_pid == 0) return self->end_later();
      self->ended();
    });
  }

  // What is there, but no more than a turn's share; false at the end of it.
  bool read() {
    std::array<char, 16 * 1024> buffer;
    for (int i = 0; i < 4; i++) {
      const ssize_t bytes = ::read(output_.native_handle(), buffer.data(), buffer.size());
      if (bytes == 0) return false;
      if (bytes < 0) return errno == EAGAIN || errno == EINTR;
      took(buffer.data(), static_cast<size_t>(bytes));
    }
    return true;
  }

  void took(const char* data, size_t bytes) {
    exit_.output.append(data, std::min(bytes, kOutputKept - exit_.output.size()));
    printed_ += bytes;
    if (printed_ <= output_max_ || exit_.too_long) return;
    exit_.too_long = true;
    kill();
  }

  void ended() {
    // A pipe holds no more than a turn's share. What its children go on to print is nobody's.
    read();
    error_code error;
    output_.close(error);
    kill();
    is_gone_ = true;
    int status = 0;
    while (waitpid(pid_, &status, 0) < 0 && errno == EINTR) {
    }
    exit_.status = WIFEXITED(status) ? WEXITSTATUS(status) : 0;
    exit_.signal = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
    const Handler done = std::move(done_);
    done(exit_);
  }

  const pid_t pid_;
  stream_descriptor pidfd_;
  stream_descriptor output_;
  const size_t output_max_;
  Handler done_;
  Exit exit_;
  size_t printed_ = 0;
  bool is_gone_ = false;
};

Result<std::unique_ptr<ChildProcess>> ChildProcess::start(boost::asio::io_context& io, const Command& command,
                                                          Handler done) {
  const std::string& program = command.arguments.front();
  const int input = readable(command.input);
  if (input < 0) return cannot(program, errno);
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) {
    close(input);
    return cannot(program, errno);
  }
  fcntl(ends[0], F_SETFL, O_NONBLOCK);  // our end only
  pid_t pid = -1;
  int error = 0;
  {
    const SpawnSettings settings(input, ends[1]);
    error = posix_spawnp(&pid, program.c_str(), &settings.files, &settings.attributes,
                         pointers(command.arguments).data(), pointers(command.environment).data());
  }
  close(input);
  close(ends[1]);
  // It has not been waited for, so this is still its number.
  const int pidfd = error == 0 ? static_cast<int>(syscall(SYS_pidfd_open, pid, 0)) : -1;
  if (pidfd < 0) {
    if (error == 0) {
      error = errno;
      ::kill(-pid, SIGKILL);
      while (waitpid(pid, nullptr, 0) < 0 && errno == EINTR) {
      }
    }
    close(ends[0]);
    return cannot(program, error);
  }
  auto run = std::make_shared<Run>(io, pid, pidfd, ends[0], command.output_max, std::move(done));
  run->begin();
  return std::unique_ptr<ChildProcess>(new ChildProcess(std::move(run)));
}

ChildProcess::~ChildProcess() {
  run_->kill();
}

void ChildProcess::kill() {
  run_->kill();
}

}  // namespace sluice
