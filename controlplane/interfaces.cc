#include "controlplane/interfaces.h"

#include <fmt/format.h>

#include "controlplane/commands.h"
#include "controlplane/daemon.h"

namespace sluice {

Interfaces::Interfaces(boost::asio::io_context& io, Daemon& daemon) : io_(io), daemon_(daemon) {}

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
  config_ = config;
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
