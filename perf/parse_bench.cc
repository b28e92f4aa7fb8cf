// The first stage by itself: frames in the L1 cache, batches of 64. Items are packets.
#include <array>
#include <cassert>
#include <cstdint>

#include "dataplane/parse.h"
#include "perf/cycles.h"
#include "perf/traffic.h"

namespace sluice {
namespace {

void parse_of(benchmark::State& state, Family family) {
  constexpr uint64_t kBatches = 64;
  constexpr uint32_t kFrameBytes = 128;
  perf::FrameMaker maker(perf::Shape{1, 1, family, family});
  std::array<uint8_t, size_t{kFrameBytes} * limits::kBatchMax> frames;
  Batch batch;
  for (uint32_t i = 0; i < limits::kBatchMax; i++) {
    uint8_t* frame = &frames[size_t{i} * kFrameBytes];
    maker.write(i, wire::kTcpAck, frame);
    batch.add(frame, maker.bytes(), maker.bytes(), limits::kHeadroomBytes, 0);
  }
  perf::CycleMeter meter;
  for ([[maybe_unused]] auto _ : state) {
    meter.start();
    for (uint64_t i = 0; i < kBatches; i++) {
      parse(batch);
      benchmark::ClobberMemory();
    }
    meter.stop();
  }
  for ([[maybe_unused]] const Packet& packet : batch.packets) {
    assert(packet.verdict == Verdict::forward && packet.family == family);
    assert(packet.destination_port == net16(perf::kServicePort));
  }
  perf::report(state, meter.total(),
               static_cast<uint64_t>(state.iterations()) * kBatches * limits::kBatchMax);
}
BENCHMARK_CAPTURE(parse_of, ipv4, Family::v4)->Name("parse/ipv4");
BENCHMARK_CAPTURE(parse_of, ipv6, Family::v6)->Name("parse/ipv6");

}  // namespace
}  // namespace sluice
