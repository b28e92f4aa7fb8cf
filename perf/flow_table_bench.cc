// The flow table by itself, beside DPDK's rte_hash with the same keys, and beside a bare prefetched loop over
// as much memory (table_bench.h says what is measured). Items are flows.
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_hash.h>
#include <rte_hash_crc.h>
#include <sched.h>

#include <array>
#include <cassert>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <set>
#include <stdexcept>
#include <string>
#include <vector>

#include "dataplane/flow_table.h"
#include "perf/big_array.h"
#include "perf/table_bench.h"

namespace sluice {
namespace {

using perf::kBatch;
using perf::key_of;
using perf::Keys;
using perf::kPrepared;

constexpr uint32_t kNowS = 1000;
constexpr uint32_t kIdleTimeoutS = 900;

// ---- Ours

struct Ours {
  explicit Ours(uint64_t flows)
      : bits(bucket_bits_for(flows)), buckets(size_t{1} << bits), table(buckets.data(), bits) {}

  uint64_t hash(const FlowKey4& key) const { return flow_hash(key, secret); }
  void clear() { table.clear(); }
  // Adds what is not there, as a worker does for a SYN of an unknown flow. Returns how many have a place.
  template <uint32_t kStep = kBatch>
  uint32_t insert(const FlowKey4* keys, uint32_t count) {
    uint32_t placed = 0;
    uint64_t hashes[kStep];
    for (uint32_t first = 0; first < count; first += kStep) {
      const uint32_t step = std::min(kStep, count - first);
      for (uint32_t i = 0; i < step; i++) {
        hashes[i] = hash(keys[first + i]);
        table.prefetch(hashes[i]);
      }
      for (uint32_t i = 0; i < step; i++)
        if (table.may_be_away(hashes[i])) table.prefetch_other(hashes[i]);
      for (uint32_t i = 0; i < step; i++) {
        if (table.find(hashes[i])) {
          placed++;
          continue;
        }
        const auto never = [](FlowTable::Place) { return false; };
        const FlowTable::NewFlow flow = {hashes[i], BackendId{7}, FlowState::established, kIdleTimeoutS};
        placed += table.insert(flow, kNowS, never).place ? 1 : 0;
      }
    }
    return placed;
  }
  // How many of the keys are there; prefetched kDistance ahead. In two passes, as dataplane/track.cc.
  template <uint32_t kDistance>
  uint32_t lookup(const FlowKey4* keys, uint32_t count) const {
    uint32_t found = 0;
    uint64_t hashes[kDistance];
    uint64_t away[kPrepared];
    uint32_t away_count = 0;
    const auto look = [&](uint64_t one) {
      if (const FlowTable::Place place = table.find_home(one)) [[likely]] {
        found += place.backend() == BackendId{7} ? 1 : 0;
      } else {
        table.prefetch_other(one);
        away[away_count++] = one;
      }
    };
    for (uint32_t i = 0; i < kDistance; i++) {
      hashes[i] = hash(keys[i]);
      table.prefetch(hashes[i]);
    }
    for (uint32_t i = kDistance; i < count; i++) {
      uint64_t& one = hashes[i % kDistance];
      look(one);
      one = hash(keys[i]);
      table.prefetch(one);
    }
    for (uint32_t i = 0; i < kDistance; i++)
      look(hashes[(count + i) % kDistance]);
    for (uint32_t i = 0; i < away_count; i++) {
      const FlowTable::Place place = table.find(away[i]);
      found += place && place.backend() == BackendId{7} ? 1 : 0;
    }
    return found;
  }

  size_t bytes() const { return buckets.bytes(); }
  const char* pages() const { return buckets.pages(); }

