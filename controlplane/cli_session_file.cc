// sluice session export, sluice session import.
#include <algorithm>
#include <chrono>
#include <map>
#include <optional>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "controlplane/cli.h"
#include "controlplane/client.h"
#include "controlplane/exit_codes.h"
#include "controlplane/message.h"
#include "controlplane/session_file.h"
#include "src/segment.h"

namespace sluice {
namespace {

using nlohmann::json;

constexpr size_t kRowsAtOnce = 8'192;  // of a request: some 25 ms of sluiced's time
constexpr size_t kFaultsShown = 100;

uint64_t wall_clock_s() {
  return static_cast<uint64_t>(
      std::chrono::duration_cast<std::chrono::seconds>(std::chrono::system_clock::now().time_since_epoch())
          .count());
}

// ---- export

Result<Done> take_part(const json& part, SessionFileWriter& writer) {
  if (part.contains("secret")) {
    SessionFileHeader header;
    header.secret = part.at("secret").get<std::string>();
    header.services = part.at("services").get<std::map<std::string, std::string>>();
    header.time_s = wall_clock_s();
    return writer.begin(std::move(header));
  }
  for (const json& row : part.at("sessions")) {
    const SavedSession session{row[0],
                               row[1],
                               std::stoull(row[2].get<std::string>(), nullptr, 16),
                               static_cast<SessionKind>(row[3].get<uint32_t>()),
                               row[4],
                               row[5]};
    if (Result<Done> added = writer.add(session); !added) return added;
  }
  return Done{};
}

int export_sessions(const Arguments& arguments) {
  Result<SessionFileWriter> writer = SessionFileWriter::open(arguments.file);
  if (!writer) {
    complain(writer.error());
    return kExitFailure;
  }
  Result<Done> written = Done{};
  const json request = {{"v", kProtocolVersion}, {"cmd", "session.export"}, {"service", arguments.service}};
  const Answer end = follow_daemon(instance_directory(arguments.directory), request,
                                   std::chrono::milliseconds(arguments.timeout_ms), [&](const json& part) {
                                     written = take_part(part, *writer);
                                     return static_cast<bool>(written);
                                   });
  if (end.exit_code != kExitOk) {
    complain(end.error);
    return end.exit_code;
  }
  if (written && end.response.is_object() && !end.response.value("ok", false)) {
    complain({end.response.value("error", ""), end.response.value("remedy", "")});
    return kExitFailure;
  }
  if (written) written = writer->finish();
  if (!written) {
    complain(written.error());
    return kExitFailure;
  }
  std::fprintf(stderr, "%llu sessions exported\n", static_cast<unsigned long long>(writer->count()));
  return kExitOk;
}

// ---- import

// What a look through the whole file found.
struct Contents {
  using Path = std::pair<std::string, std::string>;  // service, backend
  struct Lines {
    size_t index;
    uint64_t first;
    uint64_t count;
  };
  std::map<Path, Lines> backends;
  std::vector<Path> by_index;
  uint64_t sessions = 0;

  void add(uint64_t line, const SavedSession& session) {
    sessions++;
    const auto [found, is_new] =
        backends.try_emplace({session.service, session.backend}, Lines{by_index.size(), line, 0});
    if (is_new) by_index.push_back(found->first);
    found->second.count++;
  }
};

int tell_faults(const std::string& file, std::vector<SessionFileFault> faults, int exit_code) {
  std::stable_sort(faults.begin(), faults.end(),
                   [](const SessionFileFault& a, const SessionFileFault& b) { return a.line < b.line; });
  for (size_t i = 0; i < std::min(faults.size(), kFaultsShown); i++)
    tell(fmt::format("{}:{}: {}", file, faults[i].line, faults[i].what));
  complain(
      {fmt::format("{}: {} fault{}; nothing was changed", file, faults.size(), faults.size() == 1 ? "" : "s"),
       ""});
  return exit_code;
}

json request_of(const Arguments& arguments, const SessionFileHeader& header, const Contents& contents) {
  json request = {{"cmd", "session.import"},     {"secret", header.secret},
                  {"services", header.services}, {"skip_unknown", arguments.skip_unknown},
                  {"force", arguments.force},    {"total", contents.sessions},
                  {"backends", json::array()}};
  for (const Contents::Path& path : contents.by_index)
    request["backends"].push_back({path.first, path.second});
  return request;
}

struct Checked {
  uint64_t unknown = 0;
  uint64_t beyond = 0;  // as many as may find their backend full
};

// Asks sluiced what it does not know. The exit code, when that is the end.
std::optional<int> check(const Arguments& arguments, json request, const Contents& contents,
                         Checked& checked) {
  request["dry_run"] = true;
  json faults, room;
  const int code = answer(arguments, std::move(request), [&](const json& response) {
    faults = response.at("faults");
    room = response.at("room");
    return kExitOk;
  });
  if (code != kExitOk) return code;
  for (const auto& [path, lines] : contents.backends) {
    const json& left = room.at(lines.index);
    if (!arguments.force && left.is_number())
      checked.beyond += lines.count - std::min(lines.count, left.get<uint64_t>());
  }
  std::vector<SessionFileFault> told;
  for (const json& fault : faults) {
    const Contents::Lines& lines =
        contents.backends.at(contents.by_index.at(fault.at("index").get<size_t>()));
    checked.unknown += lines.count;
    const auto remedy = fault.at("remedy").get<std::string>();
    told.push_back({lines.first, fault.at("error").get<std::string>() +
                                     (remedy.empty() ? "" : ": " + remedy) +
                                     (lines.count == 1 ? "" : fmt::format(" ({} lines)", lines.count))});
  }
  if (told.empty() || arguments.skip_unknown) return std::nullopt;
  std::fprintf(stderr, "(--skip-unknown imports the others)\n");
  return tell_faults(arguments.file, std::move(told), kExitSemantic);
}

// The file's second reading: to sluiced, in requests.
class Sender {
 public:
  Sender(const Arguments& arguments, const json& request, const Contents& contents, uint64_t elapsed_s)
      : arguments_(arguments), request_(request), contents_(contents), elapsed_s_(elapsed_s) {}

