// Who runs where: the thread that is measured on the highest CPU that this process may use, everything else
// on the others.
#pragma once

#include <sched.h>

namespace sluice::perf {

// Pins the calling thread, which must be the measured one, at the first call. Returns the other CPUs; all, if
// there is only one.
inline const cpu_set_t& other_cpus() {
  static const cpu_set_t others = [] {
    cpu_set_t all;
    CPU_ZERO(&all);
    sched_getaffinity(0, sizeof all, &all);
    int highest = 0;
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
      if (CPU_ISSET(cpu, &all)) highest = cpu;
    }
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(highest, &one);
    sched_setaffinity(0, sizeof one, &one);
    if (CPU_COUNT(&all) > 1) CPU_CLR(highest, &all);
    return all;
  }();
  return others;
}

}  // namespace sluice::perf
