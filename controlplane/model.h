// The desired state: the configuration joined with what was decided and seen at run time.
//
// Owner: sluiced's one thread; sluice-replay builds one for itself. Plain data; `compile` (compile.h) turns
// it into tables. Health, admin state and weight are three separate things: a backend takes new flows only
// when all three agree, and keeps its old ones unless it failed or is in maintenance.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "controlplane/config.h"
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
  std::string check_detail;      // "Connection refused", "HTTP status 503"
  uint64_t check_duration_us = 0;
  uint64_t health_since_ns = 0;  // CLOCK_MONOTONIC of the last change of health

  uint32_t weight() const { return weight_override.value_or(config.weight); }
};

struct Service {
  ServiceId id = kNoService;
  ServiceConfig config;
  std::vector<Backend> backends;  // in the file's order

  // Its flows stay with it.
  bool keeps_flows(const Backend& b) const { return b.admin != Admin::maint && counts_as_up(b); }
  // New flows may go to it.
  bool takes_new(const Backend& b) const {
    return b.admin == Admin::ready && counts_as_up(b) && b.weight() > 0 && b.next_hop.resolved;
  }
  bool counts_as_up(const Backend& b) const {
    if (config.health.type == HealthConfig::Type::none) return true;
    return b.health == Health::up || (b.health == Health::unknown && config.initially_up);
  }
};

struct Model {
  std::string secret;
  std::vector<Service> services;  // in the file's order

  // nullptr: no such thing. Valid until the model changes.
  Service* find_service(std::string_view name);
  Backend* find_backend(std::string_view service, std::string_view backend);
};

// Makes the model what a newly loaded configuration says. Services and backends of the same name keep their
// id, admin state, health and next hop, and the operator's weight unless the file's weight changed; new ones
// start without an id (call assign_ids next), what is gone is gone. Two things follow from "nothing is lost
// by a reload": a backend that counted as up keeps doing so under changed checks until one of them says
// otherwise; and a backend whose address changed is another machine: its health and next hop start anew.
void reconcile(Model& model, const Config& config);

}  // namespace sluice
