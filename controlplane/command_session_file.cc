// Commands that take sessions out of the table and put them in again (session_file.h has the file).
//
// session.export answers in lines: {"v", "secret", "services": {name: fingerprint}}, then any number of
// {"v", "sessions": [[service, backend, hash, kind, rest_s, age_s], ...]}. session.import takes them with the
// backend as a position in its "backends": [[service, backend], ...]. A dry run takes none, and says of each
// of "backends" how many sessions more it may have: "room", null for as many as come. An import in many
// requests has "more": true in all but the last, and says "total", for the audit.
#include <array>
#include <charconv>
#include <map>
#include <memory>

#include <fmt/format.h>

#include "controlplane/command_parts.h"
#include "controlplane/counters.h"
#include "controlplane/message.h"
#include "controlplane/report.h"
#include "controlplane/session_registry.h"

namespace sluice {
namespace {

using nlohmann::json;

// Each session becomes text: a millisecond or two.
constexpr uint64_t kExportLines = 512;

// ---- export

class Export : public std::enable_shared_from_this<Export> {
 public:
  Export(Daemon& daemon, SessionRegistry registry, std::optional<ServiceRecord> only, const Reply& reply)
      : daemon_(daemon), registry_(std::move(registry)), only_(only), reply_(reply) {}

  void begin() {
    const TablesView tables = daemon_.publisher().current();
    json services = json::object();
    for (const Service& service : daemon_.model().services()) {
      const ServiceRecord& record = tables.service(service.id);
      if (has_sessions(record)) services[service.config.name] = fingerprint(record);
    }
    send({{"v", kProtocolVersion},
          {"secret", fingerprint(tables.generation().secret)},
          {"services", services}});
  }

 private:
  // The next part when the client has taken this one. Who goes takes the export along.
  void send(const json& part) {
    if (!reply_.part(part)) return;
    reply_.after_sent([self = shared_from_this()] { self->step(); });
  }

  void step() {
    const TablesView tables = daemon_.publisher().current();
    const uint32_t now_s = session_now_s();
    json rows = json::array();
    bool goes_on = true;
    while (goes_on && rows.empty()) {
      // An empty table of 10 million is 80 MB to look at: in slices, too.
      goes_on = registry_.step(kExportLines, [&](const SessionSeen& seen) {
        if (is_in_force(seen.session, tables, now_s) && is_asked(seen.session, tables))
          rows.push_back(row_of(seen, tables, now_s));
      });
      if (++looked_ % kSlicesAtOnce == 0) break;
    }
    count_ += rows.size();
    if (goes_on) return send({{"v", kProtocolVersion}, {"sessions", std::move(rows)}});
    if (!rows.empty()) reply_.part({{"v", kProtocolVersion}, {"sessions", std::move(rows)}});
    json response = ok_response();
    response["count"] = count_;
    reply_(response);
  }

  bool is_asked(const SessionValue& session, const TablesView& tables) const {
    return !only_ ||
           tables.service(tables.backend(session.backend).service).session_salt == only_->session_salt;
  }

  static json row_of(const SessionSeen& seen, const TablesView& tables, uint32_t now_s) {
    const SessionValue& session = seen.session;
    const BackendCold& cold = tables.backend_cold(session.backend);
    const uint32_t rest_s = !is_pinned(session.kind)              ? since_s(session.last_s, now_s)
                            : session.kind == SessionKind::pinned ? 0
                                                                  : since_s(now_s, session.last_s);
    return {tables.service_cold(cold.service).name,
            cold.name,
            fmt::format("{:016x}", seen.hash),
            static_cast<uint32_t>(is_pinned(session.kind) ? session.kind : SessionKind::learnt),
            rest_s,
            age_s(session, now_s)};
  }

