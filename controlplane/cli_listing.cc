// Lists on the command line: --filter, --sort, --rate, --exact.
#include <algorithm>
#include <cmath>
#include <map>
#include <thread>

#include <fmt/format.h>

#include "controlplane/cli.h"
#include "controlplane/cli_table.h"
#include "controlplane/exit_codes.h"
#include "controlplane/message.h"

namespace sluice {
namespace {

using nlohmann::json;
using Clock = std::chrono::steady_clock;

std::string key_of(const json& row, const Listing& listing) {
  std::string key;
  for (const char* name : listing.keys)
    key += row.at(name).dump() + "/";
  return key;
}

json& rows_of(json& response, const Listing& listing) {
  return response[json::json_pointer(listing.rows)];
}

// The counters of `now` as rates a second; 0 for a row that was not there before.
void make_rates(json& now, json& before, double seconds, const Listing& listing) {
  std::map<std::string, const json*> earlier;
  for (const json& row : rows_of(before, listing))
    earlier[key_of(row, listing)] = &row;
  for (json& row : rows_of(now, listing)) {
    const auto found = earlier.find(key_of(row, listing));
    for (const char* counter : listing.counters) {
      const auto value = row.at(counter).get<uint64_t>();
      const auto previous = found == earlier.end() ? value : found->second->at(counter).get<uint64_t>();
      const uint64_t grown = value - std::min(value, previous);
      row[counter] = static_cast<uint64_t>(std::llround(static_cast<double>(grown) / seconds));
    }
  }
  now["rate"] = true;
  now["interval_s"] = seconds;
}

int show_listing(const Arguments& arguments, json response, const Listing& listing,
                 const std::function<TextTable(const json&)>& table,
                 const std::function<std::string(const json&)>& notes) {
  TextTable text = table(response);
  if (const Result<Done> arranged = text.arrange(arguments.view); !arranged)
    return usage_error(arranged.error());
  json& rows = rows_of(response, listing);
  json chosen = json::array();
  for (const size_t row : text.order())
    chosen.push_back(std::move(rows[row]));
  rows = std::move(chosen);
  print(arguments.as_json ? to_line(response) : text.text() + notes(response));
  return kExitOk;
}

}  // namespace

void add_listing_options(CLI::App& command, Arguments& arguments, bool has_counters) {
  command
      .add_option("--filter", arguments.view.filters,
                  "COLUMN=GLOB, COLUMN!=GLOB, COLUMN<NUMBER, COLUMN>NUMBER; several: all of them")
      ->take_all()
      ->expected(1);
  command.add_option("--sort", arguments.view.sort, "by this COLUMN: numbers from the largest, text from A");
  command.add_flag("--reverse", arguments.view.reverse, "the other way round");
  command.add_flag("--exact", arguments.view.exact, "1234567, not 1.23M");
  if (!has_counters) return;
  command.add_flag("--rate", arguments.with_rate, "counters as rates a second, of two samples");
  command.add_option("--interval", arguments.interval, "between the two samples (1s)");
}

int ask_listing(const Arguments& arguments, json request, const Listing& listing,
                const std::function<TextTable(const json&)>& table,
                const std::function<std::string(const json&)>& notes) {
  request["cmd"] = listing.command;
  if (!arguments.with_rate) {
    return answer(arguments, request, [&](const json& response) {
      return show_listing(arguments, response, listing, table, notes);
    });
  }
  const auto interval = parse_time(arguments.interval);
  if (!interval || interval->count() == 0)
    return usage_error({fmt::format("interval '{}' is not 500ms, 1s or the like", arguments.interval), ""});
  json before;
  const int code = answer(arguments, request, [&](const json& response) {
    before = response;
    return kExitOk;
  });
  if (code != kExitOk) return code;
  const Clock::time_point began = Clock::now();
  std::this_thread::sleep_for(*interval);
  return answer(arguments, request, [&](const json& response) {
    json now = response;
    make_rates(now, before, std::chrono::duration<double>(Clock::now() - began).count(), listing);
    return show_listing(arguments, std::move(now), listing, table, notes);
  });
}

}  // namespace sluice
