// The kernel's view of links, routes and neighbours, through libnl-route-3: thin, synchronous, no policy.
//
// Requests are answered by the kernel within the system call (microseconds each, a dump of n entries O(n));
// nothing waits for the network. Changes are announced on events_fd(); read_events tells which kind of thing
// changed, not what.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "src/address.h"
#include "src/result.h"

struct nl_sock;

namespace sluice {

struct Link {
  uint32_t ifindex = 0;
  std::string name;
  uint32_t mtu_bytes = 0;
  MacAddress mac;
  bool is_up = false;
  bool is_ethernet = false;  // frames to it begin with an Ethernet header and need a neighbour's MAC
};

// The kernel's answer to "how would you send to this address".
struct Route {
  bool is_local = false;   // the address is this host's own
  uint32_t ifindex = 0;    // egress interface
  IpAddress next_hop;      // the gateway, or the address itself when it is on-link
  IpAddress source;        // preferred source address; unset when the kernel names none
  uint32_t mtu_bytes = 0;  // the route's own limit; 0: none
};

struct Neighbour {
  uint32_t ifindex = 0;
  IpAddress address;
  MacAddress mac;
  uint16_t state = 0;  // NUD_* of <linux/neighbour.h>
};

struct NetlinkEvents {
  bool routes = false;  // links, addresses or routes changed, or events were lost
  bool neighbours = false;
  std::vector<Neighbour> failed;  // neighbours that gave no answer (NUD_FAILED)
};

class Netlink {
 public:
  static Result<Netlink> open();

  [[nodiscard]] Result<Route> route_to(const IpAddress& address);
  [[nodiscard]] Result<std::vector<Link>> links();
  [[nodiscard]] Result<std::vector<Neighbour>> neighbours();
  // Makes the kernel resolve the neighbour, or confirm it if it is stale (NTF_USE): ARP or neighbour
  // discovery.
  [[nodiscard]] Result<Done> use_neighbour(uint32_t ifindex, const IpAddress& address);

  // Non-blocking; readable when something changed.
  int events_fd() const;
  NetlinkEvents read_events();

 private:
  struct SocketDeleter {
    void operator()(nl_sock* socket) const;
  };
  using Socket = std::unique_ptr<nl_sock, SocketDeleter>;
  Socket requests_;
  Socket events_;
};

}  // namespace sluice
