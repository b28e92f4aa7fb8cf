// Keeps the steering program's map of VIPs (bpf/steer_abi.h) equal to the configuration.
//
// The map is pinned at /sys/fs/bpf/sluice/INSTANCE/sluice_vips, INSTANCE being the instance_name() of the
// instance's directory; whoever of sluiced and the data plane comes first makes it. It outlives both, so
// steering goes on while either restarts. Writer: sluiced. Readers: the XDP program on the NICs.
//
// Order of a change: a VIP's keys are added when the workers know its service and removed when they have
// forgotten it (the caller syncs after the acknowledgements), additions before removals: no packet of a
// configured service goes astray. Without bpffs or permission there is no steering; NICs that the data plane
// owns need none.
#pragma once

#include <cstddef>
#include <span>
#include <string>

#include "controlplane/model.h"
#include "src/result.h"

namespace sluice {

class SteerMap {
 public:
  static constexpr const char* kBpffs = "/sys/fs/bpf";

  // Opens or makes the map. An Error (no bpffs, not permitted, a map of another layout) leaves steering off;
  // the rest of sluiced works without.
  static Result<SteerMap> open(const std::string& instance_directory, const std::string& bpffs = kBpffs);
  SteerMap() = default;
  SteerMap(SteerMap&& other) noexcept { *this = std::move(other); }
  SteerMap& operator=(SteerMap&& other) noexcept;
  ~SteerMap();

  bool is_open() const { return fd_ >= 0; }
  const std::string& path() const { return path_; }
  size_t keys() const { return keys_; }  // as of the last sync

  // Makes the content equal to the VIPs of the services that are enabled. O(keys) system calls.
  [[nodiscard]] Result<Done> sync(std::span<const Service> services);

 private:
  int fd_ = -1;
  std::string path_;
  size_t keys_ = 0;
};

}  // namespace sluice
