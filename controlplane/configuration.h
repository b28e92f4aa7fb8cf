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
    uint64_t files_hash = 0;  // of CONFIG as it stood, when this is it
  };
  // A version on trial, and the way back: the version before, and the overrides that this one has no place
  // for.
  struct Trial {
    Version before;
    Overrides dropped;  // as they were before
    Overrides left;     // what became of them
    std::chrono::seconds length;
  };
  struct Parsed {
    std::optional<Version> version;  // set exactly when there are no errors
    std::vector<Diagnostic> errors;
    std::vector<Diagnostic> warnings;
  };
  static Parsed parse(std::vector<ConfigSource> sources);

  // How long whoever waits for the disk waits.
  static constexpr std::chrono::seconds kDiskPatience{1};
  static constexpr std::chrono::seconds kRollBackRetry{1};

  // `path` is CONFIG, the file that sluiced was started with. `disk` has one thread, and outlives this.
  Configuration(boost::asio::io_context& io, boost::asio::thread_pool& disk, std::string path,
                std::string state_directory, Events& events);
  // At the end, when `disk` is joined: what is not on disk yet is written now.
  void finish();

  // What to start with: CONFIG, unless it stands as it stood when something else was applied: then that.
  // A faulty CONFIG gives way to the last good configuration, and that is an event. Overrides are those that
  // were kept. Call version() only after it gave one.
  // When it gave CONFIG and that cannot be used, last_good() is left.
  Parsed begin();
  Parsed read_files();  // CONFIG as it stands now

  const Version& version() const { return version_; }
  // Before the first take(): what was in force last, if anything.
  const Version* last_good() const { return version_.sources.empty() ? nullptr : &version_; }
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

  // In force from now on. On trial it goes back by itself: at the deadline `roll_back` is called, unless
  // confirm() came. Both are on disk together, so that a successor rolls back as well.
  void take(Version version, std::optional<Trial> trial = {});
  void take(Overrides overrides, uint64_t edition_at_least = 0);
  // Some of them, without a copy of all.
  void set_overrides(std::vector<std::pair<OverrideKey, Override>> entries);

  // `done` is called when all is on disk as it is now, or with the reason why it is not, or after
  // kDiskPatience.
  void when_saved(StateFile::Saved done);
  // Writes these overrides before anything uses them, for changes that the tables do not carry: whoever
  // comes after a SIGKILL knows them. Then take() them.
  void save_ahead(Overrides next, StateFile::Saved done);

  // `roll_back` takes trial().before, or cannot and is called again after kRollBackRetry.
  void on_rollback(std::function<void()> roll_back) { roll_back_ = std::move(roll_back); }
  // Called when the disk can be written again.
  void on_saved_again(std::function<void()> saved_again) { saved_again_ = std::move(saved_again); }
  bool is_pending() const { return pending_.has_value(); }
  // is_pending():
  const Trial& trial() const { return pending_->trial; }
  std::chrono::seconds pending_left() const;
  // The overrides that are in force, with those put back that the trial dropped and nobody changed since.
  Overrides overrides_before_trial() const;
  void confirm();

 private:
  struct Pending {
    Trial trial;
    int64_t deadline_unix_ms;
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
  uint64_t files_hash_ = 0;  // of CONFIG as it was taken over last
  int64_t taken_unix_ms_ = 0;
  Overrides overrides_;
  std::optional<Overrides> ahead_;  // what is written instead of overrides_
  uint64_t edition_ = 0;
  std::optional<Pending> pending_;
  boost::asio::steady_timer deadline_;
  std::function<void()> roll_back_;
  std::function<void()> saved_again_;
  StateFile config_file_;
  StateFile overrides_file_;
};

}  // namespace sluice
