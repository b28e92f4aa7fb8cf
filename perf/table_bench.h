// What is measured of a table by itself, whichever it is: `flow_table/`, `session_table/`, `rte_hash/`. Keys
// are IPv4 flow keys (16 bytes); their hash is part of every step. They are prepared 1,024 at a time, which
// is not measured, and taken in batches of 64 (other sizes: batch:N).
//
// A Table: constructed for so many entries; clear(); insert(keys, count) -> how many have a place;
// lookup<kStep>(keys, count) -> how many are there; bytes() and pages(), where it knows.
#pragma once

#include <sched.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cassert>
#include <cstdint>
#include <ctime>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "perf/cycles.h"
#include "perf/traffic.h"
#include "src/flow_key.h"

namespace sluice::perf {

inline constexpr uint32_t kPrepared = 1024;
inline constexpr uint32_t kBatch = 64;

inline FlowKey4 key_of(uint64_t flow) {
  return {source_address(flow), 0x0a0000cb, source_port(flow), net16(kServicePort), wire::kProtoTcp};
}

using Keys = std::array<FlowKey4, kPrepared>;

inline void prepare_random(Keys& keys, Random& random, uint64_t first, uint64_t count) {
  for (FlowKey4& key : keys)
    key = key_of(first + random.below(count));
}

// A full table of each kind is kept for the benchmarks of one size.
template <typename Table>
Table& full(uint64_t flows) {
  static uint64_t current_flows = 0;
  static std::unique_ptr<Table> current;
  if (current_flows == flows) return *current;
  current.reset();
  current = std::make_unique<Table>(flows);
  current_flows = flows;
  auto keys = std::make_unique<Keys>();
  uint64_t placed = 0;
  for (uint64_t flow = 0; flow < flows;) {
    uint32_t count = 0;
    for (; count < kPrepared && flow < flows; count++, flow++)
      (*keys)[count] = key_of(flow);
    placed += current->insert(keys->data(), count);
  }
  assert(flows - placed <= flows / 100'000);
  return *current;
}

// ---- Steps

template <typename Table, uint32_t kStep>
void lookup(benchmark::State& state, uint64_t flows) {
  Table& table = full<Table>(flows);
  Random random(3);
  auto keys = std::make_unique<Keys>();
  CycleMeter meter;
  uint64_t found = 0;
  for ([[maybe_unused]] auto _ : state) {
    prepare_random(*keys, random, 0, flows);
    meter.start();
    found += table.template lookup<kStep>(keys->data(), kPrepared);
    meter.stop();
  }
  const uint64_t looked = static_cast<uint64_t>(state.iterations()) * kPrepared;
  assert((looked - found) * 10'000 <= looked);
  report(state, meter.total(), looked);
  if constexpr (requires { table.pages(); }) {
    state.counters["table_bytes"] = static_cast<double>(table.bytes());
    state.SetLabel(table.pages());
  }
}

template <typename Table>
void miss(benchmark::State& state, uint64_t flows) {
  Table& table = full<Table>(flows);
  Random random(3);
  auto keys = std::make_unique<Keys>();
  CycleMeter meter;
  uint64_t found = 0;
  for ([[maybe_unused]] auto _ : state) {
    prepare_random(*keys, random, flows, flows);
    meter.start();
    found += table.template lookup<kBatch>(keys->data(), kPrepared);
    meter.stop();
  }
  assert(found == 0);
  report(state, meter.total(), static_cast<uint64_t>(state.iterations()) * kPrepared);
}

// From empty to full, once an iteration.
template <typename Table>
void insert(benchmark::State& state, uint64_t flows) {
  Table& table = full<Table>(flows);
  auto keys = std::make_unique<Keys>();
  CycleMeter meter;
  uint64_t placed = 0;
  for ([[maybe_unused]] auto _ : state) {
    table.clear();
    for (uint64_t flow = 0; flow < flows;) {
      uint32_t count = 0;
      for (; count < kPrepared && flow < flows; count++, flow++)
        (*keys)[count] = key_of(flow);
      meter.start();
      placed += table.insert(keys->data(), count);
      meter.stop();
    }
  }
  const uint64_t inserted = static_cast<uint64_t>(state.iterations()) * flows;
  assert((inserted - placed) * 100'000 <= inserted);
  report(state, meter.total(), inserted);
  state.counters["untracked"] =
      static_cast<double>(inserted - placed) / static_cast<double>(state.iterations());
  if constexpr (requires { table.bytes(); })
    state.counters["table_bytes"] = static_cast<double>(table.bytes());
}

inline uint64_t thread_cpu_ns() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(now.tv_nsec);
}

// Four threads at one table, on as many CPUs: they look up what is there, or fill it together. CPU time of a
// thread for each lookup or insert, without preparing keys.
template <typename Table, bool kInserts>
void by_four(benchmark::State& state, uint64_t entries) {
  constexpr uint32_t kThreads = 4;
  Table& table = full<Table>(entries);
  cpu_set_t all;
  CPU_ZERO(&all);
  const auto cpus = static_cast<uint32_t>(std::min<long>(sysconf(_SC_NPROCESSORS_ONLN), kThreads));
  for (uint32_t cpu = 0; cpu < cpus; cpu++)
    CPU_SET(cpu, &all);
  std::atomic<uint64_t> took_ns{0}, done{0};
  for ([[maybe_unused]] auto _ : state) {
    if constexpr (kInserts) table.clear();
    std::vector<std::thread> threads;
    for (uint32_t number = 0; number < kThreads; number++) {
      threads.emplace_back([&, number] {
        sched_setaffinity(0, sizeof all, &all);
        auto keys = std::make_unique<Keys>();
        Random random(number + 1);
        uint64_t here = 0, here_ns = 0;
        for (uint64_t first = number * kPrepared; first < entries; first += kThreads * kPrepared) {
          if constexpr (kInserts) {
            for (uint32_t i = 0; i < kPrepared; i++)
              (*keys)[i] = key_of(std::min(first + i, entries - 1));
          } else {
            prepare_random(*keys, random, 0, entries);
          }
          const uint64_t began_ns = thread_cpu_ns();
          if constexpr (kInserts) {
            here += table.insert(keys->data(), kPrepared);
          } else {
            here += table.template lookup<kBatch>(keys->data(), kPrepared);
          }
          here_ns += thread_cpu_ns() - began_ns;
        }
        done.fetch_add(here);
        took_ns.fetch_add(here_ns);
      });
    }
    for (std::thread& thread : threads)
      thread.join();
  }
  report(state, static_cast<uint64_t>(static_cast<double>(took_ns.load()) * tsc_hz() / 1e9), done.load());
  state.counters["threads"] = kThreads;
}

inline void add(const std::string& name, std::function<void(benchmark::State&)> run,
                bool whole_fill = false) {
  auto* one = benchmark::RegisterBenchmark(name.c_str(), std::move(run));
  if (whole_fill) one->Iterations(1);
}

}  // namespace sluice::perf
