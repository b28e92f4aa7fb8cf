// The `tables` segment: what the workers need to forward, in generations.
//
// Writer: sluiced (controlplane/publish.h). Readers: the workers, read-only; sluiced's successor, which takes
// it over.
//
// A generation is immutable once published. It names its parts by offset; parts that did not change are
// shared with the generation before, so a change costs what changed: the pages (64 records) of the changed
// services and backends, the lookup tables of the changed services, the VIP table when the set of VIPs
// changed, and this root.
//
// Publish: sluiced writes the parts, then stores their root's offset into TablesHeader::current with release.
// Use: a worker loads `current` with acquire once a loop, uses that generation for the whole batch, and after
// the batch is sent stores its number with release into its WorkerStats::acknowledged_generation
// (src/stats.h). sluiced loads that with acquire and reuses memory that no generation from the acknowledged
// one on reaches. A data plane that is not running (its instance lock is free) acknowledges nothing and is
// not waited for.
//
// Identity: a ServiceId / BackendId is a position in the paged arrays. A backend keeps its id as long as it
// is configured, whatever its weight, health or address. A removed backend's id is handed out again only
// two kSweepPeriodMax and a minute after its removal was published, with a data plane running all the while
// (kQuarantineNs, controlplane/compile.h): by then every flow that named it has either been selected afresh
// (a packet came) or been swept, which does not wait for an idle timeout. The rest is for the workers to take
// the generation up, which they do within microseconds; their acknowledgement is not asked for.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>

#include "src/address.h"
#include "src/flow_key.h"
#include "src/segment.h"
#include "src/size_limits.h"
#include "src/wire.h"

namespace sluice {

enum class ServiceId : uint32_t {};
enum class BackendId : uint32_t {};
inline constexpr ServiceId kNoService{0xffffffff};
constexpr uint32_t index(ServiceId id) {
  return static_cast<uint32_t>(id);
}
constexpr uint32_t index(BackendId id) {
  return static_cast<uint32_t>(id);
}

enum class Forward : uint8_t { none = 0, l2dsr = 1, ipip = 2 };
// What an operator wants of a backend. drain: no new flows. migrate: the same, and its sessions go elsewhere
// with their next connection. maint: out at once. reset: the same, and clients of its TCP flows are told by a
// reset.
enum class Admin : uint8_t { ready = 0, drain = 1, maint = 2, migrate = 3, reset = 4 };
constexpr bool is_out(Admin admin) {
  return admin == Admin::maint || admin == Admin::reset;
}
enum class Health : uint8_t { unknown = 0, up = 1, down = 2 };

// What a session does while its backend is down: it goes to its next choice and stays there; it waits, and so
// do its client's new connections; or it goes to its next choice and comes back when the backend is well.
enum class SessionFailure : uint8_t { rehash = 0, keep = 1, comes_back = 2 };

// What was last told of how full a service is: more backends are wanted, or fewer would do.
enum class Scale : uint8_t { ok = 0, up = 1, down = 2 };

// Offsets into the segment in units of 64 bytes: 32 bits reach 256 GiB. 0 (the header) is "none".
using Offset64 = uint32_t;

// TTL and hop limit of outer headers. BackendRecord::header has it.
inline constexpr uint8_t kOuterTtl = 64;

// ---- Records the workers read: a line each, and one more of a service that makes sessions
// ------------------------------------------------------------------------

// The first line is all that a packet of a tracked flow needs.
struct alignas(64) ServiceRecord {
  Forward forward;        // none: no such service
  uint8_t protocol;       // wire::kProtoTcp or kProtoUdp
  uint16_t port;          // host order; 0: any port
  uint32_t lookup_slots;  // limits::kLookupSlotsDefault or kLookupSlotsLarge
  Offset64 lookup;        // uint16_t[lookup_slots], positions in `members`; 0: nobody takes new flows
  Offset64 members;  // BackendId[members_count], ordered by name; behind them their weights, uint16_t each
  uint32_t members_count;
  // Seconds without a packet after which a flow is forgotten, by its state (idle_timeout_s in
  // src/flow_layout.h): established up to limits::kIdleTimeoutMax, the others up to kIdleTimeoutShortMax.
  static constexpr uint32_t kSyn = 0, kEstablished = 1, kClosing = 2, kUdp = 3;
  uint32_t idle_s[4];
  uint8_t flags;
  uint8_t method;                        // Method (src/lookup_table.h)
  uint8_t reserved[2];                   // records are compared as bytes: no padding
  static constexpr uint8_t kServed = 1;  // enabled: the VIP table has it
  static constexpr uint8_t kResets = 2;  // the client of a TCP flow whose backend is gone is told by a reset
  static constexpr uint8_t kStateless = 4;  // its packets go by the lookup table alone
  static constexpr uint8_t kSessions = 8;   // a session is remembered, and decides for new flows
  static constexpr uint8_t kCapped = 32;    // some of its backends have limits (BackendCold)
  static constexpr uint8_t kByKey = 16;     // with kSessions: the flow is what the key in the payload says
  IpAddress vip;
  uint64_t lookup_checksum;  // maglev_checksum: equal on every balancer with the same members

