#include "controlplane/explain.h"

#include <algorithm>
#include <iterator>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "controlplane/endpoint.h"
#include "controlplane/escaped.h"
#include "controlplane/flow_census.h"
#include "controlplane/message.h"
#include "controlplane/report.h"
#include "controlplane/room.h"
#include "controlplane/session_registry.h"
#include "controlplane/takers.h"
#include "controlplane/totals.h"
#include "src/flow_key.h"
#include "src/flow_layout.h"
#include "src/reason.h"
#include "src/session_key.h"
#include "src/wire.h"

namespace sluice {
namespace {

using nlohmann::json;

Error bad_endpoint(const char* which, std::string_view text) {
  return {fmt::format("{} '{}' is not ADDRESS:PORT", which, quotable(text)),
          "write 192.0.2.1:4000 or [2001:db8::1]:4000"};
}

uint64_t hash_of(const FlowQuestion& q, const HashSecret& secret) {
  if (q.vip.is_v4()) {
    return flow_hash(FlowKey4{q.client.v4_network_order(), q.vip.v4_network_order(), net16(q.client_port),
                              net16(q.vip_port), q.protocol},
                     secret);
  }
  return flow_hash(FlowKey6{q.client.bytes, q.vip.bytes, net16(q.client_port), net16(q.vip_port), q.protocol},
                   secret);
}

// What a worker holds of this flow, if any does.
std::optional<FlowSeen> tracked_flow(const Daemon& daemon, uint64_t hash) {
  const Result<Segment> flows = Segment::open_reader(daemon.options().directory, kFlowsSegment);
  if (!flows || !holds_its_tables(flows->base(), flows->size()) ||
      flows->as<const FlowsHeader>().tables_incarnation != daemon.publisher().header().incarnation) {
    return std::nullopt;
  }
  FlowSeen seen;
  const auto now_s = static_cast<uint32_t>(monotonic_ns() / 1'000'000'000);
  if (!find_flow(flows->base(), hash, now_s, seen)) return std::nullopt;
  return seen;
}

// Whom a new flow of this hash would get if that backend were taken out: by a lookup table made for it, with
// what that would make of the service. `first`: who is asked before the table is. nullptr: nobody. Valid
// while `without` is.
template <typename HasRoom>
const Backend* choice_without(const Service& service, BackendId gone, std::optional<BackendId> first,
                              uint64_t hash, Service& without, uint32_t workers, const HasRoom& has_room) {
  without = service;
  for (Backend& backend : without.backends) {
    if (backend.id == gone) backend.admin = Admin::maint;
  }
  without.standing = judge(without);
  const std::vector<Taker> takers = takers_of(without);
  const TakersTable table = table_of(service.config.method, takers, service.config.lookup_slots);
  if (table.slots.empty()) return nullptr;
  std::vector<BackendId> members;
  for (const Taker& taker : takers)
    members.push_back(taker.id);
  const auto select = [&](uint64_t of) {
    return std::optional(members[table.slots[lookup_slot(of, service.config.lookup_slots)]]);
  };
  const std::optional<BackendId> next =
      find_room(first ? *first : *select(hash), hash, select, members, workers, has_room).backend;
  if (!next) return nullptr;
  return &*std::find_if(without.backends.begin(), without.backends.end(),
                        [&](const Backend& backend) { return backend.id == *next; });
}

// Collects the answer step by step.
class Explanation {
 public:
  Explanation(const Daemon& daemon, const FlowQuestion& question)
      : daemon_(daemon), question_(question), tables_(daemon.publisher().current()) {}

  json run() {
    out_ = ok_response();
    out_["protocol"] = protocol_text(question_.protocol);
    out_["client"] = fmt::format("{} port {}", question_.client.text(), question_.client_port);
    out_["vip"] = fmt::format("{} port {}", question_.vip.text(), question_.vip_port);
    out_["generation"] = tables_.generation().number;
    out_["why"] = json::array();
    const ServiceId id = tables_.find_service(question_.vip, net16(question_.vip_port), question_.protocol);
    const Service* service = service_of(id);
    if (service == nullptr) return end("pass", Reason::no_service);
    service_ = id;
    out_["service"] = service->config.name;
    out_["forward"] = sluice::text(service->config.forward);
    say("service {} has this VIP, protocol and {}", service->config.name,
        service->config.port == 0 ? "any port" : "port");

    const ServiceRecord& record = tables_.service(id);
    if (!question_.key.empty() && (record.flags & ServiceRecord::kByKey) == 0) {
      return error_response(kCodeBadRequest,
                            {fmt::format("service '{}' has no keys: its affinity is {}", service->config.name,
                                         text(service->config.affinity)),
                             "leave the key out"});
    }
    if (has_sessions(record) && ((record.flags & ServiceRecord::kByKey) == 0 || !question_.key.empty())) {
      const std::string key = question_.key.empty() ? question_.client.text() : question_.key;
      const Result<uint64_t> named = session_of_key(key, record, tables_.generation().secret);
      if (!named) return error_response(kCodeBadRequest, named.error());
      session_ = *named;
    }
    // Of a service with keys the flow is what the key says.
    const uint64_t hash =
        question_.key.empty() ? hash_of(question_, tables_.generation().secret) : *session_ + flow_mark(id);
    if (has_sessions(record) && !session_)
      say("this is a packet without a key (--key): tracked by its addresses and ports, of no session");
    out_["hash"] = fmt::format("{:016x}", hash);
    out_["method"] = name_of(service->config.method);
    const bool stateless = service->config.affinity == Affinity::none;
    if (stateless) say("it has no affinity: each packet goes by the lookup table alone");
    const std::optional<BackendId> kept = stateless ? std::nullopt : from_flow_table(id, hash);
    const uint64_t choice = service->config.method == Method::source_hash
                                ? client_hash(question_.client, tables_.generation().secret)
                                : hash;
    if (resets_) return end_with_reset(*service, choice);
    const std::optional<BackendId> follows = session_ ? from_session(*service, record) : std::nullopt;
    const std::optional<BackendId> chosen = kept ? kept : session_ ? follows : of_new_flow(*service, choice);
    if (!chosen) return end("drop", refused_);
    if (kept && session_ && !follows && refused_ == Reason::backends_full)
      say("a new connection would be refused");
    if_gone(*service, *chosen, choice);
    return forward_to(*service, *chosen);
  }

 private:
  template <typename... Args>
  void say(fmt::format_string<Args...> format, Args&&... args) {
    out_["why"].push_back(fmt::format(format, std::forward<Args>(args)...));
  }

  json end(const char* verdict, Reason reason) {
    out_["verdict"] = verdict;
    out_["reason"] = info(reason).name;
    say("{}: {}", info(reason).name, info(reason).text);
    return out_;
  }

  const Service* service_of(ServiceId id) const {
    for (const Service& service : daemon_.model().services()) {
      if (id != kNoService && service.id == id) return &service;
    }
    return nullptr;
  }

  const Backend* backend_of(const Service& service, BackendId id) const {
    for (const Backend& backend : service.backends) {
      if (backend.id == id) return &backend;
    }
    return nullptr;
  }

  // The backend that the flow stays with; nothing for a flow that is new or must be selected afresh.
  std::optional<BackendId> from_flow_table(ServiceId service, uint64_t hash) {
    const std::optional<FlowSeen> seen = tracked_flow(daemon_, hash);
    if (!seen) {
      say("no worker tracks this flow: it counts as new");
      return std::nullopt;
    }
    const BackendRecord& record = tables_.backend(seen->backend);
    const std::string name = tables_.backend_cold(seen->backend).name;
    out_["flow"] = {
        {"worker", seen->worker}, {"backend", name}, {"state", text(seen->state)}, {"idle_s", seen->idle_s}};
    say("worker {} tracks this flow: {}, backend {}, last packet {} s ago", seen->worker, text(seen->state),
        name, seen->idle_s);
    ended_on_ = seen->backend;
    if (record.service != service || (record.flags & BackendRecord::kAlive) == 0) {
      const bool told = (tables_.service(service).flags & ServiceRecord::kResets) != 0 ||
                        (record.flags & BackendRecord::kResets) != 0;
      resets_ = told && question_.protocol == wire::kProtoTcp;
      say("{} has failed, is in maintenance or was removed: the flow is {}", name.empty() ? "it" : name,
          resets_ ? "forgotten, and its client told by a reset" : "selected afresh");
      return std::nullopt;
    }
    if (seen->idle_s > idle_timeout_s(tables_.service(service), seen->state)) {
      say("its idle timeout has passed: the flow is selected afresh");
      return std::nullopt;
    }
    if (seen->state == FlowState::closing) say("a SYN would be selected afresh: the flow is closing");
    ended_on_.reset();
    return seen->backend;
  }

  std::optional<BackendId> from_lookup_table(const Service& service, uint64_t hash) {
    const ServiceRecord& record = tables_.service(service.id);
    for (const Backend& backend : service.backends) {
      const std::string why_not = why_no_new_flows(service, backend);
      if (!why_not.empty()) say("{} takes no new flows: {}", backend.config.name, why_not);
    }
    if (record.lookup == 0) return std::nullopt;
    const uint32_t slot = lookup_slot(hash, record.lookup_slots);
    const BackendId id = tables_.select(record, hash);
    out_["slot"] = slot;
    out_["slots"] = record.lookup_slots;
    say_method(service);
    say("slot {} of {} in the lookup table is {}'s", slot, record.lookup_slots,
        tables_.backend_cold(id).name);
    return id;
  }

  // What of its limits it has reached; empty: it has room. Counted once, so that one answer does not
  // contradict itself.
  const std::string& why_full(BackendId id, bool for_session) {
    const auto [known, is_new] = full_.try_emplace({index(id), for_session});
    if (is_new) known->second = limit_reached(id, for_session);
    return known->second;
  }
  std::string limit_reached(BackendId id, bool for_session) const {
    const StatsSegment* stats = daemon_.dataplane().stats();
    const BackendCold& limits = tables_.backend_cold(id);
    if (stats == nullptr || (tables_.service(service_).flags & ServiceRecord::kCapped) == 0) return "";
    if (limits.max_flows != 0) {
      const uint64_t flows = flows_active(*stats, id);
      // What is selected afresh gives its own place up first.
      if (flows - (flows != 0 && ended_on_ == id ? 1 : 0) >= limits.max_flows)
        return fmt::format("{} flows (max_flows {})", flows, limits.max_flows);
    }
    if (for_session && limits.max_sessions != 0) {
      const uint64_t sessions = sessions_active(*stats, id);
      if (sessions >= limits.max_sessions)
        return fmt::format("{} sessions (max_sessions {})", sessions, limits.max_sessions);
    }
    return "";
  }
  bool has_room(BackendId id, bool for_session) { return why_full(id, for_session).empty(); }

  uint32_t workers() const {
    const StatsSegment* stats = daemon_.dataplane().stats();
    return stats == nullptr ? 1 : stats->header.workers_count;
  }

  void say_full(const std::vector<BackendId>& full, bool for_session) {
    constexpr size_t kNamed = 8;
    for (size_t i = 0; i < std::min(full.size(), kNamed); i++)
      say("{} is full: it has {}", tables_.backend_cold(full[i]).name, why_full(full[i], for_session));
    if (full.size() > kNamed) say("{} others that were asked are full, too", full.size() - kNamed);
  }

  // A new flow's backend, chosen by this hash or else: if that is full, the next choice that is not:
  // dataplane/track_caps.cc in words.
  std::optional<BackendId> with_room(std::optional<BackendId> chosen, uint64_t hash, bool for_session) {
    if (!chosen || has_room(*chosen, for_session)) return chosen;
    const ServiceRecord& record = tables_.service(service_);
    const Room room = find_room(
        *chosen, hash,
        [&](uint64_t next) {
          return record.lookup == 0 ? std::nullopt : std::optional(tables_.select(record, next));
        },
        tables_.members(record), workers(), [&](BackendId id) { return has_room(id, for_session); });
    say_full(room.full, for_session);
    if (room.backend) {
      say("the next choice that has room is {}", tables_.backend_cold(*room.backend).name);
    } else if (record.lookup != 0) {
      refused_ = Reason::backends_full;
    }
    return room.backend;
  }

  // Of no session. Methods that look at more than the packet: where it would go by the lookup table, unless
  // there is nobody whom they could choose.
  std::optional<BackendId> of_new_flow(const Service& service, uint64_t hash) {
    const std::optional<BackendId> chosen = from_lookup_table(service, hash);
    if (!chosen || !needs_flow_table(service.config.method)) return with_room(chosen, hash, false);
    std::vector<BackendId> full;
    const auto members = tables_.members(tables_.service(service.id));
    std::copy_if(members.begin(), members.end(), std::back_inserter(full),
                 [&](BackendId id) { return !has_room(id, false); });
    say_full(full, false);
    if (full.size() < members.size()) return chosen;
    refused_ = Reason::backends_full;
    return std::nullopt;
  }

  // Where the lookup table is not all, or not asked by the flow.
  void say_method(const Service& service) {
    const Method method = service.config.method;
    if (method == Method::maglev) return;
    std::string how = fmt::format("its method is {}", name_of(method));
    if (method == Method::source_hash) how += ": the client's address alone decides";
    if (needs_flow_table(method)) {
      how += fmt::format(
          ": a new {} goes to {}; by the lookup table goes what began elsewhere, or has no place in "
          "the flow table",
          question_.protocol == wire::kProtoTcp ? "connection" : "flow", whom_by(service));
    }
    say("{}", how);
  }

  // The method's choice, as far as it can be told from here.
  std::string whom_by(const Service& service) const {
    switch (service.config.method) {
      case Method::round_robin:
      case Method::weighted_round_robin:
        return "the next in turn";
      case Method::random:
        return "any, by weight";
      case Method::power_of_two:
        return "the one of two drawn by weight that has fewer active flows for its weight";
      default:
        break;
    }
    const StatsSegment* stats = daemon_.dataplane().stats();
    const std::vector<Taker> takers = takers_of(service);
    if (stats == nullptr || takers.empty()) return "the one with the fewest active flows for its weight";
    const auto load = [&](const Taker& taker) {
      return static_cast<double>(flows_active(*stats, taker.id) + 1) / taker.weight;
    };
    const Taker& least = *std::min_element(takers.begin(), takers.end(),
                                           [&](const Taker& a, const Taker& b) { return load(a) < load(b); });
    return fmt::format("the one with the fewest active flows for its weight, now {} with {}", least.name,
                       flows_active(*stats, least.id));
  }

  // Where a new connection goes by its session: dataplane/track_session.cc in words.
  std::optional<BackendId> from_session(const Service& service, const ServiceRecord& record) {
    const uint32_t now_s = session_now_s();
    const Result<SessionRegistry> registry =
        SessionRegistry::open(daemon_.options().directory, daemon_.publisher().header().incarnation);
    const std::optional<SessionSeen> seen = registry ? registry->find(*session_) : std::nullopt;
    if (!seen || !is_in_force(seen->session, tables_, now_s)) {
      say("it has no session: a new connection goes by the lookup table, by the hash of {} alone, and makes "
          "one",
          question_.key.empty() ? "its client's address" : "its key");
      return with_room(from_lookup_table(service, *session_), *session_, true);
    }
    const SessionValue& session = seen->session;
    const bool is_pinned = sluice::is_pinned(session.kind);
    named_ = session.backend;
    out_["session"] = report_session(*seen, tables_, now_s);
    say("its session: {}, made {} s ago{}", session_text(session, tables_, now_s), age_s(session, now_s),
        is_pinned ? "" : fmt::format(", last seen {} s ago", since_s(session.last_s, now_s)));
    const uint64_t next = next_choice(*session_, tables_.backend(session.backend));
    const std::optional<BackendId> own = tables_.own_backend(service.id, session.backend);
    if (!own) {
      say("that is a backend of another service of its group, and {} has none of that name",
          service.config.name);
      return lend(service, session.backend, next);
    }
    const std::string name = tables_.backend_cold(*own).name;
    const uint8_t flags = tables_.backend(*own).flags;
    const bool is_alive = (flags & (BackendRecord::kAlive | BackendRecord::kSorry)) == BackendRecord::kAlive;
    const bool is_well =
        is_alive && (flags & BackendRecord::kFailed) == 0 && (flags & BackendRecord::kResolved) != 0;
    if ((flags & BackendRecord::kMigrates) != 0 && !is_pinned) {
      say("{} drains, and its sessions go elsewhere with their next connection", name);
      return with_room(from_lookup_table(service, next), next, true);
    }
    if (is_well) {
      say("a new connection {} to {} as well", has_room(*own, false) ? "goes" : "belongs", name);
      return own_or_lent(*own);
    }
    if (is_alive && record.on_failure == SessionFailure::keep) {
      say("{} is down: a new connection waits for it (on_failure = \"keep\")", name);
      return own_or_lent(*own);
    }
    const bool stays = record.on_failure == SessionFailure::rehash && !is_pinned;
    say("{} is down: a new connection goes by the lookup table, {}", name,
        stays ? "and stays there" : "until it is well");
    if (!stays) return lend(service, *own, next);
    return with_room(from_lookup_table(service, next), next, true);
  }

  // This connection to another: the session stays with `from`.
  std::optional<BackendId> lend(const Service& service, BackendId from, uint64_t hash) {
    lent_ = {from, std::nullopt, hash};
    return with_room(from_lookup_table(service, hash), hash, false);
  }
  // If it has all its flows. Sessions it may have as many as it has: this one is there.
  std::optional<BackendId> own_or_lent(BackendId own) {
    if (has_room(own, false)) return own;
    lent_ = {own, own, *session_};
    const std::optional<BackendId> to = with_room(own, *session_, false);
    if (to) say("it is lent this connection; the session stays with {}", tables_.backend_cold(own).name);
    return to;
  }

  bool names_by_pin() const { return out_.contains("session") && out_["session"]["kind"] == "pinned"; }

  // What a failure of the backend would mean for the session.
  std::string session_if_gone(const std::string& name, const std::string& whom, bool is_nobody) const {
    const bool is_pinned = names_by_pin();
    const SessionFailure on_failure = tables_.service(service_).on_failure;
    if (on_failure == SessionFailure::keep)
      return fmt::format("if {} failed: new connections would wait for it", name);
    const bool stays = on_failure == SessionFailure::rehash && !is_pinned;
    if (is_nobody) return fmt::format("if {} failed: new connections to {}", name, whom);
    return fmt::format("if {} failed: new connections to {}, {}", name, whom,
                       stays ? "and they would stay there" : "until it is well");
  }

  // What a failure of the backend would mean for this flow.
  void if_gone(const Service& service, BackendId id, uint64_t hash) {
    const std::string name = tables_.backend_cold(id).name;
    // A connection that is lent goes where its session lends it next; else the session goes, too.
    const bool is_lent = lent_ && lent_->from != id;
    const bool moves = session_ && !is_lent;
    const uint64_t next_hash = is_lent ? lent_->hash
                               : moves ? next_choice(*session_, tables_.backend(named_.value_or(id)))
                                       : hash;
    const bool for_session =
        moves && tables_.service(service_).on_failure == SessionFailure::rehash && !names_by_pin();
    Service without;
    const Backend* next =
        choice_without(service, id, is_lent ? lent_->first : std::nullopt, next_hash, without, workers(),
                       [&](BackendId other) { return has_room(other, for_session); });
    const OnFailure on_failure = service.config.policy.on_failure;
    const bool is_tracked = out_.contains("flow");
    const bool told = is_tracked && on_failure == OnFailure::reset && question_.protocol == wire::kProtoTcp;
    out_["if_gone"] = {{"backend", next == nullptr ? "" : next->config.name},
                       {"reset", told},
                       {"keeps", is_tracked && on_failure == OnFailure::keep}};
    const std::string whom = next != nullptr              ? next->config.name
                             : takers_of(without).empty() ? "nobody, no other backend takes new flows"
                                                          : "nobody, the other backends are full";
    if (moves) say("{}", session_if_gone(name, whom, next == nullptr));
    if (moves && !told && !(is_tracked && on_failure == OnFailure::keep)) return;
    if (told) {
      say("if {} were gone: a reset to the client, and its next connection to {}", name, whom);
    } else if (is_tracked && on_failure == OnFailure::keep) {
      say("if {} failed, this flow would stay with it; a new one would go to {}", name, whom);
    } else {
      say("if {} were gone: {}", name, whom);
    }
  }

  json end_with_reset(const Service& service, uint64_t hash) {
    out_["verdict"] = "answer";
    out_["reason"] = "tcp_reset";
    const std::optional<BackendId> next =
        session_ ? from_session(service, tables_.service(service.id)) : of_new_flow(service, hash);
    if (!next) say("its next connection is refused: {}", info(refused_).text);
    if (next) say("its next connection goes to {}", tables_.backend_cold(*next).name);
    return out_;
  }

  json forward_to(const Service& service, BackendId id) {
    const BackendRecord& record = tables_.backend(id);
    out_["backend"] = tables_.backend_cold(id).name;
    if (const Backend* backend = backend_of(service, id)) {
      out_["address"] = backend->config.address.text();
      out_["next_hop"] = report_next_hop(backend->next_hop);
      const std::string why_not = why_no_new_flows(service, *backend);
      if (out_.contains("flow") && !why_not.empty()) {
        say("{} keeps this flow but takes no new ones: {}", backend->config.name, why_not);
      }
    }
    if ((record.flags & BackendRecord::kResolved) == 0) return end("drop", Reason::next_hop_unresolved);
    MacAddress mac;
    std::memcpy(mac.bytes.data(), record.destination_mac(), mac.bytes.size());
    say("sent by {} to {} on port {}", sluice::text(service.config.forward), mac.text(), record.port);
    out_["verdict"] = "forward";
    return out_;
  }

  const Daemon& daemon_;
  const FlowQuestion& question_;
  const TablesView tables_;
  ServiceId service_ = kNoService;
  std::optional<uint64_t> session_;  // its hash, if the flow is of one
  std::optional<BackendId> named_;   // the backend that it names, if it is there
  // Where the session sends a new connection that its own backend cannot have, if so.
  struct Lent {
    BackendId from;                  // the session's
    std::optional<BackendId> first;  // asked before the lookup table is
    uint64_t hash;
  };
  std::optional<Lent> lent_;
  std::map<std::pair<uint32_t, bool>, std::string> full_;  // why_full(), as it was when first asked
  std::optional<BackendId> ended_on_;                      // its backend so far, if it is selected afresh
  Reason refused_ = Reason::no_backend;                    // why a new flow is, if nobody is chosen
  bool resets_ = false;  // the flow's client is told that its backend is gone
  json out_;
};

}  // namespace

Result<FlowQuestion> parse_flow_question(std::string_view protocol, std::string_view client,
                                         std::string_view vip) {
  FlowQuestion question;
  if (protocol == "tcp") {
    question.protocol = wire::kProtoTcp;
  } else if (protocol == "udp") {
    question.protocol = wire::kProtoUdp;
  } else {
    return Error{fmt::format("protocol '{}' is neither tcp nor udp", quotable(protocol)), ""};
  }
  const std::optional<Endpoint> from = parse_endpoint(client);
  const std::optional<Endpoint> to = parse_endpoint(vip);
  if (!from) return bad_endpoint("the client", client);
  if (!to) return bad_endpoint("the VIP", vip);
  if (from->address.family() != to->address.family()) {
    return Error{"client and VIP are of different IP versions: no packet can be from one to the other", ""};
  }
  question.client = from->address;
  question.client_port = from->port;
  question.vip = to->address;
  question.vip_port = to->port;
  return question;
}

json explain(const Daemon& daemon, const FlowQuestion& question) {
  return Explanation(daemon, question).run();
}

}  // namespace sluice
