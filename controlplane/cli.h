// What the parts of the command line share (cli_*.cc). Internal to `sluice`.
//
// Data goes to stdout, everything else to stderr; exit codes as in exit_codes.h. To add a command: an add_...
// in the file of its subject; it sets the Action that main then runs.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "src/result.h"

namespace sluice {

// What the command line said.
struct Arguments {
  std::string directory;
  bool as_json = false;
  uint32_t timeout_ms = 10'000;
  bool with_stats = false;
  bool all_reasons = false;
  std::string file;
  std::vector<std::string> targets;  // SERVICE/BACKEND, with * and ?
  std::string target;                // SERVICE or SERVICE/BACKEND
  std::string address;
  std::string confirm;  // a duration
  bool dry_run = false;
  std::string service;
  std::string weight;
  std::string protocol, client, vip;
};

using Action = std::function<int()>;  // returns the exit code

void add_show(CLI::App& app, Arguments& arguments, Action& action);       // cli_show.cc
void add_backend(CLI::App& app, Arguments& arguments, Action& action);    // cli_backend.cc
void add_config(CLI::App& app, Arguments& arguments, Action& action);     // cli_config.cc
void add_overrides(CLI::App& app, Arguments& arguments, Action& action);  // cli_override.cc

void print(const std::string& text);
void complain(const Error& error);
int usage_error(const Error& error);
// Asks the daemon and prints its answer, through `format` unless --json. Returns the exit code; `exit_code` says
// it for a good answer when that is not kExitOk alone.
int ask(const Arguments& arguments, nlohmann::json request,
        const std::function<std::string(const nlohmann::json&)>& format,
        const std::function<int(const nlohmann::json&)>& exit_code = {});

}  // namespace sluice
