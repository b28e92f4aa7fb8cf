// The pipeline while things change (perf/rig.h says what is measured): new connections, a SYN flood, a new
// configuration every millisecond. A million established flows; items are packets. That no established flow
// changes its backend is checked with every packet, outside of what is measured.
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <cassert>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "perf/cpus.h"
#include "perf/rig.h"

namespace sluice {
namespace {

using perf::Rig;
using perf::Shape;

// Numbers of flows that never came before: above those of the rig.
class NewFlows {
 public:
  explicit NewFlows(uint64_t first) : next_(first) {}
  uint64_t take() { return next_++; }

 private:
  uint64_t next_;
};

// Where each established flow goes: a byte each, so that looking it up between batches takes as little cache
// as can be from what is measured.
class Book {
 public:
  Book(Rig& rig, uint64_t flows) : backends_(flows) {
    for (uint64_t flow = 0; flow < flows;) {
      const uint64_t first = flow;
      rig.receive_batch([&](uint8_t&) { return flow < flows ? flow++ : first; });
      rig.run();
      for (uint32_t i = 0; i < limits::kBatchMax && first + i < flows; i++) {
        assert(index(rig.batch.packets[i].backend) <= UINT8_MAX);
        backends_[first + i] = static_cast<uint8_t>(index(rig.batch.packets[i].backend));
      }
    }
  }
  bool holds(uint64_t flow, const Packet& packet) const { return index(packet.backend) == backends_[flow]; }

 private:
  std::vector<uint8_t> backends_;
};

void finish(benchmark::State& state, Rig& rig, const perf::CycleMeter& meter) {
  assert(rig.all_forwarded());
  perf::report(state, meter.total(), static_cast<uint64_t>(state.iterations()) * limits::kBatchMax);
  state.counters["table_bytes"] = static_cast<double>(rig.table_bytes());
  state.SetLabel(rig.pages());
}

// A share of packets are SYNs of new flows, which nothing follows; the rest hit established flows.
void syns(benchmark::State& state, uint64_t flows, uint32_t per_cent, bool backends_change,
          const Shape& shape = {1, 100}) {
  Rig rig(shape, flows);
  const Book book(rig, flows);
  NewFlows new_flows(flows);
  perf::Random random(5);
  perf::CycleMeter meter;
  uint64_t moved = 0, changes = 0;
  uint64_t flow_of[limits::kBatchMax];
  for ([[maybe_unused]] auto _ : state) {
    uint32_t at = 0;
    rig.receive_batch([&](uint8_t& tcp_flags) {
      const bool is_new = random.below(100) < per_cent;
      tcp_flags = is_new ? wire::kTcpSyn : wire::kTcpAck;
      return flow_of[at++] = is_new ? new_flows.take() : random.below(flows);
    });
    meter.start();
    rig.run();
    meter.stop();
    for (uint32_t i = 0; i < limits::kBatchMax; i++)
      moved += flow_of[i] < flows && !book.holds(flow_of[i], rig.batch.packets[i]) ? 1 : 0;
    if (backends_change && state.iterations() != 0 && ++changes % 4096 == 0) {
      // Weights and drains: every lookup table of the service is another one.
      const BackendPlace place{0, static_cast<uint32_t>(random.below(100))};
      rig.model.set_weight(place, static_cast<uint32_t>(1 + random.below(200)));
      rig.model.set_admin(place, random.below(4) == 0 ? Admin::drain : Admin::ready, 1);
      const auto compiled = compile(rig.model, rig.publisher, nullptr);
      assert(compiled);
      rig.publisher.reclaim(compiled->generation);
    }
  }
  assert(moved == 0);
  assert(rig.stats().flows.reselected.get() == 0);
  finish(state, rig, meter);
  state.counters["moved"] = static_cast<double>(moved);
  state.counters["sessions"] = static_cast<double>(rig.stats().sessions.active.get());
}

// New connections of clients that all have been there before: what a session costs each of them.
void returning_clients(benchmark::State& state, uint64_t clients, Affinity affinity) {
  Shape shape = {1, 100};
  shape.affinity = affinity;
  shape.clients = static_cast<uint32_t>(clients);
  syns(state, clients, 100, false, shape);
  assert(state.counters["sessions"] == (affinity == Affinity::client ? static_cast<double>(clients) : 0));
}

// A share of packets belong to flows that come and go: SYN, nine packets, FIN; the established ones stay.
class Churn {
 public:
  Churn(uint64_t established, uint32_t per_cent)
      : established_(established), new_(established), per_cent_(per_cent) {
    for (Young& one : young_)
      one = {new_.take(), 0};
  }
  uint64_t next(perf::Random& random, uint8_t& tcp_flags) {
    if (random.below(100) >= per_cent_) return random.below(established_);
    Young& one = young_[random.below(kYoung)];
    const uint64_t flow = one.flow;
    tcp_flags = one.packets == 0    ? wire::kTcpSyn
                : one.packets == 10 ? wire::kTcpFin | wire::kTcpAck
                                    : wire::kTcpAck;
    if (one.packets++ == 10) one = {new_.take(), 0};
    return flow;
  }