  HashSecret secret = HashSecret::from_text(kDefaultSecretText);
  uint32_t bits;
  perf::BigArray<FlowBucket> buckets;
  FlowTable table;
};

// ---- rte_hash

// DPDK's memory, on the CPU this process is already on.
void start_eal() {
  static const bool started = [] {
    const char* no_huge = std::getenv("SLUICE_NO_HUGE");
    std::vector<std::string> words = {"flow_table_bench",  "--no-pci", "--no-telemetry",
                                      "--log-level=error", "--lcores", "0@" + std::to_string(sched_getcpu())};
    if (no_huge != nullptr && *no_huge != '\0') {
      words.insert(words.end(), {"--no-huge", "-m", "1024", "--no-shconf"});
    } else {
      words.push_back("--in-memory");
    }
    std::vector<char*> argv;
    for (std::string& word : words)
      argv.push_back(word.data());
    return rte_eal_init(static_cast<int>(argv.size()), argv.data()) >= 0;
  }();
  if (!started) throw std::runtime_error("DPDK does not start: reserve hugepages, or set SLUICE_NO_HUGE=1");
}

struct RteHash {
  explicit RteHash(uint64_t flows) {
    start_eal();
    rte_hash_parameters parameters{};
    parameters.name = "flows";
    parameters.entries =
        static_cast<uint32_t>(flows + flows / 16);  // a cuckoo table is not filled to the brim
    parameters.key_len = sizeof(FlowKey4);
    parameters.hash_func = rte_hash_crc;
    table = rte_hash_create(&parameters);
    if (table == nullptr)
      throw std::runtime_error(std::string("rte_hash_create: ") + rte_strerror(rte_errno));
  }
  ~RteHash() { rte_hash_free(table); }
  RteHash(const RteHash&) = delete;
  RteHash& operator=(const RteHash&) = delete;

  void clear() { rte_hash_reset(table); }
  uint32_t insert(const FlowKey4* keys, uint32_t count) {
    uint32_t placed = 0;
    for (uint32_t i = 0; i < count; i++)
      placed += rte_hash_add_key_data(table, &keys[i], reinterpret_cast<void*>(7)) == 0 ? 1 : 0;
    return placed;
  }
  template <uint32_t kStep>
  uint32_t lookup(const FlowKey4* keys, uint32_t count) const {
    static_assert(kStep <= RTE_HASH_LOOKUP_BULK_MAX);
    uint32_t found = 0;
    for (uint32_t first = 0; first < count; first += kStep) {
      const void* bulk[kStep];
      void* data[kStep];
      uint64_t hits = 0;
      for (uint32_t i = 0; i < kStep; i++)
        bulk[i] = &keys[first + i];
      rte_hash_lookup_bulk_data(table, bulk, kStep, &hits, data);
      for (uint32_t i = 0; i < kStep; i++)
        found += (hits >> i & 1) != 0 && data[i] == reinterpret_cast<void*>(7) ? 1 : 0;
    }
    return found;
  }

