// What makes the library work when it is preloaded into a program that knows nothing of it: its own
// rte_eal_init takes out the "--vdev net_pktgen..." arguments, has DPDK start with the rest, then makes the
// ports and starts their generators; its rte_eal_cleanup stops them. Only public functions of DPDK are used,
// and none is replaced.
//
//   LD_PRELOAD=libsluice_pktgen.so dpdk-testpmd ... --vdev net_pktgen0,cpu=0,control=FILE ...

#include <rte_eal.h>

#include <cstdio>
#include <cstdlib>
#include <list>
#include <memory>
#include <vector>

#include <dlfcn.h>

#include "perf/pktgen/generator.h"

namespace {

using namespace sluice;
using namespace sluice::pktgen;

struct Running {
  Port port;
  std::unique_ptr<Generator> generator;
};
std::list<Running>& running() {
  static auto* all = new std::list<Running>;  // never destroyed: a program may end without rte_eal_cleanup
  return *all;
}

[[noreturn]] void fail(const Error& error) {
  std::fprintf(stderr, "%s\n", error.text().c_str());
  std::exit(1);
}

template <typename Function>
Function real(const char* name) {
  void* found = dlsym(RTLD_NEXT, name);
  if (found == nullptr)
    fail({std::string("pktgen: this program has no ") + name, "preload it into a DPDK program"});
  return reinterpret_cast<Function>(found);
}

// Moves our arguments to the front (behind the program's name, which EAL wants in front of the rest) and
// returns how many they are. EAL's own end at "--".
int take_out(int argc, char** argv, std::vector<PortOptions>& ports) {
  std::vector<char*> ours, others;
  int i = 1;
  for (; i < argc && std::string(argv[i]) != "--"; i++) {
    const std::string word = argv[i];
    const bool two = word == "--vdev" && i + 1 < argc && PortOptions::is_ours(argv[i + 1]);
    const bool one = word.rfind("--vdev=", 0) == 0 && PortOptions::is_ours(word.substr(7));
    if (!one && !two) {
      others.push_back(argv[i]);
      continue;
    }
    Result<PortOptions> options = PortOptions::parse(two ? argv[i + 1] : word.substr(7));
    if (!options) fail(options.error());
    ports.push_back(*options);
    ours.push_back(argv[i]);
    if (two) ours.push_back(argv[++i]);
  }
  int at = 1;
  for (char* word : ours)
    argv[at++] = word;
  for (char* word : others)
    argv[at++] = word;
  return static_cast<int>(ours.size());
}

void start(const PortOptions& options) {
  Result<Control> control = Control::open(options.control);
  if (!control) fail(control.error());
  Result<Port> port = Port::make(options);
  if (!port) fail(port.error());
  running().push_back({*port, nullptr});
  running().back().generator = std::make_unique<Generator>(running().back().port, *control, options.cpu);
}

}  // namespace

extern "C" {

[[gnu::visibility("default")]] int rte_eal_init(int argc, char** argv) {
  // The driver reads what the program prints, from a file, while it runs.
  std::setvbuf(stdout, nullptr, _IOLBF, 0);
  std::vector<PortOptions> ports;
  const int taken = take_out(argc, argv, ports);
  argv[taken] = argv[0];
  const int parsed = real<int (*)(int, char**)>("rte_eal_init")(argc - taken, argv + taken);
  if (parsed < 0) return parsed;
  for (const PortOptions& options : ports)
    start(options);
  return parsed + taken;
}

[[gnu::visibility("default")]] int rte_eal_cleanup(void) {
  running().clear();
  return real<int (*)()>("rte_eal_cleanup")();
}
}
