// rebalance: measures what each backend of a service has to do, and moves sessions until each has what its
// weight says (rebalance.h has which, and how many).
//
//   {"service", "over_s": 1..60 (3), "max_moves": 1..100,000 (1,000), "rate": 1..10,000 a second (100),
//    "reset": false; true: also sessions that may have live TCP connections, which are then reset}
//
// Lines before the answer: {"measuring_s"}, then {"moved", "of"} once a second. Answer: "backends" with
// "due_percent" (by weight), "packets_percent", "excess_percent", "sessions", "flows_active", "pinned",
// "live", "gives", "gets", "expected_percent"; "imbalance_percent" and "expected_imbalance_percent" (packets
// on the wrong backend); "planned", "planned_live" (of these), "moved", "left_alone" (they, or who may take
// them, changed meanwhile), "quiet_s". The client's end ends it, at once while it measures.
#include <algorithm>
#include <array>
#include <chrono>
#include <map>
#include <memory>

#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <fmt/format.h>

#include "controlplane/command_parts.h"
#include "controlplane/counters.h"
#include "controlplane/message.h"
#include "controlplane/rebalance.h"
#include "controlplane/session_registry.h"
#include "controlplane/totals.h"

namespace sluice {
namespace {

using nlohmann::json;
using Clock = std::chrono::steady_clock;

constexpr std::chrono::milliseconds kMoveTick{50};

struct Limits {
  uint64_t over_s = 3;
  uint64_t max_moves = 1'000;
  uint64_t rate = 100;
  bool resets = false;
};

double percent(double part, double whole) {
  return whole == 0 ? 0 : 100 * part / whole;
}

class Rebalance : public std::enable_shared_from_this<Rebalance> {
 public:
  Rebalance(Daemon& daemon, SessionRegistry registry, std::string service, const Limits& limits, bool moves,
            const Reply& reply)
      : daemon_(daemon),
        registry_(std::move(registry)),
        service_(std::move(service)),
        limits_(limits),
        moves_(moves),
        reply_(reply),
        timer_(daemon.io()) {}

  void begin() {
    reply_.on_close([weak = weak_from_this()] {
      if (const auto self = weak.lock()) self->leave();
    });
    const StatsSegment& stats = *daemon_.dataplane().stats();
    stats_incarnation_ = stats.header.segment.incarnation;
    for (const Backend& backend : daemon_.model().find_service(service_)->backends)
      packets_before_[backend.id] = totals(stats, backend.id).packets;
    reply_.part({{"v", kProtocolVersion}, {"measuring_s", limits_.over_s}});
    after(std::chrono::seconds(limits_.over_s), &Rebalance::measure);
  }

 private:
  struct Of {
    std::string name;
    uint64_t flows_active = 0;
    uint64_t pinned = 0;
    uint64_t live = 0;
  };

  void after(Clock::duration time, void (Rebalance::*then)()) {
    timer_.expires_after(time);
    timer_.async_wait(
        [self = shared_from_this(), then](const boost::system::error_code&) { (self.get()->*then)(); });
  }

  // The client is gone: what comes next comes at once, and ends it.
  void leave() {
    is_gone_ = true;
    timer_.cancel();
  }
  bool ended_before_moving() {
    if (is_gone_) fail({"the client went before anything was moved", ""});
    return is_gone_;
  }

  void fail(Error error) {
    if (!planned_.empty()) error.what += so_far();
    answer(error_response(kCodeFailed, error));
  }
  std::string so_far() const {
    return fmt::format("; {} of {} sessions were moved", moved_, planned_.size());
  }

  // The service as it is now, if it still has sessions, and the table that is looked at is the one in use.
  const Service* service() {
    const Result<const Service*> service = service_with_sessions(daemon_, service_);
    if (!service) {
      fail(service.error());
      return nullptr;
    }
    if (registry_.is_current(daemon_.publisher().header().incarnation)) return *service;
    fail({"the data plane began anew with another session table: the sessions of before are forgotten",
          "again when clients have come back; before such a start: sluice session export --file FILE"});
    return nullptr;
  }

