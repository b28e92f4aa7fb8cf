#include "perf/pktgen/trial.h"

#include <nlohmann/json.hpp>

namespace sluice::pktgen {
namespace {

using nlohmann::json;

constexpr uint16_t kFrameMin = 64, kFrameMax = 1518;
// The Internet mix of 7:4:1, spread over twelve frames so that sizes alternate.
const std::vector<uint16_t> kImix = {64, 570, 64, 64, 570, 64, 1518, 64, 570, 64, 64, 570};

Error wrong(const std::string& what) {
  return Error{"trial: " + what, "perf/pktgen/pktgen.py --help"};
}

Result<Done> parse_traffic(const json& in, Trial& trial) {
  const auto flows = in.value("flows", uint64_t{trial.flows});
  if (flows < 1 || flows > Trial::kFlowsMax) return wrong("flows: 1 to " + std::to_string(Trial::kFlowsMax));
  trial.flows = static_cast<uint32_t>(flows);
  const std::string order = in.value("order", "uniform");
  if (order == "uniform") {
    trial.order = Order::uniform;
  } else if (order == "zipf") {
    trial.order = Order::zipf;
  } else if (order == "sequential") {
    trial.order = Order::sequential;
  } else {
    return wrong("order '" + order + "': uniform, zipf or sequential");
  }
  trial.churn = in.value("churn", 0.0);
  trial.syn_flood = in.value("syn_flood", 0.0);
  // A new flow's SYN has the FIN of the one before it beside it.
  if (trial.churn < 0 || trial.syn_flood < 0 || 2 * trial.churn + trial.syn_flood > 1) {
    return wrong("twice the churn and the SYN flood's share add up to more than all packets");
  }
  trial.seed = in.value("seed", uint64_t{1});
  const json frame = in.value("frame", json(64));
  if (frame == "imix") {
    trial.frame_bytes = kImix;
  } else {
    const auto bytes = frame.get<uint32_t>();
    if (bytes < kFrameMin || bytes > kFrameMax) return wrong("frame: 64 to 1518 bytes, or imix");
    trial.frame_bytes = {static_cast<uint16_t>(bytes)};
  }
  return Done{};
}

Result<Done> parse_ends(const json& in, Trial& trial) {
  const std::string path = in.value("path", "macswap");
  if (path == "macswap") {
    trial.path = Path::macswap;
  } else if (path == "ipip") {
    trial.path = Path::ipip;
  } else if (path == "l2dsr") {
    trial.path = Path::l2dsr;
  } else {
    return wrong("path '" + path + "': macswap, ipip or l2dsr");
  }
  const auto station = MacAddress::parse(in.value("station", trial.station.text()));
  if (!station) return wrong("station is no MAC address");
  trial.station = *station;
  for (const json& one : in.at("vips")) {
    const auto address = IpAddress::parse(one.at("address").get<std::string>());
    if (!address) return wrong("a VIP is no IP address");
    trial.vips.push_back({*address, one.at("port").get<uint16_t>()});
    if (address->family() != trial.vips.front().address.family()) return wrong("VIPs of both families");
  }
  if (trial.vips.empty() || trial.vips.size() > Trial::kVipsMax) return wrong("1 to 1024 VIPs");
  for (const json& one : in.value("backends", json::array())) {
    const auto address = IpAddress::parse(one.at("address").get<std::string>());
    const auto mac = MacAddress::parse(one.at("mac").get<std::string>());
    if (!address || !mac) return wrong("a backend's address or MAC address cannot be read");
    trial.backends.push_back({*address, *mac, one.value("vip", 0u)});
    if (trial.backends.back().vip >= trial.vips.size()) return wrong("a backend's VIP does not exist");
  }
  if (trial.backends.size() > Trial::kBackendsMax) return wrong("more than 16,384 backends");
  if (trial.backends.empty() && trial.path != Path::macswap) return wrong("no backends");
  return Done{};
}

}  // namespace

Result<Trial> Trial::parse(std::string_view text) {
  Trial trial;
  try {
    const json in = json::parse(text);
    if (Result<Done> done = parse_traffic(in, trial); !done) return done.error();
    if (Result<Done> done = parse_ends(in, trial); !done) return done.error();
    trial.rate_pps = in.value("rate", uint64_t{0});
    trial.seconds = in.value("seconds", 1.0);
    trial.packets = in.value("packets", uint64_t{0});
    trial.forget = in.value("forget", false);
  } catch (const json::exception& error) {
    return wrong(error.what());
  }
  if (!(trial.seconds > 0)) return wrong("seconds: more than 0");
  return trial;
}

std::string trial_json(const Outcome& outcome) {
  const Counts& counts = outcome.counts;
  const double hz = static_cast<double>(outcome.tsc_hz);
  const auto ns = [&](uint64_t cycles) { return static_cast<double>(cycles) / hz * 1e9; };
  const double seconds = static_cast<double>(outcome.elapsed_tsc) / hz;
  json histogram = json::array();
  for (uint32_t i = 0; i < LatencyHistogram::kBuckets; i++) {
    const uint64_t count = outcome.latency.counts()[i];
    if (count != 0) histogram.push_back({ns(LatencyHistogram::upper(i)), count});
  }
  const json out = {
      {"sent", counts.sent},
      {"received", counts.received},
      {"lost", counts.sent - counts.received},
      {"ring_full", counts.ring_full},
      {"syn", counts.syn},
      {"fin", counts.fin},
      {"flood", counts.flood},
      {"bytes", counts.bytes},
      {"corrupt", counts.corrupt},
      {"misdelivered", counts.misdelivered},
      {"moved", counts.moved},
      {"by_backend", outcome.by_backend},
      {"seconds", seconds},
      {"tsc_hz", outcome.tsc_hz},
      {"sent_per_second", seconds > 0 ? static_cast<double>(counts.sent) / seconds : 0},
      {"received_per_second", seconds > 0 ? static_cast<double>(counts.received) / seconds : 0},
      {"ring_fill", outcome.ring_fill},
      {"late_packets", outcome.late_packets},
      {"held_up_us", ns(outcome.held_up_tsc) / 1e3},
      {"longest_gap_us", ns(outcome.longest_gap_tsc) / 1e3},
      {"mbufs_missing", outcome.mbufs_missing},
      {"latency_ns",
       {{"p50", ns(outcome.latency.quantile(0.5))},
        {"p90", ns(outcome.latency.quantile(0.9))},
        {"p99", ns(outcome.latency.quantile(0.99))},
        {"p99_9", ns(outcome.latency.quantile(0.999))},
        {"p99_99", ns(outcome.latency.quantile(0.9999))},
        {"max", ns(outcome.latency.max())}}},
      {"latency_histogram_ns", histogram},
  };
  return out.dump();
}

}  // namespace sluice::pktgen
