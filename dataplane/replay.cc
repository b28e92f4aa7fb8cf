#include "dataplane/replay.h"

#include <algorithm>
#include <cassert>
#include <cstring>

#include "controlplane/compile.h"
#include "dataplane/classify.h"
#include "dataplane/parse.h"
#include "src/wire.h"

namespace sluice {
namespace {

// Sparse: a lookup table for each of limits::kServicesMax services of the larger size would not fit, and need
// not.
constexpr uint64_t kTablesBytes = 8ULL << 30;

void assume_up(Model& model, const ReplayNetwork& network) {
  for (Service& service : model.edit_all()) {
    for (Backend& backend : service.backends) {
      backend.health = Health::up;
      NextHop& hop = backend.next_hop;
      hop.resolved = true;
      hop.mtu_bytes = network.mtu_bytes;
      hop.mac = network.destination_mac;
      hop.source_mac = network.source_mac;
      hop.source = backend.config.address.is_v4() ? network.tunnel_source4 : network.tunnel_source6;
    }
  }
}

std::string endpoint(const IpAddress& address, uint16_t port_network_order) {
  const std::string text = address.is_v4() ? address.text() : "[" + address.text() + "]";
  return text + ":" + std::to_string(net16(port_network_order));
}

// Parsed on a copy: the stages may rewrite the packet.
std::string flow_text(Packet packet) {
  if (!parse_packet(packet)) return "";
  const uint8_t* ip = packet.data + sizeof(wire::Ethernet);
  const IpAddress source = packet.family == Family::v4
                               ? IpAddress::v4(reinterpret_cast<const wire::Ipv4*>(ip)->source)
                               : IpAddress::v6(reinterpret_cast<const wire::Ipv6*>(ip)->source);
  return std::string(packet.protocol == wire::kProtoTcp ? "tcp " : "udp ") +
         endpoint(source, packet.source_port) + " > " +
         endpoint(destination_of(packet), packet.destination_port);
}

const char* text(FlowHow how) {
  switch (how) {
    case FlowHow::hit:
      return "tracked flow";
    case FlowHow::created:
      return "new flow";
    case FlowHow::reselected:
      return "backend gone, selected afresh";
    case FlowHow::reused:
      return "port reused, selected afresh";
    case FlowHow::untracked:
      return "not tracked: no place, or its connection was reset";
    case FlowHow::reset:
      return "backend gone, client told";
    case FlowHow::stateless:
      return "stateless";
  }
  return "";
}

}  // namespace

Replay::Replay(Publisher publisher, Model model)
    : publisher_(std::move(publisher)),
      model_(std::move(model)),
      stats_memory_(Segment::anonymous(kStatsSegment, sizeof(StatsSegment))),
      stats_(&stats_memory_.as<StatsSegment>()),
      buckets_(size_t{1} << bucket_bits_for(limits::kFlowsPerWorkerDefault)),
      flows_(buckets_.data(), bucket_bits_for(limits::kFlowsPerWorkerDefault)),
      session_lines_(kSessionLinesMin),
      sessions_(session_lines_.data(), kSessionLinesMin),
      pipeline_(flows_, sessions_, stats_->workers[0], 1) {
  pending_.reserve(limits::kBatchMax);
}

Result<std::unique_ptr<Replay>> Replay::make(const Config& config, const ReplayNetwork& network) {
  Model model;
  reconcile(model, config);
  Publisher publisher = Publisher::anonymous(kTablesBytes);
  if (Result<sluice::Done> done = assign_ids(model, publisher.current(), 0, 0); !done) return done.error();
  assume_up(model, network);
  Result<Compiled> compiled = compile(model, publisher, nullptr);
  if (!compiled) return compiled.error();
  return std::unique_ptr<Replay>(new Replay(std::move(publisher), std::move(model)));
}

Result<sluice::Done> Replay::fail_before(uint64_t number, const std::string& service,
                                         const std::string& backend) {
  for (uint32_t s = 0; s < model_.services().size(); s++) {
    const Service& found = model_.services()[s];
    if (found.config.name != service) continue;
    if (found.config.health.type == HealthConfig::Type::none)
      return Error{"service '" + service + "' has no health checks: its backends cannot fail", ""};
    for (uint32_t b = 0; b < found.backends.size(); b++) {
      if (found.backends[b].config.name != backend) continue;
      failures_.emplace(number, BackendPlace{s, b});
      return sluice::Done{};
    }
  }
  return Error{"the configuration has no backend '" + service + "/" + backend + "'", ""};
}

void Replay::let_fail(const Done& done) {
  flush(done);
  for (auto due = failures_.begin(); due != failures_.end() && due->first <= count_ + 1;
       due = failures_.erase(due)) {
    model_.set_health(due->second, Health::down, uint64_t{now_s_} * 1'000'000'000);
  }
  const Result<Compiled> compiled = compile(model_, publisher_, nullptr);
  assert(compiled);  // an equal generation fitted
  publisher_.reclaim(compiled->generation);
}

void Replay::add(uint64_t time_us, const uint8_t* data, uint32_t captured_bytes, uint32_t bytes,
                 const Done& done) {
  if (!failures_.empty() && failures_.begin()->first <= count_ + 1) let_fail(done);
  const bool same_second = pending_.empty() || pending_.back().time_us / 1'000'000 == time_us / 1'000'000;
  if (batch_.count == limits::kBatchMax || !same_second) flush(done);

  Pending& frame = pending_.emplace_back();
  frame.number = ++count_;
  frame.time_us = time_us;
  frame.buffer.resize(limits::kHeadroomBytes + captured_bytes);
  uint8_t* start = frame.buffer.data() + limits::kHeadroomBytes;
  std::memcpy(start, data, captured_bytes);
  frame.flow = flow_text(batch_.add(start, bytes, captured_bytes, limits::kHeadroomBytes, 0));
}

// As a worker's sweep, second by second, would leave the table; a gap longer than any timeout leaves nothing.
void Replay::go_on_to(uint32_t second) {
  constexpr uint32_t kNothingRestsS = limits::kIdleTimeoutMax + limits::kSweepPeriodMax;
  if (now_s_ != 0 && second > now_s_ && second - now_s_ > kNothingRestsS) now_s_ = second - kNothingRestsS;
  while (second > now_s_) {
    now_s_ = now_s_ == 0 ? second : std::min(second, now_s_ + FlowTable::kRescanMax);
    pipeline_.tracker().sweep(flows_.groups(), UINT32_MAX, publisher_.current(), now_s_);
    if (stats_->workers[0].sessions.active.get() != 0)
      pipeline_.tracker().sweep_sessions(UINT64_MAX, publisher_.current(), now_s_);
  }
}

void Replay::flush(const Done& done) {
  if (batch_.count == 0) return;
  // Captures of several queues are not quite in order; time does not go back.
  go_on_to(static_cast<uint32_t>(pending_.front().time_us / 1'000'000));
  pipeline_.process(batch_, publisher_.current(), now_s_);
  pipeline_.account(batch_);
  for (uint32_t i = 0; i < batch_.count; i++) {
    done({pending_[i].number, pending_[i].time_us, pending_[i].flow, &batch_.packets[i]});
  }
  batch_.clear();
  pending_.clear();
}

std::string Replay::verdict_text(const Packet& packet) const {
  if (packet.verdict == Verdict::refused) {
    const ReasonInfo& reason = info(packet.reason);
    return std::string(reason.kind == ReasonKind::pass ? "pass " : "drop ") + std::string(reason.name) +
           ": " + std::string(reason.text);
  }
  const TablesView tables = publisher_.current();
  const BackendCold& cold = tables.backend_cold(packet.backend);
  const std::string where = std::string(tables.service_cold(packet.service).name) + "/" + cold.name;
  if (packet.verdict == Verdict::answer) {
    return packet.how == FlowHow::reset ? "answer tcp_reset: its backend " + where + " is gone"
                                        : "answer packet_too_big: does not fit on the way to " + where;
  }
  std::string address;
  for (const Service& service : model_.services()) {
    for (const Backend& backend : service.backends) {
      if (backend.id == packet.backend) address = backend.config.address.text();
    }
  }
  return "forward " + where + " " + address + " (" + text(packet.how) + ")";
}

}  // namespace sluice
