// Stage 2: which service a packet is for, and the hash that is its flow's identity from here on.
#pragma once

#include "dataplane/batch.h"
#include "dataplane/flow_table.h"

namespace sluice {

// Needs parsed packets. Starts the loads of the flow table's lines, so that the next stage finds them in the
// cache.
void classify(Batch& batch, const TablesView& tables, const FlowTable& flows);

// For explain as well: the destination address and the hash of a parsed packet.
IpAddress destination_of(const Packet& packet);
uint64_t hash_of(const Packet& packet, const HashSecret& secret);

}  // namespace sluice
