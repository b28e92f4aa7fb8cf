#include "dataplane/classify.h"

#include <cstddef>
#include <cstring>

#include "src/flow_key.h"
#include "src/wire.h"

namespace sluice {
namespace {

// The flow key of either family: the packet's two addresses, which lie side by side, then ports and protocol.
// The latter in one store: the hash reads them as one word, and forwarding from three smaller stores would
// stall it.
template <typename Key>
Key key_of(const uint8_t* addresses, const Packet& packet) {
  constexpr size_t addresses_bytes = offsetof(Key, source_port);
  static_assert(addresses_bytes + sizeof(uint64_t) == sizeof(Key));
  const uint64_t tail =
      uint64_t{packet.protocol} << 32 | uint32_t{packet.destination_port} << 16 | packet.source_port;
  Key key;
  auto* at = reinterpret_cast<uint8_t*>(&key);
  std::memcpy(at, addresses, addresses_bytes);
  std::memcpy(at + addresses_bytes, &tail, sizeof tail);
  return key;
}

}  // namespace

IpAddress destination_of(const Packet& packet) {
  const uint8_t* ip = packet.data + sizeof(wire::Ethernet);
  return packet.family == Family::v4 ? IpAddress::v4(reinterpret_cast<const wire::Ipv4*>(ip)->destination)
                                     : IpAddress::v6(reinterpret_cast<const wire::Ipv6*>(ip)->destination);
}

uint64_t hash_of(const Packet& packet, const HashSecret& secret) {
  const uint8_t* ip = packet.data + sizeof(wire::Ethernet);
  return packet.family == Family::v4
             ? flow_hash(key_of<FlowKey4>(ip + offsetof(wire::Ipv4, source), packet), secret)
             : flow_hash(key_of<FlowKey6>(ip + offsetof(wire::Ipv6, source), packet), secret);
}

// A fragment, or a packet with options, that is for no VIP is none of ours.
static void pass_foreign(Batch& batch, const TablesView& tables) {
  for (uint32_t i = 0; i < batch.count; i++) {
    Packet& packet = batch.packets[i];
    if (is_portless(packet) && !tables.is_vip(destination_of(packet))) refuse(packet, Reason::no_service);
  }
}

void classify(Batch& batch, const TablesView& tables, const FlowTable& flows) {
  if (batch.portless_count != 0) [[unlikely]]
    pass_foreign(batch, tables);
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
