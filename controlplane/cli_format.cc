#include "controlplane/cli_format.h"

#include <algorithm>
#include <initializer_list>
#include <iterator>

#include <fmt/format.h>

namespace sluice {
namespace {

using nlohmann::json;

std::string text_of(const json& object, const char* key) {
  return object.at(key).get<std::string>();
}
std::string count_of(const json& object, const char* key) {
  return std::to_string(object.at(key).get<uint64_t>());
}

std::string duration(double seconds) {
  if (seconds < 60) return fmt::format("{:.1f} s", seconds);
  const auto whole = static_cast<uint64_t>(seconds);
  if (whole < 3600) return fmt::format("{} min {} s", whole / 60, whole % 60);
  if (whole < 86'400) return fmt::format("{} h {} min", whole / 3600, whole % 3600 / 60);
  return fmt::format("{} d {} h", whole / 86'400, whole % 86'400 / 3600);
}

std::string vip_of(const json& service) {
  const std::string address = text_of(service, "vip");
  const auto port = service.at("port").get<uint32_t>();
  const std::string port_text = port == 0 ? "any" : std::to_string(port);
  return address.find(':') == std::string::npos ? address + ":" + port_text
                                                : "[" + address + "]:" + port_text;
}

std::string check_of(const json& backend) {
  const json& check = backend.at("check");
  const std::string result = text_of(check, "result");
  if (result.empty()) return "-";
  return fmt::format("{} {:.1f}ms", result, check.at("duration_us").get<double>() / 1e3);
}

// "10/100" while it ramps.
std::string weight_of(const json& backend) {
  const std::string weight = count_of(backend, "weight"), in_force = count_of(backend, "weight_in_force");
  return in_force == weight ? weight : in_force + "/" + weight;
}

std::string next_hop_of(const json& hop) {
  if (!hop.at("resolved").get<bool>()) return "unresolved";
  return text_of(hop, "mac") + "@" + text_of(hop, "interface");
}

std::string yes_no(bool value) {
  return value ? "yes" : "no";
}

}  // namespace

namespace {

// Headings of counters: PACKETS, or PACKETS/S.
void add_counter_headings(std::vector<std::string>& headings, Counters counters,
                          std::initializer_list<const char*> names) {
  for (const char* name : names)
    headings.push_back(counters == Counters::rates ? std::string(name) + "/S" : name);
}

}  // namespace

TextTable table_of_services(const json& response, Counters counters) {
  std::vector<std::string> headings = {"SERVICE", "VIP",      "PROTOCOL", "FORWARD", "AFFINITY", "METHOD",
                                       "STATE",   "BACKENDS", "UP",       "ACTIVE",  "SESSIONS", "TABLE"};
  if (counters != Counters::none) add_counter_headings(headings, counters, {"PACKETS", "BYTES", "FLOWS"});
  TextTable table(headings);
  for (const json& service : response.at("services")) {
    const std::string checksum = text_of(service, "table_checksum");
    std::vector<std::string> row = {text_of(service, "name"),
                                    vip_of(service),
                                    text_of(service, "protocol"),
                                    text_of(service, "forward"),
                                    text_of(service, "affinity"),
                                    text_of(service, "method"),
                                    text_of(service, "state"),
                                    count_of(service, "backends"),
                                    count_of(service, "backends_up"),
                                    count_of(service, "backends_active"),
                                    count_of(service, "sessions_active"),
                                    checksum.empty() ? "none" : "#" + checksum};
    if (counters != Counters::none) {
      row.insert(row.end(),
                 {count_of(service, "packets"), count_of(service, "bytes"), count_of(service, "flows")});
    }
    table.add(std::move(row));
  }
  return table;
}

// Of what it may have.
std::string full_of(const json& backend) {
  const json& percent = backend.at("full_percent");
  return percent.is_null() ? "-" : fmt::format("{:.0f}%", percent.get<double>());
}

TextTable table_of_backends(const json& response, Counters counters) {
  std::vector<std::string> headings = {"SERVICE", "BACKEND", "ADDRESS",  "ADMIN", "HEALTH",   "CHECK",
                                       "WEIGHT",  "SHARE",   "NEXT-HOP", "FLOWS", "SESSIONS", "FULL"};
  if (counters != Counters::none) add_counter_headings(headings, counters, {"PACKETS", "BYTES", "NEW-FLOWS"});
  TextTable table(headings);
  for (const json& backend : response.at("backends")) {
    std::vector<std::string> row = {text_of(backend, "service"),
                                    text_of(backend, "name"),
                                    text_of(backend, "address"),
                                    text_of(backend, "admin"),
                                    text_of(backend, "health"),
                                    check_of(backend),
                                    weight_of(backend),
                                    fmt::format("{:.2f}%", backend.at("share_percent").get<double>()),
                                    next_hop_of(backend.at("next_hop")),
                                    count_of(backend, "flows_active"),
                                    count_of(backend, "sessions_active"),
                                    full_of(backend)};
    if (counters != Counters::none) {
      row.insert(row.end(),
                 {count_of(backend, "packets"), count_of(backend, "bytes"), count_of(backend, "flows")});
    }
    table.add(std::move(row));
  }
  return table;
}

std::string notes_on_backends(const json& response) {
  std::string notes;
  for (const json& backend : response.at("backends")) {
    const std::string why_not = text_of(backend, "why_not");
    if (!why_not.empty())
      notes += fmt::format("{}/{}: {}\n", text_of(backend, "service"), text_of(backend, "name"), why_not);
  }
  return notes.empty() ? "" : "\n" + notes;
}

namespace {

std::string format_control(const json& control) {
  const json& steering = control.at("steering");
  const json& memory = control.at("memory");
  const std::string fault = text_of(steering, "fault");
  std::string out = fmt::format(
      "sluiced {} pid {}, up {}\n"
      "  configuration  {}\n"
      "  generation     {}, published {} ago; {} services, {} backends; {:.1f} of {:.0f} MiB used\n",
      text_of(control, "version"), control.at("pid").get<int>(), duration(control.at("uptime_s")),
      text_of(control, "config"), control.at("generation").get<uint64_t>(),
      duration(control.at("published_s")), control.at("services").get<uint64_t>(),
      control.at("backends").get<uint64_t>(), memory.at("used_bytes").get<double>() / (1 << 20),
      memory.at("size_bytes").get<double>() / (1 << 20));
  if (const json& left = control.at("confirm_within_s"); !left.is_null())
    out += fmt::format("  on trial       goes back in {} s, unless: sluice confirm\n", left.get<int64_t>());
  if (!fault.empty()) return out + "  steering       off: " + fault + "\n";
  return out + fmt::format("  steering       {} keys in {}\n", steering.at("keys").get<uint64_t>(),
                           text_of(steering, "map"));
}

std::string format_session_table(const json& sessions) {
  const auto count = [&](const char* key) { return sessions.at(key).get<uint64_t>(); };
  return fmt::format(
      "  session table  {} of {} ({:.1f} %); {} made, {} moved, {} ended, {} without a place, {} packets "
      "without a key\n",
      count("active"), count("max"),
      100.0 * static_cast<double>(count("active")) / static_cast<double>(std::max<uint64_t>(count("max"), 1)),
      count("made"), count("moved"), count("ended"), count("full"), count("keyless"));
}

std::string format_ports(const json& ports) {
  TextTable table({"PORT", "NAME", "INTERFACE", "DRIVER", "MAC", "MTU", "QUEUES", "STEERED", "RECEIVED",
                   "SENT", "MISSED"});
  for (const json& port : ports) {
    const std::string interface = text_of(port, "interface");
    table.add({count_of(port, "port"), text_of(port, "name"), interface.empty() ? "-" : interface,
               text_of(port, "driver"), text_of(port, "mac"), count_of(port, "mtu_bytes"),
               count_of(port, "queues"), yes_no(port.at("steered").get<bool>()), count_of(port, "received"),
               count_of(port, "sent"), count_of(port, "missed")});
  }
  return table.text();
}

}  // namespace

TextTable table_of_workers(const json& response, Counters counters) {
  std::vector<std::string> headings = {"WORKER", "CPU", "STATE", "GENERATION", "HEARTBEAT", "BUSY"};
  add_counter_headings(headings, counters, {"RECEIVED", "FORWARDED", "ANSWERED", "PASSED", "DROPPED"});
  headings.emplace_back("FLOWS");
  headings.emplace_back("SESSIONS-MADE");
  TextTable table(headings);
  for (const json& worker : response.at("dataplane").value("workers", json::array())) {
    const bool active = worker.at("active").get<bool>();
    table.add({count_of(worker, "worker"), count_of(worker, "cpu"), active ? "running" : "ended",
               count_of(worker, "acknowledged"),
               fmt::format("{:.3f}s", worker.at("heartbeat_age_s").get<double>()),
               fmt::format("{:.1f}%", worker.at("busy_percent").get<double>()), count_of(worker, "received"),
               count_of(worker, "forwarded"), count_of(worker, "answered"), count_of(worker, "passed"),
               count_of(worker, "dropped"), count_of(worker.at("flows"), "active"),
               count_of(worker.at("sessions"), "made")});
  }
  return table;
}

TextTable table_of_reasons(const json& response, Counters counters) {
  std::vector<std::string> headings = {"REASON", "KIND"};
  add_counter_headings(headings, counters, {"PACKETS"});
  headings.emplace_back("MEANING");
  TextTable table(headings);
  for (const json& reason : response.at("dataplane").value("reasons", json::array())) {
    table.add({text_of(reason, "name"), text_of(reason, "kind"), count_of(reason, "packets"),
               text_of(reason, "text")});
  }
  return table;
}

namespace {

// Only those that occurred, unless `all`.
std::string format_reasons(const json& response, bool all) {
  json shown = response;
  json& reasons = shown["dataplane"]["reasons"];
  const auto is_shown = [&](const json& reason) { return all || reason.at("packets").get<uint64_t>() != 0; };
  json kept = json::array();
  std::copy_if(reasons.begin(), reasons.end(), std::back_inserter(kept), is_shown);
  reasons = std::move(kept);
  if (reasons.empty()) return "nothing dropped, nothing passed to the host\n";
  TextTable table = table_of_reasons(shown, Counters::sums);
  TableView view;
  view.sort = "KIND";
  view.exact = true;
  if (const Result<Done> arranged = table.arrange(view); !arranged) return arranged.error().text();
  return table.text();
}

std::string format_accounting(const json& sums) {
  return fmt::format("received {} {} forwarded {} + answered {} + passed {} + dropped {}\n",
                     sums.at("received").get<uint64_t>(),
                     sums.at("balanced").get<bool>() ? "=" : "differs from",
                     sums.at("forwarded").get<uint64_t>(), sums.at("answered").get<uint64_t>(),
                     sums.at("passed").get<uint64_t>(), sums.at("dropped").get<uint64_t>());
}

}  // namespace

std::string format_dataplane(const json& response, bool all) {
  const json& dataplane = response.at("dataplane");
  std::string out = format_control(response.at("control"));
  const bool running = dataplane.at("running").get<bool>();
  if (!dataplane.contains("workers")) {
    const std::string fault = text_of(dataplane, "fault");
    return out + (fault.empty() ? running ? "no data plane has run yet; one is starting\n"
                                          : "no data plane has run yet\n"
                                : fault + "\n");
  }
  if (running) {
    out += fmt::format(
        "sluice-dataplane {} pid {}, up {}, start number {}\n"
        "  flow tables    {} flows a worker, {:.0f} MiB in pages of {} KiB, sessions included\n{}\n",
        text_of(dataplane, "version"), dataplane.at("pid").get<int>(), duration(dataplane.at("uptime_s")),
        dataplane.at("starts").get<uint64_t>(), dataplane.at("flows_max_per_worker").get<uint64_t>(),
        dataplane.at("flows_bytes").get<double>() / (1 << 20),
        dataplane.at("flows_page_bytes").get<uint64_t>() / 1024,
        format_session_table(dataplane.at("sessions")));
  } else {
    out += fmt::format("no data plane is running; the last was sluice-dataplane {}, start number {}\n\n",
                       text_of(dataplane, "version"), dataplane.at("starts").get<uint64_t>());
  }
  out +=
      format_ports(dataplane.at("ports")) + "\n" + table_of_workers(response, Counters::sums).text() + "\n";
  out += format_reasons(response, all) + "\n";
  return out + format_accounting(dataplane.at("accounting"));
}

std::string format_generation(const json& response) {
  const json& memory = response.at("memory");
  const auto mib = [&](const char* key) { return memory.at(key).get<double>() / (1 << 20); };
  std::string out = fmt::format(
      "generation {}, published {} ago, checksum {}: {} services, {} backends\n"
      "  last build     {} lookup tables in {:.2f} ms\n"
      "  tables         {:.1f} of {:.0f} MiB used, {:.1f} MiB of it until workers follow\n"
      "  sluiced        {:.1f} MiB resident, {:.1f} MiB of it its own\n",
      response.at("generation").get<uint64_t>(), duration(response.at("published_s")),
      text_of(response, "checksum"), response.at("services").get<uint64_t>(),
      response.at("backends").get<uint64_t>(), response.at("last_build").at("tables_built").get<uint64_t>(),
      response.at("last_build").at("build_us").get<double>() / 1e3, mib("tables_used_bytes"),
      mib("tables_size_bytes"), mib("tables_retired_bytes"), mib("process_resident_bytes"),
      mib("process_private_bytes"));
  if (response.at("workers").empty()) return out + "nobody uses it: no data plane is running\n";
  TextTable table({"WORKER", "GENERATION", "BEHIND", "HEARTBEAT"});
  for (const json& worker : response.at("workers")) {
    table.add({count_of(worker, "worker"), count_of(worker, "acknowledged"), count_of(worker, "behind"),
               fmt::format("{:.3f}s", worker.at("heartbeat_age_s").get<double>())});
  }
  return out + "\n" + table.text();
}

TextTable table_of_flows(const json& response) {
  TextTable table(
      {"SERVICE", "BACKEND", "FLOWS", "ESTABLISHED", "CLOSING", "UDP", "SYN", "MIDSTREAM", "UDP-NEW"});
  for (const json& backend : response.at("backends")) {
    const std::string name = text_of(backend, "backend");
    table.add({text_of(backend, "service"), name.empty() ? "(removed)" : name, count_of(backend, "total"),
               count_of(backend, "established"), count_of(backend, "closing"), count_of(backend, "udp"),
               count_of(backend, "syn"), count_of(backend, "midstream"), count_of(backend, "udp_new")});
  }
  return table;
}

std::string notes_on_flows(const json& response) {
  const uint64_t capacity = response.at("capacity").get<uint64_t>();
  const uint64_t total = response.at("total").get<uint64_t>();
  std::string out =
      fmt::format("\n{} flows in the tables of {} workers, which are made for {}: {:.1f} %\n", total,
                  response.at("workers").get<uint64_t>(), capacity,
                  100.0 * static_cast<double>(total) / static_cast<double>(std::max<uint64_t>(capacity, 1)));
  if (response.at("flows").empty()) return out;
  TextTable table({"HASH", "SERVICE", "BACKEND", "STATE", "IDLE", "WORKER"});
  for (const json& flow : response.at("flows")) {
    table.add({text_of(flow, "hash"), text_of(flow, "service"), text_of(flow, "backend"),
               text_of(flow, "state"), count_of(flow, "idle_s") + "s", count_of(flow, "worker")});
  }
  return out + "\nThe tables hold hashes, not addresses (sluice explain has the hash of a flow).\n" +
         table.text();
}

std::string format_sessions(const json& response) {
  std::string out;
  if (!response.at("sessions").empty()) {
    TextTable table({"SERVICE", "BACKEND", "HASH", "KIND", "IDLE", "AGE", "LEFT"});
    for (const json& session : response.at("sessions")) {
      const auto seconds = [&](const char* key) {
        return session.contains(key) ? duration(session.at(key)) : std::string("-");
      };
      table.add({text_of(session, "service"), text_of(session, "backend"), text_of(session, "hash"),
                 text_of(session, "kind"), seconds("idle_s"), seconds("age_s"), seconds("left_s")});
    }
    out = table.text();
  }
  if (response.contains("hash"))
    return out.empty() ? "no session: new connections go by the lookup table\n" : out;
  TextTable counts({"SERVICE", "BACKEND", "SESSIONS", "LEARNT", "PINNED"});
  for (const json& backend : response.at("backends")) {
    counts.add({text_of(backend, "service"), text_of(backend, "backend"), count_of(backend, "sessions"),
                count_of(backend, "learnt"), count_of(backend, "pinned")});
  }
  const uint64_t total = response.at("total").get<uint64_t>(),
                 capacity = response.at("capacity").get<uint64_t>();
  return out + (out.empty() ? "" : "\n") + (total == 0 ? "" : counts.text() + "\n") +
         fmt::format("{} sessions; the table is made for {}\n", total, capacity);
}

std::string format_events(const json& response) {
  std::string out;
  for (const json& event : response.at("events")) {
    out +=
        fmt::format("{} {:<7} {}\n", text_of(event, "time"), text_of(event, "level"), text_of(event, "text"));
  }
  return out;
}

std::string format_explain(const json& response) {
  std::string out = fmt::format("{} {} -> {}\n", text_of(response, "protocol"), text_of(response, "client"),
                                text_of(response, "vip"));
  for (const json& step : response.at("why"))
    out += "  " + step.get<std::string>() + "\n";
  const std::string verdict = text_of(response, "verdict");
  if (verdict == "forward") {
    return out + fmt::format("forwarded to {}/{} ({})\n", text_of(response, "service"),
                             text_of(response, "backend"), text_of(response, "address"));
  }
  const std::string reason = text_of(response, "reason");
  const char* ends = verdict == "pass"     ? "passed to the host: "
                     : verdict == "answer" ? "answered: "
                                           : "dropped: ";
  return out + ends + reason + "\n";
}

std::string format_change(const std::string& subject, const json& response) {
  const std::string note = text_of(response, "note");
  const std::string unchanged = response.at("changed").get<bool>() ? "" : "no change; ";
  if (!note.empty()) return fmt::format("{}; {}{}\n", subject, unchanged, note);
  const auto workers = response.at("workers").get<uint64_t>();
  return fmt::format("{}; {}generation {} acknowledged by {} worker{} in {:.2f} ms\n", subject, unchanged,
                     response.at("generation").get<uint64_t>(), workers, workers == 1 ? "" : "s",
                     response.at("ack_us").get<double>() / 1e3);
}

}  // namespace sluice
