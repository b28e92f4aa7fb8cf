// The desired state: the configuration joined with what was decided and seen at run time.
//
// Owner: sluiced's one thread; sluice-replay builds one for itself. `compile` (compile.h) turns it into
// tables. Health, admin state and weight are three separate things: a backend takes new flows only when all
// three agree, and keeps its old ones unless it failed or is in maintenance.
//
// What changes the model is noted in it, so that compile looks at nothing else: there is no way to change it
// that is not one of Model's own functions.
#pragma once

#include <algorithm>
#include <compare>
#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "controlplane/config.h"
#include "controlplane/policy.h"
#include "src/address.h"
#include "src/tables.h"

namespace sluice {

// Where packets to a backend leave the host, as the kernel's routes and neighbours say (neighbours.h).
struct NextHop {
  bool resolved = false;
  uint32_t ifindex = 0;       // egress interface
  uint32_t mtu_bytes = 1500;  // its MTU, or the route's if that is smaller
  uint16_t port = 0;          // index in the data plane's list of ports
  MacAddress mac;             // of the gateway or the backend
  MacAddress source_mac;      // of the egress interface
  IpAddress source;           // the kernel's choice of source address towards the backend
  std::string
      why_not;  // for the operator, when unresolved: "no route to host", "no neighbour entry yet", ...

  bool operator==(const NextHop&) const = default;
};

// Not given an id yet (assign_ids, compile.h); kNoService says so for a service.
inline constexpr BackendId kUnassignedBackend{0xffffffff};

struct Backend {
  BackendId id = kUnassignedBackend;
  BackendConfig config;
  Admin admin = Admin::ready;
  Health health = Health::unknown;
  std::optional<uint32_t> weight_override;  // by `sluice backend weight`
  NextHop next_hop;
  std::string
      check_result;  // HAProxy's codes: L4OK L4TOUT L4CON L7OK L7STS L7RSP L7TOUT; "" before the first check
  std::string check_detail;  // "Connection refused", "HTTP status 503"
  uint64_t check_duration_us = 0;
  uint64_t health_since_ns = 0;  // CLOCK_MONOTONIC of the last change of health
  Flaps flaps;
  // Slow start. Below kRampWhole: its weight ramps up.
  uint32_t ramp_permille = kRampWhole;
  uint64_t ramp_since_ns = 0;
  // It was out, or is new among others: its weight ramps when it next may serve.
  bool starts_cold = false;
  bool suspect = false;  // SYNs to it are repeated without progress (syn_watch.h)

  uint32_t weight() const { return weight_override.value_or(config.weight); }
  bool ramps() const { return ramp_permille < kRampWhole; }
  // What its lookup table is built with.
  uint32_t weight_in_force() const {
    const uint32_t whole = weight();
    return ramps() && whole > 0 ? std::max(1u, whole * ramp_permille / kRampWhole) : whole;
  }
};

struct Service {
  ServiceId id = kNoService;
  ServiceConfig config;
  std::vector<Backend> backends;  // in the file's order
  Standing standing;              // as of the last Model::settle
  uint64_t ramp_beat = 0;         // of its last ramp step
  Scale scale = Scale::ok;        // as last told (scale_watch.h)

  // Its flows stay with it.
  bool keeps_flows(const Backend& b) const {
    return !is_out(b.admin) && (counts_as_up(b) || config.policy.on_failure == OnFailure::keep);
  }
  // New flows may go to it.
  bool takes_new(const Backend& b) const {
    return b.admin == Admin::ready && counts_as_up(b) && b.weight() > 0 && b.next_hop.resolved &&
           b.config.sorry == standing.sorry_serves;
  }
  bool counts_as_up(const Backend& b) const {
    return is_healthy(b) || (!b.config.sorry && (standing.panic || (standing.holds_ignored && seems_up(b))));
  }
  // By its own checks alone, and not kept down for flapping.
  bool is_healthy(const Backend& b) const { return seems_up(b) && !b.flaps.held(); }
  bool seems_up(const Backend& b) const {
    if (config.health.type == HealthConfig::Type::none) return true;
    return b.health == Health::up || (b.health == Health::unknown && config.initially_up);
  }
};

// Where a backend is in the model. Holds until the next edit_all.
struct BackendPlace {
  uint32_t service;  // position in Model::services()
  uint32_t backend;  // position in Service::backends

  auto operator<=>(const BackendPlace&) const = default;
};

// What changes of backends came to, for the log and for whoever listens.
struct News {
  enum class Kind : uint8_t {
    panic,
    panic_over,
    quorum_down,
    quorum_up,
    sorry,
    sorry_over,
    flapping,  // of a backend, as is the next
    stable,
  };
  Kind kind;
  std::string service;
  std::string backend;   // empty: of the service
  uint64_t hold_ns = 0;  // flapping: for how long it is kept down
};

class Model {
 public:
  const std::string& secret() const { return secret_; }
  const std::vector<Service>& services() const { return services_; }  // in the file's order
  const Service& service_of(BackendPlace at) const { return services_[at.service]; }
  const Backend& backend(BackendPlace at) const { return services_[at.service].backends[at.backend]; }
  // nullptr: no such thing. Valid until the model changes. A walk over all: not for each change.
  const Service* find_service(std::string_view name) const;
  const Backend* find_backend(std::string_view service, std::string_view backend) const;

