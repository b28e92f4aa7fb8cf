// Models that tests put together: every backend up, ready and with a next hop.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <string>

#include <gtest/gtest.h>

#include "controlplane/compile.h"
#include "controlplane/model.h"
#include "controlplane/publish.h"
#include "src/wire.h"

namespace sluice::models {

inline IpAddress v4(uint32_t host_order) {
  return IpAddress::v4(net32(host_order));
}

// Backends b0, b1, ... at 10.`network`.0.1 and on, VIP 203.0.113.`network`.
inline ServiceConfig service_config(const std::string& name, uint32_t network, uint32_t backends) {
  ServiceConfig config;
  config.name = name;
  config.vip = v4(0xcb007100 + network);
  config.port = 80;
  config.protocol = wire::kProtoTcp;
  config.forward = Forward::ipip;
  for (uint32_t i = 0; i < backends; i++) {
    config.backends.push_back({"b" + std::to_string(i), v4(0x0a000001 + (network << 16) + i), 100});
  }
  return config;
}

inline NextHop next_hop() {
  NextHop hop;
  hop.resolved = true;
  hop.mac = *MacAddress::parse("02:00:00:00:00:01");
  hop.source_mac = *MacAddress::parse("02:00:00:00:00:02");
  hop.source = v4(0xc0a80001);
  return hop;
}

// To change anything of it, at once: the next compile looks at everything.
inline Backend& edit(Model& model, const std::string& service_name, const std::string& backend_name) {
  for (Service& service : model.edit_all()) {
    for (Backend& backend : service.backends) {
      if (service.config.name == service_name && backend.config.name == backend_name) return backend;
    }
  }
  ADD_FAILURE() << "no " << service_name << "/" << backend_name;
  std::abort();
}

inline void bring_up(Model& model) {
  for (Service& service : model.edit_all()) {
    for (Backend& backend : service.backends) {
      backend.health = Health::up;
      backend.next_hop = next_hop();
    }
  }
}

inline void assign(Model& model, const Publisher& publisher, uint64_t now_ns = monotonic_ns(),
                   uint64_t dataplane_since_ns = 0) {
  const Result<Done> assigned = assign_ids(model, publisher.current(), now_ns, dataplane_since_ns);
  ASSERT_TRUE(assigned) << assigned.error().text();
}

inline Model model_of(const Config& config, const Publisher& publisher) {
  Model model;
  reconcile(model, config);
  assign(model, publisher);
  bring_up(model);
  return model;
}

inline Config small_config() {
  Config config;
  config.services = {service_config("web", 1, 3), service_config("api", 2, 2)};
  return config;
}

inline Compiled compiled(Model& model, Publisher& publisher, const StatsSegment* stats = nullptr) {
  const Result<Compiled> done = compile(model, publisher, stats);
  EXPECT_TRUE(done) << done.error().text();
  return done ? *done : Compiled{};
}

}  // namespace sluice::models
