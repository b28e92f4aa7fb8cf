// The packet path over a capture file: what a configuration would do to those packets. No EAL, no root.
//
// The very stages and batches of a worker; time is the capture's. Every backend counts as up and its next hop
// as known (ReplayNetwork), until told otherwise. One Replay reads one capture, in order, and keeps its flow
// table over all of it.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "controlplane/config.h"
#include "controlplane/model.h"
#include "controlplane/publish.h"
#include "dataplane/pipeline.h"
#include "src/result.h"
#include "src/segment.h"
#include "src/stats.h"

namespace sluice {

// What the kernel would tell sluiced on a real host.
struct ReplayNetwork {
  MacAddress source_mac;
  MacAddress destination_mac;
  IpAddress tunnel_source4;
  IpAddress tunnel_source6;
  uint32_t mtu_bytes = 1500;
};

class Replay {
 public:
  static Result<std::unique_ptr<Replay>> make(const Config& config, const ReplayNetwork& network);

  // One captured frame: `data` holds the first `captured_bytes` of `bytes`. The number counts from 1.
  // Frames come back, in their order, through `done` when a batch is full, when the second changes, and at
  // flush().
  struct Frame {
    uint64_t number;
    uint64_t time_us;
    std::string
        flow;  // "tcp 198.51.100.7:40001 > 203.0.113.10:80", as received; "" if it could not be parsed
    const Packet* packet;
  };
  using Done = std::function<void(const Frame&)>;
  void add(uint64_t time_us, const uint8_t* data, uint32_t captured_bytes, uint32_t bytes, const Done& done);
  // Before the frame of this number, its checks find that the backend failed. An Error: there is no such
  // backend, or its service has no checks. Before the first add().
  [[nodiscard]] Result<sluice::Done> fail_before(uint64_t number, const std::string& service,
                                                 const std::string& backend);
  void go_on_to(uint32_t second);
  void flush(const Done& done);

  // "forward web/b2 10.0.1.12 (new flow)", "drop truncated: ...": for people.
  std::string verdict_text(const Packet& packet) const;
  PacketSnapshot counters() const { return snapshot(stats_->workers[0]); }

 private:
  Replay(Publisher publisher, Model model);

  struct Pending {
    uint64_t number;
    uint64_t time_us;
    std::string flow;
    std::vector<uint8_t> buffer;
  };

  void let_fail(const Done& done);

  Publisher publisher_;
  Model model_;
  Segment stats_memory_;
  StatsSegment* stats_;
  std::vector<FlowBucket> buckets_;
  FlowTable flows_;
  std::vector<SessionLine> session_lines_;
  SessionTable sessions_;
  Pipeline pipeline_;
  Batch batch_;
  std::vector<Pending> pending_;  // of the batch, by position
  uint32_t now_s_ = 0;            // of the capture, never going back
  uint64_t count_ = 0;
  std::multimap<uint64_t, BackendPlace> failures_;  // to come, by the frame before which they do
};

}  // namespace sluice
