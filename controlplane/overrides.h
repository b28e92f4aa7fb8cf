// What operators decided at run time: apart from the configuration files, laid over them, shown, kept over
// restarts, and written back into a file when somebody asks for it.
//
// An override is about one backend or one service and says only what differs. The same tables may stand in
// any configuration file; written back, they do:
//
//   [[override]]
//   service = "web"
//   backend = "b1"          # without it: about the service
//   weight = 50             # of a backend
//   admin = "drain"         # of a backend: ready | drain | migrate | maint | reset
//   address = "10.0.1.19"   # adds the backend
//   remove = true           # takes the backend, or the service, out
//   enabled = false         # of a service: its VIP is not served
//
// A runtime weight gives way when the files' weight changes: then somebody decided later. So does an added
// backend when the files have one of that name, and a new address when the files name another than before.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include "controlplane/config.h"
#include "src/tables.h"

namespace sluice {

// When a backend that drains becomes `reset`. Of CLOCK_MONOTONIC, so that nobody who sets the wall clock
// makes it early or late, whether sluiced runs meanwhile or not.
struct ResetDeadline {
  uint64_t at_ns = 0;
  uint64_t after_ms = 0;  // as it was asked for

  bool operator==(const ResetDeadline&) const = default;
};

struct Override {
  std::optional<uint32_t> weight;
  std::optional<uint32_t> weight_was;  // the files' weight when it was decided; only at run time
  std::optional<Admin> admin;
  std::optional<ResetDeadline> reset;  // with admin drain or migrate; only at run time
  std::optional<IpAddress> address;
  std::optional<IpAddress> address_was;  // the files', likewise; nothing when they had no such backend
  std::optional<bool> enabled;
  bool remove = false;

  bool is_empty() const { return *this == Override{}; }
  bool operator==(const Override&) const = default;
};

// By service and backend; the backend is empty for one about the service.
using OverrideKey = std::pair<std::string, std::string>;

class Overrides {
 public:
  const std::map<OverrideKey, Override>& entries() const { return entries_; }
  const Override* find(const OverrideKey& key) const;
  // Services that were added, by name: each as a [[service]] table would say it.
  const std::map<std::string, nlohmann::json>& services() const { return services_; }
  bool is_empty() const { return entries_.empty() && services_.empty(); }
  // Those with a deadline.
  const std::set<OverrideKey>& to_reset() const { return to_reset_; }

  void set(const OverrideKey& key, Override entry);  // an empty one: forgets it
  void add_service(const std::string& name, nlohmann::json service);
  void forget_service(const std::string& name);     // with all that is about it
  bool has_service(const std::string& name) const;  // anything about it
  // After a reboot, which begins CLOCK_MONOTONIC anew: no deadline is farther than was asked for. Nor is one
  // early then, as the machine has been up for less than has passed.
  void bound_resets(uint64_t now_ns);

  // As a configuration file would say it: {"service": [...], "override": [...]}.
  nlohmann::json to_json() const;
  // The reverse, from to_json(); faults are left out and told.
  static Overrides from_json(const nlohmann::json& json, std::vector<std::string>& faults);

  bool operator==(const Overrides&) const = default;

 private:
  std::map<OverrideKey, Override> entries_;
  std::map<std::string, nlohmann::json> services_;
  std::set<OverrideKey> to_reset_;
};

// Why this service cannot stand beside those of `config`: its name, its VIP, its group. Empty: it can.
std::string why_no_place(const Config& config, const ServiceConfig& added);

struct OverrideFault {
  OverrideKey key;
  std::string why;
};
// Lays them over the files' configuration, services first. What does not fit is left out and told. Weights
// and admin states are the model's at run time, and not laid over but for those of added backends.
void lay_over(Config& config, const Overrides& overrides, std::vector<OverrideFault>& faults);

// Those that stand in the files themselves: with weights and admin states.
void lay_over_files(Config& config, const Overrides& overrides, std::vector<OverrideFault>& faults);

// What `before` says and `after` says otherwise, or not at all.
Overrides difference(const Overrides& before, const Overrides& after);

// Without what the files have overtaken: they name another weight, have the added backend or service
// themselves, or no longer have what was changed. Each is told in a sentence.
Overrides without_overtaken(const Overrides& overrides, const Config& files, std::vector<std::string>& told);

}  // namespace sluice
