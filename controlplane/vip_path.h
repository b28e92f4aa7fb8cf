// Checks that ask the VIP (`to = "vip"`): their packets reach each backend as clients' packets do, tunnel
// and all, so that what is tested is what clients use.
//
// A check connects to the VIP from a socket with the backend's mark; a TC program (bpf/check.bpf.c) on the
// interfaces by which the kernel sends to the VIPs wraps such packets, or gives them the backend's MAC
// address, and drops those whose way is not known. The backend's answers come straight here, from the VIP to
// this host's own address.
//
// Owner: sluiced's one thread. While this exists the program is attached; an orderly end takes it off. After
// a SIGKILL it stays, and the successor's takes its place. The VIP must not be an address of this host.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <string>

#include "controlplane/model.h"
#include "src/result.h"
#include "src/tables.h"

namespace sluice {

class VipPath {
 public:
  // Loads the program; an Error says what the kernel lacks or does not permit.
  static Result<std::unique_ptr<VipPath>> open(const std::string& instance_directory);
  ~VipPath();

  // For SO_MARK, never 0. The upper bits are the instance's: two instances may share an interface.
  uint32_t mark_of(BackendId id) const;
  // Packets with the backend's mark take this way from now on; an unresolved hop: they are dropped.
  [[nodiscard]] Result<Done> set(BackendId id, Forward forward, const IpAddress& backend, const NextHop& hop);
  void forget(BackendId id);
  // The program is on exactly these interfaces from now on. No system call where it is already.
  [[nodiscard]] Result<Done> attach(const std::set<uint32_t>& ifindexes);

 private:
  class Program;
  VipPath(std::unique_ptr<Program> program, uint32_t instance);

  const std::unique_ptr<Program> program_;
  const uint32_t instance_;  // hash of the directory
  std::set<uint32_t> attached_;
  std::set<BackendId> known_;
};

}  // namespace sluice
