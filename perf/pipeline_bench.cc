// The worker's whole pipeline without a NIC: parse, classify, track, rewrite, account. Items are packets.
//
// What is measured lies between "the burst is received" and "the burst goes to the port", batches of 64, each
// flow's packets equally likely and in random order. Before each batch, and not measured, frames are written
// into the next 64 of 1,024 buffers, as a NIC would: they are in the cache, as with its direct cache
// access. What the port costs on top is perf/testpmd_floor.py.
#include <sys/mman.h>

#include <cassert>
#include <cstdint>
#include <cstring>
#include <memory>
#include <random>
#include <vector>

#include "dataplane/pipeline.h"
#include "perf/cycles.h"
#include "perf/forwarding_model.h"
#include "src/flow_layout.h"

namespace sluice {
namespace {

constexpr uint32_t kBuffers = 1024;
constexpr uint32_t kBufferBytes =
    2368;  // an mbuf of the default size: not a power of two, or all headers share L1 sets
constexpr uint32_t kFrameBytes = 64;     // on the wire with its checksum, which no buffer holds
constexpr uint32_t kCapturedBytes = 60;  // IPv4; IPv6 with TCP needs 74
constexpr uint32_t kNowS = 1000;

// Zeroed memory in big pages where the kernel gives them, as the data plane asks for.
template <typename T>
class BigArray {
 public:
  explicit BigArray(size_t count) : bytes_((count * sizeof(T) + kAlign - 1) / kAlign * kAlign) {
    void* memory = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert(memory != MAP_FAILED);
    madvise(memory, bytes_, MADV_HUGEPAGE);
    std::memset(memory, 0, bytes_);
    data_ = static_cast<T*>(memory);
  }
  ~BigArray() { munmap(data_, bytes_); }
  BigArray(const BigArray&) = delete;
  BigArray& operator=(const BigArray&) = delete;
  T* data() { return data_; }

 private:
  static constexpr size_t kAlign = 2 << 20;
  size_t bytes_;
  T* data_;
};

// A frame to service 0 as the clients of the benchmark send it; flow n differs in source address and port.
class FrameMaker {
 public:
  explicit FrameMaker(const perf::Shape& shape) : v4_(shape.vip == Family::v4) {
    auto& ethernet = *reinterpret_cast<wire::Ethernet*>(frame_);
    ethernet.ether_type = net16(v4_ ? wire::kEtherIpv4 : wire::kEtherIpv6);
    const IpAddress vip = perf::vip_of(shape, 0);
    uint8_t* ip = frame_ + sizeof ethernet;
    if (v4_) {
      auto& header = *reinterpret_cast<wire::Ipv4*>(ip);
      header.version_ihl = 0x45;
      header.total_length = net16(sizeof(wire::Ipv4) + sizeof(wire::Tcp));
      header.flags_fragment = net16(wire::kIpv4Df);
      header.ttl = 64;
      header.protocol = wire::kProtoTcp;
      header.destination = vip.v4_network_order();
    } else {
      auto& header = *reinterpret_cast<wire::Ipv6*>(ip);
      header.version_class_flow = net32(6u << 28);
      header.payload_length = net16(sizeof(wire::Tcp));
      header.next_header = wire::kProtoTcp;
      header.hop_limit = 64;
      std::memcpy(header.destination, vip.bytes.data(), 16);
    }
    bytes_ = std::max<uint32_t>(kFrameBytes - 4, transport_at() + sizeof(wire::Tcp));
    auto& tcp = *reinterpret_cast<wire::Tcp*>(frame_ + transport_at());
    tcp.destination_port = net16(perf::kServicePort);
    tcp.data_offset = 5 << 4;
    tcp.flags = wire::kTcpAck;
  }