  // Sessions (src/session_layout.h); all 0 without kSessions.
  uint64_t session_salt;    // of the group's name, or else of the service's: part of the session's hash
  uint32_t session_idle_s;  // without a connection; limits::kSessionTimeMax at most
  uint32_t session_life_s;  // since it was made; 0: no limit
  uint16_t key_offset;      // kByKey: into the UDP payload
  uint8_t key_bytes;
  uint8_t client_bits[2];     // else: how many bits of the client's address count, IPv4's and IPv6's
  SessionFailure on_failure;  // of the session's backend
  uint8_t reserved2[2];
  Offset64 twins;  // Twin[twins_count], ordered by `other`; 0: its group has no other service
  uint32_t twins_count;
  // Round robin, weighted or not: so many slots, from the first, are whole rounds of the schedule, and are
  // walked through over and over. 0: all of them.
  uint32_t turns;
  uint8_t reserved3[28];
};
static_assert(sizeof(ServiceRecord) == 128 && offsetof(ServiceRecord, session_salt) == 64);
constexpr uint64_t members_bytes(uint64_t members_count) {
  return members_count * (sizeof(BackendId) + sizeof(uint16_t));
}
static_assert(limits::kWeightMax <= UINT16_MAX);

// In a group: a backend of another service, and the one of the same name in this service.
struct Twin {
  BackendId other;
  BackendId own;

  bool operator==(const Twin&) const = default;
};

// Next hop and outer header of a backend in one line: what goes in front of a packet is copied from `header`,
// and only what differs from packet to packet is filled in (dataplane/rewrite.cc).
struct alignas(64) BackendRecord {
  static constexpr uint8_t kAlive =
      1;  // its flows stay with it (not failed, not in maintenance, not removed)
  static constexpr uint8_t kResolved = 2;    // next hop known: the MAC addresses and port hold
  static constexpr uint8_t kConfigured = 4;  // always set while the backend is configured, whatever its state
  static constexpr uint8_t kTakesNew = 8;    // it has slots in the service's lookup table
  // It counts as failed. With kAlive: its flows stay with it all the same, but none is opened on it.
  static constexpr uint8_t kFailed = 16;
  // Its sessions go elsewhere with their next connection: it drains, and does not wait for them.
  static constexpr uint8_t kMigrates = 32;
  static constexpr uint8_t kResets =
      128;  // its TCP flows' clients are told by a reset, whatever its service says
  static constexpr uint8_t kSorry = 64;  // for when too few others are left: no session names it
  static constexpr uint32_t kMacsBytes = 12;
  static constexpr uint32_t kEthernetBytes = 14;
  uint8_t flags;        // 0 for an id that is not in use
  uint8_t outer_bytes;  // outer IP header that its packets get: 0 (l2dsr), 20 or 40
  uint16_t mtu_bytes;   // of the egress link: the largest IP packet that may leave, outer header included
  ServiceId service;    // whose backend this is
  uint16_t port;        // index in the data plane's list of ports (StatsHeader::ports)
  // Ethernet: the next hop's MAC, the egress port's, the outer EtherType. Then the outer IPv4 or IPv6 header
  // with every constant field (for l2dsr it only tells the addresses): from the host's own address to the
  // backend's. IPv4: `checksum` is the folded ones' complement sum of the constant words, not yet inverted.
  uint8_t header[kEthernetBytes + sizeof(wire::Ipv6)];

  bool outer_is_v4() const { return header[kEthernetBytes] >> 4 == 4; }
  const uint8_t* destination_mac() const { return header; }
  const uint8_t* source_mac() const { return header + 6; }
  IpAddress outer_source() const {
    return outer_address(offsetof(wire::Ipv4, source), offsetof(wire::Ipv6, source));
  }
  IpAddress outer_destination() const {
    return outer_address(offsetof(wire::Ipv4, destination), offsetof(wire::Ipv6, destination));
  }

