// The time-stamp counter, and what benchmarks report in its cycles.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>

#include <benchmark/benchmark.h>

namespace sluice::perf {

inline uint64_t cycles() {
  return __builtin_ia32_rdtsc();
}

// Measured against the system's clock, once a process.
inline uint64_t tsc_hz() {
  static const uint64_t hz = [] {
    using Clock = std::chrono::steady_clock;
    const auto begin = Clock::now();
    const uint64_t from = cycles();
    while (Clock::now() - begin < std::chrono::milliseconds(20)) {
    }
    const uint64_t to = cycles();
    return static_cast<uint64_t>(static_cast<double>(to - from) /
                                 std::chrono::duration<double>(Clock::now() - begin).count());
  }();
  return hz;
}

// Adds up what lies between start() and stop(), so that preparations between them cost nothing. What such a
// pair costs by itself is measured once and taken off.
class CycleMeter {
 public:
  void start() {
    // What came before is done, its stores included, and is not counted.
    __builtin_ia32_mfence();
    __builtin_ia32_lfence();
    started_ = cycles();
  }
  uint64_t stop() {
    __builtin_ia32_lfence();  // all of it is done
    const uint64_t passed = cycles() - started_;
    const uint64_t net = passed - std::min(passed, own_cost());
    total_ += net;
    return net;
  }
  uint64_t total() const { return total_; }

 private:
  static uint64_t own_cost() {
    static const uint64_t cost = [] {
      uint64_t least = UINT64_MAX;
      for (int i = 0; i < 1'000; i++) {
        __builtin_ia32_mfence();
        __builtin_ia32_lfence();
        const uint64_t from = cycles();
        __builtin_ia32_lfence();
        least = std::min(least, cycles() - from);
      }
      return least;
    }();
    return cost;
  }
  uint64_t started_ = 0;
  uint64_t total_ = 0;
};

// The counter "cycles": per item. scripts/bench.sh makes its table from it.
inline void report(benchmark::State& state, uint64_t total_cycles, uint64_t items) {
  state.SetItemsProcessed(static_cast<int64_t>(items));
  state.counters["cycles"] = static_cast<double>(total_cycles) / static_cast<double>(items);
}

}  // namespace sluice::perf
