// Where a big segment can have hugepages: a mounted hugetlbfs with enough free pages.
//
// A segment outlives the process, so its pages must belong to a file: anonymous hugepages would end with it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace sluice {

struct HugePlace {
  std::string mount;    // "/dev/hugepages"
  uint64_t page_bytes;  // 1 GiB or 2 MiB, as a rule
};

// The one with the biggest pages of which enough are free for `bytes`, with at most an eighth lost to
// rounding up: for a table (a power of two and a header) 2 MiB pages from 16 MiB, 1 GiB pages from 8 GiB.
std::optional<HugePlace> find_huge_place(uint64_t bytes);

// The name of an instance's file there.
std::string huge_file_name(const std::string& directory, const std::string& segment);

// Removes such a file from every hugetlbfs, unless a process uses it: its name in the instance's directory is
// gone, and its pages would be for nobody.
void remove_huge_orphan(const std::string& file_name);

// How to get `bytes` of 2 MiB pages, as commands; for messages.
std::string huge_pages_remedy(uint64_t bytes);

}  // namespace sluice
