// The part of controlplane/report.h that describes the data plane and the control plane themselves.
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <map>
#include <string_view>

#include <fmt/format.h>
#include <xxhash.h>

#include "controlplane/counters.h"
#include "controlplane/message.h"
#include "controlplane/report.h"
#include "src/reason.h"

namespace sluice {
namespace {

using nlohmann::json;

json report_control(const Daemon& daemon) {
  const TablesView tables = daemon.publisher().current();
  const Publisher::Memory memory = daemon.publisher().memory();
  return {
      {"pid", getpid()},
      {"version", SLUICE_VERSION},
      {"uptime_s", seconds_since(daemon.started_ns())},
      {"config", daemon.configuration().origin()},
      {"confirm_within_s",
       daemon.configuration().is_pending() ? json(daemon.configuration().pending_left().count()) : json()},
      {"generation", tables.generation().number},
      {"published_s", seconds_since(tables.generation().published_ns)},
      {"services", tables.generation().services_count},
      {"backends", tables.generation().backends_count},
      {"memory",
       {{"used_bytes", memory.used_bytes},
        {"retired_bytes", memory.retired_bytes},
        {"size_bytes", memory.size_bytes}}},
      {"steering",
       {{"on", daemon.steer_map().is_open()},
        {"map", daemon.steer_map().path()},
        {"keys", daemon.steer_map().keys()},
        {"fault", daemon.steering_fault()}}},
  };
}

json report_ports(const StatsHeader& header) {
  json ports = json::array();
  for (uint32_t i = 0; i < std::min(header.ports_count, limits::kPortsMax); i++) {
    const PortInfo& port = header.ports[i];
    const StatsHeader::PortCounters& counters = header.port_counters[i];
    ports.push_back({{"port", i},
                     {"name", port.name},
                     {"interface", port.interface},
                     {"driver", port.driver},
                     {"mac", port.mac.text()},
                     {"mtu_bytes", port.mtu_bytes},
                     {"queues", port.queues},
                     {"steered", port.steered != 0},
                     {"kernel_sees_rest", port.kernel_sees_rest != 0},
                     {"received", counters.received.get()},
                     {"sent", counters.sent.get()},
                     {"missed", counters.missed.get()}});
  }
  return ports;
}

// Adds up what all workers counted, so that the sum can be checked as a whole.
struct Sum {
  PacketSnapshot packets;
  uint64_t passed = 0;
  uint64_t dropped = 0;
};

json report_worker(const WorkerStats& worker, uint32_t number, uint64_t tables_incarnation, Sum& sum) {
  const PacketSnapshot packets = snapshot(worker);
  uint64_t passed = 0, dropped = 0;
  for (size_t i = 0; i < kReasonCount; i++) {
    (kReasons[i].kind == ReasonKind::pass ? passed : dropped) += packets.by_reason[i];
    sum.packets.by_reason[i] += packets.by_reason[i];
  }
  sum.packets.received += packets.received;
  sum.packets.forwarded += packets.forwarded;
  sum.packets.answered += packets.answered;
  sum.passed += passed;
  sum.dropped += dropped;
  const uint64_t busy = worker.busy_cycles.get(), idle = worker.idle_cycles.get();
  return {{"worker", number},
          {"cpu", worker.cpu.get()},
          {"acknowledged", acknowledged(worker, tables_incarnation)},
          {"heartbeat_age_s", seconds_since(worker.heartbeat_ns.get())},
          {"busy_cycles", busy},
          {"idle_cycles", idle},
          {"busy_percent",
           busy + idle == 0 ? 0.0 : 100.0 * static_cast<double>(busy) / static_cast<double>(busy + idle)},
          {"received", packets.received},
          {"forwarded", packets.forwarded},
          {"answered", packets.answered},
          {"passed", passed},
          {"dropped", dropped},
          {"whole", packets.whole},
          {"flows",
           {{"active", worker.flows.active.get()},
            {"inserted", worker.flows.inserted.get()},
            {"expired", worker.flows.expired.get()},
            {"evicted", worker.flows.evicted.get()},
            {"untracked", worker.flows.untracked.get()},
            {"reselected", worker.flows.reselected.get()},
            {"reused", worker.flows.reused.get()},
            {"reset", worker.flows.reset.get()},
            {"overflowed", worker.flows.overflowed.get()}}},
          {"sessions",
           {{"active", static_cast<int64_t>(worker.sessions.active.get())},
            {"made", worker.sessions.made.get()},
            {"moved", worker.sessions.moved.get()},
            {"ended", worker.sessions.ended.get()},
            {"full", worker.sessions.full.get()},
            {"keyless", worker.sessions.keyless.get()}}}};
}

}  // namespace

json report_dataplane(const Daemon& daemon) {
  json out = ok_response();
  out["control"] = report_control(daemon);
  const DataplaneView& view = daemon.dataplane();
  json& dataplane = out["dataplane"];
  dataplane = {{"running", view.is_running()}, {"fault", view.fault()}};
  if (view.starts() == 0) return out;

  const StatsHeader& header = view.stats()->header;
  const uint32_t pid = header.segment.writer_pid.load(std::memory_order_relaxed);
  dataplane.update({{"pid", view.is_running() ? pid : 0},
                    {"version", header.version},
                    {"starts", view.starts()},
                    {"uptime_s", view.is_running() ? seconds_since(header.started_ns) : 0.0},
                    {"flows_max_per_worker", header.flows_max},
                    {"flows_bytes", header.flows_bytes},
                    {"flows_page_bytes", header.flows_page_bytes},
                    {"ports", report_ports(header)}});
  const SessionSums sessions = session_sums(view.stats());
  dataplane["sessions"] = {{"active", sessions.active},  {"max", header.sessions_max},
                           {"made", sessions.made},      {"moved", sessions.moved},
                           {"ended", sessions.ended},    {"full", sessions.full},
                           {"keyless", sessions.keyless}};
  const uint64_t incarnation = daemon.publisher().header().incarnation;
  Sum sum;
  json& workers = dataplane["workers"] = json::array();
  for (uint32_t i = 0; i < limits::kWorkersMax; i++) {
    const WorkerStats& worker = view.stats()->workers[i];
    if (worker.active.get() == 0 && worker.loops.get() == 0) continue;  // never ran
    json entry = report_worker(worker, i, incarnation, sum);
    entry["active"] = view.is_running() && worker.active.get() != 0;
    workers.push_back(std::move(entry));
  }
  json& reasons = dataplane["reasons"] = json::array();
  for (size_t i = 0; i < kReasonCount; i++) {
    reasons.push_back({{"name", kReasons[i].name},
                       {"kind", kReasons[i].kind == ReasonKind::pass ? "pass" : "drop"},
                       {"text", kReasons[i].text},
                       {"packets", sum.packets.by_reason[i]}});
  }
  const uint64_t accounted = sum.packets.forwarded + sum.packets.answered + sum.passed + sum.dropped;
  dataplane["accounting"] = {
      {"received", sum.packets.received}, {"forwarded", sum.packets.forwarded},
      {"answered", sum.packets.answered}, {"passed", sum.passed},
      {"dropped", sum.dropped},           {"balanced", sum.packets.received == accounted}};
  return out;
}

ProcessMemory process_memory() {
  ProcessMemory memory;
  FILE* file = std::fopen("/proc/self/statm", "re");
  if (file == nullptr) return memory;
  unsigned long total = 0, resident = 0, shared = 0;
  if (std::fscanf(file, "%lu %lu %lu", &total, &resident, &shared) == 3) {
    const auto page_bytes = static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
    memory = {resident * page_bytes, (resident - std::min(resident, shared)) * page_bytes};
  }
  std::fclose(file);
  return memory;
}

uint64_t tables_checksum(const Daemon& daemon) {
  std::map<std::string_view, uint64_t> by_name;
  const TablesView tables = daemon.publisher().current();
  for (const Service& service : daemon.model().services()) {
    const ServiceRecord& record = tables.service(service.id);
    by_name[service.config.name] = record.lookup == 0 ? 0 : record.lookup_checksum;
  }
  XXH3_state_t state;
  XXH3_64bits_reset(&state);
  for (const auto& [name, checksum] : by_name) {
    XXH3_64bits_update(&state, name.data(), name.size());
    XXH3_64bits_update(&state, &checksum, sizeof checksum);
  }
  return XXH3_64bits_digest(&state);
}

json report_generation(const Daemon& daemon) {
  json out = ok_response();
  const TablesView tables = daemon.publisher().current();
  const DataplaneView& view = daemon.dataplane();
  const Publisher::Memory memory = daemon.publisher().memory();
  const ProcessMemory process = process_memory();
  out["generation"] = tables.generation().number;
  out["published_s"] = seconds_since(tables.generation().published_ns);
  out["checksum"] = fmt::format("{:016x}", tables_checksum(daemon));
  out["services"] = tables.generation().services_count;
  out["backends"] = tables.generation().backends_count;
  out["last_build"] = {{"tables_built", daemon.rollout().last().tables_built},
                       {"build_us", static_cast<double>(daemon.rollout().last().build_ns) / 1e3}};
  out["memory"] = {{"process_resident_bytes", process.resident_bytes},
                   {"process_private_bytes", process.private_bytes},
                   {"tables_used_bytes", memory.used_bytes},
                   {"tables_retired_bytes", memory.retired_bytes},
                   {"tables_size_bytes", memory.size_bytes}};
  out["dataplane_running"] = view.is_running();
  json& workers = out["workers"] = json::array();
  if (!view.is_running() || view.starts() == 0) return out;
  const uint64_t incarnation = daemon.publisher().header().incarnation;
  for (uint32_t i = 0; i < limits::kWorkersMax; i++) {
    const WorkerStats& worker = view.stats()->workers[i];
    if (worker.active.get() == 0) continue;
    const uint64_t number = acknowledged(worker, incarnation);
    workers.push_back({{"worker", i},
                       {"acknowledged", number},
                       {"behind", tables.generation().number - std::min(number, tables.generation().number)},
                       {"heartbeat_age_s", seconds_since(worker.heartbeat_ns.get())}});
  }
  return out;
}

}  // namespace sluice
