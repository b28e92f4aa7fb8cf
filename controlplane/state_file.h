// One file of what sluiced keeps over restarts, in its state directory.
//
// Owner: sluiced's one thread. Writing happens in a thread of its own, so a slow disk delays nothing else:
// the contents go to a temporary file, are synchronized to the disk, and take the file's name; then the
// directory is synchronized. Whoever reads finds the old contents or the new, whole, or is told that they are
// damaged (a checksum stands in the first line). Of several saves that come while one is written, only the
// newest contents are written, once, for all of them.
//
// What cannot be written is told (`on_fault`), and tried again every kRetry until it can be; a directory that
// is gone is made again then.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/thread_pool.hpp>

#include "src/result.h"

namespace sluice {

class StateFile {
 public:
  static constexpr std::chrono::seconds kRetry{1};
  static constexpr int64_t kBytesMax = 1 << 30;  // of what is read: a hundred times the largest configuration
  using Contents = std::function<std::string()>;
  using Saved = std::function<void(const std::string& fault)>;

  // `writer` may be shared by several files; it is joined before they go. `contents` is asked for when
  // writing begins. `on_fault` hears of the first failure, with its reason, and of the end of it, with an
  // empty one.
  StateFile(boost::asio::io_context& io, boost::asio::thread_pool& writer, std::string path,
            Contents contents, Saved on_fault);

  // What a predecessor saved; nothing if there is none. An Error when it is damaged or cannot be read: a
  // damaged file is kept beside it, as PATH.damaged, for whoever wants to look.
  [[nodiscard]] Result<std::optional<std::string>> read() const;

  // The contents have changed: they are written as they are now, or as they are later.
  void save();
  // `done` is called when what save() was called for is on disk, with an empty text, or could not be written,
  // with the reason; at once if nothing is under way.
  void when_saved(Saved done);
  // At the end, when the writer's threads are joined: what is still due is written here.
  void finish();
  const std::string& path() const { return path_; }
  // Why the newest contents are not on disk; empty when they are, or are on their way.
  const std::string& fault() const { return fault_; }

 private:
  void write();
  void written(const std::string& fault);

  boost::asio::io_context& io_;
  boost::asio::thread_pool& writer_;
  const std::string path_;
  const Contents contents_;
  const Saved on_fault_;
  boost::asio::steady_timer retry_;
  std::vector<Saved> waiting_;  // for the next write
  std::vector<Saved> writing_;  // for the one under way
  bool is_writing_ = false;
  bool is_due_ = false;  // contents newer than those that are being written
  std::string fault_;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

// Whoever reads `path` finds the old bytes or these, also after a power cut. Empty, or why not.
std::string write_durably(const std::string& path, std::string_view bytes, mode_t mode);
// For StateFile and its tests: the whole of it at once, in this thread. Empty, or why not.
std::string replace_file(const std::string& path, const std::string& contents);
// Creates the directory, and those above it, for its owner only. Empty, or why not.
std::string make_state_directory(const std::string& directory);

}  // namespace sluice
