// sluiced at work: owns the model and everything that changes it, on one event loop.
//
// What can change the model: an operator (commands.h calls edit_backends, apply, edit_overrides), a health
// check, the kernel's routes and neighbours, a data plane that starts with other ports. Each ends in
// Rollout::publish. Nothing here blocks on the network. What one backend's change costs does not depend on
// how many others there are; a reload is work for all of them, and so is an answer that lists them.
//
// Ending (stop, a signal, SIGKILL) leaves the tables as they are: the data plane goes on forwarding, and the
// next sluiced takes over ids, admin states, weights and health from them.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include <boost/asio/io_context.hpp>
#include <boost/asio/signal_set.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/thread_pool.hpp>
#include <nlohmann/json.hpp>

#include "controlplane/audit.h"
#include "controlplane/backend_index.h"
#include "controlplane/clock_watch.h"
#include "controlplane/config.h"
#include "controlplane/configuration.h"
#include "controlplane/dataplane_view.h"
#include "controlplane/events.h"
#include "controlplane/health.h"
#include "controlplane/interfaces.h"
#include "controlplane/model.h"
#include "controlplane/neighbours.h"
#include "controlplane/publish.h"
#include "controlplane/rollout.h"
#include "controlplane/steer_map.h"
#include "controlplane/syn_watch.h"
#include "controlplane/vip_checks.h"
#include "controlplane/worker_commands.h"
#include "src/result.h"

namespace sluice {

struct DaemonOptions {
  std::string config_path;
  std::string directory;               // the instance's; the caller holds its lock
  std::string state_directory;         // what is kept over a reboot (configuration.h)
  uint32_t checks_at_a_time = 16'384;  // health checks running at once: a socket each
  Events::LogFormat log_format = Events::LogFormat::text;
  Event::Level log_least = Event::Level::info;
};

class Daemon {
 public:
  // Everything up and running, or an Error: publishes the configuration, then begins to listen and to check.
  // When it is the configuration that is at fault, `errors` says how.
  static Result<std::unique_ptr<Daemon>> start(boost::asio::io_context& io, const DaemonOptions& options,
                                               std::vector<Diagnostic>& errors);
  ~Daemon();

  boost::asio::io_context& io() { return io_; }
  const DaemonOptions& options() const { return options_; }
  const Model& model() const { return model_; }
  const Publisher& publisher() const { return publisher_; }
  const DataplaneView& dataplane() const { return dataplane_; }
  const SteerMap& steer_map() const { return steer_; }
  const std::string& steering_fault() const { return steering_fault_; }  // why it is off; empty when it works
  Rollout& rollout() { return *rollout_; }
  const Rollout& rollout() const { return *rollout_; }
  Events& events() { return events_; }
  Audit& audit() { return audit_; }
  HealthChecker& checker() { return *checker_; }
  const HealthChecker& checker() const { return *checker_; }
  const Interfaces& interfaces() const { return *interfaces_; }
  const Configuration& configuration() const { return *configuration_; }
  WorkerCommands& worker_commands() { return *worker_commands_; }
  uint64_t started_ns() const { return started_ns_; }
  // The rebalance that is under way, one at a time.
  std::weak_ptr<const void>& rebalance() { return rebalance_; }

  // A published change, or none because things were so already.
  struct Change {
    bool changed = false;
    uint64_t generation = 0;
  };
  // Nothing: no such service, or no such backend of it. The place holds until the next reload. O(1).
  std::optional<BackendPlace> find_backend(const std::string& service, const std::string& backend) const {
    return index_.find(service, backend);
  }
  // On an Error nothing has changed.
  // Each backend at most once; all of it is one generation.
  struct BackendEdit {
    BackendPlace at;
    std::optional<Admin> admin;
    std::optional<uint32_t> weight;
    // With admin drain or migrate. Each `admin` decides anew: without this one an earlier one is over.
    std::optional<ResetDeadline> reset;
  };
  [[nodiscard]] Result<Change> edit_backends(std::span<const BackendEdit> edits);

  // ---- The configuration as a whole (daemon_config.cc) ----
  struct ApplyOptions {
    bool dry_run = false;                         // says what it would change, and changes nothing
    std::optional<std::chrono::seconds> confirm;  // back to the present one after this, unless confirmed
  };
  struct Applied {
    std::vector<Diagnostic> errors;  // with any, or an Error in `change`, the old configuration stays
    std::vector<Diagnostic> warnings;
    nlohmann::json objects;                      // diff_written (config_diff.h)
    nlohmann::json flows;                        // diff_flows; of a dry run
    std::vector<std::string> overrides_dropped;  // that have no place in it, each in a sentence
    Result<Change> change = Change{};
  };
  Applied apply(std::vector<ConfigSource> sources, const ApplyOptions& options);
  Applied reload();  // CONFIG as it stands now
  Result<Change> confirm();
  Result<Change> roll_back();

