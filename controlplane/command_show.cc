// Commands that show and change nothing.
#include <array>
#include <functional>
#include <memory>

#include <boost/asio/post.hpp>
#include <fmt/format.h>

#include "controlplane/command_parts.h"
#include "controlplane/explain.h"
#include "controlplane/flow_census.h"
#include "controlplane/message.h"
#include "controlplane/report.h"

namespace sluice {
namespace {

using nlohmann::json;

void show_services(Daemon& daemon, const json&, uint64_t, const Reply& reply) {
  reply(report_services(daemon));
}

void step(Daemon& daemon, const std::shared_ptr<BackendsReport>& report, const Reply& reply) {
  if (!report->step()) return reply(report->take());
  boost::asio::post(daemon.io(), [&daemon, report, reply] { step(daemon, report, reply); });
}

void show_backends(Daemon& daemon, const json& request, uint64_t, const Reply& reply) {
  const std::string only = text_of(request, "service").value_or("");
  const std::string backend = text_of(request, "backend").value_or("");
  if (!backend.empty() && !daemon.find_backend(only, backend))
    return reply(error_response(kCodeNotFound, no_such_backend(daemon.model(), only, backend)));
  if (only.empty() || daemon.model().find_service(only) != nullptr)
    return step(daemon, std::make_shared<BackendsReport>(daemon, only, backend), reply);
  reply(error_response(kCodeNotFound, no_such_service(daemon.model(), only)));
}

void show_dataplane(Daemon& daemon, const json&, uint64_t, const Reply& reply) {
  reply(report_dataplane(daemon));
}

void show_generation(Daemon& daemon, const json&, uint64_t, const Reply& reply) {
  reply(report_generation(daemon));
}

// The name of a backend's id as the tables have it: flows may name one that is gone.
json backend_of_flows(const TablesView& tables, BackendId id) {
  const BackendCold& cold = tables.backend_cold(id);
  const bool is_gone = cold.name[0] == '\0';
  return {{"service", is_gone ? "" : tables.service_cold(cold.service).name},
          {"backend", is_gone ? "" : cold.name}};
}

json report_flows(const TablesView& tables, const FlowCensus& census,
                  const std::function<bool(BackendId)>& is_shown) {
  json response = ok_response();
  response["workers"] = census.workers;
  response["capacity"] = census.capacity;
  response["backends"] = json::array();
  response["flows"] = json::array();
  uint64_t total = 0;
  for (const auto& [id, by_state] : census.counts) {
    for (const uint64_t count : by_state)
      total += count;
    if (!is_shown(id)) continue;
    json entry = backend_of_flows(tables, id);
    uint64_t sum = 0;
    // Two states have one name: they add up.
    for (const FlowState state : {FlowState::syn, FlowState::midstream, FlowState::udp_new,
                                  FlowState::established, FlowState::closing, FlowState::udp})
      entry[text(state)] = 0;
    for (size_t state = 1; state < by_state.size(); state++) {
      const char* name = text(static_cast<FlowState>(state));
      entry[name] = entry[name].get<uint64_t>() + by_state[state];
      sum += by_state[state];
    }
    entry["total"] = sum;
    response["backends"].push_back(std::move(entry));
  }
  response["total"] = total;
  for (const FlowCensus::Listed& flow : census.listed) {
    json entry = backend_of_flows(tables, flow.seen.backend);
    entry.update({{"hash", fmt::format("{:016x}", flow.hash)},
                  {"worker", flow.seen.worker},
                  {"state", text(flow.seen.state)},
                  {"idle_s", flow.seen.idle_s}});
    response["flows"].push_back(std::move(entry));
  }
  return response;
}

// Of all backends, or of one service's, or of one.
void show_flows(Daemon& daemon, const json& request, uint64_t, const Reply& reply) {
  const std::string service = text_of(request, "service").value_or("");
  const std::string backend = text_of(request, "backend").value_or("");
  if (!service.empty() && daemon.model().find_service(service) == nullptr)
    return reply(error_response(kCodeNotFound, no_such_service(daemon.model(), service)));
  if (!backend.empty() && !daemon.find_backend(service, backend))
    return reply(error_response(kCodeNotFound, no_such_backend(daemon.model(), service, backend)));
  const auto list = request.find("list");
  const size_t listed = list != request.end() ? list->get<size_t>() : 0;
  const auto is_shown = [&daemon, service, backend](BackendId id) {
    if (service.empty()) return true;
    const json names = backend_of_flows(daemon.publisher().current(), id);
    return names["service"] == service && (backend.empty() || names["backend"] == backend);
  };
  take_flow_census(daemon.io(), daemon.options().directory, daemon.publisher().header().incarnation, listed,
                   is_shown, [&daemon, reply, is_shown](const Result<FlowCensus>& census) {
                     if (!census) return reply(error_response(kCodeFailed, census.error()));
                     reply(report_flows(daemon.publisher().current(), *census, is_shown));
                   });
}

void explain_flow(Daemon& daemon, const json& request, uint64_t, const Reply& reply) {
  const auto protocol = text_of(request, "protocol");
  const auto client = text_of(request, "client");
  const auto vip = text_of(request, "vip");
  if (!protocol) return reply(missing("protocol", "\"tcp\" or \"udp\""));
  if (!client) return reply(missing("client", "ADDRESS:PORT"));
  if (!vip) return reply(missing("vip", "ADDRESS:PORT"));
  Result<FlowQuestion> question = parse_flow_question(*protocol, *client, *vip);
  if (question) question->key = text_of(request, "key").value_or("");
  reply(question ? explain(daemon, *question) : error_response(kCodeBadRequest, question.error()));
}

}  // namespace

std::span<const Command> show_commands() {
  static constexpr std::array kCommands = {
      Command{"show.services", "", show_services, Role::read},
      Command{"show.backends", "service backend", show_backends, Role::read},
      Command{"show.dataplane", "", show_dataplane, Role::read},
      Command{"show.generation", "", show_generation, Role::read},
      Command{"show.flows", "service backend list", show_flows, Role::read},
      Command{"explain", "protocol client vip key", explain_flow, Role::read},
  };
  return kCommands;
}

}  // namespace sluice
