// A TCP reset, made in place from the packet that was: to its sender, from the VIP, as the closed socket of a
// host would send it (RFC 9293 3.10.7.1). For flows whose backend is gone, where the service says so
// (`on_failure = "reset"`).
#pragma once

#include "dataplane/batch.h"

namespace sluice {

// May this packet be answered by a reset? Only TCP, and never a reset itself; not a SYN either, which opens a
// connection that another backend takes. Not a source that is not one host's, nor a frame to or from many.
bool may_answer_reset(const Packet& packet);

// Turns the packet into the reset. Needs no headroom: it is never longer than what came.
void answer_reset(Packet& packet);

}  // namespace sluice
