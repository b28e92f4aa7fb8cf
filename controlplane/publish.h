// The writing side of the `tables` segment (src/tables.h): memory of generations, staging, publishing,
// reclaiming.
//
// One Publisher an instance, used by sluiced's one thread. Nothing staged is visible before commit(); a
// process killed at any instant leaves the last committed generation whole.
//
// Cost of a generation: a copy of its root (18 KiB of page numbers: 0.5 us), of the pages and parts that are
// edited, and as many steps of reclaiming; nothing depends on how many pages there are.
//
//   publisher.begin();
//   publisher.edit_backend(id).flags = ...;
//   publisher.set_lookup(service, positions, checksum);
//   if (const Result<uint64_t> number = publisher.commit(); !number) ... nothing was published
//   ... when the workers have acknowledged: publisher.reclaim(acknowledged);
#pragma once

#include <cstdint>
#include <deque>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "controlplane/segment_memory.h"
#include "src/result.h"
#include "src/segment.h"
#include "src/tables.h"

namespace sluice {

// Sparse: only what is written takes memory. 1,000 services with tables of 131 KiB, each twice for a moment,
// fit.
inline constexpr uint64_t kTablesBytesDefault = 1ULL << 30;

// The one page of zeroes that unused pages and the empty VIP table name: right behind the header, never
// written. It is as big as the biggest page (64 cold records of 128 bytes).
inline constexpr Offset64 kZeroPage = sizeof(TablesHeader) / 64;
inline constexpr uint64_t kZeroPageBytes = kPageRecords * sizeof(BackendCold);

class Publisher {
 public:
  // Takes the segment over with its current generation, or creates it. What the current generation does not
  // reach may still be in use by workers: it stays untouched until a reclaim() with this generation's number
  // or a later one, which is best called at once with what the workers have acknowledged. Publishing works
  // before that too, with fresh memory. An Error when what is there is damaged or of another version or size.
  static Result<Publisher> open(const std::string& directory, uint64_t bytes = kTablesBytesDefault);
  // Private memory, for sluice-replay, tests and benchmarks.
  static Publisher anonymous(uint64_t bytes = kTablesBytesDefault);

  const std::byte* base() const { return segment_.base(); }
  SegmentHeader& header() { return segment_.header(); }
  const SegmentHeader& header() const { return segment_.header(); }
  // What is published; empty before the first commit.
  TablesView current() const { return TablesView::acquire(segment_.base()); }

  // Starts a generation as a copy of the current one. Pages are copied when first edited. An Error: no memory
  // for it.
  [[nodiscard]] Result<Done> begin();
  // Forgets what was staged; its memory is free again. Without begin(): nothing.
  void abort();
  // ---- between begin and commit ----
  // These return a record to change; a page that is not this generation's own yet is copied first. Running
  // out of segment memory is remembered and reported by commit; until then a scratch record is returned.
  ServiceRecord& edit_service(ServiceId id);
  BackendRecord& edit_backend(BackendId id);
  ServiceCold& edit_service_cold(ServiceId id);
  BackendCold& edit_backend_cold(BackendId id);
  // Its secret and counts may be changed; the rest is the publisher's.
  Generation& generation();
  // New contents for a service's parts; what they replace is retired. Only these write the record's lookup,
  // lookup_slots, lookup_checksum, turns, members and members_count, twins and twins_count. The first two are
  // empty when nobody takes new flows. `turns`: of the positions, whole_rounds() (src/lookup_table.h); 0:
  // all.
  void set_lookup(ServiceId id, std::span<const uint16_t> positions, uint64_t checksum, uint32_t turns = 0);
  // `weights`: as many as members, or none, for 1 each.
  void set_members(ServiceId id, std::span<const BackendId> members, std::span<const uint16_t> weights = {});
  void set_twins(ServiceId id, std::span<const Twin> twins);
  struct Vip {
    IpAddress vip;
    uint16_t port;  // host order
    uint8_t protocol;
    ServiceId service;
  };
  void set_vips(std::span<const Vip> vips);
  // The staged records, as a reader will see them.
  TablesView staged() const;

  // Publishes by one store-release; returns the generation's number. On an Error (out of segment memory)
  // nothing is published, and the staging is gone.
  [[nodiscard]] Result<uint64_t> commit();

  // Frees what no generation from `acknowledged` on reaches. Pass the least acknowledged number of all live
  // workers, or the current number when no data plane runs. A number above the current one is another
  // segment's, and ignored.
  void reclaim(uint64_t acknowledged);

  struct Memory {
    uint64_t used_bytes;     // all that is not free: the current generation, what is staged, what is retired
    uint64_t retired_bytes;  // waiting for workers to acknowledge
    uint64_t size_bytes;     // that could be used at all
  };
  Memory memory() const;

 private:
  struct Part {
    Offset64 offset = 0;
    uint64_t bytes = 0;
  };
  struct Retired {
    uint64_t generation;  // the first one that does not reach it
    Part part;
  };
  struct Staging {
    bool open = false;
    bool out_of_memory = false;
    Offset64 root = 0;
    std::unordered_map<Offset64, uint64_t> own;  // parts that only this staging reaches: offset to bytes
    std::vector<Part> replaced;  // parts that the current generation reaches and this one does not
  };

  explicit Publisher(Segment segment);
  TablesHeader& tables() const { return segment_.as<TablesHeader>(); }
  template <typename T>
  T* at(Offset64 offset) const {
    return reinterpret_cast<T*>(segment_.base() + uint64_t{offset} * 64);
  }

  // Takeover: marks what the current generation reaches, retires the rest that was ever used. False: it is
  // damaged.
  bool adopt_current();
  bool adopt_parts(const Generation& generation);
  bool adopt_service(const ServiceRecord& service);

  Offset64 allocate(uint64_t bytes);  // 0: out of memory, which is remembered in staging_
  bool is_there(Offset64 offset, uint64_t bytes);
  void replace(Part old);
  template <typename Record>
  Record& edit(Offset64* pages, uint32_t i);

  Segment segment_;
  SegmentMemory memory_;
  Staging staging_;
  uint64_t populated_bytes_ = 0;  // from the segment's start on
  std::deque<Retired> retired_;   // by generation, ascending
  uint64_t retired_bytes_ = 0;
  alignas(64) std::byte scratch_[sizeof(BackendCold)];
};

}  // namespace sluice
