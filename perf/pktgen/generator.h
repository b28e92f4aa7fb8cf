// The generator's thread: waits for requests in the control file, and runs trials on its two rings.
//
// It owns the mbufs of its pool: those in its hands, and those under way through the target. What comes back
// is checked and written anew at once, so in steady state no packet passes the mempool; what the target drops
// goes back to the pool, and is taken from there again. Between trials it sleeps (a look at the control file
// each millisecond), and a target that polls an empty ring is all that runs.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <thread>

#include "perf/pktgen/control.h"
#include "perf/pktgen/port.h"
#include "perf/pktgen/trial.h"

namespace sluice::pktgen {

class Generator {
 public:
  // Starts the thread on `cpu`. The port must outlive the generator.
  Generator(const Port& port, Control control, uint32_t cpu);
  // Ends a trial that runs, then the thread.
  ~Generator();

 private:
  void run(uint32_t cpu);
  std::string answer(std::string_view request);

  const Port& port_;
  Control control_;
  std::atomic<bool> stop_{false};  // relaxed: nothing is handed over by it
  std::unique_ptr<class Engine> engine_;
  std::thread thread_;
};

}  // namespace sluice::pktgen
