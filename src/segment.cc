#include "src/segment.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <cassert>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <string>

// Of newer headers than Debian 12's.
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

namespace sluice {
namespace {

class Fd {
 public:
  explicit Fd(int fd) : fd_(fd) {}
  ~Fd() {
    if (fd_ >= 0) close(fd_);
  }
  Fd(const Fd&) = delete;
  Fd& operator=(const Fd&) = delete;
  int get() const { return fd_; }

 private:
  int fd_;
};

Error system_error(const std::string& what, std::string remedy = "") {
  return {what + ": " + std::strerror(errno), std::move(remedy)};
}

std::string hex(uint64_t value) {
  char out[19];
  std::snprintf(out, sizeof out, "0x%016llx", static_cast<unsigned long long>(value));
  return out;
}

void fill_header(SegmentHeader& header, const SegmentKind& kind, uint64_t size) {
  header.abi_version = kAbiVersion;
  header.layout_hash = kind.layout_hash;
  header.size = size;
  [[maybe_unused]] const ssize_t got = getrandom(&header.incarnation, sizeof header.incarnation, 0);
  header.magic = kind.magic;
}

// What is wrong with a mapped header, or nothing.
std::string header_fault(const SegmentHeader& header, const SegmentKind& kind, uint64_t file_size) {
  if (header.magic != kind.magic) return "is not a Sluice '" + std::string(kind.file) + "' segment";
  if (header.abi_version != kAbiVersion) {
    return "has ABI version " + std::to_string(header.abi_version) + ", this program has " +
           std::to_string(kAbiVersion);
  }
  if (header.layout_hash != kind.layout_hash) {
    return "has layout " + hex(header.layout_hash) + ", this program has " + hex(kind.layout_hash);
  }
  if (header.size != file_size) {
    return "says " + std::to_string(header.size) + " bytes, the file has " + std::to_string(file_size);
  }
  return "";
}

Error header_error(const std::string& path, const std::string& fault) {
  return {path + " " + fault, "stop sluiced and sluice-dataplane of this instance, then: rm " + path};
}

bool is_on_hugetlbfs(const Fd& fd) {
  struct statfs status;
  return fstatfs(fd.get(), &status) == 0 && status.f_type == HUGETLBFS_MAGIC;
}

uint64_t page_bytes_of(const Fd& fd) {
  struct statfs status;
  return is_on_hugetlbfs(fd) && fstatfs(fd.get(), &status) == 0
             ? static_cast<uint64_t>(status.f_bsize)
             : static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
}

constexpr uint64_t round_up(uint64_t bytes, uint64_t unit) {
  return (bytes + unit - 1) / unit * unit;
}

// Maps the whole file where transparent huge pages can lie: at a multiple of their size. nullptr: errno says.
std::byte* map_file(const Fd& fd, uint64_t size, uint64_t page_bytes, int protection) {
  const uint64_t alignment = std::max(kTransparentPageBytes, page_bytes);
  const uint64_t reserved = round_up(size, alignment) + alignment;
  void* place = mmap(nullptr, reserved, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (place == MAP_FAILED) return nullptr;
  const auto begin = reinterpret_cast<uintptr_t>(place);
  const uintptr_t aligned = round_up(begin, alignment);
  // Only what the file needs stays; given back before it is mapped, or the hugetlbfs would count it twice.
  munmap(place, reserved);
  void* base =
      mmap(reinterpret_cast<void*>(aligned), size, protection, MAP_SHARED | MAP_FIXED_NOREPLACE, fd.get(), 0);
  // Another thread took the place: then anywhere.
  if (base == MAP_FAILED && errno == EEXIST) base = mmap(nullptr, size, protection, MAP_SHARED, fd.get(), 0);
  return base == MAP_FAILED ? nullptr : static_cast<std::byte*>(base);
}

// Maps an open segment file and checks its header.
Result<std::byte*> map_checked(const Fd& fd, const std::string& path, const SegmentKind& kind, int protection,
                               struct stat& status) {
  if (fstat(fd.get(), &status) != 0) return system_error(path);
  const auto size = static_cast<uint64_t>(status.st_size);
  if (size < sizeof(SegmentHeader)) return header_error(path, "is shorter than a segment header");
  std::byte* base = map_file(fd, size, page_bytes_of(fd), protection);
  if (base == nullptr) return system_error("cannot map " + path, "free -h; df -h " + path);
  const std::string fault = header_fault(*reinterpret_cast<const SegmentHeader*>(base), kind, size);
  if (!fault.empty()) {
    munmap(base, size);
    return header_error(path, fault);
  }
  return base;
}

Error in_use(const std::string& path) {
  return {path + " is written by another process", "give each instance a directory of its own with --dir"};
}

// Puts a link in the directory's place, atomically.
bool link_to(const std::string& target, const std::string& path) {
  const std::string temporary = path + ".new";
  unlink(temporary.c_str());
  return symlink(target.c_str(), temporary.c_str()) == 0 && rename(temporary.c_str(), path.c_str()) == 0;
}

}  // namespace

Segment& Segment::operator=(Segment&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(base_, other.base_);
  std::swap(size_, other.size_);
  std::swap(inode_, other.inode_);
  std::swap(page_bytes_, other.page_bytes_);
  std::swap(is_huge_, other.is_huge_);
  std::swap(created_, other.created_);
  return *this;
}

Segment::~Segment() {
  if (base_ != nullptr) munmap(base_, size_);
}

Result<Segment> Segment::open_writer(const std::string& directory, const SegmentKind& kind, uint64_t size,
                                     const std::string& huge_file) {
  assert(size >= sizeof(SegmentHeader));
  const std::string path = directory + "/" + kind.file;
  Segment segment;
  segment.path_ = path;

  if (const Fd existing(open(path.c_str(), O_RDWR | O_CLOEXEC)); existing.get() >= 0) {
    if (is_on_hugetlbfs(existing) && !lock_file(existing.get())) return in_use(path);
    struct stat status;
    Result<std::byte*> base = map_checked(existing, path, kind, PROT_READ | PROT_WRITE, status);
    if (!base) return base.error();
    segment.base_ = *base;
    segment.size_ = static_cast<uint64_t>(status.st_size);
    segment.inode_ = status.st_ino;
    segment.page_bytes_ = page_bytes_of(existing);
    segment.is_huge_ = is_on_hugetlbfs(existing);
    if (segment.size_ != size && segment.size_ != round_up(size, segment.page_bytes_)) {
      return header_error(path, "has " + std::to_string(segment.size_) + " bytes, not the " +
                                    std::to_string(size) + " that this program was told to use");
    }
  } else if (errno != ENOENT) {
    return system_error("cannot open " + path);
  } else if (Result<Done> done = segment.create(kind, size, huge_file); !done) {
    return done.error();
  }
  segment.header().writer_pid.store(static_cast<uint32_t>(getpid()), std::memory_order_relaxed);
  segment.header().heartbeat_ns.store(monotonic_ns(), std::memory_order_relaxed);
  return segment;
}

Result<Done> Segment::create(const SegmentKind& kind, uint64_t size, const std::string& huge_file) {
  const std::string temporary = huge_file.empty() ? path_ + ".new" : huge_file;
  const Fd fd(open(temporary.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644));
  if (fd.get() < 0) return system_error("cannot create " + temporary);
  if (!huge_file.empty() && !lock_file(fd.get())) return in_use(temporary);
  page_bytes_ = page_bytes_of(fd);
  is_huge_ = is_on_hugetlbfs(fd);
  if (!huge_file.empty()) size = round_up(size, page_bytes_);
  const auto fail = [&](Error error) {
    unlink(temporary.c_str());
    return error;
  };
  // First to nothing: what somebody left there is not wanted.
  if (ftruncate(fd.get(), 0) != 0 || ftruncate(fd.get(), static_cast<off_t>(size)) != 0) {
    return fail(system_error("cannot make " + temporary + " " + std::to_string(size) + " bytes long",
                             "df -h " + temporary));
  }
  base_ = map_file(fd, size, page_bytes_, PROT_READ | PROT_WRITE);
  if (base_ == nullptr)
    return fail(system_error("cannot map " + temporary, is_huge_ ? "grep -i huge /proc/meminfo" : "free -h"));
  size_ = size;
  created_ = true;
  if (Result<Done> there = populate(0, sizeof(SegmentHeader)); !there)
    return fail(Error{"no room for " + temporary, "df -h " + temporary});
  fill_header(header(), kind, size);
  struct stat status;
  fstat(fd.get(), &status);
  inode_ = status.st_ino;
  const bool placed =
      huge_file.empty() ? rename(temporary.c_str(), path_.c_str()) == 0 : link_to(huge_file, path_);
  return placed ? Result<Done>(Done{}) : fail(system_error("cannot create " + path_));
}

void Segment::collapse() {
  if (page_bytes_ < kTransparentPageBytes && size_ >= kTransparentPageBytes &&
      madvise(base_, size_ / kTransparentPageBytes * kTransparentPageBytes, MADV_COLLAPSE) == 0)
    page_bytes_ = kTransparentPageBytes;
}

Result<Segment> Segment::open_reader(const std::string& directory, const SegmentKind& kind) {
  const std::string path = directory + "/" + kind.file;
  const Fd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (fd.get() < 0) {
    return system_error("cannot open " + path, errno == ENOENT ? "start " + std::string(kind.writer) : "");
  }
  struct stat status;
  Result<std::byte*> base = map_checked(fd, path, kind, PROT_READ, status);
  if (!base) return base.error();
  Segment segment;
  segment.path_ = path;
  segment.base_ = *base;
  segment.size_ = static_cast<uint64_t>(status.st_size);
  segment.inode_ = status.st_ino;
  segment.page_bytes_ = page_bytes_of(fd);
  return segment;
}

Segment Segment::anonymous(const SegmentKind& kind, uint64_t size) {
  void* base =
      mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  assert(base != MAP_FAILED);
  Segment segment;
  segment.base_ = static_cast<std::byte*>(base);
  segment.size_ = size;
  segment.created_ = true;
  fill_header(segment.header(), kind, size);
  return segment;
}

Result<Done> Segment::populate(uint64_t offset, uint64_t bytes) {
  assert(offset + bytes <= size_);
  const uint64_t page_bytes = static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
  const uint64_t begin = offset / page_bytes * page_bytes;
  // EINVAL: a kernel before 5.14, which cannot be asked.
  if (madvise(base_ + begin, offset + bytes - begin, MADV_POPULATE_WRITE) == 0 || errno == EINVAL)
    return Done{};
  return Error{
      "no memory for " + std::to_string(bytes) + " bytes of " + (path_.empty() ? "private memory" : path_),
      "df -h " + path_ + "; free -h"};
}

bool Segment::is_stale() const {
  struct stat status;
  return !path_.empty() && (stat(path_.c_str(), &status) != 0 || status.st_ino != inode_);
}

bool lock_file(int fd) {
  struct flock whole_file = {};
  whole_file.l_type = F_WRLCK;
  return fcntl(fd, F_OFD_SETLK, &whole_file) == 0;
}

uint64_t monotonic_ns() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(now.tv_nsec);
}

std::string instance_directory(const std::string& option) {
  if (!option.empty()) return option;
  const char* environment = std::getenv("SLUICE_DIR");
  return environment != nullptr && *environment != '\0' ? environment : kDefaultDirectory;
}

std::string instance_name(const std::string& directory) {
  char* real = realpath(directory.c_str(), nullptr);
  std::string name = real != nullptr ? real : directory;
  std::free(real);
  std::replace(name.begin(), name.end(), '/', '+');
  std::replace(name.begin(), name.end(), '.', '_');  // bpffs takes no dots
  return name.substr(name.find_first_not_of('+') == std::string::npos ? 0 : name.find_first_not_of('+'));
}

Result<Done> make_instance_directory(const std::string& directory) {
  if (mkdir(directory.c_str(), 0755) == 0 || errno == EEXIST) return Done{};
  return system_error("cannot create the instance's directory " + directory, "sudo mkdir -p " + directory);
}

InstanceLock::~InstanceLock() {
  if (fd_ >= 0) close(fd_);
}

Result<InstanceLock> InstanceLock::acquire(const std::string& directory, const std::string& program) {
  const std::string path = directory + "/" + program + ".lock";
  InstanceLock lock;
  lock.fd_ = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (lock.fd_ < 0) return system_error("cannot open " + path);
  // A lock of the open file description: it lives as long as the descriptor, and is_held can look without
  // taking one.
  if (!lock_file(lock.fd_)) {
    char holder[16] = "";
    if (pread(lock.fd_, holder, sizeof holder - 1, 0) <= 0) std::strcpy(holder, "?");
    holder[std::strcspn(holder, "\n")] = '\0';
    return Error{"another " + program + " (pid " + holder + ") runs the instance in " + directory,
                 "kill " + std::string(holder) + ", or give this one a directory of its own with --dir"};
  }
  const std::string pid = std::to_string(getpid()) + "\n";
  if (ftruncate(lock.fd_, 0) != 0 || pwrite(lock.fd_, pid.data(), pid.size(), 0) < 0) {
    return system_error("cannot write " + path);
  }
  return lock;
}

bool InstanceLock::is_held(const std::string& directory, const std::string& program) {
  const Fd fd(open((directory + "/" + program + ".lock").c_str(), O_RDONLY | O_CLOEXEC));
  // Only asks. Taking a lock, however briefly, would make a program that starts at that moment believe it is
  // the second.
  struct flock whole_file = {};
  whole_file.l_type = F_WRLCK;
  return fd.get() >= 0 && fcntl(fd.get(), F_OFD_GETLK, &whole_file) == 0 && whole_file.l_type != F_UNLCK;
}

}  // namespace sluice
