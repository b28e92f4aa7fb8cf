#include "dataplane/huge_pages.h"

#include <fcntl.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>

#include <mntent.h>

#include "src/segment.h"

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

template <typename Look>
void each_mount(Look&& look) {
  FILE* mounts = setmntent("/proc/self/mounts", "r");
  if (mounts == nullptr) return;
  while (const mntent* entry = getmntent(mounts)) {
    struct statfs status;
    if (std::strcmp(entry->mnt_type, "hugetlbfs") != 0 || statfs(entry->mnt_dir, &status) != 0) continue;
    look(HugePlace{entry->mnt_dir, static_cast<uint64_t>(status.f_bsize)});
  }
  endmntent(mounts);
}

}  // namespace

std::optional<HugePlace> find_huge_place(uint64_t bytes) {
  std::optional<HugePlace> best;
  each_mount([&](const HugePlace& place) {
    if (suits(bytes, place.page_bytes) && (!best || place.page_bytes > best->page_bytes)) best = place;
  });
  return best;
}

std::string huge_file_name(const std::string& directory, const std::string& segment) {
  char* real = realpath(directory.c_str(), nullptr);
  std::string name = "sluice.";
  for (const char* c = real != nullptr ? real : directory.c_str(); *c != '\0'; c++)
    name += *c == '/' ? "%2F" : *c == '%' ? "%25" : std::string(1, *c);
  std::free(real);
  return name + "." + segment;
}

void remove_huge_orphan(const std::string& file_name) {
  each_mount([&](const HugePlace& place) {
    const std::string path = place.mount + "/" + file_name;
    const int fd = open(path.c_str(), O_RDWR | O_CLOEXEC);
    if (fd < 0) return;
    if (lock_file(fd)) unlink(path.c_str());
    close(fd);
  });
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
