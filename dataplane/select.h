// The choice for a new flow: its service's lookup table, by a hash.
#pragma once

#include "dataplane/batch.h"

namespace sluice {

// False: nobody takes new flows; the packet is refused. `hash`: the flow's, or its session's.
inline bool select(Packet& packet, uint64_t hash, const TablesView& tables) {
  const ServiceRecord& service = tables.service(packet.service);
  if (service.lookup == 0) return refuse(packet, Reason::no_backend);
  packet.backend = tables.select(service, hash);
  packet.record = &tables.backend(packet.backend);
  return true;
}

}  // namespace sluice
