// Stage 4: makes the packet that leaves: new MAC addresses, and for IPIP an outer header in the headroom.
//
// l2dsr: only the MAC addresses change; the IP packet stays byte for byte.
//
// ipip: the backend's address decides the outer family, the VIP's the inner one; all four pairs work (RFC
// 2003, RFC 2473, RFC 4213). We forward, so the inner TTL goes down by one (RFC 2003 3.1) and a packet with
// none left is dropped.
// - outer TTL / hop limit: 64
// - outer DSCP and ECN: the inner ones: uniform model (RFC 2983), normal mode ingress (RFC 6040 4.1)
// - outer DF: the inner DF; always for an inner IPv6 packet, whose sender expects nobody to fragment
// - outer id: 0 when DF is set (RFC 6864 4.1), else a counter
// - outer flow label: 20 bits of the flow's hash, never 0 (RFC 6438)
// - padding of short Ethernet frames is not carried
//
// MTU: we never fragment. A packet that is too big for the egress link with its outer header is answered with
// "fragmentation needed" (RFC 1191) or "packet too big" (RFC 4443 3.2) from the VIP, naming the size that
// fits, so that path MTU discovery works; one that may not be answered (IPv4 without DF) is dropped and
// counted. So is an IPv6 packet of up to 1,280 bytes: its sender would not go lower (RFC 8201 4).
#pragma once

#include "dataplane/batch.h"

namespace sluice {

// Grants the answers of one worker: a full bucket each second.
class AnswerLimit {
 public:
  bool take(uint32_t now_s) {
    if (now_s != second_) {
      second_ = now_s;
      left_ = limits::kIcmpAnswersPerSecond;
    }
    if (left_ == 0) return false;
    left_--;
    return true;
  }

 private:
  uint32_t second_ = 0;
  uint32_t left_ = limits::kIcmpAnswersPerSecond;
};

class Rewriter {
 public:
  // Needs tracked packets. Sets the final verdict of all live ones, `data`, `bytes` and `out_port`.
  void rewrite(Batch& batch, uint32_t now_s);

 private:
  bool rewrite_one(Packet& packet, uint32_t now_s);
  bool encapsulate(Packet& packet, const BackendRecord& backend);
  bool too_big(Packet& packet, uint32_t fits_bytes, uint32_t now_s);

  AnswerLimit answers_;
  uint16_t next_id_ = 1;  // of outer IPv4 headers without DF
};

}  // namespace sluice
