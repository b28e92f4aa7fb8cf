// What a generation consists of, found independently of the publisher: every part it reaches.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "controlplane/publish.h"
#include "src/tables.h"

namespace sluice {

// Offset in the segment and size in bytes of each part, the page of zeroes left out.
inline std::vector<std::pair<Offset64, uint64_t>> parts_of(const TablesView& view, Offset64 root) {
  const Generation& generation = view.generation();
  std::vector<std::pair<Offset64, uint64_t>> parts = {{root, sizeof(Generation)}};
  const auto add = [&](Offset64 offset, uint64_t bytes) {
    if (offset != 0 && offset != kZeroPage) parts.emplace_back(offset, bytes);
  };
  for (uint32_t page = 0; page < kServicePages; page++) {
    add(generation.service_pages[page], kPageRecords * sizeof(ServiceRecord));
    add(generation.service_cold_pages[page], kPageRecords * sizeof(ServiceCold));
    if (generation.service_pages[page] == kZeroPage) continue;
    for (uint32_t i = 0; i < kPageRecords; i++) {
      const ServiceRecord& service = view.service(ServiceId{page * kPageRecords + i});
      add(service.lookup, service.lookup_slots * sizeof(uint16_t));
      add(service.members, members_bytes(service.members_count));
      add(service.twins, service.twins_count * sizeof(Twin));
    }
  }
  for (uint32_t page = 0; page < kBackendPages; page++) {
    add(generation.backend_pages[page], kPageRecords * sizeof(BackendRecord));
    add(generation.backend_cold_pages[page], kPageRecords * sizeof(BackendCold));
  }
  add(generation.vips, (uint64_t{generation.vips_mask} + 1) * sizeof(VipEntry));
  return parts;
}

// The generation that is current in the segment at `base`, to look at also when it no longer is.
struct PinnedGeneration {
  explicit PinnedGeneration(const std::byte* segment_base)
      : base(segment_base),
        root(reinterpret_cast<const TablesHeader*>(segment_base)->current.load(std::memory_order_acquire)),
        view(segment_base, root) {}

  // All bytes of all its parts.
  std::string image() const {
    std::string bytes;
    for (const auto& [offset, size] : parts_of(view, root)) {
      bytes.append(reinterpret_cast<const char*>(base + uint64_t{offset} * 64), size);
    }
    return bytes;
  }

  // What its parts take of the segment's memory.
  uint64_t memory_bytes() const {
    uint64_t sum = 0;
    for (const auto& [offset, size] : parts_of(view, root))
      sum += (size + 63) / 64 * 64;
    return sum;
  }

  const std::byte* base;
  Offset64 root;
  TablesView view;
};

}  // namespace sluice
