#include "controlplane/metrics.h"

#include <array>
#include <charconv>

#include <boost/asio/post.hpp>
#include <fmt/format.h>

#include "controlplane/counters.h"
#include "controlplane/daemon.h"
#include "controlplane/report.h"
#include "src/reason.h"

namespace sluice {

void MetricsText::family(std::string_view name, std::string_view type, std::string_view unit,
                         std::string_view help) {
  sample_name_ = name;
  if (type == "counter") sample_name_ += "_total";
  if (type == "info") sample_name_ += "_info";
  fmt::format_to(std::back_inserter(text_), "# TYPE {} {}\n", name, type);
  if (!unit.empty()) fmt::format_to(std::back_inserter(text_), "# UNIT {} {}\n", name, unit);
  fmt::format_to(std::back_inserter(text_), "# HELP {} {}\n", name, help);
  lines_ += 2;
}

void MetricsText::begin_sample(std::string_view labels) {
  lines_++;
  text_ += sample_name_;
  if (!labels.empty()) {
    text_ += '{';
    text_ += labels;
    text_ += '}';
  }
  text_ += ' ';
}

void MetricsText::sample(std::string_view labels, uint64_t value) {
  begin_sample(labels);
  char digits[24];
  const auto [end, fault] = std::to_chars(digits, digits + sizeof digits, value);
  text_.append(digits, end);
  text_ += '\n';
}

void MetricsText::sample(std::string_view labels, double value) {
  begin_sample(labels);
  fmt::format_to(std::back_inserter(text_), "{:.9g}\n", value);
}

std::string MetricsText::take() {
  text_ += "# EOF\n";
  return std::move(text_);
}

std::string metric_label(std::string_view name, std::string_view value) {
  std::string out(name);
  out += "=\"";
  for (const char c : value) {
    if (c == '\n') {
      out += "\\n";
      continue;
    }
    if (c == '"' || c == '\\') out += '\\';
    out += c;
  }
  return out + '"';
}

namespace {

constexpr std::array<const char*, 5> kStates = {"up", "down", "unknown", "drain", "maint"};

// Position in kStates: the admin state when that decides, else the health.
size_t state_of(const Service& service, const Backend& backend) {
  if (is_out(backend.admin)) return 4;
  if (backend.admin != Admin::ready) return 3;
  if (service.config.health.type == HealthConfig::Type::none || backend.health == Health::up) return 0;
  return backend.health == Health::down ? 1 : 2;
}

struct ServiceRow {
  std::string labels;
  ServiceSums sums;
  uint64_t configured = 0, up = 0, active = 0;
};

struct BackendRow {
  std::string labels;
  BackendSums sums;
  uint64_t weight = 0;
  uint64_t checks = 0;
  double check_s = 0;
  size_t state = 0;
  bool takes_new = false;
};

}  // namespace

class Metrics::Scrape : public std::enable_shared_from_this<Scrape> {
 public:
  Scrape(boost::asio::io_context& io, Daemon& daemon, std::function<void(std::string)> done)
      : io_(io), daemon_(daemon), done_(std::move(done)), edition_(daemon.model().edition()) {}

  void step() {
    if (is_cancelled_) return;
    if (!is_collected_) {
      collect();
    } else if (family_ < kFamilies.size()) {
      write();
    } else {
      write_dataplane();
      write_control();
      return done_(text_.take());
    }
    boost::asio::post(io_, [self = shared_from_this()] { self->step(); });
  }
  void cancel() { is_cancelled_ = true; }

 private:
  struct Family {
    const char* name;
    const char* type;
    const char* unit;
    const char* help;
    void (*write)(MetricsText&, const BackendRow&);
  };
  static const std::array<Family, 10> kFamilies;

  // Takes what is to be known of the next backends. A configuration that changes meanwhile begins it anew.
  void collect() {
    const std::vector<Service>& services = daemon_.model().services();
    if (edition_ != daemon_.model().edition()) {
      edition_ = daemon_.model().edition();
      services_.clear();
      backends_.clear();
      next_ = {0, 0};
    }
    constexpr size_t kSliceBackends = MetricsText::kSliceLines / 4;
    for (size_t taken = 0; taken < kSliceBackends && next_.service < services.size(); taken++) {
      const Service& service = services[next_.service];
      if (next_.backend == 0) take(service);
      if (next_.backend < service.backends.size()) take(service, service.backends[next_.backend++]);
      if (next_.backend >= service.backends.size()) next_ = {next_.service + 1, 0};
    }
    is_collected_ = next_.service >= services.size();
  }

