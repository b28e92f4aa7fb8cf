// main() of every benchmark here: Google Benchmark's own, with the frequency of the time-stamp counter in the
// context, by which perf/report.py turns cycles into time.
#include <string>

#include <benchmark/benchmark.h>

#include "perf/cpus.h"
#include "perf/cycles.h"

int main(int argc, char** argv) {
  sluice::perf::other_cpus();  // before anything is measured: this thread keeps to one CPU from here on
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::AddCustomContext("tsc_hz", std::to_string(sluice::perf::tsc_hz()));
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return 0;
}
