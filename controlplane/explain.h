// `sluice explain`: what happens to a packet of this flow, and why; from the published tables, the flow
// tables and the workers' counts, by the functions that the workers use or (room.h) their like. Sends nothing
// and changes nothing.
#pragma once

#include <string>
#include <string_view>

#include <nlohmann/json.hpp>

#include "controlplane/daemon.h"
#include "src/address.h"
#include "src/result.h"

namespace sluice {

struct FlowQuestion {
  uint8_t protocol = 0;
  IpAddress client;
  IpAddress vip;
  uint16_t client_port = 0;
  uint16_t vip_port = 0;
  std::string key{};  // of a service with keys, in hex; empty: a packet that has none
};

// "tcp" or "udp"; ADDRESS:PORT with IPv6 as [ADDRESS]:PORT.
Result<FlowQuestion> parse_flow_question(std::string_view protocol, std::string_view client,
                                         std::string_view vip);

// verdict: "forward", "drop", "pass" (to the host) or "answer" (by a TCP reset: its backend is gone); reason:
// of src/reason.h, or "tcp_reset", unless forwarded; why: the steps in order, one sentence each; the values
// on the way (hash, slot, backend, flow, next_hop); if_gone: what would happen if the backend were.
nlohmann::json explain(const Daemon& daemon, const FlowQuestion& question);

}  // namespace sluice
