// What `sluice show` tells, as JSON: the model and the published tables joined with the data plane's
// counters.
//
// Counters of a service or backend are sums over all workers ever, less what their id had counted for a
// predecessor of the same id (ServiceCold / BackendCold base_*). Times are durations in seconds, so that no
// clock needs to be known. Cost: O(backends x workers), and one pass over the lookup tables shown (65,537
// slots each) for the shares.
#pragma once

#include <optional>
#include <string>
#include <utility>

#include <nlohmann/json.hpp>

#include "controlplane/daemon.h"

namespace sluice {

const char* text(Health health);
const char* text(Forward forward);
const char* text(Affinity affinity);
const char* protocol_text(uint8_t protocol);

nlohmann::json report_services(const Daemon& daemon);

// Backends of one service, or of all when `only_service` is empty; of that only one when `only_backend` is
// not empty. In steps of kStepBackends, so that checks and changes go on between them (what these change is
// in it as it was or as it is).
class BackendsReport {
 public:
  static constexpr size_t kStepBackends = 256;

  BackendsReport(const Daemon& daemon, std::string only_service, std::string only_backend);
  bool step();  // false: this was the last one
  nlohmann::json take() { return std::move(out_); }

 private:
  const Daemon& daemon_;
  const std::string only_service_;
  const std::string only_backend_;
  size_t service_ = 0;  // positions of the next one
  size_t backend_ = 0;
  nlohmann::json out_;
};

// 0 for a time to come.
double seconds_since(uint64_t then_ns);
nlohmann::json report_dataplane(const Daemon& daemon);
// The current generation: its number and age, a checksum that is the same on every balancer with the same
// tables, which worker has acknowledged what, the memory of it all.
nlohmann::json report_generation(const Daemon& daemon);

// Resident memory of this process in bytes, and of that what it does not share with others (the segments are
// shared); 0 when the kernel does not say.
struct ProcessMemory {
  uint64_t resident_bytes = 0;
  uint64_t private_bytes = 0;
};
ProcessMemory process_memory();
// Of the tables of all services: names and lookup tables, whatever their order in the configuration.
uint64_t tables_checksum(const Daemon& daemon);

// "serving", "panic", "sorry", "no-quorum" (and serving all the same), "down" (nobody takes new flows),
// "disabled".
const char* state_of(const Service& service);
// Why this backend takes no new flows; empty when it does.
std::string why_no_new_flows(const Service& service, const Backend& backend);
// A backend that drains, until --reset-after.
std::optional<double> seconds_to_reset(const Daemon& daemon, const Service& service, const Backend& backend);
nlohmann::json report_next_hop(const NextHop& hop);

}  // namespace sluice
