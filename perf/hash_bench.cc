// The pieces every packet pays for: flow hash, lookup slot, checksums. Items are packets; keys are in the L1
// cache and independent of each other, as in a batch.
#include <array>
#include <cassert>
#include <cstdint>
#include <random>
#include <vector>

#include "perf/cycles.h"
#include "src/checksum.h"
#include "src/flow_key.h"
#include "src/size_limits.h"
#include "src/wire.h"

namespace sluice {
namespace {

template <typename Key>
std::array<Key, limits::kBatchMax> random_keys() {
  std::mt19937 random(1);
  std::array<Key, limits::kBatchMax> keys;
  for (Key& key : keys) {
    key.source_port = static_cast<uint16_t>(random());
    key.destination_port = net16(80);
    key.protocol = wire::kProtoTcp;
  }
  return keys;
}

// Runs `step(i)` over batches, and reports cycles of one.
template <typename Step>
void over_batches(benchmark::State& state, Step step) {
  constexpr uint64_t kBatches = 64;
  perf::CycleMeter meter;
  for ([[maybe_unused]] auto _ : state) {
    meter.start();
    for (uint64_t batch = 0; batch < kBatches; batch++) {
      for (uint32_t i = 0; i < limits::kBatchMax; i++)
        step(i);
      benchmark::ClobberMemory();
    }
    meter.stop();
  }
  perf::report(state, meter.total(),
               static_cast<uint64_t>(state.iterations()) * kBatches * limits::kBatchMax);
}

template <typename Key>
void flow_hash_of(benchmark::State& state) {
  const HashSecret secret = HashSecret::from_text(kDefaultSecretText);
  const auto keys = random_keys<Key>();
  assert(flow_hash(keys[0], secret) != flow_hash(keys[1], secret));
  std::array<uint64_t, limits::kBatchMax> hashes;
  over_batches(state, [&](uint32_t i) {
    hashes[i] = flow_hash(keys[i], secret);
    benchmark::DoNotOptimize(hashes[i]);
  });
}
BENCHMARK(flow_hash_of<FlowKey4>)->Name("flow_hash/ipv4");
BENCHMARK(flow_hash_of<FlowKey6>)->Name("flow_hash/ipv6");

void select_slot(benchmark::State& state) {
  const HashSecret secret = HashSecret::from_text(kDefaultSecretText);
  const auto keys = random_keys<FlowKey4>();
  std::vector<uint16_t> table(limits::kLookupSlotsDefault);
  for (size_t slot = 0; slot < table.size(); slot++)
    table[slot] = static_cast<uint16_t>(slot % 100);
  std::array<uint64_t, limits::kBatchMax> hashes;
  for (uint32_t i = 0; i < limits::kBatchMax; i++)
    hashes[i] = flow_hash(keys[i], secret);
  over_batches(state, [&](uint32_t i) {
    uint16_t position = table[lookup_slot(hashes[i], limits::kLookupSlotsDefault)];
    assert(position < 100);
    benchmark::DoNotOptimize(position);
  });
}
BENCHMARK(select_slot)->Name("lookup_slot");

void header_checksum(benchmark::State& state) {
  std::array<wire::Ipv4, limits::kBatchMax> headers{};
  for (wire::Ipv4& header : headers)
    header.version_ihl = 0x45;
  assert(checksum_finish(checksum_add(0, &headers[0], sizeof headers[0])) == net16(0xbaff));
  over_batches(state, [&](uint32_t i) {
    uint16_t checksum = checksum_finish(checksum_add(0, &headers[i], sizeof headers[i]));
    benchmark::DoNotOptimize(checksum);
  });
}
BENCHMARK(header_checksum)->Name("checksum/ipv4_header");

void checksum_step(benchmark::State& state) {
  std::array<uint16_t, limits::kBatchMax> checksums{};
  assert(checksum_update(net16(0xbaff), net16(0), net16(1)) == net16(0xbafe));
  over_batches(state, [&](uint32_t i) {
    checksums[i] = checksum_update(checksums[i], net16(0x4006), net16(0x3f06));
    benchmark::DoNotOptimize(checksums[i]);
  });
}
BENCHMARK(checksum_step)->Name("checksum/update");

}  // namespace
}  // namespace sluice
