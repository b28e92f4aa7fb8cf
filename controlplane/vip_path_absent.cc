// For builds without BPF (-Dbpf=false).
#include "controlplane/vip_path.h"

namespace sluice {

class VipPath::Program {};

Result<std::unique_ptr<VipPath>> VipPath::open(const std::string&) {
  return Error{"this sluiced is built without BPF: no checks to = \"vip\"",
               "meson configure BUILD -Dbpf=true"};
}
VipPath::VipPath(std::unique_ptr<Program> program, uint32_t instance)
    : program_(std::move(program)), instance_(instance) {}
VipPath::~VipPath() = default;
uint32_t VipPath::mark_of(BackendId) const {
  return instance_;
}
Result<Done> VipPath::set(BackendId, Forward, const IpAddress&, const NextHop&) {
  return Done{};
}
void VipPath::forget(BackendId) {}
Result<Done> VipPath::attach(const std::set<uint32_t>&) {
  return Done{};
}

}  // namespace sluice