  static constexpr uint32_t kSlicesAtOnce = 64;
  Daemon& daemon_;
  SessionRegistry registry_;
  const std::optional<ServiceRecord> only_;
  const Reply reply_;
  uint32_t looked_ = 0;
  uint64_t count_ = 0;
};

void export_sessions(Daemon& daemon, const json& request, uint64_t, const Reply& reply) {
  const std::string name = text_of(request, "service").value_or("");
  std::optional<ServiceRecord> only;
  if (!name.empty()) {
    const Service* service = daemon.model().find_service(name);
    if (service == nullptr)
      return reply(error_response(kCodeNotFound, no_such_service(daemon.model(), name)));
    only = daemon.publisher().current().service(service->id);
    if (!has_sessions(*only))
      return reply(error_response(kCodeNotFound, {fmt::format("service '{}' has no sessions", name), ""}));
  }
  Result<SessionRegistry> registry =
      SessionRegistry::open(daemon.options().directory, daemon.publisher().header().incarnation);
  if (!registry) return reply(error_response(kCodeFailed, registry.error()));
  std::make_shared<Export>(daemon, std::move(*registry), only, reply)->begin();
}

// ---- import

// The backends that a request names, and what is wrong with each that is not here.
struct NamedBackends {
  std::vector<std::optional<BackendId>> ids;
  std::map<BackendId, uint64_t> room;  // of those that have a limit
  json faults = json::array();
};

NamedBackends named_backends(const Daemon& daemon, const json& request) {
  NamedBackends named;
  const TablesView tables = daemon.publisher().current();
  for (const json& pair : request["backends"]) {
    const auto service_name = pair[0].get<std::string>(), backend = pair[1].get<std::string>();
    const auto fault = [&](const Error& error) {
      named.faults.push_back({{"index", named.ids.size()}, {"error", error.what}, {"remedy", error.remedy}});
      named.ids.emplace_back();
    };
    const Service* service = daemon.model().find_service(service_name);
    const auto place = daemon.find_backend(service_name, backend);
    if (service == nullptr) {
      fault(no_such_service(daemon.model(), service_name));
    } else if (const ServiceRecord& record = tables.service(service->id); !has_sessions(record)) {
      fault({fmt::format("service '{}' has no sessions", service_name), ""});
    } else if (request["services"].value(service_name, "") != fingerprint(record)) {
      fault({fmt::format("sessions of '{}' are named by other things here: its group, prefix or key differs",
                         service_name),
             ""});
    } else if (!place) {
      fault(no_such_backend(daemon.model(), service_name, backend));
    } else {
      const Backend& known = daemon.model().backend(*place);
      if (known.config.sorry) {
        fault({fmt::format("{}/{} is a sorry backend: no session names it", service_name, backend), ""});
        continue;
      }
      named.ids.emplace_back(known.id);
      if (known.config.max_sessions != 0) named.room[known.id] = session_room(daemon, known);
    }
  }
  return named;
}

bool is_list_of_pairs(const json& request) {
  const auto list = request.find("backends");
  if (list == request.end() || !list->is_array()) return false;
  for (const json& pair : *list) {
    if (!pair.is_array() || pair.size() != 2 || !pair[0].is_string() || !pair[1].is_string()) return false;
  }
  const auto services = request.find("services");
  if (services == request.end() || !services->is_object()) return false;
  for (const auto& [name, value] : services->items()) {
    if (!value.is_string()) return false;
  }
  return true;
}

struct Row {
  uint64_t backend, hash, kind, rest_s, age_s;
};
bool read_row(const json& json_row, Row& row) {
  if (!json_row.is_array() || json_row.size() != 5 || !json_row[1].is_string()) return false;
  for (const size_t i : {0, 2, 3, 4}) {
    if (!json_row[i].is_number_unsigned()) return false;
  }
  const auto& hash = json_row[1].get_ref<const std::string&>();
  const char* const end = hash.data() + hash.size();
  if (hash.size() != 16 || std::from_chars(hash.data(), end, row.hash, 16).ptr != end) return false;
  row.backend = json_row[0];
  row.kind = json_row[2];
  row.rest_s = json_row[3];
  row.age_s = json_row[4];
  return row.kind <= static_cast<uint64_t>(SessionKind::pinned_until);
}

// The command that makes this session, or none: it would be over.
std::optional<CommandEntry> command_of(const Row& row, BackendId backend, const TablesView& tables,
                                       uint32_t now_s) {
  const auto kind = static_cast<SessionKind>(row.kind);
  if (row.rest_s > limits::kSessionTimeMax || (kind == SessionKind::pinned_until && row.rest_s == 0))
    return std::nullopt;
  const auto rest_s = static_cast<uint32_t>(row.rest_s);
  const auto age_s = static_cast<uint32_t>(std::min<uint64_t>(row.age_s, limits::kSessionTimeMax));
  CommandEntry command{};
  command.kind = CommandKind::import;
  command.hash = row.hash;
  command.backend = backend;
  command.session = kind;
  command.last_s = (kind == SessionKind::learnt ? now_s - rest_s : now_s + rest_s) & kSessionTimeMask;
  command.created = ((now_s - age_s) >> kCreatedShift) & kCreatedMask;
  if (!is_in_force({backend, kind, 0, command.last_s, command.created}, tables, now_s)) return std::nullopt;
  return command;
}

// Takes no more than there is room for.
class Rooms {
 public:
  Rooms(const Daemon& daemon, std::map<BackendId, uint64_t> room, uint32_t now_s)
      : room_(std::move(room)), tables_(daemon.publisher().current()), now_s_(now_s) {
    if (room_.empty()) return;
    Result<SessionRegistry> registry =
        SessionRegistry::open(daemon.options().directory, daemon.publisher().header().incarnation);
    if (registry) registry_.emplace(std::move(*registry));
  }

