// Next hops of the backends, kept current from the kernel's routes and neighbours: nobody types a MAC
// address.
//
// Owner: sluiced's one thread. For each address: the kernel's route (gateway or on-link, egress interface,
// source address, MTU), then the neighbour's MAC. What is unresolved is probed, and what is resolved is
// confirmed every kRefreshPeriod, so the kernel does ARP and neighbour discovery although our packets never
// pass it. Every change in the kernel that can matter leads, after kDebounce, to a new look.
//
// A MAC once known stays while the kernel's entry is merely stale or gone, and is dropped when the neighbour
// gave no answer (NUD_FAILED) or the route leads elsewhere. Memory is that of the addresses followed and of
// the kernel's own table. Cost of a look: one dump of the kernel's neighbours and links, and the addresses
// behind those neighbours that became others; all addresses, and a route request for each (5-10 us), when
// routes or links changed. Confirming costs what there are neighbours: a thousand backends behind one gateway
// are one.
#pragma once

#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <span>
#include <vector>

#include <boost/asio/io_context.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/steady_timer.hpp>

#include "controlplane/model.h"
#include "controlplane/netlink.h"
#include "src/result.h"

namespace sluice {

class Neighbours {
 public:
  static constexpr std::chrono::milliseconds kDebounce{20};
  // After a look, this many times as long without one: routes that change all day take a tenth of the loop.
  static constexpr int kLookRest = 9;
  // Below the 30 s or so after which the kernel calls an entry stale (base_reachable_time).
  static constexpr std::chrono::seconds kRefreshPeriod{15};
  // How often an unresolved neighbour is asked for; the kernel itself repeats a request three times a second
  // apart.
  static constexpr std::chrono::seconds kRetryPeriod{1};

  // Called from the loop with the addresses whose next hop became another. Never from inside these functions.
  using OnChange = std::function<void(std::span<const IpAddress> changed)>;
  // Called when the kernel refuses something; next hops stay as they were meanwhile.
  using OnFault = std::function<void(const std::string& fault)>;
  static Result<std::unique_ptr<Neighbours>> open(boost::asio::io_context& io, OnChange on_change,
                                                  OnFault on_fault);

  // One port of the data plane: which kernel interface it is.
  struct Port {
    uint32_t ifindex = 0;  // 0: the kernel has no such interface
    uint16_t number = 0;
    MacAddress mac = {};  // its own: the source of its frames when the kernel has no such interface
    bool operator==(const Port&) const = default;
  };
  // Empty: no data plane seen yet, every interface counts as port 0.
  void set_ports(std::vector<Port> ports);

  // Resolves exactly these from now on. Those that are new are looked up at once.
  void set_addresses(std::span<const IpAddress> addresses);
  // What a predecessor had published for this address: its `mac` is used until the kernel knows better, but
  // only if packets still leave from the same `source_mac` and `source`. By another way there is another
  // gateway.
  void remember(const IpAddress& address, const NextHop& published);

  // Unresolved, with the reason, for an address not in set_addresses.
  const NextHop& next_hop(const IpAddress& address) const;

 private:
  struct Entry {
    NextHop hop;
    bool has_route = false;
    Route route;
    std::string no_route;  // why, when has_route is false
  };
  using Key = std::pair<uint32_t, IpAddress>;  // interface, next hop

  Neighbours(boost::asio::io_context& io, Netlink netlink, OnChange on_change, OnFault on_fault);
  void wait_for_events();
  void look_soon(bool routes);
  void refresh_later();
  // Brings all entries up to date; returns those whose next hop changed.
  std::vector<IpAddress> look(bool routes);
  void look_up_route(const IpAddress& address, Entry& entry);
  void leave_way(const IpAddress& address, const Entry& entry);
  // Takes the kernel's table over; returns the neighbours of which something else is known now.
  std::set<Key> learn(const std::vector<Neighbour>& neighbours);
  // True: its next hop became another one.
  bool bring_up_to_date(const IpAddress& address, Entry& entry);
  NextHop resolve(const IpAddress& address, const Entry& entry);
  const MacAddress* remembered_mac(const IpAddress& address, const NextHop& hop);
  // Forgets what no followed address uses.
  void drop_unused();
  void set_port(NextHop& hop, const Link& link) const;
  void probe(std::chrono::steady_clock::time_point now);

  Netlink netlink_;
  const OnChange on_change_;
  const OnFault on_fault_;
  boost::asio::posix::stream_descriptor events_;  // borrows the netlink socket's descriptor
  boost::asio::steady_timer debounce_;
  boost::asio::steady_timer refresh_;
  bool look_is_due_ = false;
  bool routes_are_due_ = false;
  bool all_are_due_ = false;  // something else than neighbours changed: the next look resolves every address
  bool warned_of_probing_ = false;
  bool look_failed_ = false;                         // it is made again with the next refresh
  std::chrono::steady_clock::duration look_took_{};  // the last one

  std::map<IpAddress, Entry> entries_;
  std::map<Key, std::set<IpAddress>> ways_;  // the entries that leave by a neighbour, and by which
  std::vector<Port> ports_;
  std::map<uint32_t, Link> links_;
  std::map<Key, Neighbour> kernel_;          // as of the last look
  std::map<Key, MacAddress> known_;          // last valid MAC
  std::set<Key> failed_;                     // gave no answer since the last look
  std::set<Key> silent_;                     // gave no answer when last asked
  std::map<IpAddress, NextHop> remembered_;  // by address of the backend
  std::map<Key, std::chrono::steady_clock::time_point> probed_;
};

}  // namespace sluice
