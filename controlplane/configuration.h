// Which configuration is in force: the files', and over them what operators decided at run time; both kept in
// the state directory, for sluiced's successor and for a way back.
//
//   config.json      the files as they were taken over last, text by text: the last good configuration
//   overrides.json   the operators' decisions (overrides.h)
//   health.json      who was up (daemon.h)
//
// Owner: sluiced's one thread. Keeps; decides nothing about the model: the daemon publishes first and then
// tells what it took over. A disk that cannot be written is an event, and what is in force stays in force.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/thread_pool.hpp>

#include "controlplane/config.h"
#include "controlplane/events.h"
#include "controlplane/overrides.h"
#include "controlplane/state_file.h"

namespace sluice {

class Configuration {
 public:
  // One state of the files.
  struct Version {
    std::vector<ConfigSource> sources;
    Config config;
    WrittenConfig written;
  };
  struct Parsed {
    std::optional<Version> version;  // set exactly when there are no errors
    std::vector<Diagnostic> errors;
    std::vector<Diagnostic> warnings;
  };
  static Parsed parse(std::vector<ConfigSource> sources);

  // How long whoever waits for the disk waits.
  static constexpr std::chrono::seconds kDiskPatience{1};

  // `path` is CONFIG, the file that sluiced was started with. `disk` has one thread, and outlives this.
  Configuration(boost::asio::io_context& io, boost::asio::thread_pool& disk, std::string path,
                std::string state_directory, Events& events);
  // At the end, when `disk` is joined: what is not on disk yet is written now.
  void finish();

  // What to start with: CONFIG, unless it stands as it stood when something else was applied: then that.
  // A faulty CONFIG gives way to the last good configuration, and that is an event. Overrides are those that
  // were kept. Call version() only after it gave one.
  Parsed begin();
  Parsed read_files();  // CONFIG as it stands now, which is noted

  const Version& version() const { return version_; }
  const Overrides& overrides() const { return overrides_; }
  // Counts the changes of the overrides; the tables carry it, so that a successor sees which is newer.
  uint64_t edition() const { return edition_; }
  const std::string& path() const { return path_; }
  const std::string& state_directory() const { return state_directory_; }
  // Where version() came from: CONFIG, or what was applied instead.
  const std::string& origin() const { return version_.sources.front().file; }
  int64_t taken_unix_ms() const { return taken_unix_ms_; }

  // The files' configuration with the overrides' services and backends; what does not fit is left out and
  // told. Weights and admin states of overrides are the model's (model.h): they are not in it.
  static Config effective(const Version& version, const Overrides& overrides,
                          std::vector<OverrideFault>& faults);

  // In force from now on.
  void take(Version version);
  void take(Overrides overrides, uint64_t edition_at_least = 0);
  // Some of them, without a copy of all.
  void set_overrides(std::vector<std::pair<OverrideKey, Override>> entries);

  // `done` is called when all is on disk as it is now, or with the reason why it is not, or after
  // kDiskPatience.
  void when_saved(StateFile::Saved done);
  // Writes these overrides before anything uses them, for changes that the tables do not carry: whoever
  // comes after a SIGKILL knows them. Then take() them.
  void save_ahead(Overrides next, StateFile::Saved done);

  // A version that goes back by itself: `roll_back` is called at the deadline with the version before, unless
  // confirm() came. Kept on disk, so that a successor rolls back as well.
  void await_confirmation(Version before, std::chrono::seconds deadline);
  void on_rollback(std::function<void(Version)> roll_back) { roll_back_ = std::move(roll_back); }
  // Called when the disk can be written again.
  void on_saved_again(std::function<void()> saved_again) { saved_again_ = std::move(saved_again); }
  bool is_pending() const { return pending_.has_value(); }
  std::chrono::seconds pending_left() const;
  void confirm();
  void roll_back_now();  // is_pending()

 private:
  struct Pending {
    Version before;
    int64_t deadline_unix_ms;
    std::chrono::seconds length;
  };
  std::string config_contents() const;
  std::string overrides_contents() const;
  bool restore_config(const std::string& contents);
  void restore_overrides(const std::string& contents);
  std::optional<std::string> read(const StateFile& file);
  void told(const char* kind, Event::Level level, std::string sentence);
  void arm(std::chrono::milliseconds left);
  void saved_again(StateFile& other);
  StateFile::Saved patiently(StateFile::Saved done);

  boost::asio::io_context& io_;
  const std::string path_;
  const std::string state_directory_;
  Events& events_;
  Version version_;
  uint64_t files_hash_ = 0;  // of CONFIG as it was read last
  int64_t taken_unix_ms_ = 0;
  Overrides overrides_;
  std::optional<Overrides> ahead_;  // what is written instead of overrides_
  uint64_t edition_ = 0;
  std::optional<Pending> pending_;
  boost::asio::steady_timer deadline_;
  std::function<void(Version)> roll_back_;
  std::function<void()> saved_again_;
  StateFile config_file_;
  StateFile overrides_file_;
};

}  // namespace sluice
