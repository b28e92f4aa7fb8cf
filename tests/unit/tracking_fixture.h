// A worker's pipeline without NICs behind a configuration of two services, for the tests of tracking.
// Configuration changes travel the real way (model, compile, publish) between the packets.
#pragma once

#include <map>
#include <memory>
#include <random>
#include <vector>

#include <gtest/gtest.h>

#include "controlplane/compile.h"
#include "dataplane/pipeline.h"
#include "tests/unit/frames.h"
#include "tests/unit/models.h"

namespace sluice::test {

class Tracking : public ::testing::Test {
 protected:
  Tracking()
      : publisher(Publisher::anonymous()),
        stats_memory(Segment::anonymous(kStatsSegment, sizeof(StatsSegment))),
        stats(stats_memory.as<StatsSegment>()),
        buckets(size_t{1} << kBucketBitsMin),
        flows(buckets.data(), kBucketBitsMin),
        session_lines(kSessionLinesMin),
        sessions(session_lines.data(), kSessionLinesMin),
        pipeline(flows, sessions, stats.workers[0], 1) {
    ServiceConfig web;
    web.name = "web";
    web.vip = *IpAddress::parse("203.0.113.10");
    web.port = 80;
    web.protocol = wire::kProtoTcp;
    web.forward = Forward::ipip;
    for (int i = 1; i <= 4; i++)
      add_backend(web, i);
    ServiceConfig dns = web;
    dns.name = "dns";
    dns.port = 53;
    dns.protocol = wire::kProtoUdp;
    config.services = {web, dns};
    apply();
  }

  static void add_backend(ServiceConfig& service, int i) {
    service.backends.push_back(
        {"b" + std::to_string(i), *IpAddress::parse("10.0.1." + std::to_string(i)), 100});
  }

  // Configuration and model to a new generation; new backends are up and reachable.
  void apply() {
    reconcile(model, config);
    ASSERT_TRUE(assign_ids(model, publisher.current(), monotonic_ns(), 0));
    for (Service& service : model.edit_all()) {
      for (Backend& backend : service.backends) {
        if (backend.health == Health::unknown) backend.health = Health::up;
        backend.next_hop.resolved = true;
        backend.next_hop.source = *IpAddress::parse("10.0.0.1");
      }
    }
    publish();
  }
  void publish() {
    const Result<Compiled> compiled = compile(model, publisher, &stats);
    ASSERT_TRUE(compiled) << compiled.error().text();
    publisher.reclaim(compiled->generation);
  }

  struct Seen {
    Verdict verdict;
    Reason reason;
    std::string backend;  // when forwarded
    FlowHow how;
  };
  Seen send(const FrameSpec& spec) {
    Frame frame = make_frame(spec);
    Batch batch;
    frame.add_to(batch);
    pipeline.process(batch, publisher.current(), now_s);
    pipeline.account(batch);
    const Packet& packet = batch.packets[0];
    Seen seen{packet.verdict, packet.reason, "", packet.how};
    if (packet.verdict == Verdict::forward)
      seen.backend = publisher.current().backend_cold(packet.backend).name;
    return seen;
  }
  std::map<uint16_t, std::string> open_connections(uint16_t count) {
    std::map<uint16_t, std::string> backend_of_port;
    for (uint16_t i = 0; i < count; i++) {
      const auto port = static_cast<uint16_t>(10'000 + i);
      send({.source_port = port, .tcp_flags = wire::kTcpSyn});
      backend_of_port[port] = send({.source_port = port}).backend;
    }
    return backend_of_port;
  }
  void sweep() { pipeline.tracker().sweep(flows.groups(), UINT32_MAX, publisher.current(), now_s); }
  uint64_t active(const std::string& service, const std::string& backend) {
    return stats.workers[0].backends[index(model.find_backend(service, backend)->id)].flows_active.get();
  }

  Config config;
  Model model;
  Publisher publisher;
  Segment stats_memory;
  StatsSegment& stats;
  std::vector<FlowBucket> buckets;
  FlowTable flows;
  std::vector<SessionLine> session_lines;
  SessionTable sessions;
  Pipeline pipeline;
  uint32_t now_s = 1'000;
};

}  // namespace sluice::test
