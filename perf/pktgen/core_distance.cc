// How far apart two CPUs are: the TSC cycles that a cache line takes from one to the other and back. Prints
// the median of some thousand round trips, each of which was one store seen by the other side, and one store
// back.
//
// Packets go from the generator's core to the target's through such lines, so a packet's cost depends on it;
// and where the machine is a virtual one, it changes from minute to minute: two CPUs of one L3 cache are some
// 300 cycles apart, of two caches 1,400. Figures taken at different distances must not be compared.
//
//   core-distance CPU CPU

#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <charconv>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <thread>
#include <vector>

namespace {

constexpr uint32_t kRounds = 20'000;

struct Line {
  alignas(128) std::atomic<uint32_t> value{0};  // neighbouring lines may be fetched in pairs
};
Line ask, reply;

bool pin(int cpu) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(static_cast<size_t>(cpu), &set);
  return pthread_setaffinity_np(pthread_self(), sizeof set, &set) == 0;
}

// Answers each number by the same. Acquire and release pair with the other side's: nothing but the numbers is
// handed over.
void echo(int cpu, std::atomic<bool>& pinned) {
  pinned.store(pin(cpu), std::memory_order_relaxed);
  reply.value.store(1, std::memory_order_release);
  for (uint32_t i = 2; i <= kRounds; i++) {
    while (ask.value.load(std::memory_order_acquire) != i) {
    }
    reply.value.store(i, std::memory_order_release);
  }
}

bool parse(const char* text, int& cpu) {
  const char* end = text + std::strlen(text);
  return std::from_chars(text, end, cpu).ptr == end && cpu >= 0 && cpu < CPU_SETSIZE;
}

}  // namespace

int main(int argc, char** argv) {
  int here = 0, there = 0;
  if (argc != 3 || !parse(argv[1], here) || !parse(argv[2], there) || here == there) {
    std::fprintf(stderr, "core-distance: names two different CPUs\n  try: core-distance 0 1\n");
    return 2;
  }
  std::atomic<bool> pinned{false};
  std::thread other(echo, there, std::ref(pinned));
  const bool both = pin(here);
  while (reply.value.load(std::memory_order_acquire) != 1)
    std::this_thread::yield();
  std::vector<uint64_t> cycles;
  for (uint32_t i = 2; i <= kRounds; i++) {
    const uint64_t start = __builtin_ia32_rdtsc();
    ask.value.store(i, std::memory_order_release);
    while (reply.value.load(std::memory_order_acquire) != i) {
    }
    cycles.push_back(__builtin_ia32_rdtsc() - start);
  }
  other.join();
  if (!both || !pinned.load(std::memory_order_relaxed)) {
    std::fprintf(stderr, "core-distance: may not use CPU %d or %d\n  try: taskset -p $$\n", here, there);
    return 1;
  }
  std::nth_element(cycles.begin(), cycles.begin() + kRounds / 2, cycles.end());
  std::printf("%llu\n", static_cast<unsigned long long>(cycles[kRounds / 2]));
  return 0;
}
