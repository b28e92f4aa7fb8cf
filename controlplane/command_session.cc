// Commands about sessions: what the table holds, and pins.
#include <array>
#include <charconv>
#include <map>
#include <memory>

#include <boost/asio/post.hpp>
#include <fmt/format.h>

#include "controlplane/command_parts.h"
#include "controlplane/counters.h"
#include "controlplane/escaped.h"
#include "controlplane/message.h"
#include "controlplane/report.h"
#include "controlplane/session_registry.h"
#include "src/session_key.h"

namespace sluice {
namespace {

using nlohmann::json;

constexpr uint64_t kListedDefault = 20;
constexpr uint64_t kListedMax = 10'000;
constexpr std::string_view kByHash = "hash:";

// ---- What a request names

struct Named {
  const Service* service = nullptr;
  ServiceRecord record{};
  uint64_t hash = 0;
};

Result<Named> named_service(const Daemon& daemon, const std::string& name) {
  const Result<const Service*> service = service_with_sessions(daemon, name);
  if (!service) return service.error();
  return Named{*service, daemon.publisher().current().service((*service)->id), 0};
}

// Of one group, or the same service?
bool shares_sessions(const ServiceRecord& a, const ServiceRecord& b) {
  return has_sessions(a) && has_sessions(b) && a.session_salt == b.session_salt;
}

Result<SessionRegistry> open_registry(const Daemon& daemon) {
  return SessionRegistry::open(daemon.options().directory, daemon.publisher().header().incarnation);
}

// What a key's session is, in force.
std::optional<SessionSeen> look_up(const Daemon& daemon, uint64_t hash) {
  const Result<SessionRegistry> registry = open_registry(daemon);
  if (!registry) return std::nullopt;
  const std::optional<SessionSeen> seen = registry->find(hash);
  if (!seen || !is_in_force(seen->session, daemon.publisher().current(), session_now_s()))
    return std::nullopt;
  return seen;
}

// By its key, or by the hash that `session show` lists: nobody may know the key of a pin that is there, and a
// changed prefix leaves pins that no key names.
Result<Named> named_session(const Daemon& daemon, const std::string& service, const std::string& key) {
  Result<Named> named = named_service(daemon, service);
  if (!named) return named;
  if (key.starts_with(kByHash)) {
    const char* const end = key.data() + key.size();
    const size_t digits = key.size() - kByHash.size();
    const auto [stop, fault] = std::from_chars(key.data() + kByHash.size(), end, named->hash, 16);
    if (digits != 16 || fault != std::errc() || stop != end)
      return Error{fmt::format("'{}' is not {} and 16 hex digits", quotable(key), kByHash),
                   "sluice session show"};
    const TablesView tables = daemon.publisher().current();
    const std::optional<SessionSeen> seen = look_up(daemon, named->hash);
    if (seen && shares_sessions(tables.service(tables.backend(seen->session.backend).service), named->record))
      return named;
    return Error{fmt::format("{} has no session of this hash", service), "sluice session show"};
  }
  const Result<uint64_t> hash =
      session_of_key(key, named->record, daemon.publisher().current().generation().secret);
  if (!hash) return hash.error();
  named->hash = session_identity(*hash);
  return named;
}

Result<const Backend*> named_backend(const Service& service, const std::string& name) {
  std::string all;
  for (const Backend& backend : service.backends) {
    if (backend.config.name == name) {
      if (!backend.config.sorry) return &backend;
      return Error{fmt::format("{} is a sorry backend of {}: no session names it", name, service.config.name),
                   ""};
    }
    if (all.size() < 200) all += (all.empty() ? "" : ", ") + backend.config.name;
  }
  return Error{fmt::format("{} is not a backend of {}: {}", quotable(name), service.config.name, all),
               "sluice show backends"};
}

// Of any service that has sessions.
Result<Done> known_backend(const Daemon& daemon, const std::string& name) {
  std::vector<std::string_view> names;
  std::optional<Error> sorry;
  for (const Service& service : daemon.model().services()) {
    if (!has_sessions(daemon.publisher().current().service(service.id))) continue;
    for (const Backend& backend : service.backends) {
      if (!backend.config.sorry) names.push_back(backend.config.name);
      if (backend.config.name != name) continue;
      if (!backend.config.sorry) return Done{};
      sorry = named_backend(service, name).error();
    }
  }
  if (sorry) return *sorry;
  return with_suggestion(fmt::format("no service with sessions has a backend '{}'", quotable(name)), name,
                         names, "sluice show backends");
}

// ---- show

struct Filter {
  std::optional<ServiceRecord> service;
  std::string backend;
  bool only_pinned = false;

