// DPDK ports: from the command line to running queues, one pair a worker.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "dataplane/options.h"
#include "src/result.h"
#include "src/stats.h"

namespace sluice {

// The EAL arguments that make the ports the options ask for, beside DPDK's own: --vdev, -a, --no-pci.
Result<std::vector<std::string>> port_arguments(const Options& options);

// Configures and starts every port that the EAL found, with `workers` queue pairs and RSS over addresses and
// ports where the NIC has it. Fills `ports` for the stats segment; the position there is the DPDK port's
// number.
Result<Done> start_ports(uint32_t workers, const Options& options, std::vector<PortInfo>& ports);
void stop_ports();

// Says on stderr, once for each, which port's kernel interface is gone or has lost its steering program: no
// packet will come from it until a restart (main thread).
void tell_lost_interfaces(const StatsHeader& stats);

// Copies the ports' own counters into the stats segment (main thread).
void copy_port_counters(StatsHeader& stats);

}  // namespace sluice