  rte_hash* table;
};

// ---- Steps

// Every flow of a full table is over: what the sweep costs a flow.
void expire(benchmark::State& state, uint64_t flows) {
  Ours& ours = perf::full<Ours>(flows);
  auto keys = std::make_unique<Keys>();
  perf::CycleMeter meter;
  uint64_t expired = 0, tracked = 0;
  for ([[maybe_unused]] auto _ : state) {
    ours.table.clear();
    for (uint64_t flow = 0; flow < flows;) {
      uint32_t count = 0;
      for (; count < kPrepared && flow < flows; count++, flow++)
        (*keys)[count] = key_of(flow);
      tracked += ours.insert(keys->data(), count);
    }
    meter.start();
    ours.table.sweep(ours.table.groups(), UINT32_MAX, kNowS + kIdleTimeoutS + 1, [&](FlowTable::Place) {
      expired++;
      return 0u;
    });
    meter.stop();
  }
  assert(expired == tracked);
  perf::report(state, meter.total(), expired);
  // The next benchmark finds it full again.
  auto all = std::make_unique<Keys>();
  for (uint64_t flow = 0; flow < flows;) {
    uint32_t count = 0;
    for (; count < kPrepared && flow < flows; count++, flow++)
      (*all)[count] = key_of(flow);
    ours.insert(all->data(), count);
  }
}

// The floor: a random line of `bytes`, prefetched a batch ahead, one word of it read.
void random_line(benchmark::State& state, uint64_t bytes) {
  static std::unique_ptr<perf::BigArray<FlowBucket>> memory;
  static uint64_t current_bytes = 0;
  if (current_bytes != bytes) {
    memory.reset();
    memory = std::make_unique<perf::BigArray<FlowBucket>>(bytes / sizeof(FlowBucket));
    current_bytes = bytes;
  }
  const uint64_t lines = bytes / sizeof(FlowBucket);
  const FlowBucket* base = memory->data();
  perf::Random random(3);
  std::array<uint32_t, kPrepared> at;
  perf::CycleMeter meter;
  uint32_t sum = 0;
  for ([[maybe_unused]] auto _ : state) {
    for (uint32_t& one : at)
      one = static_cast<uint32_t>(random.below(lines));
    meter.start();
    for (uint32_t first = 0; first < kPrepared; first += kBatch) {
      for (uint32_t i = first; i < first + kBatch; i++)
        __builtin_prefetch(&base[at[i]], 0, 3);
      for (uint32_t i = first; i < first + kBatch; i++)
        sum += base[at[i]].marks;
    }
    meter.stop();
  }
  assert(sum == 0);
  benchmark::DoNotOptimize(sum);
  perf::report(state, meter.total(), static_cast<uint64_t>(state.iterations()) * kPrepared);
  state.SetLabel(memory->pages());
}

[[maybe_unused]] const bool registered = [] {
  using perf::add;
  constexpr uint64_t kMillion = 1'000'000;
  std::set<uint64_t> floors;
  for (const uint64_t flows :
       {uint64_t{10'000}, uint64_t{100'000}, kMillion, 10 * kMillion, 64 * kMillion, 100 * kMillion}) {
    const std::string count = "/" + std::to_string(flows);
    add("flow_table/lookup" + count, [=](auto& state) { perf::lookup<Ours, kBatch>(state, flows); });
    if (flows <= 64 * kMillion)
      add("rte_hash/lookup" + count, [=](auto& state) { perf::lookup<RteHash, kBatch>(state, flows); });
    // Two sizes may have the same: the smallest table there is.
    if (const uint64_t bytes = sizeof(FlowBucket) << bucket_bits_for(flows); floors.insert(bytes).second)
      add("floor/random_line/" + std::to_string(bytes), [=](auto& state) { random_line(state, bytes); });
    add("flow_table/miss" + count, [=](auto& state) { perf::miss<Ours>(state, flows); });
    if (flows >= 100'000 && flows <= 10 * kMillion) {
      add(
          "flow_table/lookup_by_four" + count, [=](auto& state) { perf::by_four<Ours, false>(state, flows); },
          true);
    }
    if (flows == kMillion || flows == 10 * kMillion) {
      add("flow_table/lookup" + count + "/distance:8",
          [=](auto& state) { perf::lookup<Ours, 8>(state, flows); });
      add("flow_table/lookup" + count + "/distance:16",
          [=](auto& state) { perf::lookup<Ours, 16>(state, flows); });
      add("flow_table/lookup" + count + "/distance:32",
          [=](auto& state) { perf::lookup<Ours, 32>(state, flows); });
      add("rte_hash/lookup" + count + "/batch:32",
          [=](auto& state) { perf::lookup<RteHash, 32>(state, flows); });
      add("rte_hash/miss" + count, [=](auto& state) { perf::miss<RteHash>(state, flows); });
      add(
          "rte_hash/insert" + count, [=](auto& state) { perf::insert<RteHash>(state, flows); }, true);
    }
    add(
        "flow_table/insert" + count, [=](auto& state) { perf::insert<Ours>(state, flows); }, true);
    add(
        "flow_table/expire" + count, [=](auto& state) { expire(state, flows); }, true);
  }
  // As many as the table is made for, to the last one: how many find no place.
  for (const uint64_t flows : {uint64_t{1} << 18, uint64_t{1} << 20, uint64_t{1} << 26}) {
    add(
        "flow_table/fill/" + std::to_string(flows), [=](auto& state) { perf::insert<Ours>(state, flows); },
        true);
  }
  return true;
}();

}  // namespace
}  // namespace sluice
