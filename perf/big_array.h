// Zeroed memory as the data plane asks for it: hugepages of 2 MiB if enough are reserved, else transparent
// ones.
#pragma once

#include <sys/mman.h>

#include <cassert>
#include <cstddef>
#include <cstring>
#include <string>

namespace sluice::perf {

template <typename T>
class BigArray {
 public:
  explicit BigArray(size_t count) : bytes_((count * sizeof(T) + kPageBytes - 1) / kPageBytes * kPageBytes) {
    void* memory = map(MAP_HUGETLB | MAP_POPULATE);
    if (memory == MAP_FAILED) {
      memory = map(0);
      assert(memory != MAP_FAILED);
      madvise(memory, bytes_, MADV_HUGEPAGE);
      std::memset(memory, 0, bytes_);
    } else {
      reserved_ = true;
    }
    data_ = static_cast<T*>(memory);
  }
  ~BigArray() { munmap(data_, bytes_); }
  BigArray(const BigArray&) = delete;
  BigArray& operator=(const BigArray&) = delete;
  T* data() { return data_; }
  size_t bytes() const { return bytes_; }
  const char* pages() const { return reserved_ ? "2 MiB" : "transparent"; }

 private:
  static constexpr size_t kPageBytes = 2 << 20;
  void* map(int flags) const {
    return mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | flags, -1, 0);
  }
  size_t bytes_;
  bool reserved_ = false;
  T* data_;
};

}  // namespace sluice::perf
