// What the parts of the command line share (cli_*.cc). Internal to `sluice`.
//
// Data goes to stdout, everything else to stderr; exit codes as in exit_codes.h. To add a command: an add_...
// in the file of its subject; it sets the Action that main then runs.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "controlplane/cli_table.h"
#include "src/result.h"

namespace sluice {

// What the command line said.
struct Arguments {
  std::string directory;
  bool as_json = false;
  uint32_t timeout_ms = 10'000;
  bool with_stats = false;
  bool with_rate = false;
  std::string interval = "1s";  // between the two samples of a rate
  TableView view;
  bool all_reasons = false;
  std::string file;
  std::vector<std::string> targets;  // SERVICE/BACKEND, with * and ?
  std::string target;                // SERVICE or SERVICE/BACKEND
  std::string address;
  std::string confirm;  // a duration
  bool dry_run = false;
  bool force = false;
  std::string service;
  std::string kind;              // of events
  uint64_t listed = 0;           // how many
  bool wait = false;             // until drained
  std::string time_max = "10m";  // of that
  bool migrate = false;          // drain the sessions as well
  std::string reset_after;       // a duration
  std::string weight;
  std::string protocol, client, vip;
  std::string key;  // of a session
  std::string ttl;
  bool only_pinned = false;
  bool only_counts = false;
  bool skip_unknown = false;
  std::string over = "3s";  // to measure
  uint64_t moves_max = 1'000;
  bool resets = false;
  std::string rate = "100/s";
};

using Action = std::function<int()>;  // returns the exit code

void add_events(CLI::App& app, Arguments& arguments, Action& action);            // cli_events.cc
void add_show(CLI::App& app, Arguments& arguments, Action& action);              // cli_show.cc
void add_backend(CLI::App& app, Arguments& arguments, Action& action);           // cli_backend.cc
void add_config(CLI::App& app, Arguments& arguments, Action& action);            // cli_config.cc
void add_overrides(CLI::App& app, Arguments& arguments, Action& action);         // cli_override.cc
void add_session(CLI::App& app, Arguments& arguments, Action& action);           // cli_session.cc
void add_rebalance(CLI::App& app, Arguments& arguments, Action& action);         // cli_rebalance.cc
void add_session_file(CLI::App& session, Arguments& arguments, Action& action);  // cli_session_file.cc

// Escaped (escaped.h), like all that the others below print.
void print(const std::string& text);     // to stdout
void tell(const std::string& sentence);  // a line to stderr
void complain(const Error& error);
int usage_error(const Error& error);
// Asks the daemon and prints its answer, through `format` unless --json. Returns the exit code; `exit_code`
// says it for a good answer when that is not kExitOk alone.
int ask(const Arguments& arguments, nlohmann::json request,
        const std::function<std::string(const nlohmann::json&)>& format,
        const std::function<int(const nlohmann::json&)>& exit_code = {});
// The same in two steps. `show` is called when sluiced has done it, and prints.
int answer(const Arguments& arguments, nlohmann::json request,
           const std::function<int(const nlohmann::json&)>& show);

// ---- Lists: filtered, sorted, and their counters as rates, as the command line says (cli_listing.cc) ----
struct Listing {
  const char* command;                // of the request
  const char* rows;                   // JSON pointer to the list in the response
  std::vector<const char*> keys;      // what tells rows apart
  std::vector<const char*> counters;  // what --rate makes rates of
};
// What the options of a listing are; `has_counters`: also --rate and --interval.
void add_listing_options(CLI::App& command, Arguments& arguments, bool has_counters);
// Asks, twice for rates, and prints. Returns the exit code.
int ask_listing(const Arguments& arguments, nlohmann::json request, const Listing& listing,
                const std::function<TextTable(const nlohmann::json&)>& table,
                const std::function<std::string(const nlohmann::json&)>& notes);

// "500ms", "10s", "10m", "1h"; nothing for anything else.
std::optional<std::chrono::milliseconds> parse_time(const std::string& text);
// Waits until none of these backends (SERVICE/BACKEND) has flows, or sluiced has reset them, and says
// meanwhile how many there are (cli_drain.cc). Returns the exit code: kExitTimeout when `limit` has passed.
int wait_until_drained(const Arguments& arguments, const std::vector<std::string>& backends,
                       std::chrono::milliseconds limit);

}  // namespace sluice
