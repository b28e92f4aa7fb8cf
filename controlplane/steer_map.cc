#include "controlplane/steer_map.h"

#include <bpf/bpf.h>
#include <errno.h>
#include <linux/bpf.h>
#include <linux/magic.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <cstring>
#include <set>
#include <utility>

#include "bpf/steer_abi.h"
#include "src/segment.h"
#include "src/size_limits.h"

namespace sluice {
namespace {

static_assert(sizeof(sluice_vip_key) == 20, "all bytes of a key count: no padding");
static_assert(2 * limits::kServicesMax <= SLUICE_VIPS_MAX, "each service needs up to two keys");

struct KeyLess {
  bool operator()(const sluice_vip_key& a, const sluice_vip_key& b) const {
    return std::memcmp(&a, &b, sizeof a) < 0;
  }
};
using KeySet = std::set<sluice_vip_key, KeyLess>;

Error bpf_error(const std::string& what, int code) {
  const bool not_permitted = code == -EPERM || code == -EACCES;
  return {what + ": " + std::strerror(-code),
          not_permitted ? "run sluiced as root or with CAP_BPF and CAP_NET_ADMIN" : ""};
}

sluice_vip_key key_of(const IpAddress& vip, uint16_t port, uint8_t protocol) {
  sluice_vip_key key = {};
  std::memcpy(key.vip, vip.bytes.data(), sizeof key.vip);
  key.port = net16(port);
  key.protocol = protocol;
  return key;
}

KeySet wanted_keys(std::span<const Service> services) {
  KeySet keys;
  for (const Service& service : services) {
    const ServiceConfig& config = service.config;
    if (!config.enabled) continue;
    keys.insert(key_of(config.vip, config.port, config.protocol));
    keys.insert(key_of(config.vip, 0, 0));
  }
  return keys;
}

// An existing pin of exactly the layout that the program will look for, or an Error.
Result<Done> check_layout(int fd, const std::string& path) {
  bpf_map_info info = {};
  uint32_t length = sizeof info;
  if (const int code = bpf_obj_get_info_by_fd(fd, &info, &length); code < 0) return bpf_error(path, code);
  if (info.type == BPF_MAP_TYPE_HASH && info.key_size == sizeof(sluice_vip_key) &&
      info.value_size == sizeof(uint32_t) && info.max_entries == SLUICE_VIPS_MAX &&
      info.map_flags == BPF_F_NO_PREALLOC) {
    return Done{};
  }
  return Error{path + " is the map of another version of Sluice",
               "stop sluiced and sluice-dataplane of this instance, then: sudo rm " + path};
}

Result<Done> make_directories(const std::string& bpffs, const std::string& directory) {
  struct statfs status = {};
  if (statfs(bpffs.c_str(), &status) != 0 || status.f_type != BPF_FS_MAGIC) {
    return Error{"no bpffs at " + bpffs, "sudo mount -t bpf bpf " + bpffs};
  }
  for (const std::string& path : {bpffs + "/sluice", directory}) {
    if (mkdir(path.c_str(), 0755) == 0) {
      // Whatever our umask: the data plane and `bpftool` may run as others, the map has a mode of its own.
      if (chmod(path.c_str(), 0755) != 0) return bpf_error("cannot set the mode of " + path, -errno);
    } else if (errno != EEXIST) {
      return bpf_error("cannot create " + path, -errno);
    }
  }
  return Done{};
}

}  // namespace

Result<SteerMap> SteerMap::open(const std::string& instance_directory, const std::string& bpffs) {
  const std::string directory = bpffs + "/sluice/" + instance_name(instance_directory);
  if (const Result<Done> made = make_directories(bpffs, directory); !made) return made.error();
  SteerMap map;
  map.path_ = directory + "/" + SLUICE_VIPS_MAP_NAME;
  // The data plane may pin its own between our look and our pin: then look again.
  for (int attempt = 0; attempt < 3; attempt++) {
    map.fd_ = bpf_obj_get(map.path_.c_str());
    if (map.fd_ >= 0) {
      if (const Result<Done> fits = check_layout(map.fd_, map.path_); !fits) return fits.error();
      return map;
    }
    if (map.fd_ != -ENOENT) return bpf_error("cannot open " + map.path_, map.fd_);
    LIBBPF_OPTS(bpf_map_create_opts, options, .map_flags = BPF_F_NO_PREALLOC);
    map.fd_ = bpf_map_create(BPF_MAP_TYPE_HASH, SLUICE_VIPS_MAP_NAME, sizeof(sluice_vip_key),
                             sizeof(uint32_t), SLUICE_VIPS_MAX, &options);
    if (map.fd_ < 0) return bpf_error("cannot make the map of VIPs", map.fd_);
    const int pinned = bpf_obj_pin(map.fd_, map.path_.c_str());
    if (pinned == 0) return map;
    if (pinned != -EEXIST) return bpf_error("cannot pin " + map.path_, pinned);
    close(std::exchange(map.fd_, -1));
  }
  return Error{"cannot pin " + map.path_ + ": it comes and goes", ""};
}

SteerMap& SteerMap::operator=(SteerMap&& other) noexcept {
  std::swap(fd_, other.fd_);
  std::swap(path_, other.path_);
  std::swap(keys_, other.keys_);
  return *this;
}

SteerMap::~SteerMap() {
  if (fd_ >= 0) close(fd_);
}

Result<Done> SteerMap::sync(std::span<const Service> services) {
  const KeySet wanted = wanted_keys(services);
  KeySet present;
  sluice_vip_key key = {};
  for (const void* previous = nullptr; bpf_map_get_next_key(fd_, previous, &key) == 0; previous = &key) {
    present.insert(key);
  }
  const uint32_t value = 1;
  for (const sluice_vip_key& missing : wanted) {
    if (present.contains(missing)) continue;
    if (const int code = bpf_map_update_elem(fd_, &missing, &value, BPF_ANY); code < 0) {
      return bpf_error("cannot add a VIP to " + path_, code);
    }
  }
  for (const sluice_vip_key& obsolete : present) {
    if (wanted.contains(obsolete)) continue;
    if (const int code = bpf_map_delete_elem(fd_, &obsolete); code < 0 && code != -ENOENT) {
      return bpf_error("cannot remove a VIP from " + path_, code);
    }
  }
  keys_ = wanted.size();
  return Done{};
}

}  // namespace sluice