  void take(const Service& service) {
    ServiceRow row{metric_label("service", service.config.name), sums_of(daemon_, service),
                   service.backends.size(), 0, 0};
    for (const Backend& backend : service.backends) {
      row.up += service.counts_as_up(backend) ? 1 : 0;
      row.active += service.takes_new(backend) ? 1 : 0;
    }
    services_.push_back(std::move(row));
  }

  void take(const Service& service, const Backend& backend) {
    BackendRow row;
    row.labels = services_.back().labels + ',' + metric_label("backend", backend.config.name);
    row.sums = sums_of(daemon_, backend);
    row.weight = backend.weight();
    row.check_s = static_cast<double>(backend.check_duration_us) / 1e6;
    row.state = state_of(service, backend);
    row.takes_new = service.takes_new(backend);
    if (const CheckHistory* history = daemon_.checker().history(backend.id)) row.checks = history->done;
    backends_.push_back(std::move(row));
  }

  // A slice of a family; of the next ones, too, while there is room in the slice.
  void write() {
    const size_t end = text_.lines() + MetricsText::kSliceLines;
    while (text_.lines() < end && family_ < kFamilies.size()) {
      const Family& family = kFamilies[family_];
      if (row_ == 0) text_.family(family.name, family.type, family.unit, family.help);
      while (row_ < backends_.size() && text_.lines() < end)
        family.write(text_, backends_[row_++]);
      if (row_ < backends_.size()) return;
      row_ = 0;
      family_++;
    }
  }

  void write_services();
  void write_dataplane();
  void write_sessions(const StatsSegment& stats);
  void write_workers(const StatsSegment& stats);
  void write_ports(const StatsHeader& header);
  void write_control();

