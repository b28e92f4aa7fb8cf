// "Packet too big", made in place from the packet that was: to its sender, from the VIP.
//
// IPv4: ICMP destination unreachable, fragmentation needed (RFC 792, RFC 1191), quoting as much as fits in
// 576 bytes (RFC 1812 4.3.2.3). IPv6: ICMPv6 packet too big (RFC 4443 3.2), quoting as much as fits in 1,280
// bytes.
#pragma once

#include "dataplane/batch.h"

namespace sluice {

// May this packet be answered? Not IPv4 without DF (nobody asked), nor a source that is not one host's or a
// frame to or from many stations (RFC 1122 3.2.2, RFC 4443 2.4 e), nor one too scattered or without room for
// the headers.
bool may_answer_too_big(const Packet& packet);

// Turns the packet into the answer; `fits_bytes` is the size of an IP packet that would have passed.
void answer_too_big(Packet& packet, uint32_t fits_bytes);

}  // namespace sluice
