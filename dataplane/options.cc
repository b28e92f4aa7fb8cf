#include "dataplane/options.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <climits>
#include <set>

#include <CLI/CLI.hpp>

#include "src/segment.h"
#include "src/size_limits.h"

namespace sluice {
namespace {

// Beside this program in a build tree, else where packages put it.
std::string default_steer_program() {
  char path[PATH_MAX];
  const ssize_t length = readlink("/proc/self/exe", path, sizeof path);
  if (length > 0) {
    const std::string self(path, static_cast<size_t>(length));
    const std::string beside = self.substr(0, self.rfind('/')) + "/../bpf/steer.bpf.o";
    if (access(beside.c_str(), R_OK) == 0) return beside;
  }
  return "/usr/lib/sluice/steer.bpf.o";
}

std::vector<uint32_t> usable_cores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  std::vector<uint32_t> cores;
  if (sched_getaffinity(0, sizeof set, &set) != 0) return cores;
  for (uint32_t cpu = 0; cpu < CPU_SETSIZE; cpu++) {
    if (CPU_ISSET(cpu, &set)) cores.push_back(cpu);
  }
  return cores;
}

}  // namespace

Options parse_options(int argc, char** argv) {
  Options options;
  options.flows_max = limits::kFlowsPerWorkerDefault;
  options.sessions_max = limits::kSessionsDefault;
  options.steer_program = default_steer_program();

  CLI::App app(
      "sluice-dataplane: forwards packets; one pinned poll-mode worker a core. sluiced tells it where to.");
  app.set_version_flag("--version", SLUICE_VERSION);
  app.add_option("--dir", options.directory, "the instance's directory")->default_str(kDefaultDirectory);
  app.add_option("--interface", options.interfaces,
                 "a NIC that the kernel keeps: VIP traffic comes to us, the rest stays with the kernel")
      ->type_name("NAME")
      ->allow_extra_args(false);
  app.add_option("--driver", options.driver,
                 "for --interface: af_xdp, or af_packet where there is no AF_XDP (slow)")
      ->check(CLI::IsMember({"af_xdp", "af_packet"}))
      ->capture_default_str();
  app.add_option("--vdev", options.vdevs,
                 "a DPDK port by devargs, e.g. net_pcap0,rx_pcap=in.pcap,tx_pcap=out.pcap")
      ->type_name("DEVARGS")
      ->allow_extra_args(false);
  app.add_option("-a,--allow", options.allowed, "a NIC bound to DPDK, by PCI address")
      ->type_name("PCI")
      ->allow_extra_args(false);
  app.add_option("--workers", options.workers, "workers, each with one queue of every port")
      ->check(CLI::Range(1u, limits::kWorkersMax))
      ->capture_default_str();
  app.add_option("--cores", options.cores,
                 "the workers' CPUs, e.g. 2,3; default: the highest this process may use")
      ->delimiter(',');
  app.add_option("--flows-max", options.flows_max,
                 "flows that one worker tracks; 16 bytes each, rounded up to a power of two")
      ->check(CLI::Range(limits::kFlowsPerWorkerMin, limits::kFlowsPerWorkerMax))
      ->capture_default_str();
  app.add_option("--sessions-max", options.sessions_max,
                 "clients and keys that are remembered for services with affinity to them; 32 bytes each")
      ->check(CLI::Range(limits::kSessionsMin, limits::kSessionsMax))
      ->capture_default_str();
  app.add_option(
         "--sleep", options.sleep_max_us,
         "let an idle worker sleep up to so many microseconds between looks at its ports, 0 to 1000: for "
         "hosts shared with others; a packet may wait so long")
      ->type_name("MICROSECONDS")
      ->check(CLI::Range(0u, 1'000u));
  app.add_flag("--no-huge", options.no_huge, "without hugepages: slower, for tests");
  app.add_option("--steer", options.steer_program, "the steering program's object file")->type_name("FILE");
  app.add_option("eal", options.eal_options, "after --: further options for DPDK's EAL");
  app.positionals_at_end();
  try {
    app.parse(argc, argv);
    if (options.interfaces.empty() && options.vdevs.empty() && options.allowed.empty()) {
      throw CLI::RequiredError("a port: --interface, --vdev or --allow");
    }
    if (!options.cores.empty() && options.cores.size() != options.workers) {
      if (app.count("--workers") != 0)
        throw CLI::ValidationError("--cores", "names not as many CPUs as --workers");
      options.workers = static_cast<uint32_t>(options.cores.size());
    }
  } catch (const CLI::ParseError& error) {
    const int status = app.exit(error);
    std::exit(status == 0 ? 0 : 2);
  }
  options.directory = instance_directory(options.directory);
  return options;
}

Result<Cores> choose_cores(const Options& options) {
  const std::vector<uint32_t> usable = usable_cores();
  Cores cores;
  if (options.cores.empty()) {
    if (usable.size() < options.workers) {
      return Error{std::to_string(options.workers) + " workers need as many CPUs, this process may use " +
                       std::to_string(usable.size()),
                   "--workers " + std::to_string(usable.size())};
    }
    cores.workers.assign(usable.end() - options.workers, usable.end());
  } else {
    cores.workers = options.cores;
  }
  for (const uint32_t core : cores.workers) {
    if (!std::binary_search(usable.begin(), usable.end(), core)) {
      return Error{"this process may not use CPU " + std::to_string(core), "lscpu; taskset -p $$"};
    }
  }
  if (std::set<uint32_t>(cores.workers.begin(), cores.workers.end()).size() != cores.workers.size()) {
    return Error{"--cores names a CPU twice: a poll-mode worker takes all of one", "lscpu"};
  }
  // The main thread sleeps nearly always; on a CPU of its own if there is one.
  cores.main = usable.front();
  for (const uint32_t core : usable) {
    if (std::find(cores.workers.begin(), cores.workers.end(), core) == cores.workers.end()) {
      cores.main = core;
      break;
    }
  }
  return cores;
}

}  // namespace sluice
