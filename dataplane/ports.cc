#include "dataplane/ports.h"

#include <net/if.h>
#include <rte_ethdev.h>
#include <rte_mbuf.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <fstream>

#include "dataplane/steering.h"

namespace sluice {
namespace {

constexpr uint16_t kRingDescriptors = 1024;
// For each queue: both rings (af_xdp keeps as many again in flight to and from the kernel), a batch, the
// pool's cache.
constexpr uint32_t kPoolPackets = 8191;
constexpr uint32_t kPoolCache = 256;

std::string interface_of(const std::string& devargs) {
  const size_t at = devargs.find("iface=");
  if (at == std::string::npos) return "";
  const size_t start = at + 6;
  return devargs.substr(start, devargs.find(',', start) - start);
}

bool is_driver(const std::string& devargs, const char* driver) {
  return devargs.rfind(driver, 0) == 0;
}

void warn_af_packet(const std::string& interface) {
  std::fprintf(stderr,
               "sluice-dataplane: %s: using net_af_packet, the slow fallback: every packet is copied, the "
               "kernel sees VIP "
               "traffic as well; keep it from answering (no VIP address on this host, no forwarding)\n",
               interface.c_str());
}

// Devargs of an --interface, or of a --vdev completed with what Sluice adds.
Result<std::string> complete(std::string devargs, const Options& options) {
  const std::string interface = interface_of(devargs);
  if (!interface.empty() && if_nametoindex(interface.c_str()) == 0) {
    return Error{"there is no interface '" + interface + "' in this network namespace", "ip -brief link"};
  }
  if (is_driver(devargs, "net_af_packet")) warn_af_packet(interface);
  if (!is_driver(devargs, "net_af_xdp")) return devargs;
  if (const uint32_t queues = channel_count(interface); queues < options.workers) {
    return Error{interface + " has " + std::to_string(queues) + " queue" + (queues == 1 ? "" : "s") + ", " +
                     std::to_string(options.workers) + " workers need one each",
                 "--workers " + std::to_string(queues) + ", or: ethtool -L " + interface + " combined " +
                     std::to_string(options.workers)};
  }
  if (Result<Done> done = check_program(interface); !done) return done.error();
  if (devargs.find("xdp_prog=") == std::string::npos) {
    if (!std::ifstream(options.steer_program)) {
      return Error{"the steering program is not at " + options.steer_program,
                   "meson compile -C build, or --steer FILE"};
    }
    devargs += ",xdp_prog=" + options.steer_program;
  }
  if (devargs.find("queue_count=") == std::string::npos) {
    devargs += ",start_queue=0,queue_count=" + std::to_string(options.workers);
  }
  return devargs;
}

std::string devargs_for(const std::string& interface, const Options& options) {
  if (options.driver == "af_packet" || !kernel_has_af_xdp()) {
    return "net_af_packet_" + interface + ",iface=" + interface +
           ",qpairs=" + std::to_string(options.workers);
  }
  return "net_af_xdp_" + interface + ",iface=" + interface;
}

Result<Done> start_port(uint16_t port, uint32_t workers, const PortInfo& port_info) {
  const std::string name = port_info.name;
  rte_eth_dev_info info;
  if (rte_eth_dev_info_get(port, &info) != 0) return Error{name + ": cannot be asked for its abilities", ""};
  const uint32_t queues = std::min(info.max_rx_queues, info.max_tx_queues);
  if (queues < workers) {
    return Error{name + " has " + std::to_string(queues) + " queues, " + std::to_string(workers) +
                     " workers need as many",
                 "--workers " + std::to_string(queues) + ", or ethtool -L for more"};
  }
  rte_eth_conf conf{};
  const uint64_t rss = info.flow_type_rss_offloads & (RTE_ETH_RSS_IP | RTE_ETH_RSS_TCP | RTE_ETH_RSS_UDP);
  if (workers > 1 && rss != 0) {
    conf.rxmode.mq_mode = RTE_ETH_MQ_RX_RSS;
    conf.rx_adv_conf.rss_conf.rss_hf = rss;
  }
  const auto count = static_cast<uint16_t>(workers);
  if (const int e = rte_eth_dev_configure(port, count, count, &conf); e != 0) {
    return Error{name + " refuses " + std::to_string(workers) + " queues: " + std::strerror(-e), ""};
  }
  uint16_t rx_descriptors = kRingDescriptors, tx_descriptors = kRingDescriptors;
  rte_eth_dev_adjust_nb_rx_tx_desc(port, &rx_descriptors, &tx_descriptors);
  for (uint16_t queue = 0; queue < count; queue++) {
    char pool_name[RTE_MEMPOOL_NAMESIZE];
    std::snprintf(pool_name, sizeof pool_name, "port%u-%u", port, queue);
    // A pool of its own for each queue: net_af_xdp registers the pool's memory with the kernel, queue by
    // queue.
    rte_mempool* pool = rte_pktmbuf_pool_create(pool_name, kPoolPackets, kPoolCache, 0,
                                                RTE_MBUF_DEFAULT_BUF_SIZE, static_cast<int>(rte_socket_id()));
    if (pool == nullptr) {
      return Error{name + ": no memory for " + std::to_string(kPoolPackets) + " packet buffers",
                   "echo 128 | sudo tee /proc/sys/vm/nr_hugepages"};
    }
    // net_af_xdp attaches the program with its first queue.
    if (queue == 0 && port_info.steered != 0) {
      if (Result<Done> done = take_off_program(port_info.interface); !done) return done.error();
    }
    const int socket = rte_eth_dev_socket_id(port);
    int e = rte_eth_rx_queue_setup(port, queue, rx_descriptors, static_cast<unsigned>(socket), nullptr, pool);
    if (e == 0)
      e = rte_eth_tx_queue_setup(port, queue, tx_descriptors, static_cast<unsigned>(socket), nullptr);
    if (e != 0) {
      return Error{name + ": queue " + std::to_string(queue) + " cannot be set up: " + std::strerror(-e),
                   "read DPDK's lines above; dmesg | tail"};
    }
  }
  if (const int e = rte_eth_dev_start(port); e != 0) {
    return Error{name + " does not start: " + std::strerror(-e), "ip link set dev " + name + " up"};
  }
  return Done{};
}

void fill_mac_and_mtu(uint16_t port, PortInfo& port_info) {
  rte_ether_addr mac;
  if (rte_eth_macaddr_get(port, &mac) == 0) std::memcpy(port_info.mac.bytes.data(), mac.addr_bytes, 6);
  uint16_t mtu_bytes = 0;
  if (rte_eth_dev_get_mtu(port, &mtu_bytes) == 0) port_info.mtu_bytes = mtu_bytes;
}

PortInfo describe(uint16_t port, const Options& options) {
  PortInfo port_info{};
  rte_eth_dev_get_name_by_port(port, port_info.name);
  rte_eth_dev_info info;
  if (rte_eth_dev_info_get(port, &info) == 0) {
    std::snprintf(port_info.driver, sizeof port_info.driver, "%s", info.driver_name);
    port_info.ifindex = info.if_index;
  }
  const std::string name = port_info.name;
  for (const std::string& devargs : options.vdevs) {
    if (devargs.rfind(name + ",", 0) == 0) {
      std::snprintf(port_info.interface, sizeof port_info.interface, "%s", interface_of(devargs).c_str());
    }
  }
  if (port_info.interface[0] == '\0') {
    for (const std::string& interface : options.interfaces) {
      if (name == "net_af_xdp_" + interface || name == "net_af_packet_" + interface) {
        std::snprintf(port_info.interface, sizeof port_info.interface, "%s", interface.c_str());
      }
    }
  }
  if (port_info.interface[0] != '\0') port_info.ifindex = if_nametoindex(port_info.interface);
  port_info.steered = is_driver(name, "net_af_xdp") ? 1 : 0;
  port_info.kernel_sees_rest = is_driver(name, "net_af_packet") ? 1 : 0;
  // A kernel-owned interface hears whatever a bridge floods, and all when somebody listens on it.
  port_info.hears_all = port_info.steered != 0 || is_driver(name, "net_af_packet") ? 1 : 0;
  return port_info;
}

}  // namespace

Result<std::vector<std::string>> port_arguments(const Options& options) {
  std::vector<std::string> arguments;
  std::vector<std::string> vdevs = options.vdevs;
  for (const std::string& interface : options.interfaces) {
    const std::string devargs = devargs_for(interface, options);
    if (options.driver == "af_xdp" && is_driver(devargs, "net_af_packet")) {
      std::fprintf(stderr, "sluice-dataplane: this kernel has no AF_XDP sockets\n");
    }
    vdevs.push_back(devargs);
  }
  for (const std::string& devargs : vdevs) {
    Result<std::string> completed = complete(devargs, options);
    if (!completed) return completed.error();
    arguments.insert(arguments.end(), {"--vdev", *completed});
  }
  for (const std::string& device : options.allowed)
    arguments.insert(arguments.end(), {"-a", device});
  if (options.allowed.empty()) arguments.push_back("--no-pci");
  return arguments;
}

Result<Done> start_ports(uint32_t workers, const Options& options, std::vector<PortInfo>& ports) {
  uint16_t port;
  RTE_ETH_FOREACH_DEV(port) {
    if (port >= limits::kPortsMax)
      return Error{"more than " + std::to_string(limits::kPortsMax) + " ports", ""};
    ports.resize(std::max<size_t>(ports.size(), port + 1u), PortInfo{});
    ports[port] = describe(port, options);
    ports[port].queues = workers;
    fill_mac_and_mtu(port, ports[port]);
    if (Result<Done> done = start_port(port, workers, ports[port]); !done) return done.error();
  }
  if (ports.empty()) return Error{"DPDK found no port", "sluice-dataplane --help; dpdk-devbind.py --status"};
  return Done{};
}

void stop_ports() {
  uint16_t port;
  RTE_ETH_FOREACH_DEV(port) {
    rte_eth_dev_stop(port);
    rte_eth_dev_close(port);
  }
}

void tell_lost_interfaces(const StatsHeader& stats) {
  static bool told[limits::kPortsMax] = {};
  for (uint32_t port = 0; port < stats.ports_count; port++) {
    const PortInfo& one = stats.ports[port];
    if (told[port] || one.interface[0] == '\0') continue;
    const bool gone = if_nametoindex(one.interface) != one.ifindex;
    if (!gone && (one.steered == 0 || has_program(one.interface))) continue;
    told[port] = true;
    std::fprintf(stderr,
                 "sluice-dataplane: %s %s: no packet comes from it\n  try: restart sluice-dataplane\n",
                 one.interface, gone ? "is gone" : "has lost its steering program");
  }
}

void copy_port_counters(StatsHeader& stats) {
  for (uint16_t port = 0; port < stats.ports_count; port++) {
    rte_eth_stats counted;
    if (rte_eth_stats_get(port, &counted) != 0) continue;
    stats.port_counters[port].received.set(counted.ipackets);
    stats.port_counters[port].sent.set(counted.opackets);
    stats.port_counters[port].missed.set(counted.imissed + counted.rx_nombuf);
  }
}

}  // namespace sluice
