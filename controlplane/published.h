// Walks what is in use in a generation's cold records, skipping pages that were never touched.
//
// For compile.cc and assign_ids.cc. Cost: one cache line or two per record of the pages in use.
#pragma once

#include <cstdint>

#include "controlplane/publish.h"
#include "src/tables.h"

namespace sluice {

// Calls visit(ServiceId, const ServiceCold&) for every record of the pages in use, free ones included.
template <typename Visit>
void for_each_service_cold(const TablesView& tables, const Visit& visit) {
  if (!tables) return;
  for (uint32_t page = 0; page < kServicePages; page++) {
    if (tables.generation().service_cold_pages[page] == kZeroPage) continue;
    for (uint32_t i = page * kPageRecords; i < (page + 1) * kPageRecords; i++) {
      visit(ServiceId{i}, tables.service_cold(ServiceId{i}));
    }
  }
}

// The same for backends.
template <typename Visit>
void for_each_backend_cold(const TablesView& tables, const Visit& visit) {
  if (!tables) return;
  for (uint32_t page = 0; page < kBackendPages; page++) {
    if (tables.generation().backend_cold_pages[page] == kZeroPage) continue;
    for (uint32_t i = page * kPageRecords; i < (page + 1) * kPageRecords; i++) {
      visit(BackendId{i}, tables.backend_cold(BackendId{i}));
    }
  }
}

}  // namespace sluice