  void add(const SavedSession& s) {
    if (code_ != kExitOk) return;
    const auto found = contents_.backends.find({s.service, s.backend});
    if (found == contents_.backends.end()) return;  // somebody writes to the file: the sums will tell
    // Time has gone on since the export.
    const uint64_t rest_s = s.kind == SessionKind::learnt
                                ? s.rest_s + elapsed_s_
                                : s.rest_s - std::min<uint64_t>(s.rest_s, elapsed_s_);
    if (rows_.size() >= kRowsAtOnce) send(true);
    rows_.push_back({found->second.index, fmt::format("{:016x}", s.hash), static_cast<uint32_t>(s.kind),
                     rest_s, s.age_s + elapsed_s_});
  }
  int finish() {
    if (!rows_.empty()) send(false);
    return code_;
  }
  uint64_t sum(const char* name) const {
    const auto found = sums_.find(name);
    return found == sums_.end() ? 0 : found->second;
  }
  const std::map<std::string, uint64_t>& sums() const { return sums_; }

 private:
  void send(bool has_more) {
    json request = request_;
    request["more"] = has_more;
    request["sessions"] = std::exchange(rows_, json::array());
    const int code = answer(arguments_, std::move(request), [&](const json& response) {
      for (const auto& [name, value] : response.items()) {
        if (value.is_number_unsigned() && name != "v") sums_[name] += value.get<uint64_t>();
      }
      return kExitOk;
    });
    if (code_ == kExitOk) code_ = code;
  }

  const Arguments& arguments_;
  const json& request_;
  const Contents& contents_;
  const uint64_t elapsed_s_;
  json rows_ = json::array();
  std::map<std::string, uint64_t> sums_;
  int code_ = kExitOk;
};

int import_sessions(const Arguments& arguments) {
  Contents contents;
  const auto first = read_session_file(
      arguments.file, [&](uint64_t line, const SavedSession& session) { contents.add(line, session); });
  if (!first) {
    complain(first.error());
    return kExitFailure;
  }
  if (!first->faults.empty()) return tell_faults(arguments.file, first->faults, kExitParse);
  const json request = request_of(arguments, first->header, contents);
  Checked checked;
  if (const std::optional<int> end = check(arguments, request, contents, checked)) return *end;
  if (arguments.dry_run) {
    print(fmt::format(
        "{} of {} sessions would be imported, {} are of unknown backends{}\n",
        contents.sessions - checked.unknown, contents.sessions, checked.unknown,
        checked.beyond == 0 ? "" : fmt::format("; up to {} would find their backend full", checked.beyond)));
    return kExitOk;
  }
  const uint64_t now_s = wall_clock_s();
  Sender sender(arguments, request, contents, now_s - std::min(now_s, first->header.time_s));
  const auto second =
      read_session_file(arguments.file, [&](uint64_t, const SavedSession& session) { sender.add(session); });
  const int code = sender.finish();
  if (arguments.as_json) {
    print(to_line({{"v", kProtocolVersion},
                   {"ok", code == kExitOk},
                   {"sessions", contents.sessions},
                   {"counts", sender.sums()}}));
  } else {
    print(fmt::format(
        "{} sessions: {} made, {} pins in place of what was learnt, {} were there already, {} are over, {} "
        "of unknown backends, {} without a place, {} of full backends\n",
        contents.sessions, sender.sum("made"), sender.sum("replaced"), sender.sum("kept"), sender.sum("over"),
        sender.sum("unknown") + sender.sum("gone"), sender.sum("no_place"), sender.sum("full")));
  }
  if (code != kExitOk) return code;
  const bool is_same = second && second->faults.empty();
  if (!is_same) complain({arguments.file + " changed while it was imported", "import it again"});
  if (sender.sum("full") != 0) {
    complain({fmt::format("{} sessions were refused: their backends have max_sessions", sender.sum("full")),
              "more room, or import again with --force if that is meant"});
  }
  return is_same && sender.sum("no_place") + sender.sum("not_known") + sender.sum("full") == 0 ? kExitOk
                                                                                               : kExitFailure;
}

}  // namespace

void add_session_file(CLI::App& session, Arguments& arguments, Action& action) {
  CLI::App* out =
      session.add_subcommand("export", "all sessions, a line of JSON each, to take to another balancer");
  out->add_option("SERVICE", arguments.service, "only of this one and its group");
  out->add_option("--file", arguments.file, "into this file, not to standard output");
  out->callback([&] { action = [&] { return export_sessions(arguments); }; });

  CLI::App* in =
      session.add_subcommand("import", "makes the sessions of an export, unless they are there; all or none");
  in->add_option("FILE", arguments.file)->required();
  in->add_flag("--dry-run", arguments.dry_run, "only says whether it could, and what is wrong");
  in->add_flag("--force", arguments.force, "also those whose backend has max_sessions already");
  in->add_flag("--skip-unknown", arguments.skip_unknown,
               "leaves out those of services and backends that are not here");
  in->callback([&] { action = [&] { return import_sessions(arguments); }; });
}

}  // namespace sluice
