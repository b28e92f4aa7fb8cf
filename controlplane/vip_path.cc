#include "controlplane/vip_path.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <linux/bpf.h>
#include <net/if.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "bpf/check_abi.h"
#include "check.skel.h"
#include "src/segment.h"
#include "src/size_limits.h"

namespace sluice {
namespace {

static_assert(limits::kBackendsMax <= 1u << SLUICE_CHECK_ID_BITS, "each backend has a mark of its own");

// Marks are one number for all of a host's kernel: ours begin with this byte, which no well-known user of
// marks sets, and go on with seven bits of the instance.
constexpr uint32_t kMarkByte = 0x5c;
constexpr uint32_t kInstanceBits = 7;
constexpr uint32_t kPriority = 0x5c1c;  // of the filter among those of its hook

uint32_t hash_of(const std::string& text) {  // FNV-1a
  uint32_t hash = 2166136261u;
  for (const char c : text)
    hash = (hash ^ static_cast<unsigned char>(c)) * 16777619u;
  return hash;
}

uint32_t prefix_of(uint32_t instance) {
  return kMarkByte << 24 | (instance % (1u << kInstanceBits)) << SLUICE_CHECK_ID_BITS;
}

// The filter's place: the same for a successor, another for other instances.
uint32_t handle_of(uint32_t instance) {
  return 1 + (instance & 0x7fffffff);
}

Error failure(const std::string& what, int code) {
  const bool not_permitted = code == -EPERM || code == -EACCES;
  return {what + ": " + std::strerror(-code),
          not_permitted ? "run sluiced as root or with CAP_BPF and CAP_NET_ADMIN" : ""};
}

std::string name_of(uint32_t ifindex) {
  char name[IF_NAMESIZE] = "";
  return if_indextoname(ifindex, name) != nullptr ? name : "interface " + std::to_string(ifindex);
}

struct Hook {
  explicit Hook(uint32_t ifindex) {
    hook.sz = sizeof hook;
    hook.ifindex = static_cast<int>(ifindex);
    hook.attach_point = BPF_TC_EGRESS;
  }
  bpf_tc_hook hook = {};
};

bpf_tc_opts place(uint32_t instance) {
  bpf_tc_opts opts = {};
  opts.sz = sizeof opts;
  opts.handle = handle_of(instance);
  opts.priority = kPriority;
  return opts;
}

bool is_our_program(uint32_t id) {
  const int descriptor = bpf_prog_get_fd_by_id(id);
  if (descriptor < 0) return false;
  bpf_prog_info info = {};
  uint32_t bytes = sizeof info;
  const bool read = bpf_obj_get_info_by_fd(descriptor, &info, &bytes) == 0;
  close(descriptor);
  return read && std::strcmp(info.name, SLUICE_CHECK_PROGRAM_NAME) == 0;
}

void detach(uint32_t ifindex, uint32_t instance) {
  Hook hook(ifindex);
  bpf_tc_opts opts = place(instance);
  bpf_tc_detach(&hook.hook, &opts);  // an interface that is gone has no program
}

// What a predecessor that was killed left, on whatever interface.
std::set<uint32_t> left_behind(uint32_t instance) {
  std::set<uint32_t> found;
  struct if_nameindex* all = if_nameindex();
  for (struct if_nameindex* one = all; one != nullptr && one->if_index != 0; one++) {
    Hook hook(one->if_index);
    bpf_tc_opts opts = place(instance);
    if (bpf_tc_query(&hook.hook, &opts) == 0 && is_our_program(opts.prog_id)) found.insert(one->if_index);
  }
  if_freenameindex(all);
  return found;
}

}  // namespace

class VipPath::Program {
 public:
  explicit Program(check_bpf* skeleton) : skeleton_(skeleton) {}
  ~Program() { check_bpf__destroy(skeleton_); }
  int map() const { return bpf_map__fd(skeleton_->maps.sluice_checks); }
  int program() const { return bpf_program__fd(skeleton_->progs.sluice_check); }

