// Stage 1: Ethernet, IPv4/IPv6, TCP/UDP headers to what the later stages need, or a reason.
//
// Trusts nothing: every length is checked before it is used, in this order: link, IP version and lengths,
// protocol, what we do not balance (options, fragments), TTL, layer 4. Reads only the first
// `contiguous_bytes` of a packet. No state. Sources: RFC 791, RFC 8200, RFC 9293 3.1, RFC 768.
#pragma once

#include "dataplane/batch.h"

namespace sluice {

// Fills the parse members of one packet; false: refused with a reason.
bool parse_packet(Packet& packet);

// The stage: all packets of the batch. Well-formed IPv4 without options takes a shorter way to the same
// result.
void parse(Batch& batch);

}  // namespace sluice
