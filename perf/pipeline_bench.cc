// The worker's whole pipeline without a NIC: parse, classify, track, rewrite, account, age (perf/rig.h says
// what is measured). Hits of established flows: uniform and Zipf, and how the cost grows with flows, backends
// and services; and, by each method, new flows only, whose SYNs nothing follows. Items are packets.
#include <cassert>
#include <cstdint>
#include <memory>
#include <string>

#include "perf/rig.h"

namespace sluice {
namespace {

using perf::Rig;
using perf::Shape;

// Building one takes long at 64 M flows, so repetitions share it; another one takes its memory.
Rig& rig_of(const std::string& key, const Shape& shape, uint64_t flows) {
  static std::string current_key;
  static std::unique_ptr<Rig> current;
  const std::string wanted = key + "/" + std::to_string(flows);
  if (current_key != wanted) {
    current.reset();
    current = std::make_unique<Rig>(shape, flows);
    current_key = wanted;
  }
  return *current;
}

template <typename Next>
void measure(benchmark::State& state, Rig& rig, Next&& next) {
  const uint64_t forwarded_before = rig.stats().packets.forwarded.get();
  const uint64_t inserted_before = rig.stats().flows.inserted.get() + rig.stats().flows.untracked.get();
  perf::CycleMeter meter;
  for ([[maybe_unused]] auto _ : state) {
    rig.receive_batch(next);
    meter.start();
    rig.run();
    meter.stop();
  }
  const uint64_t packets = static_cast<uint64_t>(state.iterations()) * limits::kBatchMax;
  assert(rig.stats().packets.forwarded.get() - forwarded_before == packets);
  assert(rig.all_forwarded());
  // Hits, but for the packets of the few flows that found no place in the table.
  [[maybe_unused]] const uint64_t missed =
      rig.stats().flows.inserted.get() + rig.stats().flows.untracked.get() - inserted_before;
  assert(missed * 10'000 <= packets + 10'000);
  perf::report(state, meter.total(), packets);
  state.counters["flows_tracked"] = static_cast<double>(rig.stats().flows.active.get());
  state.counters["table_bytes"] = static_cast<double>(rig.table_bytes());
  state.counters["tables_used_bytes"] = static_cast<double>(rig.publisher.memory().used_bytes);
  state.SetLabel(rig.pages());
}

void hit(benchmark::State& state, const std::string& key, const Shape& shape, uint64_t flows) {
  Rig& rig = rig_of(key, shape, flows);
  perf::Random random(7);
  measure(state, rig, [&](uint8_t&) { return random.below(flows); });
}

// The same for a service with sessions, after thousand of them were moved.
void hit_after_moves(benchmark::State& state, const Shape& shape, uint64_t flows) {
  Rig& rig = rig_of("client_after_moves", shape, flows);
  perf::Random random(7);
  for (int i = 0; i < 1'000; i++)
    rig.sessions.moved.note(random.next(), rig.now_s());
  measure(state, rig, [&](uint8_t&) { return random.below(flows); });
  assert(rig.sessions.moved.any(rig.now_s()));
}

void zipf(benchmark::State& state, const Shape& shape, uint64_t flows) {
  Rig& rig = rig_of("ipip", shape, flows);
  perf::Random random(7);
  perf::Zipf ranks(flows);
  // Ranks are spread over the flows, or the frequent ones would lie side by side.
  measure(state, rig, [&](uint8_t&) { return ranks.next(random) * 0x9e3779b1 % flows; });
}

// One method after the other on the same flow table, which such flows soon fill: the newer take the older
// ones' place.
void new_by(benchmark::State& state, Method method, uint32_t backends, uint64_t flows) {
  Rig& rig = rig_of("new_by/" + std::to_string(backends), {1, backends}, flows);
  static uint64_t next = uint64_t{1} << 32;  // never came before
  rig.model.edit_all()[0].config.method = method;
  const Result<Compiled> compiled = compile(rig.model, rig.publisher, nullptr);
  assert(compiled);
  rig.publisher.reclaim(compiled->generation);
  perf::CycleMeter meter;
  for ([[maybe_unused]] auto _ : state) {
    rig.receive_batch([&](uint8_t& tcp_flags) {
      tcp_flags = wire::kTcpSyn;
      return next++;
    });
    meter.start();
    rig.run();
    meter.stop();
  }
  assert(rig.all_forwarded());
  perf::report(state, meter.total(), static_cast<uint64_t>(state.iterations()) * limits::kBatchMax);
  state.SetLabel(rig.pages());
}

void add(const std::string& name, std::function<void(benchmark::State&)> run) {
  benchmark::RegisterBenchmark(name.c_str(), std::move(run));
}

[[maybe_unused]] const bool registered = [] {
  constexpr uint64_t kMillion = 1'000'000, kSmall = 100'000;
  const Shape ipip = {1, 100, Family::v4, Family::v4, Forward::ipip};
  const Shape ipip6 = {1, 100, Family::v6, Family::v6, Forward::ipip};
  const Shape l2dsr = {1, 100, Family::v4, Family::v4, Forward::l2dsr};
  for (const uint64_t flows :
       {uint64_t{1}, uint64_t{10'000}, kSmall, kMillion, 10 * kMillion, 64 * kMillion, 100 * kMillion}) {
    const std::string count = std::to_string(flows);
    add("pipeline/ipip/hit/" + count, [=](auto& state) { hit(state, "ipip", ipip, flows); });
    if (flows >= 10'000) add("pipeline/ipip/zipf/" + count, [=](auto& state) { zipf(state, ipip, flows); });
    if (flows == kMillion || flows == kSmall) {
      add("pipeline/ipip6/hit/" + count, [=](auto& state) { hit(state, "ipip6", ipip6, flows); });
      add("pipeline/l2dsr/hit/" + count, [=](auto& state) { hit(state, "l2dsr", l2dsr, flows); });
    }
  }
  Shape client = ipip;
  client.affinity = Affinity::client;
  client.clients = kMillion;
  add("pipeline/ipip/client_hit/1000000", [=](auto& state) { hit(state, "client", client, kMillion); });
  add("pipeline/ipip/client_hit_after_moves/1000000",
      [=](auto& state) { hit_after_moves(state, client, kMillion); });
  // Growth, at a million flows: one service of so many backends; so many services of ten backends. The tests
  // run the second one of each with fewer flows.
  const auto grow = [](const std::string& what, const Shape& shape, uint32_t size, bool small) {
    const std::string name = what + "/" + std::to_string(size);
    add("pipeline/ipip/" + name, [=](auto& state) { hit(state, name, shape, kMillion); });
    if (small)
      add("pipeline/ipip/" + name + "/flows:100000", [=](auto& state) { hit(state, name, shape, kSmall); });
  };
  for (const uint32_t backends : {10u, 100u, 1'000u, 10'000u})
    grow("backends", {1, backends}, backends, backends == 100);
  for (const uint32_t services : {1u, 10u, 100u, 1'000u, 10'000u})
    grow("services", {services, 10}, services, services == 10);
  for (const uint32_t backends : {10u, 100u, 1'000u}) {
    for (const auto& [method_name, chosen] : kMethods) {
      const Method method = chosen;
      // The other tables are used as Maglev's is.
      if (method != Method::maglev && method != Method::source_hash && !needs_flow_table(method)) continue;
      add("pipeline/ipip/new_by/" + std::string(method_name) + "/backends:" + std::to_string(backends),
          [=](auto& state) { new_by(state, method, backends, kSmall); });
    }
  }
  return true;
}();

}  // namespace
}  // namespace sluice
