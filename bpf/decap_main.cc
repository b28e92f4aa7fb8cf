// sluice-decap: puts the decapsulation program on a backend's NIC, takes it off, shows what it did.
//
// Exit status: 0 done (status: attached), 1 failure (status: not attached), 2 usage.
#include <cstdio>
#include <cstring>
#include <string>
#include <string_view>

#include "bpf/decap_loader.h"

namespace {

using sluice::AttachOutcome;
using sluice::DecapStatus;
using sluice::XdpMode;

constexpr const char* kUsage =
    "usage: sluice-decap attach IFACE [--mode native|generic]\n"
    "       sluice-decap detach IFACE\n"
    "       sluice-decap status IFACE\n"
    "\n"
    "Takes the outer header off IPv4/IPv6-in-IPv4/IPv6 packets to this host, before the kernel sees them. "
    "The program\n"
    "stays on the interface when the command ends. Without --mode: in the driver if it can (native), else "
    "generic.\n";

constexpr const char* kStatNames[SLUICE_DECAP_STATS] = {"v4_in_v4", "v6_in_v4",    "v4_in_v6",
                                                        "v6_in_v6", "dropped_ecn", "passed"};

int usage() {
  std::fputs(kUsage, stderr);
  return 2;
}

int fail(const sluice::Error& error) {
  std::fprintf(stderr, "sluice-decap: %s\n", error.text().c_str());
  return 1;
}

const char* text(XdpMode mode) {
  return mode == XdpMode::native ? "native" : "generic";
}

int attach(const std::string& interface, XdpMode mode) {
  const auto outcome = sluice::decap_attach(interface, mode);
  if (!outcome) return fail(outcome.error());
  const auto status = sluice::decap_status(interface);
  if (!status) return fail(status.error());
  const char* what = *outcome == AttachOutcome::unchanged  ? "already attached"
                     : *outcome == AttachOutcome::replaced ? "replaced"
                                                           : "attached";
  std::printf("%s: %s (%s, program id %u)\n", interface.c_str(), what, text(status->mode),
              status->program_id);
  return 0;
}

int detach(const std::string& interface) {
  const auto detached = sluice::decap_detach(interface);
  if (!detached) return fail(detached.error());
  std::printf("%s: %s\n", interface.c_str(), *detached ? "detached" : "nothing attached");
  return 0;
}

int status(const std::string& interface) {
  const auto status = sluice::decap_status(interface);
  if (!status) return fail(status.error());
  if (!status->attached) {
    std::printf("%s: not attached\n", interface.c_str());
    return 1;
  }
  std::printf("%s: attached (%s, program id %u)\n", interface.c_str(), text(status->mode),
              status->program_id);
  for (size_t i = 0; i < status->packets.size(); i++) {
    std::printf("  %-12s %llu\n", kStatNames[i], static_cast<unsigned long long>(status->packets[i]));
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc == 2 && (std::strcmp(argv[1], "--help") == 0 || std::strcmp(argv[1], "-h") == 0)) {
    std::fputs(kUsage, stdout);
    return 0;
  }
  if (argc < 3) return usage();
  const std::string_view command = argv[1];
  const std::string interface = argv[2];
  if (command == "attach" && argc == 3) return attach(interface, XdpMode::automatic);
  if (command == "attach" && argc == 5 && std::strcmp(argv[3], "--mode") == 0) {
    if (std::strcmp(argv[4], "native") == 0) return attach(interface, XdpMode::native);
    if (std::strcmp(argv[4], "generic") == 0) return attach(interface, XdpMode::generic);
    return usage();
  }
  if (command == "detach" && argc == 3) return detach(interface);
  if (command == "status" && argc == 3) return status(interface);
  return usage();
}
