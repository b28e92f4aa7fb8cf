#include "perf/pktgen/generator.h"

#include <pthread.h>
#include <sched.h>
#include <unistd.h>

#include <nlohmann/json.hpp>

#include "perf/pktgen/engine.h"

namespace sluice::pktgen {
namespace {

constexpr useconds_t kLookEvery_us = 1'000;

std::string error_json(const Error& error) {
  return nlohmann::json{{"error", error.what}}.dump();
}

}  // namespace

Generator::Generator(const Port& port, Control control, uint32_t cpu)
    : port_(port),
      control_(control),
      engine_(std::make_unique<Engine>(port)),
      thread_([this, cpu] { run(cpu); }) {}

Generator::~Generator() {
  stop_.store(true, std::memory_order_relaxed);
  thread_.join();
}

std::string Generator::answer(std::string_view request) {
  const Result<Trial> trial = Trial::parse(request);
  if (!trial) return error_json(trial.error());
  const auto stop = [this] { return stop_.load(std::memory_order_relaxed) || control_.stop_asked(); };
  const Result<Outcome> outcome = engine_->run(*trial, control_.progress(), stop);
  return outcome ? trial_json(*outcome) : error_json(outcome.error());
}

void Generator::run(uint32_t cpu) {
  pthread_setname_np(pthread_self(), "pktgen");
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(cpu, &set);
  const bool pinned = pthread_setaffinity_np(pthread_self(), sizeof set, &set) == 0;
  uint64_t answered = control_.requested();
  control_.tell_ready();
  while (!stop_.load(std::memory_order_relaxed)) {
    const uint64_t number = control_.requested();
    if (number == answered) {
      usleep(kLookEvery_us);
      continue;
    }
    const Error unpinned{"the generator may not use CPU " + std::to_string(cpu), "lscpu"};
    control_.answer(number, pinned ? answer(control_.request()) : error_json(unpinned));
    answered = number;
  }
}

}  // namespace sluice::pktgen
