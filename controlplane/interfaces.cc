#include "controlplane/interfaces.h"

#include <fmt/format.h>

#include "controlplane/commands.h"
#include "controlplane/daemon.h"

namespace sluice {

Interfaces::Interfaces(boost::asio::io_context& io, Daemon& daemon)
    : io_(io), daemon_(daemon), metrics_(io, daemon), http_retry_(io), hooks_(io, daemon.events()) {}

Interfaces::~Interfaces() = default;

Result<std::unique_ptr<Interfaces>> Interfaces::open(boost::asio::io_context& io, Daemon& daemon,
                                                     const InterfaceConfig& config) {
  std::unique_ptr<Interfaces> interfaces(new Interfaces(io, daemon));
  ProtocolServer::Options options;
  options.access = interfaces->access_of(config.control);
  options.on_fault = [&daemon](const std::string& fault) {
    daemon.events().add(Event::Level::warning, "control_socket", fault);
  };
  Result<std::unique_ptr<ProtocolServer>> control = ProtocolServer::listen(
      io, socket_path(daemon.options().directory),
      [&daemon](const nlohmann::json& request, uint64_t received_ns, const Reply& reply) {
        handle_command(daemon, request, received_ns, reply);
      },
      std::move(options));
  if (!control) return control.error();
  interfaces->control_ = std::move(*control);
  interfaces->config_.control = config.control;
  interfaces->follow(config);
  return interfaces;
}

void Interfaces::follow(const InterfaceConfig& config) {
  if (config.control != config_.control) {
    if (const Result<Done> set = control_->set_access(access_of(config.control)); !set)
      daemon_.events().add(Event::Level::error, "control_socket", set.error().text());
  }
  const bool http_changed = config.http != config_.http;
  config_ = config;
  hooks_.follow(config_.hooks);
  if (!http_changed) return;
  http_.reset();
  http_retry_.cancel();
  http_fault_.clear();
  open_http();
}

void Interfaces::open_http() {
  if (!config_.http.listen) return;
  Result<std::unique_ptr<HttpServer>> opened = HttpServer::listen(
      io_, *config_.http.listen,
      [this](const std::string& path, const HttpServer::Respond& respond) { answer_http(path, respond); },
      HttpServer::Options());
  const std::string fault = opened ? "" : opened.error().text();
  if (opened) http_ = std::move(*opened);
  if (fault != http_fault_ || fault.empty()) {
    daemon_.events().add(fault.empty() ? Event::Level::info : Event::Level::error,
                         fault.empty() ? "http_listens" : "http_failed",
                         fault.empty() ? "HTTP on " + config_.http.listen->text() : fault);
  }
  http_fault_ = fault;
  if (fault.empty()) return;
  http_retry_.expires_after(kRetry);
  http_retry_.async_wait([this](const boost::system::error_code& error) {
    if (!error) open_http();
  });
}

void Interfaces::answer_http(const std::string& path, const HttpServer::Respond& respond) {
  const auto say = [&](unsigned status, const nlohmann::json& body) {
    respond({status, "application/json", std::make_shared<const std::string>(to_line(body))});
  };
  if (path == "/healthz") return say(200, {{"status", "ok"}, {"version", SLUICE_VERSION}});
  if (path == "/readyz") {
    const nlohmann::json body = readiness(daemon_);
    return say(body.at("ready").get<bool>() ? 200 : 503, body);
  }
  if (path != "/metrics")
    return say(404, {{"error", "no such page"}, {"pages", {"/metrics", "/healthz", "/readyz"}}});
  metrics_.scrape([respond](std::shared_ptr<const std::string> text) {
    respond({200, "application/openmetrics-text; version=1.0.0; charset=utf-8", std::move(text)});
  });
}

nlohmann::json readiness(const Daemon& daemon) {
  nlohmann::json reasons = nlohmann::json::array();
  const TablesView tables = daemon.publisher().current();
  const DataplaneView& view = daemon.dataplane();
  if (!tables) reasons.push_back("no configuration is published");
  if (!view.fault().empty()) reasons.push_back(view.fault());
  if (!view.is_running()) {
    reasons.push_back("no data plane is running");
  } else if (tables) {
    const DataplaneView::Acknowledged seen = view.acknowledged(daemon.publisher().header().incarnation);
    const uint64_t number = tables.generation().number;
    const uint64_t age_ns = monotonic_ns() - tables.generation().published_ns;
    const bool may_be_late = seen.least != 0 && std::chrono::nanoseconds(age_ns) < Rollout::kPatience;
    if (seen.workers_active == 0) {
      reasons.push_back("the data plane is starting");
    } else if (seen.least < number && !may_be_late) {
      reasons.push_back(
          fmt::format("worker {} uses generation {}, not {}", seen.slowest_worker, seen.least, number));
    }
  }
  const bool is_ready = reasons.empty();
  return {{"ready", is_ready}, {"reasons", std::move(reasons)}};
}

Access Interfaces::access_of(const ControlConfig& config) {
  std::vector<std::string> unknown;
  const Access access = Access::of_groups(config.admin_group, config.read_group, unknown);
  for (const std::string& group : unknown) {
    daemon_.events().add(Event::Level::warning, "group_unknown",
                         fmt::format("[control] names the group '{}', which this host does not have: nobody "
                                     "gets a role by it\n  try: groupadd {}   and sluice reload",
                                     group, group));
  }
  return access;
}

}  // namespace sluice
