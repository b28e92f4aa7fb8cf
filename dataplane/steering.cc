#include "dataplane/steering.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <linux/ethtool.h>
#include <linux/magic.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <fstream>

#include "bpf/steer_abi.h"
#include "src/segment.h"

namespace sluice {
namespace {

constexpr const char* kBpffs = "/sys/fs/bpf";
constexpr const char* kProgramName = "sluice_steer";  // bpf/steer.bpf.c

Error system_error(const std::string& what, std::string remedy = "") {
  return {what + ": " + std::strerror(errno), std::move(remedy)};
}

bool make_directory(const std::string& path) {
  return mkdir(path.c_str(), 0755) == 0 || errno == EEXIST;
}

// Of the VIP map that this instance pinned (its private view of bpffs is in place); 0: none yet.
uint32_t own_vips_map_id() {
  const int fd = bpf_obj_get((std::string(kBpffs) + "/" SLUICE_VIPS_MAP_NAME).c_str());
  if (fd < 0) return 0;
  bpf_map_info info{};
  uint32_t info_bytes = sizeof info;
  const int failed = bpf_obj_get_info_by_fd(fd, &info, &info_bytes);
  close(fd);
  return failed == 0 ? info.id : 0;
}

// libbpf takes over a pinned map of exactly the layout in steer.bpf.c, and else only says "parameter
// mismatch".
Result<Done> check_pinned_map(const std::string& path) {
  const int fd = bpf_obj_get(path.c_str());
  if (fd < 0) return Done{};  // libbpf pins its own, or says why it cannot
  bpf_map_info info{};
  uint32_t info_bytes = sizeof info;
  const int failed = bpf_obj_get_info_by_fd(fd, &info, &info_bytes);
  close(fd);
  if (failed != 0) return system_error("cannot look at " + path);
  if (info.type == BPF_MAP_TYPE_HASH && info.key_size == sizeof(sluice_vip_key) &&
      info.value_size == sizeof(uint32_t) && info.max_entries == SLUICE_VIPS_MAX &&
      info.map_flags == BPF_F_NO_PREALLOC) {
    return Done{};
  }
  return Error{path + " is the map of another version of Sluice",
               "stop sluiced and sluice-dataplane of this instance, then: sudo rm " + path};
}

}  // namespace

Result<Done> use_instance_bpffs(const std::string& instance_directory) {
  struct statfs status;
  if (statfs(kBpffs, &status) != 0 || status.f_type != BPF_FS_MAGIC) {
    return Error{std::string("no bpffs at ") + kBpffs, std::string("sudo mount -t bpf bpf ") + kBpffs};
  }
  const std::string all = std::string(kBpffs) + "/sluice";
  const std::string own = all + "/" + instance_name(instance_directory);
  if (!make_directory(all) || !make_directory(own)) return system_error("cannot create " + own);
  if (Result<Done> fits = check_pinned_map(own + "/" SLUICE_VIPS_MAP_NAME); !fits) return fits.error();
  if (unshare(CLONE_NEWNS) != 0) return system_error("cannot have a private view of " + std::string(kBpffs));
  if (mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 ||
      mount(own.c_str(), kBpffs, nullptr, MS_BIND, nullptr) != 0) {
    return system_error("cannot mount " + own + " at " + kBpffs);
  }
  return Done{};
}

Result<Done> check_program(const std::string& interface) {
  uint32_t id = 0;
  if (bpf_xdp_query_id(static_cast<int>(if_nametoindex(interface.c_str())), 0, &id) != 0 || id == 0)
    return Done{};
  const std::string off = "ip link set dev " + interface + " xdp off";
  const int fd = bpf_prog_get_fd_by_id(id);
  if (fd < 0) return system_error(interface + ": cannot look at its XDP program " + std::to_string(id));
  bpf_prog_info info{};
  uint32_t map_ids[16] = {};
  info.nr_map_ids = 16;
  info.map_ids = reinterpret_cast<uint64_t>(map_ids);
  uint32_t info_bytes = sizeof info;
  const int failed = bpf_obj_get_info_by_fd(fd, &info, &info_bytes);
  close(fd);
  if (failed != 0) return system_error(interface + ": cannot look at its XDP program " + std::to_string(id));
  if (std::strcmp(info.name, kProgramName) != 0) {
    return Error{
        interface + " already has an XDP program: '" + info.name + "' (id " + std::to_string(id) + ")", off};
  }
  const uint32_t own_map = own_vips_map_id();
  const uint32_t* end = map_ids + std::min<uint32_t>(info.nr_map_ids, 16);
  if (own_map != 0 && std::find(static_cast<const uint32_t*>(map_ids), end, own_map) != end) return Done{};
  return Error{interface + " is steered for another instance of Sluice",
               "stop that one, or if it is long gone: " + off};
}

bool has_program(const std::string& interface) {
  uint32_t id = 0;
  return bpf_xdp_query_id(static_cast<int>(if_nametoindex(interface.c_str())), 0, &id) == 0 && id != 0;
}

Result<Done> take_off_program(const std::string& interface) {
  if (Result<Done> done = check_program(interface); !done) return done.error();
  const auto ifindex = static_cast<int>(if_nametoindex(interface.c_str()));
  uint32_t id = 0;
  if (bpf_xdp_query_id(ifindex, 0, &id) != 0 || id == 0) return Done{};
  if (bpf_xdp_detach(ifindex, 0, nullptr) == 0) return Done{};
  return system_error(interface + ": cannot take off the steering program that was left there",
                      "ip link set dev " + interface + " xdp off");
}

uint32_t channel_count(const std::string& interface) {
  const int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  ethtool_channels channels{};
  channels.cmd = ETHTOOL_GCHANNELS;
  ifreq request{};
  std::strncpy(request.ifr_name, interface.c_str(), IFNAMSIZ - 1);
  request.ifr_data = reinterpret_cast<char*>(&channels);
  const bool known = fd >= 0 && ioctl(fd, SIOCETHTOOL, &request) == 0 && channels.combined_count > 0;
  if (fd >= 0) close(fd);
  return known ? channels.combined_count : 1;
}

bool kernel_has_af_xdp() {
  const int fd = socket(AF_XDP, SOCK_RAW | SOCK_CLOEXEC, 0);
  if (fd >= 0) close(fd);
  return fd >= 0 || errno != EAFNOSUPPORT;
}

Result<Done> check_capabilities() {
  struct Needed {
    uint32_t bit;
    const char* name;
  };
  static constexpr Needed needed[] = {{12, "CAP_NET_ADMIN"}, {13, "CAP_NET_RAW"}, {21, "CAP_SYS_ADMIN"}};
  uint64_t effective = 0;
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.rfind("CapEff:", 0) == 0) effective = std::stoull(line.substr(7), nullptr, 16);
  }
  std::string missing;
  for (const Needed& one : needed) {
    if ((effective >> one.bit & 1) == 0) missing += (missing.empty() ? "" : ", ") + std::string(one.name);
  }
  if (missing.empty()) return Done{};
  return Error{"missing capabilities for a kernel-owned interface: " + missing, "sudo sluice-dataplane ..."};
}

}  // namespace sluice