  uint32_t bytes() const { return bytes_; }
  void write(uint32_t flow, uint8_t* at) {
    const uint32_t source = net32(0xc0000000 + flow / 50'000);
    std::memcpy(frame_ + (v4_ ? 26 : 34), &source, 4);
    reinterpret_cast<wire::Tcp*>(frame_ + transport_at())->source_port =
        net16(static_cast<uint16_t>(1024 + flow % 50'000));
    std::memcpy(at, frame_, bytes_);
  }

 private:
  uint32_t transport_at() const {
    return sizeof(wire::Ethernet) + (v4_ ? sizeof(wire::Ipv4) : sizeof(wire::Ipv6));
  }
  bool v4_;
  uint32_t bytes_;
  alignas(64) uint8_t frame_[128] = {};
};

class Rig {
 public:
  Rig(const perf::Shape& shape, uint32_t flows)
      : publisher_(Publisher::anonymous()),
        stats_memory_(Segment::anonymous(kStatsSegment, sizeof(StatsSegment))),
        bucket_bits_(bucket_bits_for(std::max<uint64_t>(flows, limits::kFlowsPerWorkerDefault))),
        buckets_(size_t{1} << bucket_bits_),
        flows_(buckets_.data(), bucket_bits_),
        pipeline_(flows_, stats()),
        buffers_(size_t{kBuffers} * kBufferBytes),
        maker_(shape),
        flows_count_(flows) {
    const Model model = perf::make_model(shape, publisher_);
    const bool compiled = static_cast<bool>(compile(model, publisher_, nullptr));
    assert(compiled);
    // Every flow twice: it is tracked and confirmed.
    for (uint32_t round = 0; round < 2; round++) {
      for (uint32_t flow = 0; flow < flows;) {
        batch_.clear();
        for (; flow < flows && batch_.count < limits::kBatchMax; flow++)
          receive(flow);
        run();
      }
    }
  }

  WorkerStats& stats() { return stats_memory_.as<StatsSegment>().workers[0]; }

  void receive_random() {
    batch_.clear();
    while (batch_.count < limits::kBatchMax)
      receive(static_cast<uint32_t>(random_() % flows_count_));
  }
  void run() {
    pipeline_.process(batch_, publisher_.current(), kNowS);
    pipeline_.account(batch_);
  }
  const Batch& batch() const { return batch_; }

 private:
  void receive(uint32_t flow) {
    uint8_t* data = buffers_.data() + size_t{next_buffer_} * kBufferBytes + 128;
    next_buffer_ = (next_buffer_ + 1) % kBuffers;
    maker_.write(flow, data);
    batch_.add(data, maker_.bytes(), maker_.bytes(), 128, 0);
  }

  Publisher publisher_;
  Segment stats_memory_;
  uint32_t bucket_bits_;
  BigArray<FlowBucket> buckets_;
  FlowTable flows_;
  Pipeline pipeline_;
  BigArray<uint8_t> buffers_;
  FrameMaker maker_;
  uint32_t flows_count_;
  uint32_t next_buffer_ = 0;
  std::minstd_rand random_;
  Batch batch_;
};

void pipeline(benchmark::State& state, perf::Shape shape) {
  const auto flows = static_cast<uint32_t>(state.range(0));
  Rig rig(shape, flows);
  const uint64_t tracked = rig.stats().flows.active.get();
  assert(tracked + rig.stats().flows.untracked.get() / 2 >= flows * 999ull / 1000);
  const uint64_t forwarded_before = rig.stats().packets.forwarded.get();

  perf::CycleMeter meter;
  for ([[maybe_unused]] auto _ : state) {
    rig.receive_random();
    meter.start();
    rig.run();
    meter.stop();
  }
  const uint64_t packets = static_cast<uint64_t>(state.iterations()) * limits::kBatchMax;
  assert(rig.stats().packets.forwarded.get() - forwarded_before == packets);
  assert(rig.stats().packets.received.get() == rig.stats().packets.forwarded.get());
  perf::report(state, meter.total(), packets);
  state.counters["flows_tracked"] = static_cast<double>(tracked);
}

void flows(benchmark::internal::Benchmark* benchmark) {
  benchmark->Arg(1)->Arg(10'000)->Arg(1'000'000)->ArgName("flows");
}
BENCHMARK_CAPTURE(pipeline, ipip_4in4, {1, 100, Family::v4, Family::v4, Forward::ipip})->Apply(flows);
BENCHMARK_CAPTURE(pipeline, ipip_6in6, {1, 100, Family::v6, Family::v6, Forward::ipip})->Apply(flows);
BENCHMARK_CAPTURE(pipeline, l2dsr_4, {1, 100, Family::v4, Family::v4, Forward::l2dsr})->Apply(flows);

}  // namespace
}  // namespace sluice
