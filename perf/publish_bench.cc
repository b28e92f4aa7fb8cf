// From a changed model to a published generation: sluiced's part of the time between `sluice backend weight`
// and the workers' acknowledgement. Items are changes.
#include <cassert>
#include <numeric>

#include "perf/cycles.h"
#include "perf/forwarding_model.h"

namespace sluice {
namespace {

enum class Change { weight, drain, next_hop, nothing };

// The visit-th change of this backend, from 0: each makes a difference.
void apply(Backend& backend, Change change, uint64_t visit) {
  switch (change) {
    case Change::weight:
      backend.weight_override = 50 + visit % 2;
      return;
    case Change::drain:
      backend.admin = visit % 2 == 0 ? Admin::drain : Admin::ready;
      return;
    case Change::next_hop:
      backend.next_hop.mac.bytes[4] = static_cast<uint8_t>(visit % 2 + 1);
      return;
    case Change::nothing:
      return;
  }
}

// One backend of one service changes; the workers acknowledge at once.
void publish(benchmark::State& state, Change change) {
  perf::Shape shape;
  shape.services = static_cast<uint32_t>(state.range(0));
  shape.backends = static_cast<uint32_t>(state.range(1));
  Publisher publisher = Publisher::anonymous();
  Model model = perf::make_model(shape, publisher);
  Result<Compiled> first = compile(model, publisher, nullptr);
  assert(first && first->tables_built == shape.services);

  const uint32_t tables = change == Change::weight || change == Change::drain ? 1 : 0;
  perf::CycleMeter meter;
  uint64_t step = 0;
  for ([[maybe_unused]] auto _ : state) {
    Service& service = model.services[step % shape.services];
    apply(service.backends[step % shape.backends], change, step / std::lcm(shape.services, shape.backends));
    step++;
    meter.start();
    const Result<Compiled> compiled = compile(model, publisher, nullptr);
    if (compiled) publisher.reclaim(compiled->generation);
    meter.stop();
    assert(compiled && compiled->tables_built == tables);
  }
  assert((publisher.current().generation().number == first->generation) == (change == Change::nothing));
  perf::report(state, meter.total(), static_cast<uint64_t>(state.iterations()));
  state.counters["used_bytes"] = static_cast<double>(publisher.memory().used_bytes);
}

void sizes(benchmark::internal::Benchmark* benchmark) {
  benchmark->Args({10, 100})
      ->Args({100, 100})
      ->ArgNames({"services", "backends"})
      ->Unit(benchmark::kMillisecond);
}
BENCHMARK_CAPTURE(publish, weight, Change::weight)->Apply(sizes);
BENCHMARK_CAPTURE(publish, drain, Change::drain)->Apply(sizes);
BENCHMARK_CAPTURE(publish, next_hop, Change::next_hop)->Apply(sizes);
BENCHMARK_CAPTURE(publish, nothing, Change::nothing)->Apply(sizes);

}  // namespace
}  // namespace sluice