  // A change of the overrides that adds or removes. `change` edits them, or says why not; it may be called
  // more than once. On disk first, then in force, then `done`; edits that wait share one generation.
  struct OverrideEdit {
    OverrideKey key;  // what it is about
    std::function<std::string(Overrides&)> change;
    std::function<void(const Result<Change>&)> done;
  };
  void edit_overrides(OverrideEdit edit);
  // Moves the overrides into conf.d/overrides.toml beside CONFIG, and takes that over; `text` is what that
  // file says then. A dry run only says so.
  struct Written {
    std::string file;
    std::string text;
    Result<Change> change = Change{};
  };
  Written write_overrides(bool dry_run);
  // Calls back when all that was decided is on disk, or with the reason why it is not.
  void when_saved(StateFile::Saved done) const { configuration_->when_saved(std::move(done)); }

 private:
  Daemon(boost::asio::io_context& io, const DaemonOptions& options, Publisher publisher);

  [[nodiscard]] Result<Done> begin(std::vector<Diagnostic>& errors);
  void note(Event::Level level, std::string kind, std::string sentence);
  void note(Event::Level level, std::string kind, std::string service, std::string backend,
            std::string sentence);
  void remember_published_next_hops();
  // Makes this the model, and publishes it; on an Error everything stays as it was. `overrides` loses what
  // does not fit any more. At a start, tables with a later edition of the overrides know better.
  enum class From : uint8_t { overrides, tables };
  [[nodiscard]] Result<Change> adopt(const Configuration::Version& version, Overrides& overrides, From from,
                                     std::vector<std::string>* dropped = nullptr);
  [[nodiscard]] Result<Change> adopt(Model next);
  [[nodiscard]] Result<Model> model_of(const Configuration::Version& version, Overrides& overrides, From from,
                                       std::vector<std::string>& dropped);
  Applied apply(Configuration::Parsed parsed, const ApplyOptions& options);
  void note_diagnostics(const Applied& applied);
  [[nodiscard]] Result<Change> begin_with(Configuration::Version version);
  void take_version(Configuration::Version version, std::optional<Configuration::Trial> trial = {});
  void take_overrides(Overrides overrides);
  Result<Change> go_back();
  Override override_of(BackendPlace at) const;
  std::string health_contents() const;
  Override override_after(const BackendEdit& edit) const;
  void run_edits();
  void finish_edits(std::vector<OverrideEdit> edits);
  void keep_health();
  void remember_kept_health(Model& model);
  [[nodiscard]] Result<Done> check_secret(const Config& config);
  // Makes next hops, ids and checks follow the model after its set of backends changed.
  void follow_model();
  void follow_all_checks();
  void copy_next_hops(std::span<const IpAddress> changed);
  void follow_checks(const Service& service, const Backend& backend);
  void on_check(BackendId id, const CheckResult& result, Health health);
  void note_check_event(Event::Level level, std::string kind, BackendPlace place, const CheckResult& result);
  // Opens the steering map if it is not open, and makes it equal to the services when the workers know them.
  // Called when a publish has settled, and every second from tick while it fails. Nothing to do, and no
  // system call, when the services are those of the last time.
  void follow_steering();
  // Every second: routes to VIPs that are checked, and what was missing for that.
  void follow_vip_checks();
  // daemon_policy.cc
  void advance_policy(uint64_t now_ns);
  void reset_drained(uint64_t now_ns);
  void announce();
  void watch_syns();
  void tell_scale();
  void watch_clock(uint64_t now_ns);
  void tick();
  void wait_for_signals();

  boost::asio::io_context& io_;
  const DaemonOptions options_;
  const uint64_t started_ns_;
  Events events_;
  Audit audit_{io_, events_};
  boost::asio::thread_pool disk_{1};
  std::unique_ptr<Configuration> configuration_;
  std::unique_ptr<StateFile> health_file_;
  bool health_changed_ = false;  // since health_file_ was saved last
  uint64_t health_saved_ns_ = 0;
  std::vector<OverrideEdit> edits_;  // waiting
  bool edits_run_ = false;
  Model model_;
  Publisher publisher_;
  DataplaneView dataplane_;
  std::unique_ptr<Rollout> rollout_;
  std::unique_ptr<WorkerCommands> worker_commands_;
  std::weak_ptr<const void> rebalance_;
  std::unique_ptr<Neighbours> neighbours_;
  std::unique_ptr<HealthChecker> checker_;
  VipChecks vip_checks_;
  std::string vip_checks_fault_seen_;
  uint64_t vip_checks_tried_ns_ = 0;
  SteerMap steer_;
  std::string steering_fault_;
  uint64_t steering_tried_ns_ = 0;
  uint64_t steered_edition_ = 0;  // Model::edition() that the map is equal to
  std::unique_ptr<Interfaces> interfaces_;
  boost::asio::signal_set signals_;
  boost::asio::steady_timer tick_;
  ClockWatch clock_watch_;
  uint64_t starts_seen_ = 0;
  SynWatch syn_watch_;
  uint64_t syn_watched_ns_ = 0;
  uint64_t reset_failed_ns_ = 0;  // 0: it did not
  std::string dataplane_fault_seen_;
  BackendIndex index_;  // made anew by follow_model
};

}  // namespace sluice