 private:
  IpAddress outer_address(size_t at_v4, size_t at_v6) const {
    const uint8_t* ip = header + kEthernetBytes;
    if (!outer_is_v4()) return IpAddress::v6(ip + at_v6);
    uint32_t address;
    std::memcpy(&address, ip + at_v4, sizeof address);
    return IpAddress::v4(address);
  }
};
static_assert(sizeof(BackendRecord) == 64 && offsetof(BackendRecord, header) == 10);

// ---- Records that sluiced and its successor read, and workers only for limits
// --------------------------------------------------------------------

// All zero: an id never used. `name` empty and removed_ns set: in quarantine.
struct alignas(64) BackendCold {
  char name[limits::kNameBytes];
  ServiceId service;
  uint32_t weight;           // in force: less than configured or set while it ramps
  uint32_t weight_override;  // set by an operator at run time; kNoOverride: the file's weight is in force
  Admin admin;
  Health health;
  Admin admin_configured;  // the file's: as with weight_configured
  uint8_t reserved;
  uint64_t removed_ns;  // CLOCK_MONOTONIC
  // What the id's counters stood at when this backend got it: counters only grow, whoever they belong to.
  uint64_t base_packets;
  uint64_t base_bytes;
  uint64_t base_flows;
  uint32_t weight_configured;  // the file's: an override lives until the file says another weight
  // What it may have at most, over all workers; 0: no limit. Workers read these for each new flow of a
  // service that says kCapped.
  uint32_t max_flows;
  uint32_t max_sessions;
  uint8_t reserved2[4];
};
static_assert(sizeof(BackendCold) == 128);
inline constexpr uint32_t kNoOverride = 0xffffffff;

struct alignas(64) ServiceCold {
  char name[limits::kNameBytes];  // empty: free
  uint64_t base_packets;
  uint64_t base_bytes;
  uint64_t base_flows;
  uint8_t panic;  // 0 or 1: what its failures have come to (controlplane/policy.h)
  uint8_t quorum_lost;
  Scale scale;  // controlplane/scale_watch.h
  uint8_t reserved[37];
};
static_assert(sizeof(ServiceCold) == 128);

// ---- VIP table
// --------------------------------------------------------------------------------------------------------

// Besides an entry for each service that is enabled, one with protocol 0 and port 0 for each VIP: "this
// address is a VIP". Open addressing, linear probing, at most half full, a power of two in size. An unused
// entry ends a probe.
struct alignas(32) VipEntry {
  IpAddress vip;
  uint16_t port;  // network order; 0: any port
  uint8_t protocol;
  uint8_t used;
  ServiceId service;
  uint64_t reserved;
};
static_assert(sizeof(VipEntry) == 32 && offsetof(VipEntry, port) == 16 && offsetof(VipEntry, service) == 20);

inline uint32_t vip_hash(const IpAddress& vip, uint16_t port_network_order, uint8_t protocol) {
  uint64_t high, low;
  std::memcpy(&high, vip.bytes.data(), 8);
  std::memcpy(&low, vip.bytes.data() + 8, 8);
  uint64_t mixed = (high ^ (uint64_t{port_network_order} << 16 | protocol)) * 0x9e3779b97f4a7c15ULL ^ low;
  // The last bytes of an address, in which VIPs differ, are the top bits here: without this they would not
  // reach the low bits of the product.
  mixed ^= mixed >> 32;
  return static_cast<uint32_t>((mixed * 0xd6e8feb86659fd93ULL) >> 32);
}

// The VIP table of one generation, to look into.
class VipTable {
 public:
  VipTable(const VipEntry* entries, uint32_t mask, bool has_any_port)
      : entries_(entries), mask_(mask), has_any_port_(has_any_port) {}

  // The service of VIP, port (network order) and protocol: one with this very port, else one with any port;
  // kNoService.
  ServiceId find_service(const IpAddress& vip, uint16_t port_network_order, uint8_t protocol) const {
    ServiceId id = probe(vip, port_network_order, protocol);
    if (id == kNoService && has_any_port_) [[unlikely]]
      id = probe(vip, 0, protocol);
    return id;
  }
  // Is this address some service's VIP? For packets whose ports cannot be known.
  bool is_vip(const IpAddress& address) const { return probe(address, 0, 0) != kNoService; }

