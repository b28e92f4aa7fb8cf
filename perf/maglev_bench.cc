// Building a lookup table: what a change of one service's backends costs sluiced. Items are tables.
#include <algorithm>
#include <cassert>
#include <random>
#include <string>
#include <vector>

#include "perf/cycles.h"
#include "src/maglev.h"

namespace sluice {
namespace {

enum Weights : int64_t { equal, mixed };

void maglev(benchmark::State& state, Weights kind) {
  const auto slots = static_cast<uint32_t>(state.range(0));
  const auto backends = static_cast<size_t>(state.range(1));
  std::vector<std::string> names;
  for (size_t i = 0; i < backends; i++)
    names.push_back("backend-" + std::to_string(i));
  std::mt19937 random(1);
  std::vector<MaglevMember> members;
  for (const std::string& name : names) {
    members.push_back(
        {name, kind == equal ? limits::kWeightDefault : 1 + static_cast<uint32_t>(random() % 100)});
  }
  std::vector<uint16_t> table(slots, 0xffff);

  perf::CycleMeter meter;
  for ([[maybe_unused]] auto _ : state) {
    meter.start();
    const bool built = maglev_build(members, table);
    meter.stop();
    assert(built);
    benchmark::DoNotOptimize(table.data());
  }
  assert(*std::max_element(table.begin(), table.end()) < members.size());
  perf::report(state, meter.total(), static_cast<uint64_t>(state.iterations()));
}

void sizes(benchmark::internal::Benchmark* benchmark) {
  benchmark->ArgsProduct(
      {{limits::kLookupSlotsDefault, limits::kLookupSlotsLarge}, {10, 100, 1'000, 10'000}});
  benchmark->ArgNames({"slots", "backends"});
  benchmark->Unit(benchmark::kMillisecond);
}
BENCHMARK_CAPTURE(maglev, equal, equal)->Apply(sizes);
BENCHMARK_CAPTURE(maglev, mixed, mixed)->Apply(sizes);

}  // namespace
}  // namespace sluice