  // ---- One backend changes: compile looks at this one, and builds its service's table if that differs ----
  void set_admin(BackendPlace at, Admin admin, uint64_t now_ns);  // maintenance: its health starts anew
  void set_weight(BackendPlace at, uint32_t weight);  // by an operator; the file's own weight is no override
  // Begins and ends what follows from it: a hold for flapping, a ramp of its weight.
  void set_health(BackendPlace at, Health health, uint64_t now_ns);
  void set_next_hop(BackendPlace at, const NextHop& hop);
  // What is on its place again as it was: `before` is a copy of this very backend.
  void put_back(BackendPlace at, Backend before);

  // What a check saw, what the data plane saw: no part of the tables.
  void note_check(BackendPlace at, std::string result, std::string detail, uint64_t duration_us);
  void note_suspect(BackendPlace at, bool suspect);

  // ---- Time passes ----
  // Ends the holds that are over, and moves the ramps of services whose beat has come, at most `ramps_max`
  // services (a table build each); the others' turn is the next call. True: something may have changed.
  bool advance(uint64_t now_ns, uint32_t ramps_max);
  // After a new configuration: ramps of backends that came with it and may serve at once.
  void begin_ramps(uint64_t now_ns);

  // ---- Services ----
  // Makes the services' standing follow their backends. compile does it first of all, so that backends that
  // change together are judged together.
  void settle();
  // What was told of how full it is; `service`: its position. The next generation tells a successor.
  void set_scale(uint32_t service, Scale scale);
  // Since the last call, in order.
  std::vector<News> take_news() { return std::exchange(news_, {}); }

  // ---- Anything may change: the next compile looks at everything ----
  // Use the reference at once; it must not be kept over a compile.
  std::vector<Service>& edit_all();
  void set_secret(std::string secret);
  // Of the operators' decisions that are in it: the next generation carries it. Changes nothing by itself.
  void set_overrides_edition(uint64_t edition) { overrides_edition_ = edition; }
  uint64_t overrides_edition() const { return overrides_edition_; }
  // Another number after each edit_all: what depends on the set of services and backends, and their
  // configuration, holds while it stays.
  uint64_t edition() const { return edition_; }

  // ---- For compile ----
  // The generation in which all of this was found, except for what changed() names. {0, 0}: none.
  struct Base {
    uint64_t incarnation = 0;  // of the tables segment
    uint64_t generation = 0;
    bool operator==(const Base&) const = default;
  };
  const Base& base() const { return base_; }
  const std::set<BackendPlace>& changed() const { return changed_; }
  void is_published_in(const Base& base);
  // The same, but only these of changed() were found in it.
  void is_published_in(const Base& base, std::span<const BackendPlace> found);

 private:
  Backend& change(BackendPlace at);
  // The same for what others of its service may depend on.
  Backend& change_standing(BackendPlace at);
  void may_serve(BackendPlace at, bool took_new, uint64_t now_ns);
  void begin_ramp(BackendPlace at, bool took_new, uint64_t now_ns);
  bool move_ramps(uint64_t now_ns, uint32_t services_max);
  bool move_ramps_of(uint32_t service, uint64_t now_ns);
  bool end_holds(uint64_t now_ns);
  void find_timed();
  void settle(uint32_t service);
  void tell(News::Kind kind, const Service& service);

  std::string secret_;
  std::vector<Service> services_;
  uint64_t edition_ = 0;
  uint64_t overrides_edition_ = 0;
  Base base_;
  std::set<BackendPlace> changed_;  // since base_; each at most once, however often it changes
  std::set<uint32_t> unsettled_;    // services; all of them while base_ is none
  std::vector<News> news_;
  // Backends that time changes: those that are held, and those that ramp. After edit_all to be found again.
  bool timed_known_ = false;
  std::set<BackendPlace> held_;
  std::set<BackendPlace> ramping_;
  uint32_t ramps_from_ = 0;  // whose turn it is when there are too many
};

// Makes the model what a newly loaded configuration says. Services and backends of the same name keep their
// id, health and next hop, and the operator's weight and admin state unless the file's changed;
// new ones start without an id (call assign_ids next), what is gone is gone. Two things follow from "nothing
// is lost by a reload": a backend that counted as up keeps doing so under changed checks until one of them
// says otherwise; and a backend whose address changed is another machine: its health and next hop start anew.
void reconcile(Model& model, const Config& config);

}  // namespace sluice
