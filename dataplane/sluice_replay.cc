// sluice-replay CONFIG IN.pcap OUT.pcap: what a configuration would do to the packets of a capture
// (dataplane/replay.h).
//
// OUT.pcap gets what would have been sent, forwarded and answered packets, with the times of IN.pcap. Exit
// codes: 0, 1 for a capture that cannot be read or written, 2 usage, 3 and 4 for a faulty configuration, as
// `sluice check`.

#include <pcap/pcap.h>

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "dataplane/replay.h"

namespace sluice {
namespace {

struct Arguments {
  std::string config;
  std::string input;
  std::string output;
  std::string json;
  bool explain = false;
  struct Failure {
    std::string service, backend;
    uint64_t number;
  };
  std::vector<Failure> failures;
  ReplayNetwork network;
};

CLI::Validator mac_address() {
  return {
      [](std::string& text) { return MacAddress::parse(text) ? "" : "'" + text + "' is not a MAC address"; },
      "MAC"};
}

CLI::Validator ip_address(Family family) {
  return {[family](std::string& text) {
            const auto address = IpAddress::parse(text);
            const bool fits = address && address->family() == family;
            return fits ? ""
                        : "'" + text + "' is not an IPv" + (family == Family::v4 ? "4" : "6") + " address";
          },
          "ADDRESS"};
}

// SERVICE/BACKEND@NUMBER
std::optional<Arguments::Failure> parse_failure(const std::string& text) {
  const size_t slash = text.find('/'), at = text.rfind('@');
  if (slash == std::string::npos || at == std::string::npos || at < slash) return std::nullopt;
  Arguments::Failure failure{text.substr(0, slash), text.substr(slash + 1, at - slash - 1), 0};
  const char* end = text.data() + text.size();
  const auto [read, fault] = std::from_chars(text.data() + at + 1, end, failure.number);
  if (fault != std::errc() || read != end || failure.number == 0) return std::nullopt;
  return failure;
}

Arguments parse_arguments(int argc, char** argv) {
  Arguments arguments;
  std::string smac = "02:00:00:00:00:01", dmac = "02:00:00:00:00:02";
  std::string source4 = "192.0.2.1", source6 = "2001:db8::1";
  CLI::App app(
      "sluice-replay: what a configuration would do to the packets of a capture, as if every backend were "
      "up");
  app.set_version_flag("--version", SLUICE_VERSION);
  app.add_option("CONFIG", arguments.config, "configuration file")->required();
  app.add_option("IN", arguments.input, "capture to read")->required();
  app.add_option("OUT", arguments.output, "capture to write: what would have been sent")->required();
  app.add_flag("--explain", arguments.explain, "a line for each packet, with its verdict");
  app.add_option("--json", arguments.json, "write the counters to this file")->type_name("FILE");
  std::vector<std::string> failures;
  app.add_option("--fail", failures, "this backend fails before packet N (from 1)")
      ->type_name("SERVICE/BACKEND@N")
      ->check([](const std::string& text) {
        return parse_failure(text) ? "" : "'" + text + "' is not SERVICE/BACKEND@N";
      });
  app.add_option("--smac", smac, "MAC address of the balancer's port")
      ->check(mac_address())
      ->capture_default_str();
  app.add_option("--dmac", dmac, "MAC address of the next hop")->check(mac_address())->capture_default_str();
  app.add_option("--tunnel-source", source4, "the balancer's IPv4 address")
      ->check(ip_address(Family::v4))
      ->capture_default_str();
  app.add_option("--tunnel-source6", source6, "the balancer's IPv6 address")
      ->check(ip_address(Family::v6))
      ->capture_default_str();
  app.add_option("--mtu", arguments.network.mtu_bytes, "of the link to the backends, in bytes")
      ->check(CLI::Range(576u, 65'535u))
      ->capture_default_str();
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    const int status = app.exit(error);
    std::exit(status == 0 ? 0 : 2);
  }
  for (const std::string& failure : failures)
    arguments.failures.push_back(*parse_failure(failure));
  arguments.network.source_mac = *MacAddress::parse(smac);
  arguments.network.destination_mac = *MacAddress::parse(dmac);
  arguments.network.tunnel_source4 = *IpAddress::parse(source4);
  arguments.network.tunnel_source6 = *IpAddress::parse(source6);
  return arguments;
}

int fail(const std::string& what) {
  std::fprintf(stderr, "sluice-replay: %s\n", what.c_str());
  return 1;
}

int print_faults(const ConfigResult& loaded) {
  int status = 4;
  for (const Diagnostic& diagnostic : loaded.errors) {
    std::fprintf(stderr, "%s\n", diagnostic.text().c_str());
    if (diagnostic.kind != Diagnostic::Kind::semantic) status = 3;
  }
  return status;
}

nlohmann::json to_json(const PacketSnapshot& counted) {
  nlohmann::json passed = nlohmann::json::object(), dropped = nlohmann::json::object();
  for (size_t i = 0; i < kReasonCount; i++) {
    if (counted.by_reason[i] == 0) continue;
    (kReasons[i].kind == ReasonKind::pass ? passed : dropped)[std::string(kReasons[i].name)] =
        counted.by_reason[i];
  }
  return {{"v", 1},
          {"received", counted.received},
          {"forwarded", counted.forwarded},
          {"answered", counted.answered},
          {"passed", passed},
          {"dropped", dropped}};
}

void print_summary(const PacketSnapshot& counted) {
  std::fprintf(stderr, "received %llu = forwarded %llu + answered %llu",
               static_cast<unsigned long long>(counted.received),
               static_cast<unsigned long long>(counted.forwarded),
               static_cast<unsigned long long>(counted.answered));
  for (const ReasonKind kind : {ReasonKind::pass, ReasonKind::drop}) {
    for (size_t i = 0; i < kReasonCount; i++) {
      if (counted.by_reason[i] == 0 || kReasons[i].kind != kind) continue;
      std::fprintf(stderr, " + %s %.*s %llu", kind == ReasonKind::pass ? "passed" : "dropped",
                   static_cast<int>(kReasons[i].name.size()), kReasons[i].name.data(),
                   static_cast<unsigned long long>(counted.by_reason[i]));
    }
  }
  std::fprintf(stderr, "\n");
}

struct PcapClose {
  void operator()(pcap_t* pcap) const { pcap_close(pcap); }
};
struct DumperClose {
  void operator()(pcap_dumper_t* dumper) const { pcap_dump_close(dumper); }
};

void write_frame(pcap_dumper_t* output, const Replay::Frame& frame) {
  const Packet& packet = *frame.packet;
  if (packet.verdict == Verdict::refused) return;
  pcap_pkthdr header{};
  header.ts.tv_sec = static_cast<time_t>(frame.time_us / 1'000'000);
  header.ts.tv_usec = static_cast<suseconds_t>(frame.time_us % 1'000'000);
  header.len = packet.bytes;
  header.caplen = contiguous_bytes_out(packet);
  pcap_dump(reinterpret_cast<u_char*>(output), &header, packet.data);
}

bool same_file(const std::string& a, const std::string& b) {
  std::error_code none;
  return std::filesystem::equivalent(a, b, none);
}

// What is written must not be what is read.
std::string overwritten(const Arguments& arguments) {
  for (const std::string& written : {arguments.output, arguments.json}) {
    if (written.empty()) continue;
    if (same_file(written, arguments.config))
      return written + " is the configuration: it would be overwritten";
    if (same_file(written, arguments.input))
      return written + " is the capture to read: it would be overwritten";
  }
  return "";
}

bool write_json(const std::string& path, const PacketSnapshot& counted) {
  std::ofstream file(path);
  file << to_json(counted).dump(2) << "\n" << std::flush;
  return file.good();
}

int run(const Arguments& arguments) {
  if (const std::string what = overwritten(arguments); !what.empty()) return fail(what);
  const ConfigResult loaded = load_config(arguments.config);
  if (!loaded.config) return print_faults(loaded);
  Result<std::unique_ptr<Replay>> replay = Replay::make(*loaded.config, arguments.network);
  if (!replay) return fail(replay.error().text());
  for (const auto& [service, backend, number] : arguments.failures) {
    const Result<Done> known = (*replay)->fail_before(number, service, backend);
    if (!known) return fail(known.error().text());
  }

  char error[PCAP_ERRBUF_SIZE];
  const std::unique_ptr<pcap_t, PcapClose> input(pcap_open_offline(arguments.input.c_str(), error));
  if (!input) return fail(error);
  if (pcap_datalink(input.get()) != DLT_EN10MB) {
    return fail(arguments.input + ": link type " + std::to_string(pcap_datalink(input.get())) +
                ", not Ethernet; capture on an Ethernet interface, not on 'any'");
  }
  const std::unique_ptr<pcap_t, PcapClose> format(pcap_open_dead(DLT_EN10MB, 262'144));
  const std::unique_ptr<pcap_dumper_t, DumperClose> output(
      pcap_dump_open(format.get(), arguments.output.c_str()));
  if (!output) return fail(pcap_geterr(format.get()));

  const Replay::Done done = [&](const Replay::Frame& frame) {
    write_frame(output.get(), frame);
    if (!arguments.explain) return;
    std::printf("%llu %s%s%s\n", static_cast<unsigned long long>(frame.number), frame.flow.c_str(),
                frame.flow.empty() ? "" : " ", (*replay)->verdict_text(*frame.packet).c_str());
  };
  pcap_pkthdr* header = nullptr;
  const u_char* data = nullptr;
  int status;
  while ((status = pcap_next_ex(input.get(), &header, &data)) == 1) {
    const uint64_t time_us =
        static_cast<uint64_t>(header->ts.tv_sec) * 1'000'000 + static_cast<uint64_t>(header->ts.tv_usec);
    (*replay)->add(time_us, data, header->caplen, header->len, done);
  }
  (*replay)->flush(done);
  if (pcap_dump_flush(output.get()) != 0 || std::ferror(pcap_dump_file(output.get())) != 0) {
    return fail("cannot write " + arguments.output);
  }
  if (std::fflush(stdout) != 0 || std::ferror(stdout) != 0) return fail("cannot write to standard output");

  print_summary((*replay)->counters());
  if (!arguments.json.empty() && !write_json(arguments.json, (*replay)->counters())) {
    return fail("cannot write " + arguments.json);
  }
  if (status == PCAP_ERROR) return fail(arguments.input + ": " + pcap_geterr(input.get()));
  return 0;
}

}  // namespace
}  // namespace sluice

int main(int argc, char** argv) {
  return sluice::run(sluice::parse_arguments(argc, argv));
}
