// Attaches the decapsulation program (decap.bpf.c) to a NIC, takes it off again, and reads its counters.
//
// The program stays attached when the process ends; the NIC keeps it (a netlink attachment, no pin, no
// daemon). A program of somebody else is never replaced and never taken off. All functions need CAP_NET_ADMIN
// and CAP_BPF.
#pragma once

#include <array>
#include <cstdint>
#include <string>

#include "bpf/decap_abi.h"
#include "src/result.h"

namespace sluice {

enum class XdpMode {
  automatic,  // in the driver if it can, else generic
  native,     // in the driver, before the kernel makes an skb
  generic,    // after that: any driver, slower
};

enum class AttachOutcome { attached, replaced, unchanged };

// Idempotent: `unchanged` if this very program is there in the mode asked for (the NIC's MAC is read again
// then); another version of ours, or another mode, is replaced.
[[nodiscard]] Result<AttachOutcome> decap_attach(const std::string& interface, XdpMode mode);

// True if it was there. Idempotent.
[[nodiscard]] Result<bool> decap_detach(const std::string& interface);

struct DecapStatus {
  bool attached = false;
  XdpMode mode = XdpMode::automatic;  // native or generic when attached
  uint32_t program_id = 0;
  std::array<uint64_t, SLUICE_DECAP_STATS> packets{};  // by enum sluice_decap_stat, since it was attached
};
[[nodiscard]] Result<DecapStatus> decap_status(const std::string& interface);

}  // namespace sluice
