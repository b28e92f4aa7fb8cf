#include "controlplane/daemon.h"

#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>

#include <fmt/format.h>

#include "controlplane/compile.h"
#include "controlplane/published.h"

namespace sluice {
namespace {

constexpr std::chrono::milliseconds kTick{100};
constexpr uint64_t kSteeringRetryNs = 1'000'000'000;
constexpr uint64_t kVipChecksPeriodNs = 1'000'000'000;

CheckTarget target_of(const Service& service, const Backend& backend) {
  CheckTarget target;
  target.address = backend.config.address;
  target.config = service.config.health;
  target.port = target.config.port != 0 ? target.config.port : service.config.port;
  if (target.config.host.empty()) {
    const std::string vip = service.config.vip.text();
    target.config.host = service.config.vip.is_v4() ? vip : "[" + vip + "]";
  }
  target.service = service.config.name;
  target.backend = backend.config.name;
  target.backend_address = backend.config.address;
  target.vip = service.config.vip;
  return target;
}

}  // namespace

Result<std::unique_ptr<Daemon>> Daemon::start(boost::asio::io_context& io, const DaemonOptions& options,
                                              std::vector<Diagnostic>& errors) {
  Result<Publisher> publisher = Publisher::open(options.directory);
  if (!publisher) return publisher.error();
  std::unique_ptr<Daemon> daemon(new Daemon(io, options, std::move(*publisher)));
  if (const Result<Done> begun = daemon->begin(errors); !begun) return begun.error();
  return daemon;
}

Daemon::Daemon(boost::asio::io_context& io, const DaemonOptions& options, Publisher publisher)
    : io_(io),
      options_(options),
      started_ns_(monotonic_ns()),
      publisher_(std::move(publisher)),
      dataplane_(options.directory),
      vip_checks_(options.directory),
      signals_(io, SIGTERM, SIGINT, SIGHUP),
      tick_(io) {
  events_.set_log(options.log_format, options.log_least);
  configuration_ =
      std::make_unique<Configuration>(io, disk_, options_.config_path, options_.state_directory, events_);
  configuration_->on_rollback([this] { (void)go_back(); });
  configuration_->on_saved_again([this] { health_changed_ = true; });
  health_file_ = std::make_unique<StateFile>(
      io, disk_, options_.state_directory + "/health.json", [this] { return health_contents(); },
      [this](const std::string& fault) {
        if (!fault.empty()) note(Event::Level::error, "state_not_saved", "health is not kept: " + fault);
      });
  rollout_ = std::make_unique<Rollout>(io, model_, publisher_, dataplane_, events_, [this] {
    follow_steering();
    announce();
  });
  checker_ = std::make_unique<HealthChecker>(
      io, options.checks_at_a_time,
      [this](BackendId id, const CheckResult& result, Health health) { on_check(id, result, health); });
}

Daemon::~Daemon() {
  if (health_changed_) health_file_->save();
  disk_.join();
  configuration_->finish();
  health_file_->finish();
  // An orderly end. The tables stay: somebody may be forwarding by them.
  publisher_.header().writer_pid.store(0, std::memory_order_relaxed);
}

Result<Done> Daemon::begin(std::vector<Diagnostic>& errors) {
  Configuration::Parsed first = configuration_->begin();
  for (const Diagnostic& warning : first.warnings)
    note(Event::Level::warning, "config_warning", warning.text());
  if (!first.version) {
    errors = std::move(first.errors);
    return Error{"the configuration has errors", "sluice check " + options_.config_path};
  }
  Result<std::unique_ptr<Neighbours>> neighbours = Neighbours::open(
      io_, [this](std::span<const IpAddress> changed) { copy_next_hops(changed); },
      [this](const std::string& fault) { note(Event::Level::warning, "next_hops_unknown", fault); });
  if (!neighbours) return neighbours.error();
  neighbours_ = std::move(*neighbours);
  Result<std::unique_ptr<WorkerCommands>> commands =
      WorkerCommands::open(io_, options_.directory, publisher_, dataplane_);
  if (!commands) return commands.error();
  worker_commands_ = std::move(*commands);
  follow_steering();
  dataplane_.refresh();
  tick();

  remember_published_next_hops();
  const Result<Change> adopted = begin_with(std::move(*first.version));
  if (!adopted) return adopted.error();

  Result<std::unique_ptr<Interfaces>> interfaces =
      Interfaces::open(io_, *this, configuration_->version().config.interfaces);
  if (!interfaces) return interfaces.error();
  interfaces_ = std::move(*interfaces);
  wait_for_signals();
  return Done{};
}

void Daemon::note(Event::Level level, std::string kind, std::string sentence) {
  note(level, std::move(kind), "", "", std::move(sentence));
}

void Daemon::note(Event::Level level, std::string kind, std::string service, std::string backend,
                  std::string sentence) {
  Event event;
  event.level = level;
  event.kind = std::move(kind);
  event.service = std::move(service);
  event.backend = std::move(backend);
  event.text = std::move(sentence);
  events_.add(std::move(event));
}

// The kernel may have forgotten neighbours while nobody asked for them; the data plane still forwards to
// these.
void Daemon::remember_published_next_hops() {
  const TablesView tables = publisher_.current();
  for_each_backend_cold(tables, [&](BackendId id, const BackendCold&) {
    const BackendRecord& record = tables.backend(id);
    if ((record.flags & BackendRecord::kResolved) == 0) return;
    NextHop hop;
    std::memcpy(hop.mac.bytes.data(), record.destination_mac(), hop.mac.bytes.size());
    std::memcpy(hop.source_mac.bytes.data(), record.source_mac(), hop.source_mac.bytes.size());
    hop.source = record.outer_source();
    neighbours_->remember(record.outer_destination(), hop);
  });
}

void Daemon::follow_model() {
  const BackendIndex before = std::exchange(index_, BackendIndex(model_));
  for (const BackendId id : before.ids()) {
    if (index_.find(id)) continue;
    checker_->forget(id);
    vip_checks_.forget(id);
  }
  const std::vector<IpAddress> addresses = index_.addresses();
  neighbours_->set_addresses(addresses);
  for (const IpAddress& address : addresses) {
    for (const BackendPlace place : index_.at(address))
      model_.set_next_hop(place, neighbours_->next_hop(address));
  }
}

void Daemon::copy_next_hops(std::span<const IpAddress> changed) {
  bool differs = false;
  for (const IpAddress& address : changed) {
    const NextHop& hop = neighbours_->next_hop(address);
    for (const BackendPlace place : index_.at(address)) {
      const std::string& service = model_.service_of(place).config.name;
      const Backend& backend = model_.backend(place);
      if (hop == backend.next_hop) continue;
      if (hop.resolved && hop.mac != backend.next_hop.mac) {
        note(Event::Level::info, "next_hop_changed", service, backend.config.name,
             fmt::format("{}/{} is reached at {}", service, backend.config.name, hop.mac.text()));
      } else if (!hop.resolved) {
        note(Event::Level::warning, "next_hop_unresolved", service, backend.config.name,
             fmt::format("{}/{} cannot be reached: {}", service, backend.config.name, hop.why_not));
      }
      model_.set_next_hop(place, hop);
      vip_checks_.follow_hop(model_.service_of(place), backend);
      differs = true;
    }
  }
  if (differs) rollout_->publish_soon();
}

void Daemon::follow_all_checks() {
  for (const Service& service : model_.services()) {
    for (const Backend& backend : service.backends)
      follow_checks(service, backend);
  }
}

// A backend in maintenance is left alone, and what was seen of it before says nothing about it after.
void Daemon::follow_checks(const Service& service, const Backend& backend) {
  if (is_out(backend.admin) || service.config.health.type == HealthConfig::Type::none) {
    checker_->forget(backend.id);
  } else {
    CheckTarget target = target_of(service, backend);
    if (service.config.health.to_vip) vip_checks_.aim(service, backend, target);
    checker_->watch(backend.id, target, backend.health, service.config.initially_up);
  }
}

void Daemon::follow_vip_checks() {
  vip_checks_tried_ns_ = monotonic_ns();
  if (vip_checks_.look_again(model_)) follow_all_checks();
  const std::string fault = vip_checks_.fault();
  if (fault == vip_checks_fault_seen_) return;
  vip_checks_fault_seen_ = fault;
  if (fault.empty()) {
    note(Event::Level::info, "vip_checks_work", "checks to = \"vip\" work");
  } else {
    note(Event::Level::warning, "vip_checks_failed", "checks to = \"vip\" are impossible: " + fault);
  }
}

void Daemon::note_check_event(Event::Level level, std::string kind, BackendPlace place,
                              const CheckResult& result) {
  Event event;
  event.level = level;
  event.kind = std::move(kind);
  event.service = model_.service_of(place).config.name;
  event.backend = model_.backend(place).config.name;
  event.text = fmt::format("{}/{} checked: {} {} ({:.1f} ms)", event.service, event.backend,
                           text(result.code), result.detail, static_cast<double>(result.duration_us) / 1e3);
  event.details = {
      {"result", text(result.code)}, {"detail", result.detail}, {"duration_us", result.duration_us}};
  events_.add(std::move(event));
}

void Daemon::on_check(BackendId id, const CheckResult& result, Health health) {
  const std::optional<BackendPlace> place = index_.find(id);
  if (!place) return;
  const std::string& service = model_.service_of(*place).config.name;
  const Backend& backend = model_.backend(*place);
  if (result.code == CheckCode::none) {
    // Once, however long it lasts.
    if (const CheckHistory* history = checker_->history(id); history != nullptr && history->impossible == 1)
      note(Event::Level::warning, "check_impossible", service, backend.config.name,
           fmt::format("{}/{} could not be checked: {}", service, backend.config.name, result.detail));
    return;
  }
  const std::string result_before = backend.check_result;
  model_.note_check(*place, text(result.code), result.detail, result.duration_us);
  if (events_.wants_debug()) note_check_event(Event::Level::debug, "check", *place, result);
  if (backend.health == health) {
    if (!result_before.empty() && result_before != backend.check_result)
      note_check_event(Event::Level::info, "check_changed", *place, result);
    return;
  }
  model_.set_health(*place, health, monotonic_ns());
  health_changed_ = true;
  const bool up = health == Health::up;
  note(up ? Event::Level::info : Event::Level::warning, up ? "backend_up" : "backend_down", service,
       backend.config.name,
       fmt::format("{}/{} is {}: {} {} ({:.1f} ms)", service, backend.config.name, up ? "up" : "down",
                   backend.check_result, result.detail, static_cast<double>(result.duration_us) / 1e3));
  rollout_->publish_soon();
}

Override Daemon::override_of(BackendPlace at) const {
  const Override* entry =
      configuration_->overrides().find({model_.service_of(at).config.name, model_.backend(at).config.name});
  return entry == nullptr ? Override() : *entry;
}

// What the overrides will say of a backend after this edit of it.
Override Daemon::override_after(const BackendEdit& edit) const {
  Override entry = override_of(edit.at);
  const BackendConfig& config = model_.backend(edit.at).config;
  if (edit.admin) {
    entry.reset = edit.reset;
    entry.admin.reset();
    if (*edit.admin != config.admin || entry.reset) entry.admin = edit.admin;
  }
  if (edit.weight) {
    // The weight of an added backend stands in its override alone.
    const bool is_added = entry.address.has_value();
    const bool differs = *edit.weight != config.weight;
    entry.weight.reset();
    entry.weight_was.reset();
    if (is_added || differs) entry.weight = edit.weight;
    if (!is_added && differs) entry.weight_was = config.weight;
  }
  return entry;
}

// The generation carries the edition of the overrides, so they count as made when it is published.
Result<Daemon::Change> Daemon::edit_backends(std::span<const BackendEdit> edits) {
  const TablesView current = publisher_.current();
  const uint64_t number_before = current ? current.generation().number : 0;
  std::vector<std::pair<OverrideKey, Override>> entries;
  std::vector<Backend> before;
  bool is_changed = false;  // what the tables do not show: a deadline
  for (const BackendEdit& edit : edits) {
    const OverrideKey key{model_.service_of(edit.at).config.name, model_.backend(edit.at).config.name};
    Override entry = override_after(edit);
    is_changed |= entry.reset != override_of(edit.at).reset;
    if (entry != override_of(edit.at)) entries.emplace_back(key, std::move(entry));
    before.push_back(model_.backend(edit.at));
    if (edit.admin) model_.set_admin(edit.at, *edit.admin, monotonic_ns());
    if (edit.weight) model_.set_weight(edit.at, *edit.weight);
  }
  if (!entries.empty()) model_.set_overrides_edition(configuration_->edition() + 1);
  const Result<Compiled> published = rollout_->publish();
  if (!published) {
    for (size_t i = 0; i < edits.size(); i++)
      model_.put_back(edits[i].at, std::move(before[i]));
    model_.set_overrides_edition(configuration_->edition());
    return published.error();
  }
  if (!entries.empty()) configuration_->set_overrides(std::move(entries));
  for (const BackendEdit& edit : edits)
    follow_checks(model_.service_of(edit.at), model_.backend(edit.at));
  return Change{is_changed || published->generation != number_before, published->generation};
}

void Daemon::follow_steering() {
  steering_tried_ns_ = monotonic_ns();
  std::string fault;
  if (!steer_.is_open()) {
    Result<SteerMap> opened = SteerMap::open(options_.directory);
    if (opened) {
      steer_ = std::move(*opened);
    } else {
      fault = opened.error().text();
    }
  }
  if (steer_.is_open()) {
    // Until the workers know the new services and have forgotten the removed ones; then this is called again.
    if (!rollout_->settled()) return;
    if (steered_edition_ != model_.edition()) {
      const Result<Done> synced = steer_.sync(model_.services());
      if (synced) {
        steered_edition_ = model_.edition();
      } else {
        fault = synced.error().text();
      }
    }
  }
  if (fault == steering_fault_) return;
  steering_fault_ = fault;
  if (fault.empty()) {
    note(Event::Level::info, "steering_works", "steering of kernel-owned NICs works");
  } else {
    note(Event::Level::warning, "steering_failed",
         "steering of kernel-owned NICs (others need none) does not follow: " + fault);
  }
}

void Daemon::watch_clock(uint64_t now_ns) {
  using std::chrono::milliseconds, std::chrono::duration_cast, std::chrono::system_clock;
  const milliseconds wall = duration_cast<milliseconds>(system_clock::now().time_since_epoch());
  const std::optional<int64_t> jump_ms = clock_watch_.look(now_ns, wall.count());
  if (!jump_ms) return;
  note(Event::Level::warning, "clock_jumped",
       fmt::format("the wall clock went {:.1f} s {}: times before and after do not compare; checks and "
                   "timeouts go by another",
                   std::abs(static_cast<double>(*jump_ms)) / 1e3, *jump_ms > 0 ? "forward" : "back"));
}

void Daemon::tick() {
  const uint64_t now_ns = monotonic_ns();
  watch_clock(now_ns);
  publisher_.header().heartbeat_ns.store(now_ns, std::memory_order_relaxed);
  dataplane_.refresh();
  if (dataplane_.fault() != dataplane_fault_seen_) {
    dataplane_fault_seen_ = dataplane_.fault();
    if (!dataplane_fault_seen_.empty())
      note(Event::Level::warning, "dataplane_refused", dataplane_fault_seen_);
  }
  if (dataplane_.starts() != starts_seen_) {
    starts_seen_ = dataplane_.starts();
    std::vector<Neighbours::Port> ports;
    if (starts_seen_ != 0) {
      const StatsHeader& header = dataplane_.stats()->header;
      for (uint32_t i = 0; i < std::min(header.ports_count, limits::kPortsMax); i++) {
        ports.push_back({header.ports[i].ifindex, static_cast<uint16_t>(i), header.ports[i].mac});
      }
    }
    neighbours_->set_ports(std::move(ports));
  }
  keep_health();
  advance_policy(now_ns);
  reset_drained(now_ns);
  // bpffs may be mounted, or the permission given, after our start.
  if (!steering_fault_.empty() && now_ns - steering_tried_ns_ >= kSteeringRetryNs) follow_steering();
  if (now_ns - vip_checks_tried_ns_ >= kVipChecksPeriodNs) follow_vip_checks();
  tick_.expires_after(kTick);
  tick_.async_wait([this](const boost::system::error_code& error) {
    if (!error) tick();
  });
}

void Daemon::wait_for_signals() {
  signals_.async_wait([this](const boost::system::error_code& error, int signal) {
    if (error) return;
    if (signal != SIGHUP) {
      note(Event::Level::info, "ended",
           fmt::format("ends on {}; the tables stay, the data plane keeps forwarding", strsignal(signal)));
      io_.stop();
      return;
    }
    if (const Applied applied = reload(); !applied.change && configuration_->is_pending())
      note(Event::Level::error, "config_refused",
           options_.config_path + " not taken over: " + applied.change.error().text());
    wait_for_signals();
  });
}

}  // namespace sluice
