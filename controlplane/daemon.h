// sluiced at work: owns the model and everything that changes it, on one event loop.
//
// What can change the model: an operator (commands.h calls set_admin, set_weight, reload), a health check,
// the kernel's routes and neighbours, a data plane that starts with other ports. Each ends in
// Rollout::publish. Nothing here blocks on the network. What one backend's change costs does not depend on
// how many others there are; a reload is work for all of them, and so is an answer that lists them.
//
// Ending (stop, a signal, SIGKILL) leaves the tables as they are: the data plane goes on forwarding, and the
// next sluiced takes over ids, admin states, weights and health from them.
#pragma once

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

#include "controlplane/backend_index.h"
#include "controlplane/config.h"
#include "controlplane/dataplane_view.h"
#include "controlplane/events.h"
#include "controlplane/health.h"
#include "controlplane/interfaces.h"
#include "controlplane/model.h"
#include "controlplane/neighbours.h"
#include "controlplane/publish.h"
#include "controlplane/rollout.h"
#include "controlplane/steer_map.h"
#include "src/result.h"

namespace sluice {

struct DaemonOptions {
  std::string config_path;
  std::string directory;             // the instance's; the caller holds its lock
  uint32_t checks_at_a_time = 1024;  // health checks running at once
  Events::LogFormat log_format = Events::LogFormat::text;
  Event::Level log_least = Event::Level::info;
};

class Daemon {
 public:
  // Everything up and running, or an Error: publishes the configuration, then begins to listen and to check.
  static Result<std::unique_ptr<Daemon>> start(boost::asio::io_context& io, const DaemonOptions& options,
                                               const Config& config);
  ~Daemon();

  const DaemonOptions& options() const { return options_; }
  const Model& model() const { return model_; }
  const Publisher& publisher() const { return publisher_; }
  const DataplaneView& dataplane() const { return dataplane_; }
  const SteerMap& steer_map() const { return steer_; }
  const std::string& steering_fault() const { return steering_fault_; }  // why it is off; empty when it works
  Rollout& rollout() { return *rollout_; }
  Events& events() { return events_; }
  HealthChecker& checker() { return *checker_; }
  const HealthChecker& checker() const { return *checker_; }
  const Interfaces& interfaces() const { return *interfaces_; }
  uint64_t started_ns() const { return started_ns_; }

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
  [[nodiscard]] Result<Change> set_admin(BackendPlace at, Admin admin);
  [[nodiscard]] Result<Change> set_weight(BackendPlace at, uint32_t weight);

  // Reads the configuration file again. With errors in it, or no room for it, the old configuration stays.
  struct Reload {
    std::vector<Diagnostic> errors;
    std::vector<Diagnostic> warnings;
    Result<Change> change = Change{};
  };
  Reload reload();

 private:
  Daemon(boost::asio::io_context& io, const DaemonOptions& options, Publisher publisher);

  [[nodiscard]] Result<Done> begin(const Config& config);
  void note(Event::Level level, std::string kind, std::string sentence);
  void note(Event::Level level, std::string kind, std::string service, std::string backend,
            std::string sentence);
  void remember_published_next_hops();
  [[nodiscard]] Result<Change> adopt(const Config& config);
  [[nodiscard]] Result<Done> check_secret(const Config& config);
  // Publishes the edit of the backend that was `before`, or puts it back.
  [[nodiscard]] Result<Change> publish_edit(BackendPlace at, const Backend& before);
  // Makes next hops, ids and checks follow the model after its set of backends changed.
  void follow_model();
  void follow_all_checks();
  void copy_next_hops(std::span<const IpAddress> changed);
  void follow_checks(const Service& service, const Backend& backend);
  void on_check(BackendId id, const CheckResult& result, Health health);
  // Opens the steering map if it is not open, and makes it equal to the services when the workers know them.
  // Called when a publish has settled, and every second from tick while it fails. Nothing to do, and no
  // system call, when the services are those of the last time.
  void follow_steering();
  void tick();
  void wait_for_signals();

  boost::asio::io_context& io_;
  const DaemonOptions options_;
  const uint64_t started_ns_;
  Events events_;
  Model model_;
  Publisher publisher_;
  DataplaneView dataplane_;
  std::unique_ptr<Rollout> rollout_;
  std::unique_ptr<Neighbours> neighbours_;
  std::unique_ptr<HealthChecker> checker_;
  SteerMap steer_;
  std::string steering_fault_;
  uint64_t steering_tried_ns_ = 0;
  uint64_t steered_edition_ = 0;  // Model::edition() that the map is equal to
  std::unique_ptr<Interfaces> interfaces_;
  boost::asio::signal_set signals_;
  boost::asio::steady_timer tick_;
  uint64_t starts_seen_ = 0;
  std::string dataplane_fault_seen_;
  BackendIndex index_;  // made anew by follow_model
};

}  // namespace sluice