  bool passes(const SessionValue& session, const TablesView& tables) const {
    if (only_pinned && !is_pinned(session.kind)) return false;
    if (!backend.empty() && tables.backend_cold(session.backend).name != backend) return false;
    return !service || shares_sessions(tables.service(tables.backend(session.backend).service), *service);
  }
};

// Counts and lists in slices.
class Census : public std::enable_shared_from_this<Census> {
 public:
  Census(Daemon& daemon, SessionRegistry registry, Filter filter, uint64_t limit, const Reply& reply)
      : daemon_(daemon),
        registry_(std::move(registry)),
        filter_(std::move(filter)),
        limit_(limit),
        reply_(reply) {}

  void step() {
    const TablesView tables = daemon_.publisher().current();
    const uint32_t now_s = session_now_s();
    const bool goes_on = registry_.step(SessionRegistry::kSliceLines, [&](const SessionSeen& seen) {
      if (!is_in_force(seen.session, tables, now_s) || !filter_.passes(seen.session, tables)) return;
      Count& count = counts_[seen.session.backend];
      (is_pinned(seen.session.kind) ? count.pinned : count.learnt)++;
      if (listed_.size() < limit_) listed_.push_back(report_session(seen, tables, now_s));
    });
    if (!goes_on) return finish(tables);
    boost::asio::post(daemon_.io(), [self = shared_from_this()] { self->step(); });
  }

 private:
  struct Count {
    uint64_t learnt = 0, pinned = 0;
  };

  void finish(const TablesView& tables) {
    json response = ok_response();
    uint64_t total = 0;
    response["backends"] = json::array();
    for (const auto& [id, count] : counts_) {
      const BackendCold& cold = tables.backend_cold(id);
      if (cold.name[0] == '\0') continue;  // removed meanwhile
      response["backends"].push_back({{"service", tables.service_cold(cold.service).name},
                                      {"backend", cold.name},
                                      {"sessions", count.learnt + count.pinned},
                                      {"learnt", count.learnt},
                                      {"pinned", count.pinned}});
      total += count.learnt + count.pinned;
    }
    response["sessions"] = std::move(listed_);
    response["total"] = total;
    response["capacity"] = registry_.capacity();
    reply_(response);
  }

