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
  uint32_t ports;
  std::memcpy(&ports, &packet.source_port, sizeof ports);
  const uint64_t tail = uint64_t{packet.protocol} << 32 | ports;
  Key key;
  auto* at = reinterpret_cast<uint8_t*>(&key);
  std::memcpy(at, addresses, addresses_bytes);
  std::memcpy(at + addresses_bytes, &tail, sizeof tail);
  return key;
}
static_assert(offsetof(Packet, destination_port) == offsetof(Packet, source_port) + sizeof(uint16_t));

// The service of the packets so far, for the next one: often it goes to the same.
class Destination {
 public:
  explicit Destination(const VipTable& vips) : vips_(vips) {}

  ServiceId service4(uint32_t vip, const Packet& packet) {
    const uint64_t wanted = uint64_t{vip} << 32 | uint32_t{packet.destination_port} << 8 | packet.protocol;
    if (wanted != last4_) [[unlikely]] {
      service4_ = vips_.find_service(IpAddress::v4(vip), packet.destination_port, packet.protocol);
      last4_ = wanted;
    }
    return service4_;
  }
  ServiceId service6(const uint8_t* vip, const Packet& packet) const {
    return vips_.find_service(IpAddress::v6(vip), packet.destination_port, packet.protocol);
  }

 private:
  const VipTable vips_;
  uint64_t last4_ = 0;  // protocol 0: none
  ServiceId service4_ = kNoService;
};

}  // namespace

IpAddress destination_of(const Packet& packet) {
  const uint8_t* ip = packet.data + sizeof(wire::Ethernet);
  return packet.family == Family::v4 ? IpAddress::v4(reinterpret_cast<const wire::Ipv4*>(ip)->destination)
                                     : IpAddress::v6(ip + offsetof(wire::Ipv6, destination));
}

uint64_t hash_of(const Packet& packet, const HashSecret& secret) {
  const uint8_t* ip = packet.data + sizeof(wire::Ethernet);
  return packet.family == Family::v4
             ? flow_hash(key_of<FlowKey4>(ip + offsetof(wire::Ipv4, source), packet), secret)
             : flow_hash(key_of<FlowKey6>(ip + offsetof(wire::Ipv6, source), packet), secret);
}

// A fragment, or a packet with options, that is for no VIP is none of ours.
[[gnu::noinline]] static void pass_foreign(Batch& batch, const TablesView& tables) {
  for (uint32_t i = 0; i < batch.count; i++) {
    Packet& packet = batch.packets[i];
    if (is_portless(packet) && !tables.vips().is_vip(destination_of(packet)))
      refuse(packet, Reason::no_service);
  }
}

void classify(Batch& batch, const TablesView& tables, const FlowTable& flows) {
  if (batch.portless_count != 0) [[unlikely]]
    pass_foreign(batch, tables);
  // Copies: the compiler then knows that writing packets does not change them.
  const HashSecret secret = tables.generation().secret;
  Destination last(tables.vips());
  batch.each_live([&](Packet& packet) {
    const uint8_t* ip = packet.data + sizeof(wire::Ethernet);
    if (packet.family == Family::v4) [[likely]] {
      const FlowKey4 key = key_of<FlowKey4>(ip + offsetof(wire::Ipv4, source), packet);
      packet.service = last.service4(key.destination, packet);
      packet.hash = flow_hash(key, secret);
    } else {
      packet.service = last.service6(ip + offsetof(wire::Ipv6, destination), packet);
      packet.hash = flow_hash(key_of<FlowKey6>(ip + offsetof(wire::Ipv6, source), packet), secret);
    }
    flows.prefetch(packet.hash);
    if (packet.service == kNoService) [[unlikely]]
      refuse(packet, Reason::no_service);
  });
}

}  // namespace sluice
