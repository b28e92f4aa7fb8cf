// What has to be right before DPDK may put the steering program (bpf/steer.bpf.c) on a NIC that the kernel
// keeps.
//
// DPDK's net_af_xdp loads the object and attaches it; libbpf pins the VIP map by name below /sys/fs/bpf, and
// nowhere else. So that every instance has its own map, this process gives itself a private view in which
// /sys/fs/bpf is /sys/fs/bpf/sluice/INSTANCE; sluiced finds the map there (controlplane/steer_map.h).
#pragma once

#include <string>

#include "src/result.h"

namespace sluice {

// Before any thread is made. An Error when bpffs is not mounted, or holds a map of another version.
Result<Done> use_instance_bpffs(const std::string& instance_directory);

// Is the interface free for our steering program? True also for one that a killed predecessor of this
// instance left. An Error for anybody else's program, another instance's included.
Result<Done> check_program(const std::string& interface);
// Has the interface any XDP program?
bool has_program(const std::string& interface);
// Takes the predecessor's program off, right before DPDK attaches the new one: until then it keeps VIP
// traffic from the kernel, which would answer for addresses that are not its own to serve.
Result<Done> take_off_program(const std::string& interface);

// Queues that net_af_xdp may use on the interface: its combined channels, 1 if it has no such thing (veth).
uint32_t channel_count(const std::string& interface);

// Does this kernel have AF_XDP at all?
bool kernel_has_af_xdp();

// The capabilities that a kernel-owned port needs; an Error names the missing ones.
Result<Done> check_capabilities();

}  // namespace sluice