 private:
  check_bpf* const skeleton_;
};

Result<std::unique_ptr<VipPath>> VipPath::open(const std::string& instance_directory) {
  const uint32_t instance = hash_of(instance_name(instance_directory));
  libbpf_set_print(nullptr);  // the Error says it in one line
  check_bpf* skeleton = check_bpf__open();
  if (skeleton == nullptr) return failure("the program for checks of VIPs", -errno);
  auto program = std::make_unique<Program>(skeleton);
  skeleton->rodata->sluice_check_prefix = prefix_of(instance);
  if (const int code = check_bpf__load(skeleton); code != 0)
    return failure("the kernel does not load the program for checks of VIPs", code);
  std::unique_ptr<VipPath> path(new VipPath(std::move(program), instance));
  // Replaced by attach, or taken off: its own map is nobody's any more.
  path->attached_.clear();
  for (const uint32_t ifindex : left_behind(instance))
    detach(ifindex, instance);
  return path;
}

VipPath::VipPath(std::unique_ptr<Program> program, uint32_t instance)
    : program_(std::move(program)), instance_(instance) {}

VipPath::~VipPath() {
  for (const uint32_t ifindex : attached_)
    detach(ifindex, instance_);
}

uint32_t VipPath::mark_of(BackendId id) const {
  return prefix_of(instance_) | index(id);
}

Result<Done> VipPath::set(BackendId id, Forward forward, const IpAddress& backend, const NextHop& hop) {
  if (!hop.resolved) {
    forget(id);
    return Done{};
  }
  sluice_check_path path = {};
  path.ifindex = hop.ifindex;
  path.tunnel = forward == Forward::l2dsr ? SLUICE_CHECK_L2DSR
                : backend.is_v4()         ? SLUICE_CHECK_IN_IPV4
                                          : SLUICE_CHECK_IN_IPV6;
  std::memcpy(path.destination_mac, hop.mac.bytes.data(), sizeof path.destination_mac);
  std::memcpy(path.source_mac, hop.source_mac.bytes.data(), sizeof path.source_mac);
  std::memcpy(path.outer_source, hop.source.bytes.data(), sizeof path.outer_source);
  std::memcpy(path.outer_destination, backend.bytes.data(), sizeof path.outer_destination);
  const uint32_t mark = mark_of(id);
  if (const int code = bpf_map_update_elem(program_->map(), &mark, &path, BPF_ANY); code != 0)
    return failure("cannot set the way of checks to " + backend.text(), code);
  known_.insert(id);
  return Done{};
}

void VipPath::forget(BackendId id) {
  if (known_.erase(id) == 0) return;
  const uint32_t mark = mark_of(id);
  bpf_map_delete_elem(program_->map(), &mark);
}

Result<Done> VipPath::attach(const std::set<uint32_t>& ifindexes) {
  for (auto at = attached_.begin(); at != attached_.end();) {
    if (!ifindexes.contains(*at)) {
      detach(*at, instance_);
      at = attached_.erase(at);
    } else {
      ++at;
    }
  }
  for (const uint32_t ifindex : ifindexes) {
    if (attached_.contains(ifindex)) continue;
    Hook hook(ifindex);
    if (const int code = bpf_tc_hook_create(&hook.hook); code != 0 && code != -EEXIST)
      return failure(name_of(ifindex) + ": no TC hook for checks of VIPs", code);
    bpf_tc_opts opts = place(instance_);
    opts.prog_fd = program_->program();
    opts.flags = BPF_TC_F_REPLACE;
    if (const int code = bpf_tc_attach(&hook.hook, &opts); code != 0)
      return failure(name_of(ifindex) + ": cannot attach the program for checks of VIPs", code);
    attached_.insert(ifindex);
  }
  return Done{};
}

}  // namespace sluice
