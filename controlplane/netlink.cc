#include "controlplane/netlink.h"

#include <linux/neighbour.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <netlink/cache.h>
#include <netlink/netlink.h>
#include <netlink/route/link.h>
#include <netlink/route/neighbour.h>
#include <netlink/route/nexthop.h>
#include <netlink/route/route.h>
#include <netlink/socket.h>

#include <cstring>

namespace sluice {
namespace {

template <auto Function>
struct Calls {
  template <typename T>
  void operator()(T* object) const {
    Function(object);
  }
};
using Address = std::unique_ptr<nl_addr, Calls<nl_addr_put>>;
using Cache = std::unique_ptr<nl_cache, Calls<nl_cache_free>>;
using RouteObject = std::unique_ptr<rtnl_route, Calls<rtnl_route_put>>;
using NeighbourObject = std::unique_ptr<rtnl_neigh, Calls<rtnl_neigh_put>>;

Error netlink_error(const std::string& what, int code) {
  return {what + ": " + nl_geterror(code), ""};
}

Address to_netlink(const IpAddress& address) {
  if (address.is_v4()) return Address(nl_addr_build(AF_INET, &address.bytes[12], 4));
  return Address(nl_addr_build(AF_INET6, address.bytes.data(), 16));
}

// An unset address for anything that is not an IP address.
IpAddress from_netlink(nl_addr* address) {
  if (address == nullptr) return {};
  const void* bytes = nl_addr_get_binary_addr(address);
  const unsigned length = nl_addr_get_len(address);
  if (nl_addr_get_family(address) == AF_INET && length == 4) {
    uint32_t network_order;
    std::memcpy(&network_order, bytes, 4);
    return IpAddress::v4(network_order);
  }
  if (nl_addr_get_family(address) == AF_INET6 && length == 16) return IpAddress::v6(bytes);
  return {};
}

MacAddress mac_from_netlink(nl_addr* address) {
  MacAddress mac;
  if (address != nullptr && nl_addr_get_len(address) == mac.bytes.size()) {
    std::memcpy(mac.bytes.data(), nl_addr_get_binary_addr(address), mac.bytes.size());
  }
  return mac;
}

Neighbour to_neighbour(rtnl_neigh* object) {
  Neighbour neighbour;
  neighbour.ifindex = static_cast<uint32_t>(rtnl_neigh_get_ifindex(object));
  neighbour.address = from_netlink(rtnl_neigh_get_dst(object));
  neighbour.mac = mac_from_netlink(rtnl_neigh_get_lladdr(object));
  const int state = rtnl_neigh_get_state(object);
  neighbour.state = state < 0 ? uint16_t{0} : static_cast<uint16_t>(state);
  return neighbour;
}

// One message of the events socket; `argument` is the NetlinkEvents to fill.
int note_event(nl_msg* message, void* argument) {
  auto& events = *static_cast<NetlinkEvents*>(argument);
  nlmsghdr* header = nlmsg_hdr(message);
  switch (header->nlmsg_type) {
    case RTM_NEWNEIGH:
    case RTM_DELNEIGH: {
      events.neighbours = true;
      rtnl_neigh* parsed = nullptr;
      if (header->nlmsg_type == RTM_NEWNEIGH && rtnl_neigh_parse(header, &parsed) == 0) {
        const NeighbourObject object(parsed);
        if ((rtnl_neigh_get_state(parsed) & NUD_FAILED) != 0 && rtnl_neigh_get_state(parsed) > 0) {
          events.failed.push_back(to_neighbour(parsed));
        }
      }
      break;
    }
    default:
      events.routes = true;
  }
  return NL_OK;
}

}  // namespace

void Netlink::SocketDeleter::operator()(nl_sock* socket) const {
  nl_socket_free(socket);
}

Result<Netlink> Netlink::open() {
  Netlink netlink;
  netlink.requests_.reset(nl_socket_alloc());
  netlink.events_.reset(nl_socket_alloc());
  for (const Socket* socket : {&netlink.requests_, &netlink.events_}) {
    if (const int code = nl_connect(socket->get(), NETLINK_ROUTE); code < 0) {
      return netlink_error("cannot talk to the kernel over netlink", code);
    }
  }
  nl_sock* events = netlink.events_.get();
  // Events answer nothing, so they carry no sequence numbers of ours.
  nl_socket_disable_seq_check(events);
  nl_socket_set_nonblocking(events);
  nl_socket_set_buffer_size(events, 1 << 20, 0);
  const int code = nl_socket_add_memberships(events, RTNLGRP_NEIGH, RTNLGRP_LINK, RTNLGRP_IPV4_ROUTE,
                                             RTNLGRP_IPV6_ROUTE, RTNLGRP_IPV4_IFADDR, RTNLGRP_IPV6_IFADDR, 0);
  if (code < 0) return netlink_error("cannot follow changes of routes and neighbours", code);
  return netlink;
}

Result<Route> Netlink::route_to(const IpAddress& address) {
  const Address destination = to_netlink(address);
  rtnl_route* found = nullptr;
  if (const int code = rtnl_route_lookup(requests_.get(), destination.get(), &found); code < 0) {
    return Error{"no route to " + address.text(), "ip route get " + address.text()};
  }
  const RouteObject object(found);
  Route route;
  const uint8_t type = rtnl_route_get_type(found);
  if (type == RTN_LOCAL) {
    route.is_local = true;
    return route;
  }
  rtnl_nexthop* hop = rtnl_route_get_nnexthops(found) > 0 ? rtnl_route_nexthop_n(found, 0) : nullptr;
  if (type != RTN_UNICAST || hop == nullptr) {
    return Error{"the route to " + address.text() + " is not to one host", "ip route get " + address.text()};
  }
  route.ifindex = static_cast<uint32_t>(rtnl_route_nh_get_ifindex(hop));
  route.next_hop = from_netlink(rtnl_route_nh_get_gateway(hop));
  if (!route.next_hop.is_set()) route.next_hop = from_netlink(rtnl_route_nh_get_via(hop));
  if (!route.next_hop.is_set()) route.next_hop = address;
  route.source = from_netlink(rtnl_route_get_pref_src(found));
  rtnl_route_get_metric(found, RTAX_MTU, &route.mtu_bytes);
  return route;
}

Result<std::vector<Link>> Netlink::links() {
  nl_cache* raw = nullptr;
  if (const int code = rtnl_link_alloc_cache(requests_.get(), AF_UNSPEC, &raw); code < 0) {
    return netlink_error("cannot list network interfaces", code);
  }
  const Cache cache(raw);
  std::vector<Link> links;
  for (nl_object* object = nl_cache_get_first(raw); object != nullptr; object = nl_cache_get_next(object)) {
    auto* found = reinterpret_cast<rtnl_link*>(object);
    Link link;
    link.ifindex = static_cast<uint32_t>(rtnl_link_get_ifindex(found));
    link.name = rtnl_link_get_name(found);
    link.mtu_bytes = rtnl_link_get_mtu(found);
    link.mac = mac_from_netlink(rtnl_link_get_addr(found));
    const unsigned flags = rtnl_link_get_flags(found);
    link.is_up = (flags & IFF_UP) != 0;
    link.is_ethernet = rtnl_link_get_arptype(found) == ARPHRD_ETHER && (flags & IFF_NOARP) == 0;
    links.push_back(std::move(link));
  }
  return links;
}

Result<std::vector<Neighbour>> Netlink::neighbours() {
  nl_cache* raw = nullptr;
  if (const int code = rtnl_neigh_alloc_cache(requests_.get(), &raw); code < 0) {
    return netlink_error("cannot list neighbours", code);
  }
  const Cache cache(raw);
  std::vector<Neighbour> neighbours;
  for (nl_object* object = nl_cache_get_first(raw); object != nullptr; object = nl_cache_get_next(object)) {
    Neighbour neighbour = to_neighbour(reinterpret_cast<rtnl_neigh*>(object));
    if (neighbour.address.is_set()) neighbours.push_back(neighbour);
  }
  return neighbours;
}

Result<Done> Netlink::use_neighbour(uint32_t ifindex, const IpAddress& address) {
  const NeighbourObject neighbour(rtnl_neigh_alloc());
  const Address destination = to_netlink(address);
  rtnl_neigh_set_ifindex(neighbour.get(), static_cast<int>(ifindex));
  rtnl_neigh_set_dst(neighbour.get(), destination.get());
  rtnl_neigh_set_flags(neighbour.get(), NTF_USE);
  const int code = rtnl_neigh_add(requests_.get(), neighbour.get(), NLM_F_CREATE | NLM_F_REPLACE);
  if (code == -NLE_PERM) {
    return Error{"not allowed to probe neighbour " + address.text(),
                 "run sluiced as root or with CAP_NET_ADMIN"};
  }
  if (code < 0) return netlink_error("cannot probe neighbour " + address.text(), code);
  return Done{};
}

int Netlink::events_fd() const {
  return nl_socket_get_fd(events_.get());
}

NetlinkEvents Netlink::read_events() {
  NetlinkEvents events;
  const std::unique_ptr<nl_cb, Calls<nl_cb_put>> callbacks(nl_socket_get_cb(events_.get()));
  nl_cb_set(callbacks.get(), NL_CB_VALID, NL_CB_CUSTOM, note_event, &events);
  int messages;
  while ((messages = nl_recvmsgs_report(events_.get(), callbacks.get())) > 0) {
  }
  // Anything but "nothing more to read" means that events were lost (ENOBUFS): look at everything again.
  if (messages < 0 && messages != -NLE_AGAIN) events.routes = events.neighbours = true;
  return events;
}

}  // namespace sluice
