#include "controlplane/state_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <utility>

#include <boost/asio/post.hpp>
#include <fmt/format.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

namespace sluice {
namespace {

constexpr std::string_view kMark = "sluice-state 1 ";  // the format's version
constexpr size_t kHeadBytes = kMark.size() + 16 + 1;   // mark, checksum, newline

std::string head_of(const std::string& contents) {
  return fmt::format("{}{:016x}\n", kMark, XXH3_64bits(contents.data(), contents.size()));
}

std::string fault_of(const char* what, const std::string& path) {
  return fmt::format("{} {}: {}", what, path, std::strerror(errno));
}

bool write_all(int fd, std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t wrote = ::write(fd, bytes.data(), bytes.size());
    if (wrote < 0 && errno == EINTR) continue;
    if (wrote <= 0) return false;
    bytes.remove_prefix(static_cast<size_t>(wrote));
  }
  return true;
}

// The name is on disk only when its directory is.
std::string sync_directory(const std::string& path) {
  const int fd = open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return fault_of("cannot open", path);
  const std::string fault = fsync(fd) == 0 ? "" : fault_of("cannot synchronize", path);
  close(fd);
  return fault;
}

}  // namespace

std::string write_durably(const std::string& path, std::string_view bytes, mode_t mode) {
  const std::string temporary = path + ".new";
  const int fd = open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, mode);
  if (fd < 0) return fault_of("cannot create", temporary);
  std::string fault;
  if (!write_all(fd, bytes)) fault = fault_of("cannot write", temporary);
  if (fault.empty() && fsync(fd) != 0) fault = fault_of("cannot synchronize", temporary);
  close(fd);
  if (fault.empty() && rename(temporary.c_str(), path.c_str()) != 0) fault = fault_of("cannot replace", path);
  if (!fault.empty()) {
    unlink(temporary.c_str());
    return fault;
  }
  return sync_directory(std::filesystem::path(path).parent_path().string());
}

std::string replace_file(const std::string& path, const std::string& contents) {
  return write_durably(path, head_of(contents) + contents, 0600);
}

std::string make_state_directory(const std::string& directory) {
  std::error_code fault;
  std::filesystem::create_directories(std::filesystem::path(directory).parent_path(), fault);
  if (mkdir(directory.c_str(), 0700) != 0 && errno != EEXIST) return fault_of("cannot create", directory);
  return "";
}

StateFile::StateFile(boost::asio::io_context& io, boost::asio::thread_pool& writer, std::string path,
                     Contents contents, Saved on_fault)
    : io_(io),
      writer_(writer),
      path_(std::move(path)),
      contents_(std::move(contents)),
      on_fault_(std::move(on_fault)),
      retry_(io) {}

Result<std::optional<std::string>> StateFile::read() const {
  const auto set_aside = [&] {
    const std::string aside = path_ + ".damaged";
    if (rename(path_.c_str(), aside.c_str()) != 0) return Error{fault_of("damaged, and stays:", path_), ""};
    return Error{path_ + " is damaged; it is kept as " + aside, ""};
  };
  // Never written by us: reading it would take long, or not end.
  struct stat status;
  if (stat(path_.c_str(), &status) == 0 && (!S_ISREG(status.st_mode) || status.st_size > kBytesMax))
    return set_aside();
  std::ifstream file(path_, std::ios::binary);
  if (!file) {
    if (errno == ENOENT) return std::optional<std::string>();
    return Error{fault_of("cannot read", path_), ""};
  }
  std::ostringstream read;
  read << file.rdbuf();
  std::string contents = std::move(read).str();
  const std::string head = contents.substr(0, kHeadBytes);
  contents.erase(0, std::min(kHeadBytes, contents.size()));
  if (head == head_of(contents)) return std::optional<std::string>(std::move(contents));
  return set_aside();
}

void StateFile::save() {
  is_due_ = true;
  if (!is_writing_) write();
}

void StateFile::when_saved(Saved done) {
  if (is_due_) {
    waiting_.push_back(std::move(done));
  } else if (is_writing_) {
    writing_.push_back(std::move(done));
  } else {
    done(fault_);
  }
}

void StateFile::finish() {
  if (is_due_ || !fault_.empty()) replace_file(path_, contents_());
  is_due_ = false;
}

void StateFile::write() {
  is_writing_ = true;
  is_due_ = false;
  retry_.cancel();
  writing_ = std::exchange(waiting_, {});
  boost::asio::post(writer_, [this, path = path_, contents = contents_(), again = !fault_.empty(),
                              alive = std::weak_ptr<bool>(alive_), work = boost::asio::make_work_guard(io_)] {
    // The directory itself may be gone.
    if (again) make_state_directory(std::filesystem::path(path).parent_path().string());
    std::string fault = replace_file(path, contents);
    boost::asio::post(io_, [this, alive, fault = std::move(fault)] {
      if (!alive.expired()) written(fault);
    });
  });
}

void StateFile::written(const std::string& fault) {
  is_writing_ = false;
  if (fault.empty() != fault_.empty()) on_fault_(fault);
  fault_ = fault;
  for (const Saved& done : std::exchange(writing_, {}))
    done(fault);
  if (is_due_) {
    if (!is_writing_) write();
    return;
  }
  if (fault.empty()) return;
  retry_.expires_after(kRetry);
  retry_.async_wait([this](const boost::system::error_code& error) {
    if (!error && !is_writing_) write();
  });
}

}  // namespace sluice
