// From a changed model to a published generation: sluiced's part of the time between `sluice backend weight`
// and the workers' acknowledgement. Items are changes.
#include <cassert>
#include <numeric>

#include "perf/cycles.h"
#include "perf/forwarding_model.h"

namespace sluice {
namespace {

enum class Change { weight, drain, next_hop, nothing, unknown };

// The visit-th change of this backend, from 0: each makes a difference, but for the last two.
void apply(Model& model, BackendPlace at, Change change, uint64_t visit) {
  switch (change) {
    case Change::weight:
      return model.set_weight(at, 50 + visit % 2);
    case Change::drain:
      return model.set_admin(at, visit % 2 == 0 ? Admin::drain : Admin::ready, 1);
    case Change::next_hop: {
      NextHop hop = model.backend(at).next_hop;
      hop.mac.bytes[4] = static_cast<uint8_t>(visit % 2 + 1);
      return model.set_next_hop(at, hop);
    }
    case Change::nothing:
      return;
    case Change::unknown:  // as after a reload of the same file: everything is compared
      model.edit_all();
      return;
  }
}

// One backend of one service changes; the workers acknowledge at once. `build_us` is the lookup table's part,
// `rest_us` everything else.
void publish(benchmark::State& state, Change change) {
  perf::Shape shape;
  shape.services = static_cast<uint32_t>(state.range(0));
  shape.backends = static_cast<uint32_t>(state.range(1));
  Publisher publisher = Publisher::anonymous();
  Model model = perf::make_model(shape, publisher);
  Result<Compiled> first = compile(model, publisher, nullptr);
  assert(first && first->tables_built == shape.services);

  const uint32_t tables = change == Change::weight || change == Change::drain ? 1 : 0;
  const uint64_t period = std::lcm(shape.services, shape.backends);
  perf::CycleMeter meter;
  uint64_t step = 0;
  uint64_t total_ns = 0, build_ns = 0;
  for ([[maybe_unused]] auto _ : state) {
    const BackendPlace at{static_cast<uint32_t>(step % shape.services),
                          static_cast<uint32_t>(step % shape.backends)};
    const uint64_t visit = step++ / period;
    const uint64_t start_ns = monotonic_ns();
    meter.start();
    apply(model, at, change, visit);
    const Result<Compiled> compiled = compile(model, publisher, nullptr);
    if (compiled) publisher.reclaim(compiled->generation);
    meter.stop();
    total_ns += monotonic_ns() - start_ns;
    assert(compiled && compiled->tables_built == tables);
    build_ns += compiled->build_ns;
  }
  const bool makes_a_difference = change != Change::nothing && change != Change::unknown;
  assert((publisher.current().generation().number != first->generation) == makes_a_difference);
  perf::report(state, meter.total(), static_cast<uint64_t>(state.iterations()));
  const auto per_change_us = [&](uint64_t ns) {
    return static_cast<double>(ns) / 1e3 / static_cast<double>(state.iterations());
  };
  state.counters["build_us"] = per_change_us(build_ns);
  state.counters["rest_us"] = per_change_us(total_ns - build_ns);
  state.counters["used_bytes"] = static_cast<double>(publisher.memory().used_bytes);
}

void sizes(benchmark::internal::Benchmark* benchmark) {
  benchmark->Args({10, 100})
      ->Args({100, 100})
      ->Args({100, 1000})
      ->ArgNames({"services", "backends"})
      ->Unit(benchmark::kMillisecond);
}
BENCHMARK_CAPTURE(publish, weight, Change::weight)->Apply(sizes);
BENCHMARK_CAPTURE(publish, drain, Change::drain)->Apply(sizes);
BENCHMARK_CAPTURE(publish, next_hop, Change::next_hop)->Apply(sizes);
BENCHMARK_CAPTURE(publish, nothing, Change::nothing)->Apply(sizes);
BENCHMARK_CAPTURE(publish, unknown, Change::unknown)->Apply(sizes);

}  // namespace
}  // namespace sluice
