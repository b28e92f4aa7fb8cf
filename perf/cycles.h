// The time-stamp counter, and what benchmarks report in its cycles.
#pragma once

#include <cstdint>

#include <benchmark/benchmark.h>

namespace sluice::perf {

inline uint64_t cycles() {
  return __builtin_ia32_rdtsc();
}

// Adds up what lies between start() and stop(), so that preparations between them cost nothing. A pair costs
// some 40 cycles: put at least a batch between them.
class CycleMeter {
 public:
  void start() {
    // What came before is done, its stores included, and is not counted.
    __builtin_ia32_mfence();
    __builtin_ia32_lfence();
    started_ = cycles();
  }
  void stop() {
    __builtin_ia32_lfence();  // all of it is done
    total_ += cycles() - started_;
  }
  uint64_t total() const { return total_; }

 private:
  uint64_t started_ = 0;
  uint64_t total_ = 0;
};

// The counter "cycles": per item. scripts/bench.sh makes its table from it.
inline void report(benchmark::State& state, uint64_t total_cycles, uint64_t items) {
  state.SetItemsProcessed(static_cast<int64_t>(items));
  state.counters["cycles"] = static_cast<double>(total_cycles) / static_cast<double>(items);
}

}  // namespace sluice::perf
