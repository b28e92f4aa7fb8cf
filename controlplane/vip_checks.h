// Which checks ask the VIP, and that all they need is there: the program, its interfaces, each backend's way.
//
// Owner: sluiced's one thread. What is missing (BPF, a route to a VIP) makes those checks impossible, with
// the reason, and nothing else: backends keep the health they had. It is tried again every second, which is
// also how routes are followed.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>

#include "controlplane/model.h"
#include "controlplane/netlink.h"
#include "controlplane/probe.h"
#include "controlplane/vip_path.h"

namespace sluice {

class VipChecks {
 public:
  explicit VipChecks(std::string instance_directory) : directory_(std::move(instance_directory)) {}

  // Makes `target`, which asks the backend, one that asks the VIP, or impossible.
  void aim(const Service& service, const Backend& backend, CheckTarget& target);
  // Its next hop changed, or it is not checked any more.
  void follow_hop(const Service& service, const Backend& backend);
  void forget(BackendId id);
  // Once a second. True: what was impossible is possible now, or the other way round; aim all again.
  bool look_again(const Model& model);
  // What is missing, for the operator; empty: nothing.
  std::string fault() const;

 private:
  struct Vip {
    uint32_t ifindex = 0;  // by which the kernel sends to it
    std::string fault;
    bool operator==(const Vip&) const = default;
  };
  const Vip& vip(const IpAddress& address);
  Vip look_up(const IpAddress& address);
  void keep_only(const Model& model);
  // Empty, or why no check can ask a VIP.
  std::string prepare();
  void attach();

  const std::string directory_;
  std::optional<Netlink> netlink_;
  std::unique_ptr<VipPath> path_;  // while there are VIPs
  std::map<IpAddress, Vip> vips_;
  std::string fault_;     // of the program as a whole
  uint64_t edition_ = 0;  // of the model whose VIPs these are
};

}  // namespace sluice
