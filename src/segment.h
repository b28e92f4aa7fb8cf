// Shared-memory segments: files in the instance's directory (a tmpfs), or on a hugetlbfs with a link there;
// mapped by both processes.
//
// Each segment has one writing process. The writer creates the file, or takes an existing one over with its
// contents (its predecessor may have been killed at any instant); readers map it read-only. Whoever maps
// checks the whole header and refuses anything else with an Error that names the remedy. A segment appears
// under its name only when its header is complete (the file is renamed to its name then, or the
// link is), so nobody sees half of one.
//
// Contents hold offsets, never pointers. A Segment unmaps on destruction; the file stays.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <string>
#include <utility>

#include "src/result.h"

namespace sluice {

// Raised on any change of meaning that the layout hash cannot see.
inline constexpr uint32_t kAbiVersion = 1;

// Fingerprint of a layout: the sizes and offsets that both sides must agree on. Order matters.
constexpr uint64_t layout_hash(std::initializer_list<size_t> sizes_and_offsets) {
  uint64_t hash = 0xcbf29ce484222325ULL;
  for (const size_t value : sizes_and_offsets) {
    hash = (hash ^ value) * 0x100000001b3ULL;
    hash ^= hash >> 29;
  }
  return hash;
}

struct SegmentKind {
  const char* file;      // its name in the instance's directory
  const char* writer;    // the program that writes it
  uint64_t magic;        // eight characters
  uint64_t layout_hash;  // of everything in it
};

// The first line of every segment. Writer: the segment's one writing process.
struct alignas(64) SegmentHeader {
  uint64_t magic;
  uint32_t abi_version;
  uint32_t reserved;
  uint64_t layout_hash;
  uint64_t size;         // bytes of the whole segment
  uint64_t incarnation;  // random, drawn at creation: tells a segment from its re-creation
  // The writer's process; 0 after an orderly end. Relaxed: it informs, nothing is ordered by it.
  std::atomic<uint32_t> writer_pid;
  uint32_t reserved2;
  // CLOCK_MONOTONIC, nanoseconds: the writer's last sign of life. Relaxed, for the same reason.
  std::atomic<uint64_t> heartbeat_ns;
};
static_assert(sizeof(SegmentHeader) == 64);
static_assert(std::atomic<uint64_t>::is_always_lock_free);

// What transparent huge pages are on x86-64.
inline constexpr uint64_t kTransparentPageBytes = 2 << 20;

class Segment {
 public:
  Segment() = default;
  Segment(Segment&& other) noexcept { *this = std::move(other); }
  Segment& operator=(Segment&& other) noexcept;
  ~Segment();

  // For the writer: takes over the file if there is one of this very kind and size, else creates it, all zero
  // behind the header. A file of another kind, version, layout or size is an Error: it may hold what somebody
  // still uses.
  //
  // `huge_file`: a file to be, on a hugetlbfs. One that is created then lies there, rounded up to whole
  // pages, and its name in the directory is a link to it. An Error if that
  // has not enough free pages, or if another process writes this very file: who maps one for writing holds a
  // lock on it, because the instance's own lock says nothing about a file elsewhere.
  static Result<Segment> open_writer(const std::string& directory, const SegmentKind& kind, uint64_t size,
                                     const std::string& huge_file = "");
  // For readers: maps the file read-only, whatever its size.
  static Result<Segment> open_reader(const std::string& directory, const SegmentKind& kind);
  // Not shared and not named: the same contents for tests, benchmarks and sluice-replay.
  static Segment anonymous(const SegmentKind& kind, uint64_t size);

  // Asks for transparent huge pages of 2 MiB, now (MADV_COLLAPSE, Linux 6.1). Best effort.
  void collapse();
  // Bytes of the pages that it lies in: those of its hugetlbfs; else 2 MiB if it was collapsed; else the
  // system's.
  uint64_t page_bytes() const { return page_bytes_; }
  bool is_huge() const { return is_huge_; }  // on a hugetlbfs; for writers

  // Takes the memory of a part now, so that a tmpfs that is full is an Error here and not a SIGBUS later.
  Result<Done> populate(uint64_t offset, uint64_t bytes);

  bool is_open() const { return base_ != nullptr; }
  bool was_created() const { return created_; }  // by this open_writer, not taken over
  std::byte* base() const { return base_; }
  uint64_t size() const { return size_; }
  SegmentHeader& header() const { return *reinterpret_cast<SegmentHeader*>(base_); }
  // The struct that the segment begins with; it begins with a SegmentHeader.
  template <typename T>
  T& as() const {
    return *reinterpret_cast<T*>(base_);
  }
  // Has the file been replaced or removed since it was mapped? (A reader then maps it again.)
  bool is_stale() const;

 private:
  Result<Done> create(const SegmentKind& kind, uint64_t size, const std::string& huge_file);

  std::string path_;
  std::byte* base_ = nullptr;
  uint64_t size_ = 0;
  uint64_t inode_ = 0;
  uint64_t page_bytes_ = 0;
  bool is_huge_ = false;
  bool created_ = false;
};

// Takes an exclusive lock of the open file description without waiting; it is held as long as that is open or
// mapped.
bool lock_file(int fd);

// CLOCK_MONOTONIC in nanoseconds; the clock of every time in shared memory. One for the host, it outlives
// processes.
uint64_t monotonic_ns();

// The directory of an instance: --dir, else $SLUICE_DIR, else kDefaultDirectory.
inline constexpr const char* kDefaultDirectory = "/dev/shm/sluice";
std::string instance_directory(const std::string& option);
// What tells instances apart where a directory cannot stand, below /sys/fs/bpf/sluice: its real path with '+'
// for '/' and
// '_' for '.', "dev+shm+sluice".
std::string instance_name(const std::string& directory);
// Creates the directory (mode 0755) if it is missing.
Result<Done> make_instance_directory(const std::string& directory);

// One process of a kind for an instance: an exclusive lock on DIRECTORY/PROGRAM.lock, held until destruction
// or the process's end, however it comes.
inline constexpr const char* kDaemonLock = "sluiced";
inline constexpr const char* kDataplaneLock = "sluice-dataplane";

class InstanceLock {
 public:
  InstanceLock() = default;
  InstanceLock(InstanceLock&& other) noexcept : fd_(other.fd_) { other.fd_ = -1; }
  InstanceLock& operator=(InstanceLock&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~InstanceLock();
  static Result<InstanceLock> acquire(const std::string& directory, const std::string& program);
  // Does a live process hold it? For the other side: no message, no signal, true until the very end of that
  // process.
  static bool is_held(const std::string& directory, const std::string& program);

 private:
  int fd_ = -1;
};

}  // namespace sluice
