// A worker without NICs: real tables, flow table and pipeline, and packets prepared in memory.
//
// What is measured lies between "the burst is received" and "the burst goes to the port", batches of 64.
// Before each batch, and not measured, frames are written into the next 64 of 1,024 buffers, as a NIC would:
// they are in the cache, as with its direct cache access. What the port costs on top is
// perf/testpmd_floor.py. Time goes on as it does outside, so entries are written as often as in a worker.
#pragma once

#include <cassert>
#include <cstdint>
#include <functional>

#include "dataplane/pipeline.h"
#include "perf/big_array.h"
#include "perf/cycles.h"
#include "perf/forwarding_model.h"
#include "perf/traffic.h"
#include "src/flow_layout.h"

namespace sluice::perf {

class Rig {
 public:
  // A table for `flows` flows, all of them tracked and established.
  Rig(const Shape& shape, uint64_t flows)
      : publisher(Publisher::anonymous(tables_bytes(shape))),
        stats_memory_(Segment::anonymous(kStatsSegment, sizeof(StatsSegment))),
        bucket_bits_(bucket_bits_for(std::max(flows, limits::kFlowsPerWorkerMin))),
        buckets_(size_t{1} << bucket_bits_),
        session_lines_(session_lines_for(sessions_for(shape, flows))),
        table(buckets_.data(), bucket_bits_),
        sessions(session_lines_.data(), session_lines_for(sessions_for(shape, flows))),
        pipeline(table, sessions, stats(), tsc_hz()),
        buffers_(size_t{kBuffers} * kBufferBytes),
        maker_(shape),
        started_(cycles()) {
    model = make_model(shape, publisher);
    const bool compiled = static_cast<bool>(compile(model, publisher, nullptr));
    assert(compiled);
    // Each flow's packets one after the other: it is never without confirmation for long.
    for (uint64_t flow = 0; flow < flows;) {
      batch.clear();
      for (; flow < flows && batch.count < limits::kBatchMax; flow++) {
        receive(flow, wire::kTcpSyn);
        receive(flow, wire::kTcpAck);
      }
      run();
    }
    // At most 1 of 100,000 has no place; at the sizes of tests that is none or one.
    assert((flows - stats().flows.active.get()) * 100'000 <= flows + 100'000);
  }

  WorkerStats& stats() { return stats_memory_.as<StatsSegment>().workers[0]; }
  const StatsSegment& stats_segment() const { return stats_memory_.as<StatsSegment>(); }
  const char* pages() const { return buckets_.pages(); }
  size_t table_bytes() const { return sizeof(FlowBucket) << bucket_bits_; }

  // Fills the batch: `next` gives each packet's flow and sets its TCP flags.
  template <typename Next>
  void receive_batch(Next&& next) {
    batch.clear();
    while (batch.count < limits::kBatchMax) {
      uint8_t tcp_flags = wire::kTcpAck;
      const uint64_t flow = next(tcp_flags);
      receive(flow, tcp_flags);
    }
  }
  // What a worker does with it, but for receiving and sending.
  void run() {
    const TablesView tables = publisher.current();
    const uint64_t tsc = cycles();
    const uint32_t now_s = this->now_s(tsc);
    pipeline.process(batch, tables, now_s);
    pipeline.account(batch);
    stats().acknowledged_generation.store(tables.generation().number, std::memory_order_release);
    pipeline.age(tables, now_s, tsc);
  }
  // A fixed second would leave the entries unwritten.
  uint32_t now_s(uint64_t tsc = cycles()) const {
    return static_cast<uint32_t>(kStartS + (tsc - started_) / tsc_hz());
  }
  // Every packet that was received is accounted for, and was forwarded.
  bool all_forwarded() {
    const PacketSnapshot counted = snapshot(stats());
    return counted.whole && counted.received == counted.forwarded;
  }

  Publisher publisher;
  Model model;

 private:
  // Each service's lookup table, and everything else with room to spare.
  static uint64_t tables_bytes(const Shape& shape) {
    return (uint64_t{64} << 20) + uint64_t{shape.services} * (limits::kLookupSlotsDefault * 2 + 16'384) * 2 +
           uint64_t{shape.services} * shape.backends * 1'024;
  }

  // One for each client, where the service makes any.
  static uint64_t sessions_for(const Shape& shape, uint64_t flows) {
    return std::max(has_sessions(shape.affinity) ? flows : 0, limits::kSessionsMin);
  }

  static constexpr uint32_t kBuffers = 1024;
  // An mbuf of the default size: not a power of two, or all headers share L1 sets.
  static constexpr uint32_t kBufferBytes = 2368;
  static constexpr uint32_t kHeadroomBytes = 128;
  static constexpr uint64_t kStartS = 1000;

  void receive(uint64_t flow, uint8_t tcp_flags) {
    uint8_t* data = buffers_.data() + size_t{next_buffer_} * kBufferBytes + kHeadroomBytes;
    next_buffer_ = (next_buffer_ + 1) % kBuffers;
    maker_.write(flow, tcp_flags, data);
    batch.add(data, maker_.bytes(), maker_.bytes(), kHeadroomBytes, 0);
  }

  Segment stats_memory_;
  uint32_t bucket_bits_;
  BigArray<FlowBucket> buckets_;
  BigArray<SessionLine> session_lines_;

 public:
  FlowTable table;
  SessionTable sessions;
  Pipeline pipeline;
  Batch batch;

 private:
  BigArray<uint8_t> buffers_;
  FrameMaker maker_;
  uint32_t next_buffer_ = 0;
  uint64_t started_;
};

}  // namespace sluice::perf
