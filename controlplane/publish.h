// The writing side of the `tables` segment (src/tables.h): memory of generations, staging, publishing, reclaiming.
//
// One Publisher an instance, used by sluiced's one thread. Nothing staged is visible before commit(); a process killed
// at any instant leaves the last committed generation whole.
//
//   publisher.begin();
//   publisher.edit_backend(id).flags = ...;
//   if (auto done = publisher.set_lookup(service, positions); !done) { publisher.abort(); ... }
//   const uint64_t number = publisher.commit();
//   ... when the workers have acknowledged: publisher.reclaim(acknowledged);
#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "src/result.h"
#include "src/segment.h"
#include "src/tables.h"

namespace sluice {

// Sparse: only what is written takes memory. 1,000 services with tables of 131 KiB, each twice for a moment, fit.
inline constexpr uint64_t kTablesBytesDefault = 1ULL << 30;

class Publisher {
 public:
  // Takes the segment over with its current generation (and keeps everything else in it untouched until the workers
  // acknowledged that generation), or creates it.
  static Result<Publisher> open(const std::string& directory, uint64_t bytes = kTablesBytesDefault);
  // Private memory, for sluice-replay, tests and benchmarks.
  static Publisher anonymous(uint64_t bytes = kTablesBytesDefault);

  const std::byte* base() const { return segment_.base(); }
  SegmentHeader& header() { return segment_.header(); }
  // What is published; empty before the first commit.
  TablesView current() const { return TablesView::acquire(segment_.base()); }

  // Starts a generation as a copy of the current one. Pages are copied when first edited.
  [[nodiscard]] Result<Done> begin();
  void abort();
  // ---- between begin and commit ----
  // These return a record to change; a page that is not this generation's own yet is copied first. Running out of
  // segment memory is remembered and reported by commit; until then a scratch record is returned.
  ServiceRecord& edit_service(ServiceId id);
  BackendRecord& edit_backend(BackendId id);
  ServiceCold& edit_service_cold(ServiceId id);
  BackendCold& edit_backend_cold(BackendId id);
  Generation& generation();
  // New contents for a service's parts; what they replace is retired.
  void set_lookup(ServiceId id, std::span<const uint16_t> positions, uint64_t checksum);  // empty: nobody takes flows
  void set_members(ServiceId id, std::span<const BackendId> members);
  struct Vip {
    IpAddress vip;
    uint16_t port;  // host order
    uint8_t protocol;
    ServiceId service;
  };
  void set_vips(std::span<const Vip> vips);
  // The staged records, as a reader will see them.
  TablesView staged() const;

  // Publishes by one store-release; returns the generation's number. On an Error (out of segment memory) nothing is
  // published, and the staging is gone.
  [[nodiscard]] Result<uint64_t> commit();

  // Frees what no generation from `acknowledged` on reaches. Pass the least acknowledged number of all live workers, or
  // the current number when no data plane runs.
  void reclaim(uint64_t acknowledged);

  struct Memory {
    uint64_t used_bytes;
    uint64_t retired_bytes;  // waiting for workers to acknowledge
    uint64_t size_bytes;
  };
  Memory memory() const;

 private:
  // (the helper that implements this declares what it needs here)
  Segment segment_;
};

}  // namespace sluice
