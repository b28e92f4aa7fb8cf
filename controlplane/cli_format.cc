#include "controlplane/cli_format.h"

#include <algorithm>

#include <fmt/format.h>

namespace sluice {
namespace {

using nlohmann::json;

bool is_number(const std::string& cell) {
  return !cell.empty() && cell.find_first_not_of("0123456789.%-") == std::string::npos;
}

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

std::string next_hop_of(const json& hop) {
  if (!hop.at("resolved").get<bool>()) return "unresolved";
  return text_of(hop, "mac") + "@" + text_of(hop, "interface");
}

std::string yes_no(bool value) {
  return value ? "yes" : "no";
}

}  // namespace

TextTable::TextTable(std::vector<std::string> headings) {
  rows_.push_back(std::move(headings));
}

void TextTable::add(std::vector<std::string> cells) {
  rows_.push_back(std::move(cells));
}

std::string TextTable::text() const {
  const size_t columns = rows_.front().size();
  std::vector<size_t> width(columns, 0);
  std::vector<bool> numeric(columns, rows_.size() > 1);
  for (size_t r = 0; r < rows_.size(); r++) {
    for (size_t c = 0; c < columns; c++) {
      width[c] = std::max(width[c], rows_[r][c].size());
      if (r > 0 && !is_number(rows_[r][c])) numeric[c] = false;
    }
  }
  std::string out;
  for (const auto& row : rows_) {
    std::string line;
    for (size_t c = 0; c < columns; c++) {
      if (c > 0) line += "  ";
      line += numeric[c] ? fmt::format("{:>{}}", row[c], width[c]) : fmt::format("{:<{}}", row[c], width[c]);
    }
    line.erase(line.find_last_not_of(' ') + 1);
    out += line + "\n";
  }
  return out;
}

std::string format_services(const json& response, bool with_stats) {
  std::vector<std::string> headings = {"SERVICE",  "VIP", "PROTOCOL", "FORWARD",
                                       "BACKENDS", "UP",  "ACTIVE",   "TABLE"};
  if (with_stats) headings.insert(headings.end(), {"PACKETS", "BYTES", "FLOWS"});
  TextTable table(headings);
  for (const json& service : response.at("services")) {
    const std::string checksum = text_of(service, "table_checksum");
    std::vector<std::string> row = {text_of(service, "name"),
                                    vip_of(service),
                                    text_of(service, "protocol"),
                                    text_of(service, "forward"),
                                    count_of(service, "backends"),
                                    count_of(service, "backends_up"),
                                    count_of(service, "backends_active"),
                                    checksum.empty() ? "none" : "#" + checksum};
    if (with_stats) {
      row.insert(row.end(),
                 {count_of(service, "packets"), count_of(service, "bytes"), count_of(service, "flows")});
    }
    table.add(std::move(row));
  }
  return table.text();
}

std::string format_backends(const json& response, bool with_stats) {
  std::vector<std::string> headings = {"SERVICE", "BACKEND", "ADDRESS", "ADMIN",    "HEALTH",
                                       "CHECK",   "WEIGHT",  "SHARE",   "NEXT-HOP", "FLOWS"};
  if (with_stats) headings.insert(headings.end(), {"PACKETS", "BYTES", "NEW-FLOWS"});
  TextTable table(headings);
  std::string notes;
  for (const json& backend : response.at("backends")) {
    std::vector<std::string> row = {text_of(backend, "service"),
                                    text_of(backend, "name"),
                                    text_of(backend, "address"),
                                    text_of(backend, "admin"),
                                    text_of(backend, "health"),
                                    check_of(backend),
                                    count_of(backend, "weight"),
                                    fmt::format("{:.2f}%", backend.at("share_percent").get<double>()),
                                    next_hop_of(backend.at("next_hop")),
                                    count_of(backend, "flows_active")};
    if (with_stats) {
      row.insert(row.end(),
                 {count_of(backend, "packets"), count_of(backend, "bytes"), count_of(backend, "flows")});
    }
    table.add(std::move(row));
    const std::string why_not = text_of(backend, "why_not");
    if (!why_not.empty()) {
      notes += fmt::format("{}/{}: {}\n", text_of(backend, "service"), text_of(backend, "name"), why_not);
    }
  }
  return table.text() + (notes.empty() ? "" : "\n" + notes);
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
  if (!fault.empty()) return out + "  steering       off: " + fault + "\n";
  return out + fmt::format("  steering       {} keys in {}\n", steering.at("keys").get<uint64_t>(),
                           text_of(steering, "map"));
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

std::string format_workers(const json& workers) {
  TextTable table({"WORKER", "CPU", "STATE", "GENERATION", "HEARTBEAT", "BUSY", "RECEIVED", "FORWARDED",
                   "ANSWERED", "PASSED", "DROPPED", "FLOWS"});
  for (const json& worker : workers) {
    const bool active = worker.at("active").get<bool>();
    table.add({count_of(worker, "worker"), count_of(worker, "cpu"), active ? "running" : "ended",
               count_of(worker, "acknowledged"),
               fmt::format("{:.3f}s", worker.at("heartbeat_age_s").get<double>()),
               fmt::format("{:.1f}%", worker.at("busy_percent").get<double>()), count_of(worker, "received"),
               count_of(worker, "forwarded"), count_of(worker, "answered"), count_of(worker, "passed"),
               count_of(worker, "dropped"), count_of(worker.at("flows"), "active")});
  }
  return table.text();
}

std::string format_reasons(const json& reasons, bool all) {
  TextTable table({"REASON", "KIND", "PACKETS", "MEANING"});
  bool any = false;
  for (const char* kind : {"drop", "pass"}) {
    for (const json& reason : reasons) {
      const bool counted = reason.at("packets").get<uint64_t>() != 0;
      if (reason.at("kind") != kind || !(all || counted)) continue;
      table.add({text_of(reason, "name"), kind, count_of(reason, "packets"), text_of(reason, "text")});
      any = true;
    }
  }
  return any ? table.text() : "nothing dropped, nothing passed to the host\n";
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
        "  flow tables    {} flows a worker, {:.0f} MiB in pages of {} KiB\n\n",
        text_of(dataplane, "version"), dataplane.at("pid").get<int>(), duration(dataplane.at("uptime_s")),
        dataplane.at("starts").get<uint64_t>(), dataplane.at("flows_max_per_worker").get<uint64_t>(),
        dataplane.at("flows_bytes").get<double>() / (1 << 20),
        dataplane.at("flows_page_bytes").get<uint64_t>() / 1024);
  } else {
    out += fmt::format("no data plane is running; the last was sluice-dataplane {}, start number {}\n\n",
                       text_of(dataplane, "version"), dataplane.at("starts").get<uint64_t>());
  }
  out += format_ports(dataplane.at("ports")) + "\n" + format_workers(dataplane.at("workers")) + "\n";
  out += format_reasons(dataplane.at("reasons"), all) + "\n";
  return out + format_accounting(dataplane.at("accounting"));
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
  return out + (verdict == "pass" ? "passed to the host: " : "dropped: ") + reason + "\n";
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