  void measure() {
    if (ended_before_moving()) return;
    const Service* service = this->service();
    if (service == nullptr) return;
    const StatsSegment* const now = daemon_.dataplane().stats();
    if (now == nullptr || now->header.segment.incarnation != stats_incarnation_)
      return fail({"the data plane began anew meanwhile", "try again"});
    const StatsSegment& stats = *now;
    for (const Backend& backend : service->backends) {
      BackendActivity activity;
      activity.id = backend.id;
      // Nobody is tied to who only says sorry.
      if (service->takes_new(backend) && !backend.config.sorry) activity.weight = backend.weight_in_force();
      const uint64_t packets = totals(stats, backend.id).packets;
      const auto before = packets_before_.find(backend.id);
      activity.packets = before == packets_before_.end() ? 0 : packets - before->second;
      activity.room = session_room(daemon_, backend);
      // Clients of a backend without room for their flows would be lent to others.
      if (const uint32_t most = backend.config.max_flows;
          most != 0 && flows_active(stats, backend.id) >= most)
        activity.room = 0;
      positions_[backend.id] = activities_.size();
      activities_.push_back(activity);
      of_.push_back({backend.config.name, flows_active(stats, backend.id), 0, 0});
    }
    due_ = packets_due(activities_);
    movable_.resize(activities_.size());
    find_quiet_s(*service);
    walk();
  }

  // Of a group, the longest.
  void find_quiet_s(const Service& service) {
    const TablesView tables = daemon_.publisher().current();
    const uint64_t salt = tables.service(service.id).session_salt;
    quiet_s_ = 0;
    for (const Service& other : daemon_.model().services()) {
      const ServiceRecord& record = tables.service(other.id);
      if (has_sessions(record) && record.session_salt == salt)
        quiet_s_ = std::max(quiet_s_, sluice::quiet_s(record));
    }
  }

  bool is_live(const SessionValue& session, uint32_t now_s) const {
    return quiet_s_ != 0 && since_s(session.last_s, now_s) <= quiet_s_;
  }

  void walk() {
    if (ended_before_moving()) return;
    const Service* service = this->service();
    if (service == nullptr) return;
    const TablesView tables = daemon_.publisher().current();
    const uint32_t now_s = session_now_s();
    const bool goes_on = registry_.step(SessionRegistry::kSliceLines, [&](const SessionSeen& seen) {
      if (!is_in_force(seen.session, tables, now_s)) return;
      const std::optional<BackendId> own = tables.own_backend(service->id, seen.session.backend);
      const auto position = own ? positions_.find(*own) : positions_.end();
      if (position != positions_.end()) count(position->second, seen, now_s);
    });
    if (!goes_on) return plan();
    boost::asio::post(daemon_.io(), [self = shared_from_this()] { self->walk(); });
  }

  void count(size_t at, const SessionSeen& seen, uint32_t now_s) {
    BackendActivity& activity = activities_[at];
    activity.sessions++;
    if (is_pinned(seen.session.kind)) {
      of_[at].pinned++;
      return;
    }
    const bool is_live = this->is_live(seen.session, now_s);
    of_[at].live += is_live ? 1 : 0;
    if (is_live && !limits_.resets) return;
    if (activity.weight != 0 && static_cast<double>(activity.packets) > due_[at]) {
      // The first ones, as a heap: no more can be used.
      std::vector<MovableSession>& first = movable_[at];
      first.push_back({seen.hash, seen.session.backend, is_live});
      std::push_heap(first.begin(), first.end());
      if (first.size() <= limits_.max_moves) return;
      std::pop_heap(first.begin(), first.end());
      first.pop_back();
    }
  }

