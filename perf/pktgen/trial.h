// One trial: what to send for how long, and what came of it. The JSON both ways is defined here.
//
// Request (defaults in brackets):
//   {"flows": 1000000, "order": "uniform" | "zipf" | "sequential", "churn": 0.0, "syn_flood": 0.0, "seed": 1,
//    "frame": 64 | "imix", "rate": 0, "seconds": 1.0, "packets": 0, "forget": false,
//    "path": "macswap" | "ipip" | "l2dsr", "station": "02:..:01",
//    "vips": [{"address": "203.0.113.1", "port": 80}], "backends": [{"address": "...", "mac": "...", "vip":
//    0}]}
// Answer: {"error": text}, or what trial_json (trial.cc) writes.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "perf/pktgen/latency.h"
#include "src/address.h"
#include "src/result.h"

namespace sluice::pktgen {

enum class Order : uint8_t { uniform, zipf, sequential };

// What the target does to a packet, which says where to look for its backend.
enum class Path : uint8_t {
  macswap,  // nothing but the MAC addresses: there is no backend
  ipip,     // an outer IPv4 or IPv6 header whose destination is the backend
  l2dsr,    // the destination MAC is the backend's
};

struct Vip {
  IpAddress address;
  uint16_t port = 80;
};

struct BackendTarget {
  IpAddress address;
  MacAddress mac;    // the next hop's: where its frames must be sent to
  uint32_t vip = 0;  // position in Trial::vips: whose packets it may get
};

struct Trial {
  static constexpr uint32_t kFlowsMax =
      (1u << 27) - 1;  // the number behind the last one marks a flood's packets
  static constexpr uint32_t kBackendsMax = 16'384;
  static constexpr uint32_t kVipsMax = 1'024;

  uint32_t flows = 1'000'000;
  Order order = Order::uniform;
  double churn =
      0;  // share of packets that are the first of a new flow, in the place of one that ends by FIN
  double syn_flood = 0;  // share of packets that are SYNs of flows never heard of again
  uint64_t seed = 1;
  // Frame sizes, each as often as it is named, in turn. With the 4 bytes of check sequence, as RFC 2544 9
  // counts; in memory a frame is that much shorter.
  std::vector<uint16_t> frame_bytes = {64};
  uint64_t rate_pps = 0;  // 0: as fast as the target takes them
  double seconds = 1;
  uint64_t packets = 0;  // not 0: ends after as many
  bool forget = false;   // start with no flow begun; else flows go on from the last trial
  Path path = Path::macswap;
  MacAddress station{{0x02, 0, 0, 0, 0, 0x01}};  // destination of the frames: the target's port
  std::vector<Vip> vips;                         // all of one family
  std::vector<BackendTarget> backends;

  static Result<Trial> parse(std::string_view json);
};

// Counters of packets, unless a name says otherwise.
struct Counts {
  uint64_t sent = 0;      // offered to the target: taken by it, or dropped because its receive ring was full
  uint64_t received = 0;  // came back
  uint64_t ring_full = 0;
  uint64_t syn = 0;
  uint64_t fin = 0;
  uint64_t flood = 0;         // of the SYNs
  uint64_t bytes = 0;         // sent, with check sequence
  uint64_t corrupt = 0;       // lengths, checksums or headers are wrong, or it is no packet of ours
  uint64_t misdelivered = 0;  // to nobody's address, another service's backend, or not the backend's MAC
  uint64_t moved = 0;         // its flow had another backend before
};

struct Outcome {
  Counts counts;
  std::vector<uint64_t> by_backend;  // received, as in Trial::backends
  LatencyHistogram latency;          // TSC cycles
  uint64_t elapsed_tsc = 0;          // from the first packet to the last one offered
  uint64_t tsc_hz = 0;
  double ring_fill =
      0;  // mean share of the target's receive ring that was full: near 1, it was the target's pace
  uint64_t late_packets = 0;  // given up, never offered: the generator was too slow for the rate
  uint64_t held_up_tsc =
      0;  // with a rate: somebody else had the generator's CPU, and the trial was that much longer
  uint64_t longest_gap_tsc = 0;  // between two turns of the generator's loop
  uint64_t mbufs_missing = 0;    // not back after the trial, whoever has them
};

std::string trial_json(const Outcome& outcome);

}  // namespace sluice::pktgen
