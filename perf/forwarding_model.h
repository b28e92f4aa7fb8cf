// A model of many services, every backend up and its next hop known: what benchmarks compile and publish.
#pragma once

#include <cassert>
#include <cstdint>
#include <string>

#include "controlplane/compile.h"
#include "controlplane/model.h"
#include "src/tables.h"
#include "src/wire.h"

namespace sluice::perf {

struct Shape {
  uint32_t services = 1;
  uint32_t backends = 100;  // of each service
  Family vip = Family::v4;
  Family backend = Family::v4;
  Forward forward = Forward::ipip;
  Affinity affinity = Affinity::connection;
  uint32_t clients = 0;  // that take turns; 0: few, with thousands of flows each
};

inline constexpr uint16_t kServicePort = 80;

// Service i's VIP: 203.0.113.1 + i, 2001:db8::1 + i.
inline IpAddress numbered(Family family, const char* v4, const char* v6, uint32_t i) {
  IpAddress address = *IpAddress::parse(family == Family::v4 ? v4 : v6);
  uint32_t last;
  std::memcpy(&last, &address.bytes[12], 4);
  last = net32(net32(last) + i);
  std::memcpy(&address.bytes[12], &last, 4);
  return address;
}
inline IpAddress vip_of(const Shape& shape, uint32_t i) {
  return numbered(shape.vip, "203.0.113.1", "2001:db8::1", i);
}

inline Config make_config(const Shape& shape) {
  Config config;
  for (uint32_t i = 0; i < shape.services; i++) {
    ServiceConfig& service = config.services.emplace_back();
    service.name = "service-" + std::to_string(i);
    service.vip = vip_of(shape, i);
    service.port = kServicePort;
    service.protocol = wire::kProtoTcp;
    service.forward = shape.forward;
    service.affinity = shape.affinity;
    service.health.type = HealthConfig::Type::none;
    for (uint32_t j = 0; j < shape.backends; j++) {
      const IpAddress address = numbered(shape.backend, "10.0.0.1", "fd00::1", i * shape.backends + j);
      service.backends.push_back({"backend-" + std::to_string(j), address, limits::kWeightDefault});
    }
  }
  return config;
}

// The model of `shape`, with ids; nothing is published yet.
inline Model make_model(const Shape& shape, const Publisher& publisher) {
  Model model;
  reconcile(model, make_config(shape));
  const bool assigned = static_cast<bool>(assign_ids(model, publisher.current(), 0, 0));
  assert(assigned);
  for (Service& service : model.edit_all()) {
    for (Backend& backend : service.backends) {
      NextHop& hop = backend.next_hop;
      hop.resolved = true;
      hop.mac = *MacAddress::parse("02:00:00:00:0d:01");
      hop.source_mac = *MacAddress::parse("02:00:00:00:0b:01");
      hop.source = *IpAddress::parse(backend.config.address.is_v4() ? "10.0.0.254" : "fd00::fe");
    }
  }
  return model;
}

}  // namespace sluice::perf
