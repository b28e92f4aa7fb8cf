// The consistent methods side by side: what a table costs to build, how even its shares are, and how many
// slots move when backends change. perf/methods.py makes a table and plots of it for docs/affinity.md.
//
//   method/build/NAME/SLOTS/backends:N          items are tables
//   method/balance/NAME/SLOTS/backends:N        max_over_mean and deviation (standard, of the mean) of the
//   shares method/moves/NAME/SLOTS/CHANGE/backends:N   moved_percent of the slots, on average over whom it
//   hits, and
//                                               ideal_percent, what must move for the shares alone
// All weights are 100 but for CHANGE mixed_...: 1 to 200.
#include <algorithm>
#include <cassert>
#include <cmath>
#include <functional>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "perf/cycles.h"
#include "src/lookup_table.h"

namespace sluice {
namespace {

constexpr Method kMeasured[] = {Method::maglev, Method::minimal, Method::ring, Method::rendezvous,
                                Method::modulo};

struct Member {
  std::string name;
  uint32_t weight;
};
using Members = std::vector<Member>;

Members make_members(size_t count, bool mixed) {
  std::mt19937 random(1);
  Members members;
  for (size_t i = 0; i < count; i++) {
    members.push_back({"backend-" + std::to_string(i),
                       mixed ? 1 + static_cast<uint32_t>(random() % 200) : limits::kWeightDefault});
  }
  return members;
}

std::vector<MaglevMember> views(const Members& members) {
  std::vector<MaglevMember> out;
  for (const Member& member : members)
    out.push_back({member.name, member.weight});
  return out;
}

std::vector<uint16_t> table_of(Method method, const Members& members, uint32_t slots) {
  std::vector<uint16_t> table(slots, 0xffff);
  [[maybe_unused]] const bool built = lookup_build(method, views(members), table);
  assert(built && *std::max_element(table.begin(), table.end()) < members.size());
  return table;
}

void build(benchmark::State& state, Method method, uint32_t slots, size_t backends) {
  const Members members = make_members(backends, false);
  const std::vector<MaglevMember> input = views(members);
  std::vector<uint16_t> table(slots);
  perf::CycleMeter meter;
  for ([[maybe_unused]] auto _ : state) {
    meter.start();
    const bool built = lookup_build(method, input, table);
    meter.stop();
    assert(built);
    benchmark::DoNotOptimize(table.data());
  }
  perf::report(state, meter.total(), static_cast<uint64_t>(state.iterations()));
}

void balance(benchmark::State& state, Method method, uint32_t slots, size_t backends) {
  const Members members = make_members(backends, false);
  std::vector<double> share(backends);
  for ([[maybe_unused]] auto _ : state) {
    for (const uint16_t owner : table_of(method, members, slots))
      share[owner]++;
  }
  const double mean = static_cast<double>(slots) / static_cast<double>(backends);
  double variance = 0;
  for (const double n : share)
    variance += (n - mean) * (n - mean) / static_cast<double>(backends);
  state.counters["max_over_mean"] = *std::max_element(share.begin(), share.end()) / mean;
  state.counters["deviation"] = std::sqrt(variance) / mean;
}

struct Change {
  std::string name;
  size_t backends;
  bool mixed;
  // To what `members` becomes in the trial of this number.
  std::function<void(Members& members, size_t trial)> apply;
};

void remove(Members& members, size_t trial, size_t count) {
  for (size_t i = 0; i < count; i++)
    members.erase(members.begin() + static_cast<ptrdiff_t>((trial * 37 + i * 101) % members.size()));
}

void scale(Members& members, size_t trial, uint32_t percent) {
  uint32_t& weight = members[trial * 37 % members.size()].weight;
  weight = std::max(1u, (weight * percent + 50) / 100);
}

// Half of the sum of what the exact shares differ by.
double ideal(const Members& before, const Members& after) {
  const auto total = [](const Members& members) {
    double sum = 0;
    for (const Member& member : members)
      sum += member.weight;
    return sum;
  };
  double lost = 0;
  for (const Member& member : before) {
    const auto same =
        std::find_if(after.begin(), after.end(), [&](const Member& m) { return m.name == member.name; });
    const double share = same == after.end() ? 0 : same->weight / total(after);
    lost += std::max(0.0, member.weight / total(before) - share);
  }
  return lost;
}

void moves(benchmark::State& state, Method method, uint32_t slots, const Change& change) {
  const size_t trials = slots > limits::kLookupSlotsDefault ? 4 : 16;
  const Members before = make_members(change.backends, change.mixed);
  uint64_t moved = 0;
  double ideal_share = 0;
  for ([[maybe_unused]] auto _ : state) {
    const std::vector<uint16_t> table = table_of(method, before, slots);
    for (size_t trial = 0; trial < trials; trial++) {
      Members after = before;
      change.apply(after, trial);
      const std::vector<uint16_t> next = table_of(method, after, slots);
      for (uint32_t slot = 0; slot < slots; slot++)
        moved += before[table[slot]].name != after[next[slot]].name;
      ideal_share += ideal(before, after);
    }
  }
  const auto times = static_cast<double>(trials) * static_cast<double>(state.iterations());
  state.counters["moved_percent"] = 100 * static_cast<double>(moved) / slots / times;
  state.counters["ideal_percent"] = 100 * ideal_share / times;
}

std::vector<Change> all_changes() {
  std::vector<Change> changes;
  for (const size_t backends : {10, 100, 1'000}) {
    changes.push_back({"remove_1", backends, false, [](Members& m, size_t trial) { remove(m, trial, 1); }});
    changes.push_back({"add_1", backends, false, [](Members& m, size_t trial) {
                         m.push_back({"new-" + std::to_string(trial), limits::kWeightDefault});
                       }});
    changes.push_back({"weight_90", backends, false, [](Members& m, size_t trial) { scale(m, trial, 90); }});
    changes.push_back(
        {"weight_110", backends, false, [](Members& m, size_t trial) { scale(m, trial, 110); }});
    changes.push_back(
        {"mixed_remove_1", backends, true, [](Members& m, size_t trial) { remove(m, trial, 1); }});
    changes.push_back(
        {"mixed_weight_90", backends, true, [](Members& m, size_t trial) { scale(m, trial, 90); }});
    changes.push_back(
        {"mixed_weight_110", backends, true, [](Members& m, size_t trial) { scale(m, trial, 110); }});
  }
  changes.push_back({"remove_10", 1'000, false, [](Members& m, size_t trial) { remove(m, trial, 10); }});
  return changes;
}

[[maybe_unused]] const bool registered = [] {
  for (const Method method : kMeasured) {
    for (const uint32_t slots : {limits::kLookupSlotsDefault, limits::kLookupSlotsLarge}) {
      const std::string of = "/" + std::string(name_of(method)) + "/" + std::to_string(slots) + "/";
      for (const size_t backends : {10, 100, 1'000}) {
        const std::string count = "backends:" + std::to_string(backends);
        benchmark::RegisterBenchmark(("method/build" + of + count).c_str(), [=](auto& state) {
          build(state, method, slots, backends);
        })->Unit(benchmark::kMillisecond);
        benchmark::RegisterBenchmark(("method/balance" + of + count).c_str(), [=](auto& state) {
          balance(state, method, slots, backends);
        })->Iterations(1);
      }
      for (const Change& change : all_changes()) {
        const std::string name =
            "method/moves" + of + change.name + "/backends:" + std::to_string(change.backends);
        benchmark::RegisterBenchmark(name.c_str(), [=](auto& state) {
          moves(state, method, slots, change);
        })->Iterations(1);
      }
    }
  }
  return true;
}();

}  // namespace
}  // namespace sluice