 private:
  ServiceId probe(const IpAddress& vip, uint16_t port_network_order, uint8_t protocol) const {
    // An entry is compared as three words: address, then port, protocol and `used` at once.
    const uint32_t wanted = 1u << 24 | uint32_t{protocol} << 16 | port_network_order;
    for (uint32_t i = vip_hash(vip, port_network_order, protocol);; i++) {
      const VipEntry& entry = entries_[i & mask_];
      uint32_t found;
      std::memcpy(&found, &entry.port, sizeof found);
      if ((found == wanted) & (entry.vip == vip)) [[likely]]
        return entry.service;
      if (entry.used == 0) return kNoService;
    }
  }

  const VipEntry* entries_;
  uint32_t mask_;
  bool has_any_port_;
};

// ---- Generations
// ------------------------------------------------------------------------------------------------------

inline constexpr uint32_t kPageRecords = 64;  // records that one change copies
inline constexpr uint32_t kServicePages = limits::kServicesMax / kPageRecords;
inline constexpr uint32_t kBackendPages = limits::kBackendsMax / kPageRecords;

struct alignas(64) Generation {
  uint64_t number;        // 1, 2, 3, ... over all restarts of sluiced
  uint64_t published_ns;  // CLOCK_MONOTONIC
  Offset64 vips;          // VipEntry[vips_mask + 1]
  uint32_t vips_mask;
  uint32_t has_any_port;  // some service has port 0: look a second time
  uint32_t services_count;
  uint32_t backends_count;
  uint8_t reserved[4];
  uint64_t overrides_edition;  // of the operators' decisions that are in it (controlplane/configuration.h)
  uint8_t reserved2[16];
  HashSecret secret;
  // One page holds kPageRecords records. Unused pages all name one page of zeroes, so any id may be looked
  // up.
  Offset64 service_pages[kServicePages];
  Offset64 backend_pages[kBackendPages];
  Offset64 service_cold_pages[kServicePages];
  Offset64 backend_cold_pages[kBackendPages];
};
static_assert(offsetof(Generation, secret) == 64 && sizeof(Generation) % 64 == 0);

struct alignas(64) TablesHeader {
  SegmentHeader segment;
  // Offset of the current Generation in units of 64 bytes; 0 before the first. Store-release by sluiced after
  // every part of the generation is written; load-acquire by workers before any part is read.
  alignas(64) std::atomic<uint32_t> current;
  // Nothing from here on is used by any generation that a worker may still use, in the same unit. Only
  // sluiced's successor reads it: of what lies below and is not the current generation's, it cannot tell who
  // still uses it.
  Offset64 used_end;
  uint8_t reserved[56];
};
static_assert(sizeof(TablesHeader) == 128);

inline constexpr SegmentKind kTablesSegment = {"tables", "sluiced", 0x73656c6261546c53ULL,  // "SlTables"
                                               layout_hash({sizeof(TablesHeader),
                                                            offsetof(TablesHeader, current),
                                                            sizeof(Generation),
                                                            offsetof(Generation, vips),
                                                            offsetof(Generation, overrides_edition),
                                                            offsetof(Generation, secret),
                                                            offsetof(Generation, service_pages),
                                                            offsetof(Generation, backend_pages),
                                                            offsetof(Generation, service_cold_pages),
                                                            sizeof(ServiceRecord),
                                                            offsetof(ServiceRecord, lookup),
                                                            offsetof(ServiceRecord, members),
                                                            offsetof(ServiceRecord, idle_s),
                                                            offsetof(ServiceRecord, flags),
                                                            offsetof(ServiceRecord, method),
                                                            members_bytes(1),
                                                            offsetof(ServiceRecord, vip),
                                                            offsetof(ServiceRecord, session_salt),
                                                            offsetof(ServiceRecord, key_offset),
                                                            offsetof(ServiceRecord, twins),
                                                            offsetof(ServiceRecord, turns),
                                                            sizeof(Twin),
                                                            sizeof(BackendRecord),
                                                            offsetof(BackendRecord, outer_bytes),
                                                            offsetof(BackendRecord, service),
                                                            offsetof(BackendRecord, port),
                                                            offsetof(BackendRecord, header),
                                                            sizeof(BackendCold),
                                                            offsetof(BackendCold, service),
                                                            offsetof(BackendCold, admin_configured),
                                                            offsetof(BackendCold, removed_ns),
                                                            offsetof(BackendCold, max_flows),
                                                            sizeof(ServiceCold),
                                                            offsetof(ServiceCold, panic),
                                                            offsetof(ServiceCold, scale),
                                                            sizeof(VipEntry),
                                                            offsetof(VipEntry, port),
                                                            offsetof(VipEntry, service),
                                                            kPageRecords,
                                                            kServicePages,
                                                            kBackendPages})};

// One generation as a reader sees it: a pointer pair, made anew each loop. Valid until the worker
// acknowledges a later generation.
class TablesView {
 public:
  TablesView() = default;
  TablesView(const std::byte* base, Offset64 generation)
      : base_(base), generation_(at<Generation>(generation)) {}

