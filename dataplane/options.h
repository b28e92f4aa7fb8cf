// The command line of sluice-dataplane.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "src/result.h"

namespace sluice {

struct Options {
  std::string directory;                // of the instance
  std::vector<std::string> interfaces;  // kernel-owned NICs, through net_af_xdp (or `driver`)
  std::string driver = "af_xdp";        // for `interfaces`: af_xdp | af_packet
  std::vector<std::string> vdevs;       // DPDK devargs
  std::vector<std::string> allowed;     // PCI devices
  uint32_t workers = 1;
  std::vector<uint32_t> cores;  // one a worker; empty: the highest ones this process may use
  uint64_t flows_max = 0;       // per worker
  uint64_t sessions_max = 0;    // of all workers
  uint32_t sleep_max_us = 0;    // of an idle worker; 0: it polls all the time
  bool no_huge = false;
  std::string steer_program;             // object file for net_af_xdp's xdp_prog
  std::vector<std::string> eal_options;  // after "--"
};

// Ends the process for --help, --version (0) and usage errors (2).
Options parse_options(int argc, char** argv);

// The CPUs: one for the main thread, one for each worker. An Error when there are fewer than workers.
struct Cores {
  uint32_t main;
  std::vector<uint32_t> workers;
};
Result<Cores> choose_cores(const Options& options);

}  // namespace sluice
