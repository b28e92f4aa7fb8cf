#include "controlplane/neighbours.h"

#include <fcntl.h>
#include <linux/neighbour.h>
#include <unistd.h>

#include <algorithm>
#include <set>

namespace sluice {
namespace {

// States in which the kernel itself would send to the entry's MAC.
constexpr uint16_t kUsable = NUD_PERMANENT | NUD_NOARP | NUD_REACHABLE | NUD_PROBE | NUD_STALE | NUD_DELAY;
constexpr uint16_t kNeedsNoConfirming = NUD_PERMANENT | NUD_NOARP;

NextHop unresolved(std::string why) {
  NextHop hop;
  hop.why_not = std::move(why);
  return hop;
}

}  // namespace

Result<std::unique_ptr<Neighbours>> Neighbours::open(boost::asio::io_context& io, OnChange on_change,
                                                     OnFault on_fault) {
  Result<Netlink> netlink = Netlink::open();
  if (!netlink) return netlink.error();
  std::unique_ptr<Neighbours> neighbours(
      new Neighbours(io, std::move(*netlink), std::move(on_change), std::move(on_fault)));
  neighbours->wait_for_events();
  neighbours->refresh_later();
  return neighbours;
}

Neighbours::Neighbours(boost::asio::io_context& io, Netlink netlink, OnChange on_change, OnFault on_fault)
    : netlink_(std::move(netlink)),
      on_change_(std::move(on_change)),
      on_fault_(std::move(on_fault)),
      events_(io, fcntl(netlink_.events_fd(), F_DUPFD_CLOEXEC, 0)),
      debounce_(io),
      refresh_(io) {}

void Neighbours::set_ports(std::vector<Port> ports) {
  if (ports == ports_) return;
  ports_ = std::move(ports);
  all_are_due_ = true;
  look_soon(false);
}

void Neighbours::set_addresses(std::span<const IpAddress> addresses) {
  const std::set<IpAddress> wanted(addresses.begin(), addresses.end());
  std::erase_if(entries_, [&](const auto& item) {
    if (wanted.contains(item.first)) return false;
    leave_way(item.first, item.second);
    return true;
  });
  for (const IpAddress& address : wanted) {
    const auto [entry, is_new] = entries_.try_emplace(address);
    if (!is_new) continue;
    look_up_route(address, entry->second);
    all_are_due_ = true;
  }
  if (all_are_due_) look(false);
}

void Neighbours::remember(const IpAddress& address, const NextHop& published) {
  remembered_[address] = published;
}

const NextHop& Neighbours::next_hop(const IpAddress& address) const {
  static const NextHop unknown = unresolved("not looked up yet");
  const auto found = entries_.find(address);
  return found == entries_.end() ? unknown : found->second.hop;
}

void Neighbours::wait_for_events() {
  events_.async_wait(boost::asio::posix::stream_descriptor::wait_read,
                     [this](const boost::system::error_code& error) {
                       if (error) return;
                       const NetlinkEvents events = netlink_.read_events();
                       // Noted at once: by the time of the look our own probing may have turned "failed" into
                       // "being resolved".
                       for (const Neighbour& failed : events.failed)
                         failed_.insert({failed.ifindex, failed.address});
                       if (events.routes || events.neighbours) look_soon(events.routes);
                       wait_for_events();
                     });
}

void Neighbours::look_soon(bool routes) {
  routes_are_due_ |= routes;
  if (look_is_due_) return;
  look_is_due_ = true;
  debounce_.expires_after(std::max<std::chrono::steady_clock::duration>(kDebounce, kLookRest * look_took_));
  debounce_.async_wait([this](const boost::system::error_code& error) {
    if (error) return;
    look_is_due_ = false;
    const auto started = std::chrono::steady_clock::now();
    const std::vector<IpAddress> changed = look(std::exchange(routes_are_due_, false));
    look_took_ = std::chrono::steady_clock::now() - started;
    if (!changed.empty()) on_change_(changed);
  });
}

void Neighbours::refresh_later() {
  refresh_.expires_after(kRetryPeriod);
  refresh_.async_wait([this](const boost::system::error_code& error) {
    if (error) return;
    if (std::exchange(look_failed_, false)) look_soon(true);
    drop_unused();
    probe(std::chrono::steady_clock::now());
    refresh_later();
  });
}

void Neighbours::leave_way(const IpAddress& address, const Entry& entry) {
  const auto way = ways_.find({entry.route.ifindex, entry.route.next_hop});
  if (way == ways_.end()) return;
  way->second.erase(address);
  if (way->second.empty()) ways_.erase(way);
}

void Neighbours::look_up_route(const IpAddress& address, Entry& entry) {
  leave_way(address, entry);
  const Result<Route> route = netlink_.route_to(address);
  entry.has_route = static_cast<bool>(route);
  entry.route = route ? *route : Route{};
  entry.no_route = route ? "" : route.error().what;
  if (entry.has_route && !entry.route.is_local) {
    ways_[{entry.route.ifindex, entry.route.next_hop}].insert(address);
  }
}

std::set<Neighbours::Key> Neighbours::learn(const std::vector<Neighbour>& neighbours) {
  std::set<Key> changed;
  kernel_.clear();
  for (const Neighbour& neighbour : neighbours) {
    const Key key{neighbour.ifindex, neighbour.address};
    kernel_[key] = neighbour;
    if ((neighbour.state & NUD_FAILED) != 0) failed_.insert(key);
    if ((neighbour.state & kUsable) == 0 || !neighbour.mac.is_set()) continue;
    const bool was_silent = silent_.erase(key) != 0;
    const MacAddress before = std::exchange(known_[key], neighbour.mac);
    if (was_silent || before != neighbour.mac) changed.insert(key);
  }
  // A MAC learnt after the failure counts again; what a predecessor knew does not.
  for (const Key& key : failed_) {
    const auto now = kernel_.find(key);
    if (now != kernel_.end() && (now->second.state & kUsable) != 0) continue;
    const bool was_known = known_.erase(key) != 0;
    const bool is_news = silent_.insert(key).second;
    if (was_known || is_news) changed.insert(key);
  }
  failed_.clear();
  return changed;
}

bool Neighbours::bring_up_to_date(const IpAddress& address, Entry& entry) {
  NextHop hop = resolve(address, entry);
  if (hop == entry.hop) return false;
  entry.hop = std::move(hop);
  return true;
}

std::vector<IpAddress> Neighbours::look(bool routes) {
  if (routes) {
    for (auto& [address, entry] : entries_)
      look_up_route(address, entry);
    all_are_due_ = true;
  }
  const Result<std::vector<Link>> links = netlink_.links();
  const Result<std::vector<Neighbour>> neighbours = netlink_.neighbours();
  if (!links || !neighbours) {
    on_fault_("next hops stay as they were: " + (links ? neighbours.error() : links.error()).text());
    look_failed_ = true;
    return {};
  }
  links_.clear();
  for (const Link& link : *links)
    links_[link.ifindex] = link;
  const std::set<Key> changed_neighbours = learn(*neighbours);

  std::vector<IpAddress> changed;
  if (std::exchange(all_are_due_, false)) {
    for (auto& [address, entry] : entries_) {
      if (bring_up_to_date(address, entry)) changed.push_back(address);
    }
  } else {
    for (const Key& key : changed_neighbours) {
      const auto way = ways_.find(key);
      if (way == ways_.end()) continue;
      for (const IpAddress& address : way->second) {
        if (bring_up_to_date(address, entries_.at(address))) changed.push_back(address);
      }
    }
  }
  probe(std::chrono::steady_clock::now());
  return changed;
}

NextHop Neighbours::resolve(const IpAddress& address, const Entry& entry) {
  if (!entry.has_route) return unresolved(entry.no_route);
  const Route& route = entry.route;
  if (route.is_local) return unresolved("the address is this host's own; a backend must be another host");
  const auto found = links_.find(route.ifindex);
  if (found == links_.end()) return unresolved("the route's interface is gone");
  const Link& link = found->second;
  NextHop hop;
  hop.ifindex = link.ifindex;
  hop.mtu_bytes = route.mtu_bytes == 0 ? link.mtu_bytes : std::min(route.mtu_bytes, link.mtu_bytes);
  hop.source_mac = link.mac;
  hop.source = route.source;
  if (!link.is_up) {
    hop.why_not = "interface " + link.name + " is down";
    return hop;
  }
  if (!link.is_ethernet) {
    hop.why_not = "interface " + link.name + " is not an Ethernet";
    return hop;
  }
  // Neither tunnelled packets nor health checks could leave.
  if (!hop.source.is_set()) {
    hop.why_not = "no source address on " + link.name;
    return hop;
  }
  set_port(hop, link);
  if (!hop.why_not.empty()) return hop;

  const Key key{route.ifindex, route.next_hop};
  const auto known = known_.find(key);
  const bool failed = silent_.contains(key);
  if (failed || known != known_.end()) remembered_.erase(address);
  const MacAddress* remembered = remembered_mac(address, hop);
  if (known != known_.end()) {
    hop.mac = known->second;
  } else if (remembered != nullptr) {
    hop.mac = *remembered;
  } else {
    const char* how = route.next_hop.is_v4() ? "ARP" : "neighbour discovery";
    hop.why_not = route.next_hop.text() + (failed ? " does not answer " : " is being asked for by ") + how +
                  " on " + link.name;
    return hop;
  }
  hop.resolved = true;
  return hop;
}

// The predecessor's MAC if it holds for this egress, else null, and then it is forgotten.
const MacAddress* Neighbours::remembered_mac(const IpAddress& address, const NextHop& hop) {
  const auto found = remembered_.find(address);
  if (found == remembered_.end()) return nullptr;
  const NextHop& published = found->second;
  if (published.source_mac == hop.source_mac && published.source == hop.source) return &published.mac;
  remembered_.erase(found);
  return nullptr;
}

// Not at once in set_addresses: a reload that fails puts the old addresses back a moment later.
void Neighbours::drop_unused() {
  std::erase_if(known_, [&](const auto& item) { return !ways_.contains(item.first); });
  std::erase_if(silent_, [&](const Key& key) { return !ways_.contains(key); });
  std::erase_if(remembered_, [&](const auto& item) { return !entries_.contains(item.first); });
}

// The data plane's port that is this interface. A port that the kernel does not know (a capture file, a NIC
// taken from the kernel) may stand behind any interface: the first such one is meant.
void Neighbours::set_port(NextHop& hop, const Link& link) const {
  if (ports_.empty()) return;
  const auto same =
      std::find_if(ports_.begin(), ports_.end(), [&](const Port& p) { return p.ifindex == link.ifindex; });
  const auto unnamed =
      std::find_if(ports_.begin(), ports_.end(), [](const Port& p) { return p.ifindex == 0; });
  if (same != ports_.end()) {
    hop.port = same->number;
  } else if (unnamed != ports_.end()) {
    hop.port = unnamed->number;
    if (unnamed->mac.is_set()) hop.source_mac = unnamed->mac;
  } else {
    hop.why_not = "the route leaves by " + link.name + ", which is not a port of the data plane";
  }
}

void Neighbours::probe(std::chrono::steady_clock::time_point now) {
  std::map<Key, std::chrono::steady_clock::time_point> probed;
  for (const auto& [key, addresses] : ways_) {
    const auto link = links_.find(key.first);
    const bool can_be_asked = link != links_.end() && link->second.is_up && link->second.is_ethernet;
    if (!can_be_asked) continue;
    const auto in_kernel = kernel_.find(key);
    const bool usable = in_kernel != kernel_.end() && (in_kernel->second.state & kUsable) != 0;
    if (usable && (in_kernel->second.state & kNeedsNoConfirming) != 0) continue;
    const auto last = probed_.find(key);
    const std::chrono::seconds period = usable ? kRefreshPeriod : kRetryPeriod;
    if (last != probed_.end() && now - last->second < period) {
      probed[key] = last->second;
      continue;
    }
    probed[key] = now;
    const Result<Done> asked = netlink_.use_neighbour(key.first, key.second);
    if (!asked && !std::exchange(warned_of_probing_, true)) on_fault_(asked.error().text());
  }
  probed_ = std::move(probed);
}

}  // namespace sluice
