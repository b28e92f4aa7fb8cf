#include "controlplane/publish.h"

#include <algorithm>
#include <bit>
#include <cassert>
#include <cstring>
#include <iterator>
#include <new>
#include <utility>

namespace sluice {
namespace {

template <typename Record>
constexpr uint64_t kPageBytes = kPageRecords * sizeof(Record);

constexpr Offset64 kMemoryBegin = kZeroPage + kZeroPageBytes / 64;
static_assert(kZeroPageBytes >= kPageBytes<ServiceRecord> && kZeroPageBytes >= kPageBytes<BackendRecord> &&
              kZeroPageBytes >= kPageBytes<ServiceCold> && kZeroPageBytes >= kPageBytes<BackendCold>);

Offset64 memory_end(uint64_t segment_bytes) {
  assert(segment_bytes / 64 > kMemoryBegin && segment_bytes / 64 <= UINT32_MAX);
  return static_cast<Offset64>(segment_bytes / 64);
}

uint64_t vips_bytes(uint32_t mask) {
  return (uint64_t{mask} + 1) * sizeof(VipEntry);
}

}  // namespace

Publisher::Publisher(Segment segment)
    : segment_(std::move(segment)), memory_(kMemoryBegin, memory_end(segment_.size())), scratch_{} {}

Publisher Publisher::anonymous(uint64_t bytes) {
  return Publisher(Segment::anonymous(kTablesSegment, bytes));
}

Result<Publisher> Publisher::open(const std::string& directory, uint64_t bytes) {
  Result<Segment> segment = Segment::open_writer(directory, kTablesSegment, bytes);
  if (!segment) return segment.error();
  Publisher publisher(std::move(*segment));
  if (!publisher.adopt_current()) {
    const std::string path = directory + "/" + kTablesSegment.file;
    return Error{path + " is damaged: its current generation reaches outside it or twice to the same place",
                 "stop sluiced and sluice-dataplane of this instance, then: rm " + path};
  }
  return publisher;
}

// ---- Takeover ---------------------------------------------------------------------------------------------

bool Publisher::adopt_current() {
  // Relaxed: the last store was this program's predecessor's, and that process has ended.
  const Offset64 root = tables().current.load(std::memory_order_relaxed);
  if (root == 0) return true;
  if (!memory_.take(root, sizeof(Generation))) return false;
  const Generation& generation = *at<Generation>(root);
  if (!adopt_parts(generation)) return false;
  // Workers that have not acknowledged this generation yet may still use whatever else lies below.
  for (const SegmentMemory::Range& range : memory_.free_below(tables().used_end)) {
    memory_.take(range.offset, range.bytes);
    retired_.push_back({generation.number, {range.offset, range.bytes}});
    retired_bytes_ += range.bytes;
  }
  return true;
}

bool Publisher::adopt_parts(const Generation& generation) {
  const auto take_page = [&](Offset64 page, uint64_t bytes) {
    return page == kZeroPage || memory_.take(page, bytes);
  };
  for (uint32_t p = 0; p < kServicePages; p++) {
    if (!take_page(generation.service_cold_pages[p], kPageBytes<ServiceCold>)) return false;
    const Offset64 page = generation.service_pages[p];
    if (page == kZeroPage) continue;
    if (!memory_.take(page, kPageBytes<ServiceRecord>)) return false;
    for (uint32_t i = 0; i < kPageRecords; i++) {
      if (!adopt_service(at<ServiceRecord>(page)[i])) return false;
    }
  }
  for (uint32_t p = 0; p < kBackendPages; p++) {
    if (!take_page(generation.backend_pages[p], kPageBytes<BackendRecord>)) return false;
    if (!take_page(generation.backend_cold_pages[p], kPageBytes<BackendCold>)) return false;
  }
  if (!std::has_single_bit(uint64_t{generation.vips_mask} + 1)) return false;
  return generation.vips == kZeroPage ? generation.vips_mask == 0
                                      : memory_.take(generation.vips, vips_bytes(generation.vips_mask));
}

bool Publisher::adopt_service(const ServiceRecord& service) {
  if (service.lookup != 0 && !memory_.take(service.lookup, service.lookup_slots * sizeof(uint16_t)))
    return false;
  if (service.turns > service.lookup_slots) return false;
  if (service.members != 0 && !memory_.take(service.members, members_bytes(service.members_count)))
    return false;
  return service.twins == 0 || memory_.take(service.twins, service.twins_count * sizeof(Twin));
}

// ---- Staging ----------------------------------------------------------------------------------------------

Offset64 Publisher::allocate(uint64_t bytes) {
  const std::optional<Offset64> offset = memory_.allocate(bytes);
  if (!offset || !is_there(*offset, bytes)) {
    if (offset) memory_.release(*offset, bytes);
    staging_.out_of_memory = true;
    return 0;
  }
  staging_.own.emplace(*offset, bytes);
  return *offset;
}

// The segment is sparse, and the file system behind it may be full.
bool Publisher::is_there(Offset64 offset, uint64_t bytes) {
  const uint64_t end = uint64_t{offset} * 64 + bytes;
  if (end <= populated_bytes_) return true;
  if (!segment_.populate(populated_bytes_, end - populated_bytes_)) return false;
  populated_bytes_ = end;
  return true;
}

void Publisher::replace(Part old) {
  if (old.offset == 0 || old.offset == kZeroPage) return;
  if (staging_.own.erase(old.offset) != 0) {
    memory_.release(old.offset, old.bytes);
  } else {
    staging_.replaced.push_back({old.offset, (old.bytes + 63) / 64 * 64});
  }
}

Result<Done> Publisher::begin() {
  assert(!staging_.open);
  staging_.open = true;
  staging_.root = allocate(sizeof(Generation));
  if (staging_.out_of_memory) return commit().error();
  const Offset64 old =
      tables().current.load(std::memory_order_relaxed);  // ours: this is the one thread that stores it
  Generation& generation = *at<Generation>(staging_.root);
  if (old != 0) {
    generation = *at<Generation>(old);
    replace({old, sizeof(Generation)});
    return Done{};
  }
  generation = Generation{};
  generation.vips = kZeroPage;
  std::fill(std::begin(generation.service_pages), std::end(generation.service_pages), kZeroPage);
  std::fill(std::begin(generation.backend_pages), std::end(generation.backend_pages), kZeroPage);
  std::fill(std::begin(generation.service_cold_pages), std::end(generation.service_cold_pages), kZeroPage);
  std::fill(std::begin(generation.backend_cold_pages), std::end(generation.backend_cold_pages), kZeroPage);
  return Done{};
}

void Publisher::abort() {
  for (const auto& [offset, bytes] : staging_.own)
    memory_.release(offset, bytes);
  staging_ = Staging{};
}

template <typename Record>
Record& Publisher::edit(Offset64* pages, uint32_t i) {
  static_assert(sizeof(Record) <= sizeof scratch_);
  Offset64& page = pages[i / kPageRecords];
  if (!staging_.own.contains(page)) {
    const Offset64 copy = allocate(kPageBytes<Record>);
    if (copy == 0) return *new (scratch_) Record{};
    std::memcpy(at<std::byte>(copy), at<std::byte>(page), kPageBytes<Record>);
    replace({page, kPageBytes<Record>});
    page = copy;
  }
  return at<Record>(page)[i % kPageRecords];
}

Generation& Publisher::generation() {
  assert(staging_.open);
  return *at<Generation>(staging_.root);
}

ServiceRecord& Publisher::edit_service(ServiceId id) {
  assert(index(id) < limits::kServicesMax);
  return edit<ServiceRecord>(generation().service_pages, index(id));
}

ServiceCold& Publisher::edit_service_cold(ServiceId id) {
  assert(index(id) < limits::kServicesMax);
  return edit<ServiceCold>(generation().service_cold_pages, index(id));
}

BackendRecord& Publisher::edit_backend(BackendId id) {
  assert(index(id) < limits::kBackendsMax);
  return edit<BackendRecord>(generation().backend_pages, index(id));
}

BackendCold& Publisher::edit_backend_cold(BackendId id) {
  assert(index(id) < limits::kBackendsMax);
  return edit<BackendCold>(generation().backend_cold_pages, index(id));
}

void Publisher::set_lookup(ServiceId id, std::span<const uint16_t> positions, uint64_t checksum,
                           uint32_t turns) {
  assert(turns <= positions.size());
  ServiceRecord& service = edit_service(id);
  replace({service.lookup, service.lookup_slots * sizeof(uint16_t)});
  service.lookup = positions.empty() ? 0 : allocate(positions.size_bytes());
  service.lookup_slots = service.lookup != 0 ? static_cast<uint32_t>(positions.size()) : 0;
  service.lookup_checksum = service.lookup != 0 ? checksum : 0;
  service.turns = turns < service.lookup_slots ? turns : 0;
  if (service.lookup != 0)
    std::memcpy(at<std::byte>(service.lookup), positions.data(), positions.size_bytes());
}

void Publisher::set_members(ServiceId id, std::span<const BackendId> members,
                            std::span<const uint16_t> weights) {
  ServiceRecord& service = edit_service(id);
  replace({service.members, members_bytes(service.members_count)});
  service.members = members.empty() ? 0 : allocate(members_bytes(members.size()));
  service.members_count = service.members != 0 ? static_cast<uint32_t>(members.size()) : 0;
  if (service.members == 0) return;
  auto* const ids = at<BackendId>(service.members);
  std::copy(members.begin(), members.end(), ids);
  auto* const behind = reinterpret_cast<uint16_t*>(ids + members.size());
  if (weights.empty()) {
    std::fill_n(behind, members.size(), uint16_t{1});
  } else {
    assert(weights.size() == members.size());
    std::copy(weights.begin(), weights.end(), behind);
  }
}

void Publisher::set_twins(ServiceId id, std::span<const Twin> twins) {
  ServiceRecord& service = edit_service(id);
  replace({service.twins, service.twins_count * sizeof(Twin)});
  service.twins = twins.empty() ? 0 : allocate(twins.size_bytes());
  service.twins_count = service.twins != 0 ? static_cast<uint32_t>(twins.size()) : 0;
  if (service.twins != 0) std::memcpy(at<std::byte>(service.twins), twins.data(), twins.size_bytes());
}

void Publisher::set_vips(std::span<const Vip> vips) {
  Generation& root = generation();
  replace({root.vips, vips_bytes(root.vips_mask)});
  root.vips = kZeroPage;
  root.vips_mask = 0;
  root.has_any_port = 0;
  if (vips.empty()) return;

  const auto mask = static_cast<uint32_t>(std::bit_ceil(vips.size() * 2) - 1);
  const Offset64 offset = allocate(vips_bytes(mask));
  if (offset == 0) return;
  auto* entries = at<VipEntry>(offset);
  std::fill_n(entries, mask + 1, VipEntry{});
  for (const Vip& vip : vips) {
    const uint16_t port = net16(vip.port);
    uint32_t i = vip_hash(vip.vip, port, vip.protocol) & mask;
    while (entries[i].used != 0)
      i = (i + 1) & mask;
    entries[i] = {vip.vip, port, vip.protocol, 1, vip.service, 0};
    if (vip.port == 0 && vip.protocol != 0) root.has_any_port = 1;
  }
  root.vips = offset;
  root.vips_mask = mask;
}

TablesView Publisher::staged() const {
  assert(staging_.open);
  return {segment_.base(), staging_.root};
}

// ---- Publishing -------------------------------------------------------------------------------------------

Result<uint64_t> Publisher::commit() {
  assert(staging_.open);
  if (staging_.out_of_memory) {
    abort();
    const Memory now = memory();
    return Error{"the tables segment is full: " + std::to_string(now.used_bytes) + " of " +
                     std::to_string(now.size_bytes) + " bytes in use, " + std::to_string(now.retired_bytes) +
                     " of them until every worker acknowledges the current generation; nothing was published",
                 "sluice show dataplane (a worker that stands still holds them)"};
  }
  const TablesView before = current();
  const uint64_t number = before ? before.generation().number + 1 : 1;
  Generation& root = generation();
  root.number = number;
  root.published_ns = monotonic_ns();
  tables().used_end = memory_.used_end();

  // Pairs with the load-acquire in TablesView::acquire: whoever sees this offset sees every part written
  // above, used_end included (a successor reads it after this process has ended).
  tables().current.store(staging_.root, std::memory_order_release);

  for (const Part& part : staging_.replaced) {
    retired_.push_back({number, part});
    retired_bytes_ += part.bytes;
  }
  staging_ = Staging{};
  return number;
}

void Publisher::reclaim(uint64_t acknowledged) {
  const TablesView now = current();
  if (!now || acknowledged > now.generation().number) return;
  while (!retired_.empty() && retired_.front().generation <= acknowledged) {
    const Part part = retired_.front().part;
    memory_.release(part.offset, part.bytes);
    retired_bytes_ -= part.bytes;
    retired_.pop_front();
  }
  // Shrinks: a successor that cannot wait for acknowledgements starts low again, however often that happens.
  tables().used_end = memory_.used_end();
}

Publisher::Memory Publisher::memory() const {
  return {memory_.used_bytes(), retired_bytes_, memory_.size_bytes()};
}

}  // namespace sluice