  void plan() {
    RebalancePlan plan = plan_rebalance(activities_, std::move(movable_), limits_.max_moves);
    response_ = ok_response();
    std::vector<double> packets;
    double total = 0, sessions = 0;
    for (const BackendActivity& activity : activities_) {
      packets.push_back(static_cast<double>(activity.packets));
      total += activity.weight == 0 ? 0 : packets.back();
      sessions += static_cast<double>(activity.sessions);
    }
    json& backends = response_["backends"] = json::array();
    for (size_t i = 0; i < activities_.size(); i++) {
      const BackendActivity& activity = activities_[i];
      json row = {{"backend", of_[i].name},
                  {"weight", activity.weight},
                  {"takes_new_flows", activity.weight != 0},
                  {"packets", activity.packets},
                  {"sessions", activity.sessions},
                  {"sessions_percent", percent(static_cast<double>(activity.sessions), sessions)},
                  {"flows_active", of_[i].flows_active},
                  {"pinned", of_[i].pinned},
                  {"live", of_[i].live},
                  {"gives", plan.gives[i]},
                  {"gets", plan.gets[i]}};
      if (activity.weight != 0) {
        row["due_percent"] = percent(due_[i], total);
        row["packets_percent"] = percent(packets[i], total);
        row["excess_percent"] = percent(packets[i] - due_[i], total);
        row["expected_percent"] = percent(plan.packets[i], total);
      }
      backends.push_back(std::move(row));
    }
    response_["service"] = service_;
    response_["over_s"] = limits_.over_s;
    response_["packets"] = static_cast<uint64_t>(total);
    response_["imbalance_percent"] = 100 * imbalance(activities_, packets);
    response_["expected_imbalance_percent"] = 100 * imbalance(activities_, plan.packets);
    response_["planned"] = plan.moves.size();
    response_["planned_live"] = std::count_if(plan.moves.begin(), plan.moves.end(),
                                              [](const SessionMove& move) { return move.is_live; });
    response_["reset"] = limits_.resets;
    response_["quiet_s"] = quiet_s_;
    planned_ = std::move(plan.moves);
    if (!moves_) return answer(response_);
    Event event;
    event.kind = "rebalance_began";
    event.service = service_;
    event.text = fmt::format("{}: {} sessions are to move, {} a second{}", service_, planned_.size(),
                             limits_.rate, limits_.resets ? ", their connections are reset" : "");
    daemon_.events().add(std::move(event));
    began_ = told_ = Clock::now();
    move_some();
  }

  // As many as the rate allows by now; what is no longer as it was planned is left alone.
  void move_some() {
    const Service* service = this->service();
    if (service == nullptr) return;
    if (next_ == planned_.size() || is_gone_) return finish();
    const double passed_s = std::chrono::duration<double>(Clock::now() - began_).count();
    const auto allowed = static_cast<uint64_t>(1 + passed_s * static_cast<double>(limits_.rate));
    const uint64_t at_once = std::max<uint64_t>(1, limits_.rate / 5);
    const uint64_t end = std::min({planned_.size(), std::max<uint64_t>(allowed, next_), next_ + at_once});
    std::vector<CommandEntry> commands;
    for (; next_ < end; next_++) {
      const SessionMove& move = planned_[next_];
      if (const auto kind = moves_as(move, *service, commands)) {
        CommandEntry command{};
        command.kind = CommandKind::move;
        command.session = *kind;
        command.hash = move.hash;
        command.from = move.from;
        command.backend = move.to;
        commands.push_back(command);
      } else {
        left_alone_++;
      }
    }
    if (commands.empty()) return after(kMoveTick, &Rebalance::move_some);
    daemon_.worker_commands().run(
        std::move(commands),
        [self = shared_from_this()](const WorkerCommands::Outcome& outcome) { self->moved(outcome); });
  }

  // How it moves, if it still may.
  std::optional<SessionKind> moves_as(const SessionMove& move, const Service& service,
                                      const std::vector<CommandEntry>& before) const {
    const auto to = std::find_if(service.backends.begin(), service.backends.end(),
                                 [&](const Backend& backend) { return backend.id == move.to; });
    if (to == service.backends.end() || !service.takes_new(*to)) return {};
    const auto coming = std::count_if(before.begin(), before.end(), [&](const CommandEntry& command) {
      return command.backend == move.to;
    });
    if (session_room(daemon_, *to) <= static_cast<uint64_t>(coming)) return {};
    const std::optional<SessionSeen> seen = registry_.find(move.hash);
    if (!seen || is_pinned(seen->session.kind) || seen->session.backend != move.from) return {};
    if (!is_live(seen->session, session_now_s())) return SessionKind::moved;
    return limits_.resets ? std::optional(SessionKind::moved_resets) : std::nullopt;
  }

  void moved(const WorkerCommands::Outcome& outcome) {
    moved_ += outcome.count(CommandResult::changed) + outcome.count(CommandResult::repeated);
    for (const CommandResult result : {CommandResult::other, CommandResult::absent, CommandResult::gone,
                                       CommandResult::stale, CommandResult::none})
      left_alone_ += outcome.count(result);
    if (!outcome.is_whole()) {
      Error fault = outcome.fault;
      fault.what += so_far();
      response_ = error_response(kCodeFailed, fault);
      response_["not_known"] = outcome.under_way;
      return finish();
    }
    if (Clock::now() - told_ > std::chrono::seconds(1)) {
      told_ = Clock::now();
      reply_.part({{"v", kProtocolVersion}, {"moved", moved_}, {"of", planned_.size()}});
    }
    after(kMoveTick, &Rebalance::move_some);
  }

