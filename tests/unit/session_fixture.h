// The pipeline of tracking_fixture.h with a first service whose clients have sessions, for the tests of
// sessions.
#pragma once

#include <map>
#include <stdexcept>
#include <string>

#include "tests/unit/tracking_fixture.h"

namespace sluice::test {

class Sessions : public Tracking {
 protected:
  Sessions() {
    use([](ServiceConfig& web) { web.affinity = Affinity::client; });
  }

  template <typename Edit>
  void use(Edit&& edit) {
    edit(config.services[0]);
    apply();
  }
  static std::string client(uint32_t number) {
    return "198.51." + std::to_string(number / 250) + "." + std::to_string(number % 250 + 1);
  }
  // A connection of its own.
  std::string connect(const std::string& from, uint16_t port = 80) {
    next_port_ = next_port_ == 65'000 ? 1'024 : static_cast<uint16_t>(next_port_ + 1);
    FrameSpec spec = {.source = from.c_str(), .source_port = next_port_, .destination_port = port};
    spec.tcp_flags = wire::kTcpSyn;
    const Seen seen = send(spec);
    if (seen.verdict != Verdict::forward) return seen.backend;
    spec.tcp_flags = wire::kTcpAck;
    EXPECT_EQ(send(spec).backend, seen.backend);
    return seen.backend;
  }
  std::map<std::string, std::string> connect_all(uint32_t clients) {
    std::map<std::string, std::string> homes;
    for (uint32_t i = 0; i < clients; i++)
      homes[client(i)] = connect(client(i));
    return homes;
  }
  void health(const std::string& name, Health health) {
    for (Service& service : model.edit_all()) {
      for (Backend& backend : service.backends) {
        if (backend.config.name == name) backend.health = health;
      }
    }
    publish();
  }
  void checked() {
    use([](ServiceConfig& web) { web.health.type = HealthConfig::Type::tcp; });
  }
  Backend& backend(const std::string& service, const std::string& name) {
    for (Service& found : model.edit_all()) {
      for (Backend& candidate : found.backends) {
        if (found.config.name == service && candidate.config.name == name) return candidate;
      }
    }
    throw std::logic_error("no such backend");
  }
  SessionCounters& counters() { return stats.workers[0].sessions; }
  uint64_t sessions_of(const std::string& service, const std::string& name) {
    return stats.workers[0].sessions_active[index(model.find_backend(service, name)->id)].get();
  }
  // Every session in the table, by the name of its backend.
  std::map<std::string, uint64_t> in_table() {
    std::map<std::string, uint64_t> count;
    each_session(session_lines.data(), kSessionLinesMin, 0, kSessionLinesMin, [&](const SessionSeen& seen) {
      count[publisher.current().backend_cold(seen.session.backend).name]++;
    });
    return count;
  }
  void expect_gauges_true() {
    uint64_t sum = 0;
    for (const auto& [name, count] : in_table()) {
      EXPECT_EQ(sessions_of("web", name), count) << name;
      sum += count;
    }
    EXPECT_EQ(counters().active.get(), sum);
  }
  void sweep_all_sessions() {
    pipeline.tracker().sweep_sessions(kSessionLinesMin, publisher.current(), now_s);
  }

  uint16_t next_port_ = 1'024;
};

}  // namespace sluice::test
