// A batch of packets on its way through the stages, and what each stage learnt about them.
//
// Plain memory: the stages know no mbufs, so tests, fuzzers, benchmarks and sluice-replay run the very same
// code. The worker fills `data`, `bytes`, `contiguous_bytes`, `headroom_bytes` and `in_port`; the stages fill
// the rest, as the members' groups say. A batch belongs to one worker and is used again and again.
#pragma once

#include <algorithm>
#include <cassert>
#include <cstdint>

#include "src/address.h"
#include "src/reason.h"
#include "src/size_limits.h"
#include "src/tables.h"

namespace sluice {

enum class Verdict : uint8_t {
  forward,  // to `backend`, out of `out_port`
  answer,   // turned into an answer to its sender, out of `out_port`
  refused,  // for `reason`: passed or dropped
};

// What the flow table said. A new flow of a service with sessions goes where its session does.
enum class FlowHow : uint8_t {
  hit,         // tracked
  created,     // new, now tracked
  reselected,  // tracked, but its backend is gone: selected afresh
  reused,      // a SYN on a closing flow: selected afresh
  untracked,   // no place in the table, or behind a reset: by the lookup table alone
  reset,       // tracked, but its backend is gone: forgotten, and the client told so
  stateless,   // its service tracks none: by the lookup table alone
};

// One cache line.
struct alignas(64) Packet {
  // From the port.
  uint8_t* data;              // first byte of the Ethernet header; rewriting may move it
  uint32_t bytes;             // the whole frame; rewriting may change it
  uint32_t contiguous_bytes;  // of it, in one piece (the first segment); as received, as are the rest
  uint16_t headroom_bytes;    // writable before `data`
  uint16_t in_port;

  // parse
  Verdict verdict;  // forward until a stage says otherwise, which ends the packet's way
  Reason reason;    // when refused
  Family family;
  uint8_t protocol;   // wire::kProtoTcp or kProtoUdp
  uint8_t tcp_flags;  // 0 for UDP

  FlowHow how;        // track
  uint16_t out_port;  // rewrite

  // parse
  uint16_t source_port;  // network order
  uint16_t destination_port;
  uint32_t ip_bytes;  // IP header and payload, without Ethernet padding

  // classify
  ServiceId service;  // kNoService until known
  uint64_t hash;

  // track
  bool is_keyed;  // of a service with keys: `hash` is the key's
  BackendId backend;
  const BackendRecord* record;  // of `backend`, in the generation that the batch uses
};
static_assert(sizeof(Packet) == 64);

struct Batch {
  // For ports that also hear what is not theirs (net_af_packet, even what we sent): the port's own address;
  // frames to another one are refused. nullptr: the port filters.
  const MacAddress* station = nullptr;
  uint32_t count = 0;
  Packet packets[limits::kBatchMax];
  uint32_t portless_count = 0;  // is_portless: classify has a second look at them

  void clear() { count = 0; }
  Packet& add(uint8_t* data, uint32_t bytes, uint32_t contiguous_bytes, uint16_t headroom_bytes,
              uint16_t in_port) {
    assert(count < limits::kBatchMax);
    Packet& packet = packets[count++];
    packet.data = data;
    packet.bytes = bytes;
    packet.contiguous_bytes = contiguous_bytes;
    packet.headroom_bytes = headroom_bytes;
    packet.in_port = in_port;
    packet.verdict = Verdict::forward;  // until a stage refuses it
    packet.service = kNoService;
    return packet;
  }

  // Runs `step` over the packets that no stage has refused or answered yet, in order.
  template <typename Step>
  void each_live(Step&& step) {
    for (Packet *packet = packets, *end = packets + count; packet < end; packet++) {
      if (packet->verdict == Verdict::forward) [[likely]]
        step(*packet);
    }
  }
};

// Refused because its ports are not to be had, whoever it is for?
inline bool is_portless(const Packet& packet) {
  return packet.verdict == Verdict::refused &&
         (packet.reason == Reason::fragment || packet.reason == Reason::ip_options);
}

// Of a packet as it leaves the stages: how many bytes, from `data` on, are in one piece. (`contiguous_bytes`
// is as received.)
inline uint32_t contiguous_bytes_out(const Packet& packet) {
  switch (packet.verdict) {
    case Verdict::answer:
      return packet.bytes;
    case Verdict::forward:
      return std::min(packet.bytes, packet.contiguous_bytes + packet.record->outer_bytes);
    case Verdict::refused:
      break;
  }
  return std::min(packet.bytes, packet.contiguous_bytes);
}

// For steps: ends a packet's way.
inline bool refuse(Packet& packet, Reason reason) {
  packet.verdict = Verdict::refused;
  packet.reason = reason;
  return false;
}

}  // namespace sluice
