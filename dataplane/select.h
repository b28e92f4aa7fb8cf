// The choice for a new flow: its service's lookup table, by a hash.
#pragma once

#include <cstddef>

#include "dataplane/batch.h"
#include "src/flow_key.h"
#include "src/lookup_table.h"
#include "src/wire.h"

namespace sluice {

inline IpAddress source_of(const Packet& packet) {
  const uint8_t* ip = packet.data + sizeof(wire::Ethernet);
  return packet.family == Family::v4 ? IpAddress::v4(reinterpret_cast<const wire::Ipv4*>(ip)->source)
                                     : IpAddress::v6(ip + offsetof(wire::Ipv6, source));
}

// Does its flow begin with it, as far as one packet can say? Else it began before we saw it, or elsewhere.
inline bool is_first(const Packet& packet) {
  return packet.protocol == wire::kProtoUdp ||
         (packet.tcp_flags & (wire::kTcpSyn | wire::kTcpAck | wire::kTcpFin | wire::kTcpRst)) ==
             wire::kTcpSyn;
}

// What chooses where no session does: the flow's hash, or its client's.
inline uint64_t choice_hash(const Packet& packet, const TablesView& tables) {
  const bool by_source = tables.service(packet.service).method == static_cast<uint8_t>(Method::source_hash);
  if (by_source) [[unlikely]]
    return client_hash(source_of(packet), tables.generation().secret);
  return packet.hash;
}

// False: nobody takes new flows; the packet is refused. `hash`: choice_hash, or the session's.
inline bool select(Packet& packet, uint64_t hash, const TablesView& tables) {
  const ServiceRecord& service = tables.service(packet.service);
  if (service.lookup == 0) return refuse(packet, Reason::no_backend);
  packet.backend = tables.select(service, hash);
  packet.record = &tables.backend(packet.backend);
  return true;
}

}  // namespace sluice