  // The current generation, or an empty view before the first.
  static TablesView acquire(const std::byte* base) {
    const auto& header = *reinterpret_cast<const TablesHeader*>(base);
    // Pairs with the store-release in Publisher::commit: all parts of the generation are visible after this
    // load.
    const Offset64 current = header.current.load(std::memory_order_acquire);
    return current == 0 ? TablesView() : TablesView(base, current);
  }

  explicit operator bool() const { return generation_ != nullptr; }
  const Generation& generation() const { return *generation_; }

  const ServiceRecord& service(ServiceId id) const {
    return record<ServiceRecord>(generation_->service_pages, index(id));
  }
  const BackendRecord& backend(BackendId id) const {
    return record<BackendRecord>(generation_->backend_pages, index(id) & (limits::kBackendsMax - 1));
  }
  const ServiceCold& service_cold(ServiceId id) const {
    return record<ServiceCold>(generation_->service_cold_pages, index(id));
  }
  const BackendCold& backend_cold(BackendId id) const {
    return record<BackendCold>(generation_->backend_cold_pages, index(id));
  }
  // Empty when nobody takes new flows.
  std::span<const uint16_t> lookup(const ServiceRecord& service) const {
    return service.lookup == 0 ? std::span<const uint16_t>()
                               : std::span(at<uint16_t>(service.lookup), service.lookup_slots);
  }
  std::span<const BackendId> members(const ServiceRecord& service) const {
    return service.members == 0 ? std::span<const BackendId>()
                                : std::span(at<BackendId>(service.members), service.members_count);
  }

  // Of the members, in the lookup table.
  std::span<const uint16_t> weights(const ServiceRecord& service) const {
    return service.members == 0 ? std::span<const uint16_t>()
                                : std::span(reinterpret_cast<const uint16_t*>(at<BackendId>(service.members) +
                                                                              service.members_count),
                                            service.members_count);
  }

  std::span<const Twin> twins(const ServiceRecord& service) const {
    return service.twins == 0 ? std::span<const Twin>()
                              : std::span(at<Twin>(service.twins), service.twins_count);
  }
  // This service's backend of the same name as another service's, in its group; nullopt: it has none.
  std::optional<BackendId> twin(const ServiceRecord& service, BackendId other) const {
    const std::span<const Twin> all = twins(service);
    const auto found = std::lower_bound(all.begin(), all.end(), other,
                                        [](const Twin& twin, BackendId id) { return twin.other < id; });
    return found == all.end() || found->other != other ? std::nullopt : std::optional(found->own);
  }

  // The service's backend that is meant where a session of its group names one; nullopt: it has none.
  std::optional<BackendId> own_backend(ServiceId id, BackendId named) const {
    return backend(named).service == id ? std::optional(named) : twin(service(id), named);
  }

  // The backend of a new flow with this hash. Only for a service with a lookup table.
  BackendId select(const ServiceRecord& service, uint64_t hash) const {
    const uint16_t position = at<uint16_t>(service.lookup)[lookup_slot(hash, service.lookup_slots)];
    return at<BackendId>(service.members)[position];
  }

  VipTable vips() const {
    return VipTable(at<VipEntry>(generation_->vips), generation_->vips_mask, generation_->has_any_port != 0);
  }
  ServiceId find_service(const IpAddress& vip, uint16_t port_network_order, uint8_t protocol) const {
    return vips().find_service(vip, port_network_order, protocol);
  }

  template <typename T>
  const T* at(Offset64 offset) const {
    return reinterpret_cast<const T*>(base_ + uint64_t{offset} * 64);
  }

 private:
  template <typename T>
  const T& record(const Offset64* pages, uint32_t i) const {
    return at<T>(pages[i / kPageRecords])[i % kPageRecords];
  }

  const std::byte* base_ = nullptr;
  const Generation* generation_ = nullptr;
};

}  // namespace sluice
