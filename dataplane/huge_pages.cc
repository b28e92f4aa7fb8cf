#include "dataplane/huge_pages.h"

#include <sys/vfs.h>

#include <cstdio>
#include <cstring>
#include <fstream>

#include <mntent.h>

namespace sluice {
namespace {

constexpr uint64_t kUsualPageBytes = 2 << 20;

uint64_t free_pages(uint64_t page_bytes) {
  std::ifstream file("/sys/kernel/mm/hugepages/hugepages-" + std::to_string(page_bytes / 1024) +
                     "kB/free_hugepages");
  uint64_t count = 0;
  file >> count;
  return count;
}

bool suits(uint64_t bytes, uint64_t page_bytes) {
  const uint64_t pages = (bytes + page_bytes - 1) / page_bytes;
  return pages * page_bytes - bytes <= bytes / 8 && pages <= free_pages(page_bytes);
}

}  // namespace

std::optional<HugePlace> find_huge_place(uint64_t bytes) {
  std::optional<HugePlace> best;
  FILE* mounts = setmntent("/proc/self/mounts", "r");
  if (mounts == nullptr) return best;
  while (const mntent* entry = getmntent(mounts)) {
    struct statfs status;
    if (std::strcmp(entry->mnt_type, "hugetlbfs") != 0 || statfs(entry->mnt_dir, &status) != 0) continue;
    const auto page_bytes = static_cast<uint64_t>(status.f_bsize);
    if (suits(bytes, page_bytes) && (!best || page_bytes > best->page_bytes)) {
      best = HugePlace{entry->mnt_dir, page_bytes};
    }
  }
  endmntent(mounts);
  return best;
}

std::string huge_pages_remedy(uint64_t bytes) {
  std::ifstream file("/proc/sys/vm/nr_hugepages");
  uint64_t reserved = 0;
  file >> reserved;
  const uint64_t pages = (bytes + kUsualPageBytes - 1) / kUsualPageBytes;
  return "mount -t hugetlbfs none /dev/hugepages; sysctl -w vm.nr_hugepages=" +
         std::to_string(reserved + pages);
}

}  // namespace sluice