 private:
  static constexpr uint32_t kYoung = 10'000;
  struct Young {
    uint64_t flow;
    uint32_t packets;
  };
  uint64_t established_;
  NewFlows new_;
  uint32_t per_cent_;
  Young young_[kYoung];
};

// How long loops took: sorted TSC cycles.
class Durations {
 public:
  Durations() { cycles_.reserve(kMost); }
  void add(uint64_t cycles) {
    if (cycles_.size() < kMost)
      cycles_.push_back(static_cast<uint32_t>(std::min<uint64_t>(cycles, UINT32_MAX)));
  }
  void sort() { std::sort(cycles_.begin(), cycles_.end()); }
  // Sorted before: the value that a share of them do not exceed; the share that exceeds a value.
  uint32_t quantile(double share) const {
    return cycles_[static_cast<size_t>(share * static_cast<double>(cycles_.size() - 1))];
  }
  double share_above(double cycles) const {
    const auto above = std::upper_bound(cycles_.begin(), cycles_.end(), cycles,
                                        [](double value, uint32_t one) { return value < one; });
    return static_cast<double>(cycles_.end() - above) / static_cast<double>(cycles_.size());
  }
  const std::vector<uint32_t>& all() const { return cycles_; }

 private:
  static constexpr size_t kMost = 1 << 23;
  std::vector<uint32_t> cycles_;
};

// The quantile of the worker's own time: what interrupts and the host take from it, they take as well from a
// spin of the same length, measured between the loops; so it is the least value that loops exceed no more
// often than spins do, but for the share that the quantile leaves.
double own_quantile(const Durations& loops, const Durations& spins, double share) {
  const double longer = static_cast<double>(loops.quantile(0.5)) - spins.quantile(0.5);
  const auto& all = loops.all();
  // From the plain quantile, which is the most that it can be, down.
  auto at = static_cast<size_t>(share * static_cast<double>(all.size() - 1));
  while (at > all.size() / 2 &&
         loops.share_above(all[at - 1]) - spins.share_above(all[at - 1] - longer) <= 1.0 - share)
    at--;
  return all[at];
}

void mixed(benchmark::State& state, uint64_t flows, uint32_t per_cent) {
  Rig rig({1, 100}, flows);
  auto churn = std::make_unique<Churn>(flows, per_cent);
  perf::Random random(5);
  perf::CycleMeter meter, spin_meter;
  auto loops = std::make_unique<Durations>();
  auto spins = std::make_unique<Durations>();
  uint64_t spin_cycles = 0, batches = 0;
  for ([[maybe_unused]] auto _ : state) {
    rig.receive_batch([&](uint8_t& tcp_flags) { return churn->next(random, tcp_flags); });
    meter.start();
    rig.run();
    const uint64_t took = meter.stop();
    loops->add(took);
    // A spin as long as loops are, typically.
    spin_cycles = spin_cycles == 0 ? took : spin_cycles + (took > spin_cycles ? 1 : -1);
    if (++batches % 8 != 1) continue;  // now and then, the first time included
    spin_meter.start();
    for (const uint64_t until = perf::cycles() + spin_cycles; perf::cycles() < until;) {
    }
    spins->add(spin_meter.stop());
  }
  finish(state, rig, meter);
  loops->sort();
  spins->sort();
  const double us = 1e6 / static_cast<double>(perf::tsc_hz());
  state.counters["loop_p50_us"] = loops->quantile(0.5) * us;
  state.counters["loop_p99_us"] = loops->quantile(0.99) * us;
  state.counters["loop_p9999_us"] = loops->quantile(0.9999) * us;
  state.counters["loop_max_us"] = loops->quantile(1.0) * us;
  state.counters["spin_p9999_us"] = spins->quantile(0.9999) * us;
  state.counters["loop_own_p9999_us"] = own_quantile(*loops, *spins, 0.9999) * us;
}

// ---- Configuration changes

constexpr Shape kManyServices = {100, 1'000};

// Changes one service's weights every millisecond, from another CPU, and waits for the acknowledgement.
class Changer {
 public:
  explicit Changer(Rig& rig) : rig_(rig), thread_([this] { run(); }) {}
  // Ends and gives the times from publishing to the acknowledgement, in microseconds, sorted.
  std::vector<double> finish() {
    stop_.store(true, std::memory_order_relaxed);
    thread_.join();
    std::sort(ack_us_.begin(), ack_us_.end());
    return ack_us_;
  }
  double build_us() const { return changes_ == 0 ? 0 : build_us_ / static_cast<double>(changes_); }
  uint64_t late() const { return late_; }

 private:
  using Clock = std::chrono::steady_clock;
  static double us_since(Clock::time_point begin) {
    return std::chrono::duration<double, std::micro>(Clock::now() - begin).count();
  }

  void run() {
    sched_setaffinity(0, sizeof(cpu_set_t), &perf::other_cpus());
    auto next = Clock::now();
    while (!stop_.load(std::memory_order_relaxed)) {
      std::this_thread::sleep_until(next);
      next += std::chrono::milliseconds(1);
      const auto begin = Clock::now();
      const BackendPlace place{static_cast<uint32_t>(changes_ % kManyServices.services),
                               static_cast<uint32_t>(changes_ % kManyServices.backends)};
      rig_.model.set_weight(place, rig_.model.backend(place).weight() == 100 ? 50 : 100);
      const auto compiled = compile(rig_.model, rig_.publisher, nullptr);
      assert(compiled && compiled->tables_built == 1);
      build_us_ += us_since(begin);
      const auto published = Clock::now();
      // Pairs with the worker's store-release: it uses no older generation any more.
      while (rig_.stats().acknowledged_generation.load(std::memory_order_acquire) < compiled->generation &&
             !stop_.load(std::memory_order_relaxed)) {
      }
      ack_us_.push_back(us_since(published));
      rig_.publisher.reclaim(compiled->generation);
      changes_++;
      if (Clock::now() > next) {
        late_++;
        next = Clock::now();
      }
    }
  }
  Rig& rig_;
  std::atomic<bool> stop_{false};  // relaxed: nothing is handed over by it but the thread's end
  std::vector<double> ack_us_;
  double build_us_ = 0;
  uint64_t changes_ = 0;
  uint64_t late_ = 0;
  std::thread thread_;
};

void many_services(benchmark::State& state, uint64_t flows, bool changes) {
  // Both, with changes and without, on one rig: it is the same memory.
  static std::unique_ptr<Rig> rig;
  static uint64_t rig_flows = 0;
  if (rig == nullptr || rig_flows != flows) {
    rig.reset();
    rig = std::make_unique<Rig>(kManyServices, flows);
    rig_flows = flows;
  }
  perf::Random random(5);
  perf::CycleMeter meter;
  std::unique_ptr<Changer> changer = changes ? std::make_unique<Changer>(*rig) : nullptr;
  for ([[maybe_unused]] auto _ : state) {
    rig->receive_batch([&](uint8_t&) { return random.below(flows); });
    meter.start();
    rig->run();
    meter.stop();
  }
  if (changer != nullptr) {
    const std::vector<double> ack_us = changer->finish();
    const auto at = [&](double share) {
      return ack_us.empty() ? 0 : ack_us[static_cast<size_t>(share * static_cast<double>(ack_us.size() - 1))];
    };
    state.counters["changes"] = static_cast<double>(ack_us.size());
    state.counters["late"] = static_cast<double>(changer->late());
    state.counters["build_us"] = changer->build_us();
    state.counters["ack_p50_us"] = at(0.5);
    state.counters["ack_p99_us"] = at(0.99);
    state.counters["ack_max_us"] = at(1.0);
  }
  assert(rig->stats().flows.reselected.get() == 0);
  finish(state, *rig, meter);
}

void add(const std::string& name, std::function<void(benchmark::State&)> run) {
  benchmark::RegisterBenchmark(name.c_str(), std::move(run));
}

[[maybe_unused]] const bool registered = [] {
  for (const uint64_t clients : {100'000, 1'000'000, 10'000'000}) {
    for (const Affinity affinity : {Affinity::connection, Affinity::client}) {
      const std::string name = affinity == Affinity::client ? "client/" : "connection/";
      add("pipeline/ipip/returning/" + name + std::to_string(clients),
          [=](auto& state) { returning_clients(state, clients, affinity); });
    }
  }
  for (const uint64_t flows : {uint64_t{100'000}, uint64_t{1'000'000}}) {
    const std::string count = "/" + std::to_string(flows);
    add("pipeline/ipip/new_flows" + count, [=](auto& state) { syns(state, flows, 100, false); });
    add("pipeline/ipip/syn_flood" + count, [=](auto& state) { syns(state, flows, 50, true); });
    add("pipeline/ipip/mixed_1" + count, [=](auto& state) { mixed(state, flows, 1); });
    add("pipeline/ipip/mixed_10" + count, [=](auto& state) { mixed(state, flows, 10); });
    add("pipeline/ipip/many_services" + count, [=](auto& state) { many_services(state, flows, false); });
    add("pipeline/ipip/config_change" + count, [=](auto& state) { many_services(state, flows, true); });
  }
  return true;
}();

}  // namespace
}  // namespace sluice