  boost::asio::io_context& io_;
  Daemon& daemon_;
  const std::function<void(std::string)> done_;
  uint64_t edition_;
  BackendPlace next_{0, 0};
  bool is_collected_ = false;
  bool is_cancelled_ = false;
  std::vector<ServiceRow> services_;
  std::vector<BackendRow> backends_;
  size_t family_ = 0;
  size_t row_ = 0;
  MetricsText text_;
};

const std::array<Metrics::Scrape::Family, 10> Metrics::Scrape::kFamilies = {{
    {"sluice_backend_packets", "counter", "", "Packets forwarded to the backend.",
     [](MetricsText& text, const BackendRow& row) { text.sample(row.labels, row.sums.packets); }},
    {"sluice_backend_bytes", "counter", "bytes", "IP bytes forwarded to it, as received.",
     [](MetricsText& text, const BackendRow& row) { text.sample(row.labels, row.sums.bytes); }},
    {"sluice_backend_flows", "counter", "", "New flows given to it.",
     [](MetricsText& text, const BackendRow& row) { text.sample(row.labels, row.sums.flows); }},
    {"sluice_backend_flows_active", "gauge", "", "Flows tracked to it.",
     [](MetricsText& text, const BackendRow& row) { text.sample(row.labels, row.sums.flows_active); }},
    {"sluice_backend_sessions_active", "gauge", "", "Sessions tied to it.",
     [](MetricsText& text, const BackendRow& row) { text.sample(row.labels, row.sums.sessions_active); }},
    {"sluice_backend_weight", "gauge", "", "Its weight in force.",
     [](MetricsText& text, const BackendRow& row) { text.sample(row.labels, row.weight); }},
    {"sluice_backend_takes_new_flows", "gauge", "", "1 when new flows may go to it.",
     [](MetricsText& text, const BackendRow& row) { text.sample(row.labels, uint64_t{row.takes_new}); }},
    {"sluice_backend_checks", "counter", "", "Health checks done by this sluiced.",
     [](MetricsText& text, const BackendRow& row) { text.sample(row.labels, row.checks); }},
    {"sluice_backend_check_duration_seconds", "gauge", "seconds", "Duration of its last health check.",
     [](MetricsText& text, const BackendRow& row) { text.sample(row.labels, row.check_s); }},
    {"sluice_backend_state", "gauge", "",
     "1 for its state: the admin state if that keeps new flows away, else health.",
     [](MetricsText& text, const BackendRow& row) {
       static const std::array<std::string, 5> labels = [] {
         std::array<std::string, 5> all;
         for (size_t i = 0; i < all.size(); i++)
           all[i] = ",state=\"" + std::string(kStates[i]) + '"';
         return all;
       }();
       for (size_t i = 0; i < labels.size(); i++)
         text.sample(row.labels + labels[i], uint64_t{row.state == i});
     }},
}};

void Metrics::Scrape::write_services() {
  const auto all = [&](const char* name, const char* type, const char* unit, const char* help, auto&& value) {
    text_.family(name, type, unit, help);
    for (const ServiceRow& row : services_)
      text_.sample(row.labels, value(row));
  };
  all("sluice_service_packets", "counter", "", "Packets received for the service.",
      [](const ServiceRow& row) { return row.sums.packets; });
  all("sluice_service_bytes", "counter", "bytes", "IP bytes received for it.",
      [](const ServiceRow& row) { return row.sums.bytes; });
  all("sluice_service_flows", "counter", "", "New flows of it.",
      [](const ServiceRow& row) { return row.sums.flows; });
  all("sluice_service_backends", "gauge", "", "Backends configured.",
      [](const ServiceRow& row) { return row.configured; });
  all("sluice_service_backends_up", "gauge", "", "Backends that count as healthy.",
      [](const ServiceRow& row) { return row.up; });
  all("sluice_service_backends_active", "gauge", "", "Backends that take new flows.",
      [](const ServiceRow& row) { return row.active; });
}

void Metrics::Scrape::write_dataplane() {
  write_services();
  const DataplaneView& view = daemon_.dataplane();
  text_.family("sluice_dataplane_up", "gauge", "", "1 while a data plane runs.");
  text_.sample("", uint64_t{view.is_running()});
  if (view.starts() == 0) return;
  const StatsSegment& stats = *view.stats();
  text_.family("sluice_flow_table_bytes", "gauge", "bytes", "Memory of all workers' flow tables.");
  text_.sample("", stats.header.flows_bytes);
  text_.family("sluice_flow_table_capacity", "gauge", "", "Flows that each worker's table is made for.");
  text_.sample("", stats.header.flows_max);
  write_sessions(stats);
  write_workers(stats);
  write_ports(stats.header);
}

void Metrics::Scrape::write_sessions(const StatsSegment& stats) {
  const SessionSums sums = session_sums(&stats);
  const auto one = [&](const char* name, const char* type, const char* help, uint64_t value) {
    text_.family(name, type, "", help);
    text_.sample("", value);
  };
  one("sluice_sessions_max", "gauge", "Sessions that the table is made for.", stats.header.sessions_max);
  one("sluice_sessions_active", "gauge", "Sessions in the table.", sums.active);
  one("sluice_sessions_made", "counter", "Sessions made.", sums.made);
  one("sluice_sessions_moved", "counter", "Sessions that went to another backend.", sums.moved);
  one("sluice_sessions_ended", "counter", "Sessions that ended.", sums.ended);
  one("sluice_sessions_table_full", "counter", "Connections whose session found no place.", sums.full);
  one("sluice_session_keyless_packets", "counter", "Packets too short for their service's key.",
      sums.keyless);
}

void Metrics::Scrape::write_workers(const StatsSegment& stats) {
  struct Row {
    std::string labels;
    const WorkerStats* stats;
    PacketSnapshot packets;
  };
  std::vector<Row> rows;
  for (const WorkerStats& worker : stats.workers) {
    if (worker.active.get() == 0 && worker.loops.get() == 0) continue;
    rows.push_back(
        {metric_label("worker", std::to_string(&worker - stats.workers)), &worker, snapshot(worker)});
  }
  const auto reasons = [&](const char* name, ReasonKind kind, const char* help) {
    text_.family(name, "counter", "", help);
    for (size_t i = 0; i < kReasonCount; i++) {
      if (kReasons[i].kind != kind) continue;
      uint64_t sum = 0;
      for (const Row& row : rows)
        sum += row.packets.by_reason[i];
      text_.sample(metric_label("reason", kReasons[i].name), sum);
    }
  };
  reasons("sluice_drops", ReasonKind::drop, "Packets dropped, by reason (sluice show drops says more).");
  reasons("sluice_passed", ReasonKind::pass, "Packets left to the host, by reason.");
  const auto all = [&](const char* name, const char* type, const char* help, auto&& value) {
    text_.family(name, type, "", help);
    for (const Row& row : rows)
      text_.sample(row.labels, value(row));
  };
  all("sluice_worker_received_packets", "counter", "Packets received.",
      [](const Row& row) { return row.packets.received; });
  all("sluice_worker_forwarded_packets", "counter", "Packets forwarded.",
      [](const Row& row) { return row.packets.forwarded; });
  all("sluice_worker_answered_packets", "counter", "Packets answered instead of forwarded.",
      [](const Row& row) { return row.packets.answered; });
  all("sluice_worker_busy_cycles", "counter", "TSC cycles of loops that received packets.",
      [](const Row& row) { return row.stats->busy_cycles.get(); });
  all("sluice_worker_idle_cycles", "counter", "TSC cycles of loops that did not.",
      [](const Row& row) { return row.stats->idle_cycles.get(); });
  all("sluice_worker_acknowledged_generation", "gauge", "Generation that the worker uses.",
      [&](const Row& row) { return acknowledged(*row.stats, daemon_.publisher().header().incarnation); });
  all("sluice_worker_flows_active", "gauge", "Entries of its flow table.",
      [](const Row& row) { return row.stats->flows.active.get(); });
  all("sluice_worker_flows_inserted", "counter", "Flows that got an entry.",
      [](const Row& row) { return row.stats->flows.inserted.get(); });
  all("sluice_worker_flows_expired", "counter", "Flows forgotten after their idle timeout.",
      [](const Row& row) { return row.stats->flows.expired.get(); });
  all("sluice_worker_flows_evicted", "counter", "Unconfirmed flows that gave their entry to others.",
      [](const Row& row) { return row.stats->flows.evicted.get(); });
  all("sluice_worker_flows_untracked", "counter", "Packets of new flows without an entry.",
      [](const Row& row) { return row.stats->flows.untracked.get(); });
  all("sluice_worker_flows_overflowed", "counter", "Choices of a backend that was full: to the next one.",
      [](const Row& row) { return row.stats->flows.overflowed.get(); });
  text_.family("sluice_worker_up", "gauge", "", "1 while the worker runs.");
  for (const Row& row : rows)
    text_.sample(row.labels, uint64_t{daemon_.dataplane().is_running() && row.stats->active.get() != 0});
}

void Metrics::Scrape::write_ports(const StatsHeader& header) {
  const auto all = [&](const char* name, const char* help, auto&& value) {
    text_.family(name, "counter", "", help);
    for (uint32_t i = 0; i < std::min(header.ports_count, limits::kPortsMax); i++) {
      text_.sample(metric_label("port", header.ports[i].name), value(header.port_counters[i]));
    }
  };
  using Counters = StatsHeader::PortCounters;
  all("sluice_port_received_packets", "Packets received since the data plane's start.",
      [](const Counters& counters) { return counters.received.get(); });
  all("sluice_port_sent_packets", "Packets sent.",
      [](const Counters& counters) { return counters.sent.get(); });
  all("sluice_port_missed_packets", "Packets lost because the receive ring was full.",
      [](const Counters& counters) { return counters.missed.get(); });
}

void Metrics::Scrape::write_control() {
  const Publisher::Memory memory = daemon_.publisher().memory();
  const TablesView tables = daemon_.publisher().current();
  text_.family("sluice_build", "info", "", "What runs here.");
  text_.sample(metric_label("version", SLUICE_VERSION), uint64_t{1});
  const auto one = [&](const char* name, const char* unit, const char* help, auto value) {
    text_.family(name, "gauge", unit, help);
    text_.sample("", value);
  };
  one("sluice_generation", "", "Number of the current generation.", tables.generation().number);
  one("sluice_generation_age_seconds", "seconds", "Time since it was published.",
      static_cast<double>(monotonic_ns() - tables.generation().published_ns) / 1e9);
  one("sluice_uptime_seconds", "seconds", "Time since this sluiced began.",
      static_cast<double>(monotonic_ns() - daemon_.started_ns()) / 1e9);
  one("sluice_tables_used_bytes", "bytes", "Shared memory of generations in use.", memory.used_bytes);
  one("sluice_tables_retired_bytes", "bytes", "Of it: waiting for workers to acknowledge.",
      memory.retired_bytes);
  one("sluice_tables_size_bytes", "bytes", "Shared memory that could be used.", memory.size_bytes);
  one("sluice_process_resident_bytes", "bytes", "Resident memory of sluiced.",
      process_memory().resident_bytes);
  one("sluice_control_clients", "", "Connections to the control socket.",
      uint64_t{daemon_.interfaces().control().clients()});
  text_.family("sluice_events", "counter", "", "Events, by level.");
  for (const Event::Level level : {Event::Level::info, Event::Level::warning, Event::Level::error})
    text_.sample(metric_label("level", text(level)), daemon_.events().count(level));
}

Metrics::Metrics(boost::asio::io_context& io, Daemon& daemon) : io_(io), daemon_(daemon) {}

Metrics::~Metrics() {
  if (running_) running_->cancel();
}

void Metrics::scrape(Done done) {
  waiting_.push_back(std::move(done));
  if (running_) return;
  running_ = std::make_shared<Scrape>(io_, daemon_, [this](std::string text) {
    running_.reset();
    const auto shared = std::make_shared<const std::string>(std::move(text));
    for (const Done& each : std::exchange(waiting_, {}))
      each(shared);
  });
  boost::asio::post(io_, [scrape = running_] { scrape->step(); });
}

}  // namespace sluice
