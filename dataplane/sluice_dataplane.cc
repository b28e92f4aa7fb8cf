// sluice-dataplane: start, and the main thread's slow work while the workers forward.
//
// Order of start: command line -> this instance's shared memory -> ports' needs -> EAL -> ports -> workers.
// Everything that can be wrong is found before the workers start, and told in one line with the command that
// mends it.

#include <rte_cycles.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_launch.h>
#include <rte_lcore.h>
#include <signal.h>
#include <unistd.h>

#include <cstdio>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "dataplane/instance.h"
#include "dataplane/options.h"
#include "dataplane/ports.h"
#include "dataplane/steering.h"
#include "dataplane/worker.h"

namespace sluice {
namespace {

constexpr useconds_t kHousekeepingEvery_us = 20'000;
constexpr int kPortCountersEvery = 50;  // of those: once a second

volatile sig_atomic_t stop_requested = 0;

int fail(const Error& error) {
  std::fprintf(stderr, "sluice-dataplane: %s\n", error.text().c_str());
  return 1;
}

Result<Done> check_hugepages() {
  std::ifstream meminfo("/proc/meminfo");
  for (std::string word; meminfo >> word;) {
    uint64_t count = 0;
    if (word == "HugePages_Free:" && meminfo >> count) {
      if (count > 0) return Done{};
      break;
    }
  }
  return Error{"no free hugepages", "echo 128 | sudo tee /proc/sys/vm/nr_hugepages, or start with --no-huge"};
}

bool has_kernel_port(const Options& options) {
  if (!options.interfaces.empty()) return true;
  for (const std::string& devargs : options.vdevs) {
    if (devargs.rfind("net_af_", 0) == 0) return true;
  }
  return false;
}

bool has_af_xdp(const Options& options) {
  if (!options.interfaces.empty() && options.driver == "af_xdp" && kernel_has_af_xdp()) return true;
  for (const std::string& devargs : options.vdevs) {
    if (devargs.rfind("net_af_xdp", 0) == 0) return true;
  }
  return false;
}

// lcore 0 is the main thread, lcore i + 1 worker i, each pinned to its CPU.
std::string lcore_map(const Cores& cores) {
  std::string map = "0@" + std::to_string(cores.main);
  for (size_t i = 0; i < cores.workers.size(); i++) {
    map += "," + std::to_string(i + 1) + "@" + std::to_string(cores.workers[i]);
  }
  return map;
}

Result<Done> start_eal(const Options& options, const Cores& cores,
                       const std::vector<std::string>& port_arguments) {
  // No files of the EAL's own outlive us, so that several instances need no names to tell them apart.
  std::vector<std::string> arguments = {"sluice-dataplane", "--lcores", lcore_map(cores),
                                        "--main-lcore",     "0",        "--no-telemetry",
                                        "--log-level=error"};
  if (options.no_huge) {
    arguments.insert(arguments.end(), {"--no-huge", "-m", "512", "--no-shconf"});
  } else {
    arguments.push_back("--in-memory");
  }
  arguments.insert(arguments.end(), port_arguments.begin(), port_arguments.end());
  arguments.insert(arguments.end(), options.eal_options.begin(), options.eal_options.end());
  std::vector<char*> argv;
  for (std::string& argument : arguments)
    argv.push_back(argument.data());
  if (rte_eal_init(static_cast<int>(argv.size()), argv.data()) < 0) {
    return Error{std::string("DPDK does not start: ") + rte_strerror(rte_errno), "read DPDK's lines above"};
  }
  return Done{};
}

int run_worker(void* worker) {
  static_cast<Worker*>(worker)->run();
  return 0;
}

void hand_over_tables(Instance& instance, std::vector<std::unique_ptr<Worker>>& workers) {
  const std::byte* base = instance.attach_tables();
  if (base == nullptr) return;
  // Release: the worker that sees the base sees a complete mapping. Pairs with Worker::acquire_tables.
  for (auto& worker : workers)
    worker->tables.store(base, std::memory_order_release);
}

void hand_over_commands(Instance& instance, Worker& worker) {
  const std::byte* base = instance.attach_commands();
  // Release, as above. Pairs with Worker::run_commands.
  if (base != nullptr) worker.commands.store(base, std::memory_order_release);
}

// The main thread while the workers run.
void keep_house(Instance& instance, std::vector<std::unique_ptr<Worker>>& workers) {
  for (int round = 0; stop_requested == 0; round++) {
    hand_over_tables(instance, workers);
    hand_over_commands(instance, *workers.front());
    instance.settle_flows();
    instance.heartbeat();
    if (round % kPortCountersEvery == 0) {
      copy_port_counters(instance.stats().header);
      instance.tell_if_removed();
      tell_lost_interfaces(instance.stats().header);
    }
    usleep(kHousekeepingEvery_us);
  }
  copy_port_counters(instance.stats().header);
}

void announce_start(const std::vector<PortInfo>& ports, const Options& options, const Instance& instance,
                    const Cores& cores) {
  for (const PortInfo& port : ports) {
    std::fprintf(stderr, "sluice-dataplane: port %s (%s) MAC %s MTU %u%s\n", port.name, port.driver,
                 port.mac.text().c_str(), port.mtu_bytes,
                 port.steered != 0 ? ", VIP traffic steered to us, the rest stays with the kernel" : "");
  }
  std::string cpus;
  for (const uint32_t core : cores.workers)
    cpus += (cpus.empty() ? "" : ",") + std::to_string(core);
  std::fprintf(
      stderr, "sluice-dataplane: %u worker%s on CPU %s, each for %llu flows; %s\n", options.workers,
      options.workers == 1 ? "" : "s", cpus.c_str(),
      static_cast<unsigned long long>(flows_capacity(instance.bucket_bits())),
      instance.tables_base() != nullptr ? "tables found, forwarding" : "no tables yet: waiting for sluiced");
}

int run(const Options& options) {
  Result<Cores> cores = choose_cores(options);
  if (!cores) return fail(cores.error());
  if (has_kernel_port(options)) {
    if (Result<Done> done = check_capabilities(); !done) return fail(done.error());
  }
  if (!options.no_huge) {
    if (Result<Done> done = check_hugepages(); !done) return fail(done.error());
  }
  Result<Instance> instance = Instance::open(options);
  if (!instance) return fail(instance.error());
  if (has_af_xdp(options)) {
    if (Result<Done> done = use_instance_bpffs(options.directory); !done) return fail(done.error());
  }
  Result<std::vector<std::string>> arguments = port_arguments(options);
  if (!arguments) return fail(arguments.error());
  if (Result<Done> done = start_eal(options, *cores, *arguments); !done) return fail(done.error());
  std::vector<PortInfo> ports;
  Result<Done> started = start_ports(options.workers, options, ports);
  if (started) started = instance->open_flows(options);
  if (!started) {
    stop_ports();
    return fail(started.error());
  }

  instance->announce(ports, options, rte_get_tsc_hz());
  SessionTable sessions = instance->sessions();
  std::vector<std::unique_ptr<Worker>> workers;
  for (uint16_t i = 0; i < options.workers; i++) {
    const std::span stats(instance->stats().workers, options.workers);
    stats[i].cpu.set(cores->workers[i]);
    workers.push_back(std::make_unique<Worker>(
        i, ports, flow_buckets(instance->flows_base(), i), instance->bucket_bits(), sessions, stats,
        instance->stats().commands, rte_get_tsc_hz(), options.sleep_max_us));
    workers.back()->tables.store(instance->tables_base(), std::memory_order_release);
  }
  announce_start(ports, options, *instance, *cores);
  for (unsigned i = 0; i < workers.size(); i++)
    rte_eal_remote_launch(run_worker, workers[i].get(), i + 1);

  keep_house(*instance, workers);

  for (auto& worker : workers)
    worker->stop.store(true, std::memory_order_relaxed);
  rte_eal_mp_wait_lcore();
  stop_ports();
  instance->leave();
  rte_eal_cleanup();
  std::fprintf(stderr, "sluice-dataplane: stopped\n");
  return 0;
}

}  // namespace
}  // namespace sluice

int main(int argc, char** argv) {
  struct sigaction action {};
  action.sa_handler = [](int) { sluice::stop_requested = 1; };
  sigaction(SIGTERM, &action, nullptr);
  sigaction(SIGINT, &action, nullptr);
  return sluice::run(sluice::parse_options(argc, argv));
}
