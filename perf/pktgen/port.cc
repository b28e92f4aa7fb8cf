#include "perf/pktgen/port.h"

#include <rte_errno.h>
#include <rte_eth_ring.h>
#include <rte_ethdev.h>
#include <rte_lcore.h>
#include <rte_mbuf.h>
#include <rte_ring.h>

#include <charconv>
#include <cstring>

namespace sluice::pktgen {
namespace {

// A drop by the target is a push onto its core's own cache, as with a NIC's pool.
constexpr uint32_t kPoolCache = 256;

void clear_packet(rte_mempool*, void*, void* object, unsigned) {
  auto* mbuf = static_cast<rte_mbuf*>(object);
  std::memset(mbuf->buf_addr, 0, mbuf->buf_len);
}

Error dpdk_error(const std::string& what) {
  return Error{what + ": " + rte_strerror(rte_errno), "more hugepages, or --no-huge with more of -m"};
}

}  // namespace

Result<PortOptions> PortOptions::parse(const std::string& devargs) {
  PortOptions options;
  options.name = devargs.substr(0, devargs.find(','));
  for (size_t at = devargs.find(','); at != std::string::npos; at = devargs.find(',', at + 1)) {
    const std::string pair = devargs.substr(at + 1, devargs.find(',', at + 1) - at - 1);
    const std::string key = pair.substr(0, pair.find('=')),
                      value = pair.substr(std::min(pair.size(), key.size() + 1));
    const char* end = value.data() + value.size();
    if (key == "control" && !value.empty()) {
      options.control = value;
    } else if (key != "cpu" || std::from_chars(value.data(), end, options.cpu).ptr != end || value.empty()) {
      return Error{devargs + ": '" + pair + "' is not understood", options.name + ",cpu=N,control=FILE"};
    }
  }
  if (options.control.empty())
    return Error{devargs + ": names no control file", options.name + ",cpu=N,control=FILE"};
  return options;
}

Result<Port> Port::make(const PortOptions& options) {
  Port port;
  port.name = options.name;
  const int socket = static_cast<int>(rte_socket_id());
  const unsigned flags = RING_F_SP_ENQ | RING_F_SC_DEQ | RING_F_EXACT_SZ;
  port.to_target = rte_ring_create((options.name + "_in").c_str(), kRingPackets, socket, flags);
  port.from_target = rte_ring_create((options.name + "_out").c_str(), kReturnPackets, socket, flags);
  if (port.to_target == nullptr || port.from_target == nullptr) return dpdk_error("pktgen: no rings");
  port.pool = rte_pktmbuf_pool_create((options.name + "_pool").c_str(), kPoolPackets, kPoolCache, 0,
                                      RTE_MBUF_DEFAULT_BUF_SIZE, socket);
  if (port.pool == nullptr) return dpdk_error("pktgen: no packets");
  rte_mempool_obj_iter(port.pool, clear_packet, nullptr);
  const int id = rte_eth_from_rings(options.name.c_str(), &port.to_target, 1, &port.from_target, 1,
                                    static_cast<unsigned>(socket));
  if (id < 0) return dpdk_error("pktgen: no port");
  port.id = static_cast<uint16_t>(id);
  return port;
}

}  // namespace sluice::pktgen