  Daemon& daemon_;
  SessionRegistry registry_;
  const Filter filter_;
  const uint64_t limit_;
  const Reply reply_;
  std::map<BackendId, Count> counts_;
  std::vector<json> listed_;
};

// One key's: its session, or none.
void show_one(const Daemon& daemon, const std::string& service, const std::string& key, const Reply& reply) {
  const Result<Named> named = named_session(daemon, service, key);
  if (!named) return reply(error_response(kCodeNotFound, named.error()));
  json response = ok_response();
  response["hash"] = fmt::format("{:016x}", named->hash);
  response["sessions"] = json::array();
  response["backends"] = json::array();
  if (const Result<SessionRegistry> registry = open_registry(daemon); !registry)
    return reply(error_response(kCodeFailed, registry.error()));
  if (const std::optional<SessionSeen> seen = look_up(daemon, named->hash)) {
    response["sessions"].push_back(report_session(*seen, daemon.publisher().current(), session_now_s()));
  }
  response["total"] = response["sessions"].size();
  reply(response);
}

void show(Daemon& daemon, const json& request, uint64_t, const Reply& reply) {
  const std::string service = text_of(request, "service").value_or("");
  const std::string key = text_of(request, "key").value_or("");
  if (!key.empty()) return show_one(daemon, service, key, reply);
  Filter filter;
  filter.backend = text_of(request, "backend").value_or("");
  filter.only_pinned = request.value("pinned", json(false)) == json(true);
  if (!service.empty()) {
    const Result<Named> named = named_service(daemon, service);
    if (!named) return reply(error_response(kCodeNotFound, named.error()));
    filter.service = named->record;
    if (!filter.backend.empty()) {
      if (const auto backend = named_backend(*named->service, filter.backend); !backend)
        return reply(error_response(kCodeNotFound, backend.error()));
    }
  } else if (!filter.backend.empty()) {
    if (const auto known = known_backend(daemon, filter.backend); !known)
      return reply(error_response(kCodeNotFound, known.error()));
  }
  const auto limit = request.find("limit");
  if (limit != request.end() && !(limit->is_number_unsigned() && *limit <= kListedMax)) {
    return reply(error_response(
        kCodeBadRequest,
        {fmt::format("\"limit\" is a whole number up to {}", kListedMax), "sluice session export"}));
  }
  Result<SessionRegistry> registry = open_registry(daemon);
  if (!registry) return reply(error_response(kCodeFailed, registry.error()));
  std::make_shared<Census>(daemon, std::move(*registry), std::move(filter),
                           limit == request.end() ? kListedDefault : limit->get<uint64_t>(), reply)
      ->step();
}

// ---- pin, unpin

json described(const Daemon& daemon, uint64_t value) {
  if (!is_live(value)) return nullptr;
  return session_text(unpack(value), daemon.publisher().current(), session_now_s());
}

// The answer to one command. True: it was done, and `response` says what was before.
bool was_done(const Daemon& daemon, const WorkerCommands::Outcome& outcome, json& response) {
  if (!outcome.is_whole()) {
    response = error_response(kCodeFailed, outcome.fault);
    return false;
  }
  switch (outcome.last) {
    case CommandResult::made:
    case CommandResult::changed:
    case CommandResult::removed:
      response["before"] = described(daemon, outcome.before);
      return true;
    case CommandResult::repeated:
      response["before"] = "not known: the data plane was killed meanwhile";
      return true;
    case CommandResult::no_place:
      response = error_response(kCodeFailed,
                                {"the session table has no place for it",
                                 "start sluice-dataplane with more --sessions-max: sluice show dataplane"});
      return false;
    case CommandResult::gone:
      response = error_response(kCodeFailed, {"the backend was removed meanwhile", "sluice show backends"});
      return false;
    case CommandResult::absent:
      response = error_response(kCodeNotFound, {"there is no such session", "sluice session show"});
      return false;
    case CommandResult::other:
      response = error_response(
          kCodeNotFound,
          {fmt::format("it is not pinned: {}", described(daemon, outcome.before).get<std::string>()),
           "a learnt session ends by itself, or: sluice session pin"});
      return false;
    case CommandResult::none:
    case CommandResult::stale:
      break;
  }
  response = error_response(
      kCodeFailed,
      {"not known whether it was done: the data plane began anew meanwhile", "sluice session show"});
  return false;
}

// Nothing, when it has no end; the response that refuses it.
json ttl_of(const json& request, std::optional<uint32_t>& ttl_s) {
  const auto given = request.find("ttl_s");
  if (given == request.end()) return nullptr;
  if (given->is_number_unsigned() && *given >= 1 && *given <= limits::kSessionTimeMax) {
    ttl_s = given->get<uint32_t>();
    return nullptr;
  }
  return error_response(kCodeBadRequest, {"the time is out of range",
                                          fmt::format("from 1s to {}h, or none: until it is unpinned",
                                                      limits::kSessionTimeMax / 3600)});
}

std::optional<SessionValue> value_of(const std::optional<SessionSeen>& seen) {
  return seen ? std::optional(seen->session) : std::nullopt;
}

void pin(Daemon& daemon, const json& request, uint64_t, const Reply& reply) {
  const auto service = text_of(request, "service"), key = text_of(request, "key"),
             backend_name = text_of(request, "backend");
  if (!service) return reply(missing("service", "text"));
  if (!key) return reply(missing("key", "a client's address, or bytes in hex"));
  if (!backend_name) return reply(missing("backend", "text"));
  const Result<Named> named = named_session(daemon, *service, *key);
  if (!named) return reply(error_response(kCodeNotFound, named.error()));
  const Result<const Backend*> backend = named_backend(*named->service, *backend_name);
  if (!backend) return reply(error_response(kCodeNotFound, backend.error()));
  std::optional<uint32_t> ttl_s;
  if (json refusal = ttl_of(request, ttl_s); !refusal.is_null()) return reply(std::move(refusal));

  const uint32_t now_s = session_now_s();
  CommandEntry command{};
  command.kind = CommandKind::pin;
  command.hash = named->hash;
  command.backend = (*backend)->id;
  command.session = ttl_s ? SessionKind::pinned_until : SessionKind::pinned;
  command.last_s = (now_s + ttl_s.value_or(0)) & kSessionTimeMask;
  const bool forced = request.value("force", json(false)) == json(true);
  if (!forced && session_room(daemon, **backend) == 0 &&
      makes_one_more(command, value_of(look_up(daemon, named->hash)))) {
    return reply(error_response(
        kCodeFailed,
        {fmt::format("{} has as many sessions as it may: max_sessions is {}", *backend_name,
                     (*backend)->config.max_sessions),
         "another backend (sluice show backends has how many each has), or --force if that is meant"}));
  }
  json response = ok_response();
  response["hash"] = fmt::format("{:016x}", named->hash);
  response["after"] = session_text({command.backend, command.session, 0, command.last_s, 0},
                                   daemon.publisher().current(), now_s);
  if (const std::string why_not = why_no_new_flows(*named->service, **backend); !why_not.empty())
    response["warnings"].push_back(fmt::format("{} is {}", *backend_name, why_not));
  daemon.worker_commands().run({command},
                               [&daemon, reply, response](const WorkerCommands::Outcome& outcome) mutable {
                                 was_done(daemon, outcome, response);
                                 reply(response);
                               });
}

void unpin(Daemon& daemon, const json& request, uint64_t, const Reply& reply) {
  const auto service = text_of(request, "service"), key = text_of(request, "key");
  if (!service) return reply(missing("service", "text"));
  if (!key) return reply(missing("key", "a client's address, or bytes in hex"));
  const Result<Named> named = named_session(daemon, *service, *key);
  if (!named) return reply(error_response(kCodeNotFound, named.error()));
  CommandEntry command{};
  command.kind = CommandKind::unpin;
  command.hash = named->hash;
  json response = ok_response();
  response["hash"] = fmt::format("{:016x}", named->hash);
  response["after"] = nullptr;
  daemon.worker_commands().run({command},
                               [&daemon, reply, response](const WorkerCommands::Outcome& outcome) mutable {
                                 was_done(daemon, outcome, response);
                                 reply(response);
                               });
}

}  // namespace

std::span<const Command> session_commands() {
  static constexpr std::array kCommands = {
      Command{"session.show", "service key backend pinned limit", show, Role::read},
      Command{"session.pin", "service key backend ttl_s force", pin},
      Command{"session.unpin", "service key", unpin},
  };
  return kCommands;
}

Result<const Service*> service_with_sessions(const Daemon& daemon, const std::string& name) {
  const Service* service = daemon.model().find_service(name);
  if (service == nullptr) return no_such_service(daemon.model(), name);
  if (has_sessions(daemon.publisher().current().service(service->id))) return service;
  return Error{
      fmt::format("service '{}' has no sessions: its affinity is {}", name, text(service->config.affinity)),
      "affinity = \"client\", \"prefix\" or \"key\" in its configuration (docs/affinity.md)"};
}

}  // namespace sluice
