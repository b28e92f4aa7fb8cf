// main() of every benchmark here: Google Benchmark's own, and the frequency of the time-stamp counter in the
// context, by which perf/report.py turns cycles into time.
#include <chrono>
#include <string>

#include <benchmark/benchmark.h>

#include "perf/cycles.h"

namespace {

double tsc_hz() {
  using Clock = std::chrono::steady_clock;
  const auto begin = Clock::now();
  const uint64_t from = sluice::perf::cycles();
  while (Clock::now() - begin < std::chrono::milliseconds(20)) {
  }
  const uint64_t to = sluice::perf::cycles();
  return static_cast<double>(to - from) / std::chrono::duration<double>(Clock::now() - begin).count();
}

}  // namespace

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::AddCustomContext("tsc_hz", std::to_string(tsc_hz()));
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return 0;
}