  bool take(const CommandEntry& command) {
    const auto left = room_.find(command.backend);
    if (left == room_.end() || !registry_) return true;
    std::optional<SessionValue> there;
    if (const auto seen = registry_->find(command.hash); seen && is_in_force(seen->session, tables_, now_s_))
      there = seen->session;
    if (!makes_one_more(command, there)) return true;
    if (left->second == 0) return false;
    left->second--;
    return true;
  }

 private:
  std::map<BackendId, uint64_t> room_;
  const TablesView tables_;
  const uint32_t now_s_;
  std::optional<SessionRegistry> registry_;
};

json room_of_each(const NamedBackends& named) {
  json out = json::array();
  for (const std::optional<BackendId>& id : named.ids) {
    const auto room = id ? named.room.find(*id) : named.room.end();
    out.push_back(room == named.room.end() ? json() : json(room->second));
  }
  return out;
}

void import_sessions(Daemon& daemon, const json& request, uint64_t, const Reply& reply) {
  const auto refuse = [&](const char* code, const Error& error) { reply(error_response(code, error)); };
  if (!is_list_of_pairs(request))
    return refuse(kCodeBadRequest,
                  {"\"backends\" is no list of [service, backend], or \"services\" no object of texts", ""});
  if (!request.contains("secret")) return reply(missing("secret", "text"));
  const TablesView tables = daemon.publisher().current();
  if (text_of(request, "secret") != fingerprint(tables.generation().secret)) {
    return refuse(kCodeFailed, {"the sessions are of another secret: their hashes name nobody here",
                                "the same `secret` in the configuration of both balancers"});
  }
  const NamedBackends named = named_backends(daemon, request);
  json response = ok_response();
  if (request.value("dry_run", json(false)) == json(true)) {
    response["faults"] = named.faults;
    response["room"] = room_of_each(named);
    return reply(response);
  }
  if (!named.faults.empty() && request.value("skip_unknown", json(false)) != json(true))
    return refuse(kCodeNotFound, {named.faults[0]["error"], named.faults[0]["remedy"]});
  std::vector<CommandEntry> commands;
  uint64_t over = 0, unknown = 0, full = 0;
  const uint32_t now_s = session_now_s();
  const bool forced = request.value("force", json(false)) == json(true);
  Rooms rooms(daemon, forced ? std::map<BackendId, uint64_t>() : named.room, now_s);
  for (const json& json_row : request.value("sessions", json::array())) {
    Row row{};
    if (!read_row(json_row, row) || row.backend >= named.ids.size())
      return refuse(kCodeBadRequest, {"one of \"sessions\" is not [backend, hash, kind, rest_s, age_s]", ""});
    const std::optional<BackendId> backend = named.ids[row.backend];
    if (!backend) {
      unknown++;
    } else if (const auto command = command_of(row, *backend, tables, now_s); !command) {
      over++;
    } else if (!rooms.take(*command)) {
      full++;
    } else {
      commands.push_back(*command);
    }
  }
  daemon.worker_commands().run(std::move(commands), [reply, response, over, unknown,
                                                     full](const WorkerCommands::Outcome& outcome) mutable {
    const auto count = [&](CommandResult result) { return outcome.count(result); };
    json after = {
        {"made", count(CommandResult::made)},
        {"replaced", count(CommandResult::changed)},
        {"kept", count(CommandResult::other) + count(CommandResult::repeated)},
        {"no_place", count(CommandResult::no_place)},
        {"full", full},
        {"over", over},
        {"unknown", unknown},
        {"gone", count(CommandResult::gone)},
        {"not_known", count(CommandResult::none) + count(CommandResult::stale) + outcome.under_way}};
    if (!outcome.is_whole()) response = error_response(kCodeFailed, outcome.fault);
    response.update(after);
    response["before"] = nullptr;
    response["after"] = std::move(after);
    reply(response);
  });
}

}  // namespace

std::span<const Command> session_file_commands() {
  static constexpr std::array kCommands = {
      Command{"session.export", "service", export_sessions, Role::read},
      Command{"session.import", "secret services backends sessions skip_unknown force more total dry_run",
              import_sessions, Role::admin, /*in_parts=*/true},
  };
  return kCommands;
}

}  // namespace sluice
