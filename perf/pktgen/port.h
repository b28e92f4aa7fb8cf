// The port that the target sees: two single-producer, single-consumer rings made into an Ethernet device by
// DPDK's own ring driver, and a pool for the packets. All made once and kept until the process ends.
#pragma once

#include <cstdint>
#include <string>

#include "src/result.h"

struct rte_mempool;
struct rte_ring;

namespace sluice::pktgen {

// As many packets as a NIC's receive ring has descriptors, and as sluice-dataplane asks for.
inline constexpr uint32_t kRingPackets = 1024;
// Both rings full, and what either side has in its hands.
inline constexpr uint32_t kPoolPackets = 4095;
// The way back has room for all packets there are: when the generator is held up, nothing the target sends is
// lost.
inline constexpr uint32_t kReturnPackets = kPoolPackets;

// "net_pktgen0,cpu=0,control=/dev/shm/x"
struct PortOptions {
  std::string name;
  uint32_t cpu = 0;  // of the generator's thread
  std::string control;

  static bool is_ours(const std::string& devargs) { return devargs.rfind("net_pktgen", 0) == 0; }
  static Result<PortOptions> parse(const std::string& devargs);
};

struct Port {
  std::string name;
  uint16_t id = 0;  // DPDK's number
  rte_ring* to_target = nullptr;
  rte_ring* from_target = nullptr;
  rte_mempool* pool = nullptr;

  static Result<Port> make(const PortOptions& options);
};

}  // namespace sluice::pktgen
