#include "dataplane/classify.h"

#include <cstring>

#include "src/flow_key.h"
#include "src/wire.h"

namespace sluice {

IpAddress destination_of(const Packet& packet) {
  const uint8_t* ip = packet.data + sizeof(wire::Ethernet);
  return packet.family == Family::v4 ? IpAddress::v4(reinterpret_cast<const wire::Ipv4*>(ip)->destination)
                                     : IpAddress::v6(reinterpret_cast<const wire::Ipv6*>(ip)->destination);
}

uint64_t hash_of(const Packet& packet, const HashSecret& secret) {
  const uint8_t* ip = packet.data + sizeof(wire::Ethernet);
  if (packet.family == Family::v4) {
    const auto& header = *reinterpret_cast<const wire::Ipv4*>(ip);
    return flow_hash(FlowKey4{header.source, header.destination, packet.source_port, packet.destination_port,
                              packet.protocol},
                     secret);
  }
  const auto& header = *reinterpret_cast<const wire::Ipv6*>(ip);
  FlowKey6 key;
  std::memcpy(key.source.data(), header.source, 16);
  std::memcpy(key.destination.data(), header.destination, 16);
  key.source_port = packet.source_port;
  key.destination_port = packet.destination_port;
  key.protocol = packet.protocol;
  return flow_hash(key, secret);
}

void classify(Batch& batch, const TablesView& tables, const FlowTable& flows) {
  const HashSecret& secret = tables.generation().secret;
  batch.each_live([&](Packet& packet) {
    packet.service = tables.find_service(destination_of(packet), packet.destination_port, packet.protocol);
    if (packet.service == kNoService) return refuse(packet, Reason::no_service);
    packet.hash = hash_of(packet, secret);
    flows.prefetch(packet.hash);
    return true;
  });
}

}  // namespace sluice