  void finish() {
    response_["moved"] = moved_;
    response_["left_alone"] = left_alone_;
    if (is_gone_) response_["ended_early"] = true;
    // For the audit.
    if (response_.contains("imbalance_percent")) {
      response_["before"] =
          fmt::format("{:.1f} % on the wrong backend", response_["imbalance_percent"].get<double>());
      response_["after"] =
          fmt::format("{} of {} sessions moved{}{}", moved_, planned_.size(),
                      limits_.resets ? ", connections reset" : "", is_gone_ ? ", then the client went" : "");
    }
    answer(response_);
  }

  void answer(const json& response) { reply_(response); }

  Daemon& daemon_;
  SessionRegistry registry_;
  const std::string service_;
  const Limits limits_;
  const bool moves_;
  const Reply reply_;
  boost::asio::steady_timer timer_;
  uint64_t stats_incarnation_ = 0;
  std::map<BackendId, uint64_t> packets_before_;
  // By position, of the backends as measured.
  std::map<BackendId, size_t> positions_;
  std::vector<BackendActivity> activities_;
  std::vector<Of> of_;
  std::vector<double> due_;
  std::vector<std::vector<MovableSession>> movable_;
  uint32_t quiet_s_ = 0;
  json response_;
  std::vector<SessionMove> planned_;
  size_t next_ = 0;
  uint64_t moved_ = 0, left_alone_ = 0;
  Clock::time_point began_, told_;
  bool is_gone_ = false;
};

// The argument, if it is there; or the response that refuses it.
json take(const json& request, const char* name, uint64_t most, uint64_t& value) {
  const auto given = request.find(name);
  if (given == request.end()) return nullptr;
  if (!given->is_number_unsigned() || *given < 1 || *given > most)
    return error_response(kCodeBadRequest,
                          {fmt::format("\"{}\" is a whole number from 1 to {}", name, most), ""});
  value = given->get<uint64_t>();
  return nullptr;
}

void run(Daemon& daemon, const json& request, bool moves, const Reply& reply) {
  const auto name = text_of(request, "service");
  if (!name) return reply(missing("service", "text"));
  Limits limits;
  for (json refusal :
       {take(request, "over_s", 60, limits.over_s), take(request, "max_moves", 100'000, limits.max_moves),
        take(request, "rate", 10'000, limits.rate)}) {
    if (!refusal.is_null()) return reply(std::move(refusal));
  }
  limits.resets = request.value("reset", false);
  if (const auto service = service_with_sessions(daemon, *name); !service)
    return reply(error_response(kCodeNotFound, service.error()));
  if (!daemon.dataplane().is_running() || daemon.dataplane().stats() == nullptr)
    return reply(error_response(kCodeFailed,
                                {"no data plane runs: there is nothing to measure", "sluice show workers"}));
  if (moves && !daemon.rebalance().expired())
    return reply(
        error_response(kCodeFailed, {"sessions are being moved already", "try again when that is done"}));
  Result<SessionRegistry> registry =
      SessionRegistry::open(daemon.options().directory, daemon.publisher().header().incarnation);
  if (!registry) return reply(error_response(kCodeFailed, registry.error()));
  const auto rebalance =
      std::make_shared<Rebalance>(daemon, std::move(*registry), *name, limits, moves, reply);
  if (moves) daemon.rebalance() = rebalance;
  rebalance->begin();
}

}  // namespace

std::span<const Command> rebalance_commands() {
  static constexpr std::array kCommands = {
      Command{"rebalance.plan", "service over_s max_moves rate reset",
              [](Daemon& daemon, const json& request, uint64_t, const Reply& reply) {
                run(daemon, request, false, reply);
              },
              Role::read},
      Command{"rebalance", "service over_s max_moves rate reset",
              [](Daemon& daemon, const json& request, uint64_t, const Reply& reply) {
                run(daemon, request, true, reply);
              }},
  };
  return kCommands;
}

}  // namespace sluice
