#include "bpf/decap_loader.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <linux/if_link.h>
#include <net/if.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include "decap.skel.h"

namespace sluice {
namespace {

class Fd {
 public:
  explicit Fd(int fd = -1) : fd_(fd) {}
  Fd(Fd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Fd& operator=(Fd&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~Fd() {
    if (fd_ >= 0) close(fd_);
  }
  int get() const { return fd_; }
  explicit operator bool() const { return fd_ >= 0; }

 private:
  int fd_;
};

struct SkeletonDeleter {
  void operator()(decap_bpf* skeleton) const { decap_bpf__destroy(skeleton); }
};
using Skeleton = std::unique_ptr<decap_bpf, SkeletonDeleter>;

Error failure(const std::string& what, int error, std::string remedy = "") {
  if (error == EPERM || error == EACCES)
    remedy = "sudo sluice-decap ... (it needs CAP_NET_ADMIN and CAP_BPF)";
  return Error{what + ": " + std::strerror(error), std::move(remedy)};
}

Result<int> find_interface(const std::string& interface) {
  const unsigned ifindex = if_nametoindex(interface.c_str());
  if (ifindex == 0) return Error{"no interface '" + interface + "'", "ip -brief link"};
  return static_cast<int>(ifindex);
}

struct Attached {
  Fd program;
  bpf_prog_info info{};
  XdpMode mode = XdpMode::automatic;
  uint32_t flags = 0;  // that name its hook
  std::vector<uint32_t> map_ids;

  bool is_ours() const { return std::strcmp(info.name, SLUICE_DECAP_PROGRAM_NAME) == 0; }
};

// `program` is unset when the NIC has none.
Result<Attached> find_attached(const std::string& interface, int ifindex) {
  LIBBPF_OPTS(bpf_xdp_query_opts, query);
  if (const int error = bpf_xdp_query(ifindex, 0, &query); error != 0) {
    return failure(interface + ": cannot read its XDP state", -error);
  }
  Attached attached;
  if (query.attach_mode == XDP_ATTACHED_NONE) return attached;
  uint32_t id = query.prog_id;
  if (query.drv_prog_id != 0) {
    id = query.drv_prog_id;
    attached.mode = XdpMode::native;
    attached.flags = XDP_FLAGS_DRV_MODE;
  } else if (query.skb_prog_id != 0) {
    id = query.skb_prog_id;
    attached.mode = XdpMode::generic;
    attached.flags = XDP_FLAGS_SKB_MODE;
  }
  attached.program = Fd(bpf_prog_get_fd_by_id(id));
  if (!attached.program) return failure(interface + ": cannot open its XDP program", errno);

  attached.map_ids.resize(8);
  attached.info.nr_map_ids = static_cast<uint32_t>(attached.map_ids.size());
  attached.info.map_ids = reinterpret_cast<uintptr_t>(attached.map_ids.data());
  uint32_t info_bytes = sizeof attached.info;
  if (bpf_obj_get_info_by_fd(attached.program.get(), &attached.info, &info_bytes) != 0) {
    return failure(interface + ": cannot read what its XDP program is", errno);
  }
  if (attached.info.nr_map_ids < attached.map_ids.size()) attached.map_ids.resize(attached.info.nr_map_ids);
  return attached;
}

Error somebody_elses(const std::string& interface, const Attached& attached) {
  return Error{interface + " has another XDP program: '" + attached.info.name + "', id " +
                   std::to_string(attached.info.id),
               "ip link set dev " + interface + " xdp off   (if you know that nobody needs it)"};
}

// A map of the attached program; unset if it has none of that name.
Fd open_map(const Attached& attached, const char* name) {
  for (const uint32_t id : attached.map_ids) {
    Fd map(bpf_map_get_fd_by_id(id));
    bpf_map_info info{};
    uint32_t info_bytes = sizeof info;
    if (map && bpf_obj_get_info_by_fd(map.get(), &info, &info_bytes) == 0 &&
        std::strcmp(info.name, name) == 0) {
      return map;
    }
  }
  return Fd();
}

Result<Done> write_config(int map, const std::string& interface) {
  const Fd socket_fd(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  ifreq request{};
  std::strncpy(request.ifr_name, interface.c_str(), IFNAMSIZ - 1);
  if (!socket_fd || ioctl(socket_fd.get(), SIOCGIFHWADDR, &request) != 0) {
    return failure(interface + ": cannot read its MAC address", errno);
  }
  sluice_decap_config config{};
  std::memcpy(config.mac, request.ifr_hwaddr.sa_data, sizeof config.mac);
  const uint32_t zero = 0;
  if (bpf_map_update_elem(map, &zero, &config, BPF_ANY) != 0) {
    return failure(interface + ": cannot set the decapsulation program's MAC address", errno);
  }
  return Done{};
}

Result<Skeleton> load(const std::string& interface) {
  // Its own messages would repeat, in the verifier's words, what the Error says in one line.
  libbpf_set_print(nullptr);
  Skeleton skeleton(decap_bpf__open_and_load());
  if (!skeleton) {
    return failure("the kernel does not load the decapsulation program", errno,
                   "uname -r   (5.10 or newer, with CONFIG_BPF_SYSCALL)");
  }
  if (auto done = write_config(bpf_map__fd(skeleton->maps.sluice_decapcfg), interface); !done)
    return done.error();
  return skeleton;
}

uint32_t mode_flags(XdpMode mode) {
  switch (mode) {
    case XdpMode::native:
      return XDP_FLAGS_DRV_MODE;
    case XdpMode::generic:
      return XDP_FLAGS_SKB_MODE;
    case XdpMode::automatic:
      break;
  }
  return 0;
}

Error attach_failure(const std::string& interface, XdpMode mode, int error) {
  if (mode == XdpMode::native && (error == EOPNOTSUPP || error == EINVAL || error == ERANGE)) {
    return failure(interface + ": its driver does not take the program", error,
                   "sluice-decap attach " + interface + " --mode generic");
  }
  return failure(interface + ": cannot attach the decapsulation program", error);
}

// Swaps ours for ours in place, no packet without the program, if the hook stays the same.
Result<AttachOutcome> replace(const std::string& interface, int ifindex, XdpMode mode, const Attached& old,
                              int program) {
  LIBBPF_OPTS(bpf_xdp_attach_opts, options, .old_prog_fd = old.program.get());
  if (mode == XdpMode::automatic || mode == old.mode) {
    const int error = bpf_xdp_attach(ifindex, program, old.flags | XDP_FLAGS_REPLACE, &options);
    if (error != 0) return attach_failure(interface, old.mode, -error);
    return AttachOutcome::replaced;
  }
  if (const int error = bpf_xdp_detach(ifindex, old.flags | XDP_FLAGS_REPLACE, &options); error != 0) {
    return failure(interface + ": cannot take the program off its other hook", -error);
  }
  if (const int error =
          bpf_xdp_attach(ifindex, program, mode_flags(mode) | XDP_FLAGS_UPDATE_IF_NOEXIST, nullptr);
      error != 0) {
    // Better in the mode that worked than not at all.
    bpf_xdp_attach(ifindex, old.program.get(), old.flags | XDP_FLAGS_UPDATE_IF_NOEXIST, nullptr);
    return attach_failure(interface, mode, -error);
  }
  return AttachOutcome::replaced;
}

}  // namespace

Result<AttachOutcome> decap_attach(const std::string& interface, XdpMode mode) {
  const auto ifindex = find_interface(interface);
  if (!ifindex) return ifindex.error();
  const auto attached = find_attached(interface, *ifindex);
  if (!attached) return attached.error();
  if (attached->program && !attached->is_ours()) return somebody_elses(interface, *attached);

  const auto skeleton = load(interface);
  if (!skeleton) return skeleton.error();
  const int program = bpf_program__fd((*skeleton)->progs.sluice_decap);

  if (attached->program) {
    bpf_prog_info info{};
    uint32_t info_bytes = sizeof info;
    const bool same_program = bpf_obj_get_info_by_fd(program, &info, &info_bytes) == 0 &&
                              std::memcmp(info.tag, attached->info.tag, sizeof info.tag) == 0;
    const bool same_mode = mode == XdpMode::automatic || mode == attached->mode;
    if (same_program && same_mode) {
      const Fd config = open_map(*attached, SLUICE_DECAP_CONFIG_MAP_NAME);
      if (auto done = write_config(config.get(), interface); !done) return done.error();
      return AttachOutcome::unchanged;
    }
    return replace(interface, *ifindex, mode, *attached, program);
  }
  const int error =
      bpf_xdp_attach(*ifindex, program, mode_flags(mode) | XDP_FLAGS_UPDATE_IF_NOEXIST, nullptr);
  if (error != 0) return attach_failure(interface, mode, -error);
  return AttachOutcome::attached;
}

Result<bool> decap_detach(const std::string& interface) {
  const auto ifindex = find_interface(interface);
  if (!ifindex) return ifindex.error();
  const auto attached = find_attached(interface, *ifindex);
  if (!attached) return attached.error();
  if (!attached->program) return false;
  if (!attached->is_ours()) return somebody_elses(interface, *attached);
  LIBBPF_OPTS(bpf_xdp_attach_opts, options, .old_prog_fd = attached->program.get());
  if (const int error = bpf_xdp_detach(*ifindex, attached->flags | XDP_FLAGS_REPLACE, &options); error != 0) {
    return failure(interface + ": cannot detach the decapsulation program", -error);
  }
  return true;
}

Result<DecapStatus> decap_status(const std::string& interface) {
  const auto ifindex = find_interface(interface);
  if (!ifindex) return ifindex.error();
  const auto attached = find_attached(interface, *ifindex);
  if (!attached) return attached.error();
  DecapStatus status;
  if (!attached->program) return status;
  if (!attached->is_ours()) return somebody_elses(interface, *attached);
  status.attached = true;
  status.mode = attached->mode;
  status.program_id = attached->info.id;

  const int cpus = libbpf_num_possible_cpus();
  if (cpus < 1) return failure("cannot count the CPUs", -cpus);
  const Fd map = open_map(*attached, SLUICE_DECAP_STATS_MAP_NAME);
  std::vector<uint64_t> per_cpu(static_cast<size_t>(cpus));
  for (uint32_t stat = 0; stat < SLUICE_DECAP_STATS; stat++) {
    if (bpf_map_lookup_elem(map.get(), &stat, per_cpu.data()) != 0) {
      return failure(interface + ": cannot read the counters", errno);
    }
    for (const uint64_t count : per_cpu)
      status.packets[stat] += count;
  }
  return status;
}

}  // namespace sluice
