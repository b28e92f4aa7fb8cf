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

enum class Weights { equal, mixed };

void build(benchmark::State& state, Weights kind, uint32_t slots, size_t backends) {
  std::vector<std::string> names;
  for (size_t i = 0; i < backends; i++)
    names.push_back("backend-" + std::to_string(i));
  std::mt19937 random(1);
  std::vector<MaglevMember> members;
  for (const std::string& name : names) {
    members.push_back(
        {name, kind == Weights::equal ? limits::kWeightDefault : 1 + static_cast<uint32_t>(random() % 100)});
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

void add(const std::string& name, Weights kind, uint32_t slots, size_t backends) {
  benchmark::RegisterBenchmark(name.c_str(), [=](auto& state) {
    build(state, kind, slots, backends);
  })->Unit(benchmark::kMillisecond);
}

// maglev/build/SLOTS has 1,000 backends of equal weight, as the Maglev paper measures; the others say what
// they have.
[[maybe_unused]] const bool registered = [] {
  for (const uint32_t slots : {limits::kLookupSlotsDefault, limits::kLookupSlotsLarge}) {
    const std::string size = std::to_string(slots);
    add("maglev/build/" + size, Weights::equal, slots, 1'000);
    for (const size_t backends : {10, 100, 10'000})
      add("maglev/build/" + size + "/backends:" + std::to_string(backends), Weights::equal, slots, backends);
    for (const size_t backends : {10, 100, 1'000, 10'000})
      add("maglev/build_mixed/" + size + "/backends:" + std::to_string(backends), Weights::mixed, slots,
          backends);
  }
  return true;
}();

}  // namespace
}  // namespace sluice
