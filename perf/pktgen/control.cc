#include "perf/pktgen/control.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

namespace sluice::pktgen {

Result<Control> Control::open(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDWR | O_CLOEXEC);
  if (fd < 0) {
    return Error{"control file " + path + ": " + std::strerror(errno),
                 "perf/pktgen/pktgen.py makes one and starts the rest"};
  }
  struct stat status;
  const bool large_enough =
      fstat(fd, &status) == 0 && static_cast<size_t>(status.st_size) >= sizeof(ControlBlock);
  void* mapped = large_enough ? mmap(nullptr, sizeof(ControlBlock), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)
                              : MAP_FAILED;
  close(fd);
  if (mapped == MAP_FAILED)
    return Error{"control file " + path + " is too small, or cannot be mapped", "make it anew"};
  auto* block = static_cast<ControlBlock*>(mapped);
  if (block->version.load(std::memory_order_acquire) != kControlVersion) {
    munmap(mapped, sizeof(ControlBlock));
    return Error{"control file " + path + " is of another version",
                 "use pktgen.py and the library of one build"};
  }
  return Control(block);
}

std::string_view Control::request() const {
  const uint64_t bytes = block_->request.bytes.load(std::memory_order_relaxed);
  return {block_->request.text, std::min<size_t>(bytes, kLetterBytesMax)};
}

void Control::answer(uint64_t number, const std::string& text) {
  const size_t bytes = std::min(text.size(), kLetterBytesMax);
  std::memcpy(block_->answer.text, text.data(), bytes);
  block_->answer.bytes.store(bytes, std::memory_order_relaxed);
  // Release: the letter is whole for whoever sees its number. Pairs with the driver's load.
  block_->answer.number.store(number, std::memory_order_release);
}

}  // namespace sluice::pktgen
