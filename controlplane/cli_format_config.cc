// The part of controlplane/cli_format.h about configurations and overrides.
#include <fmt/format.h>

#include "controlplane/cli_format.h"

namespace sluice {
namespace {

using nlohmann::json;

std::string text_of(const json& object, const char* key) {
  return object.at(key).get<std::string>();
}

std::string name_of(const json& object) {
  const std::string service = text_of(object, "service"), backend = object.value("backend", "");
  if (service.empty()) return "(global)";
  return backend.empty() ? service : service + "/" + backend;
}

std::string plain(const json& value) {
  return value.is_string() ? value.get<std::string>() : value.dump();
}

}  // namespace

std::string format_diff(const json& response) {
  std::string out;
  for (const json& object : response.at("objects")) {
    const std::string change = text_of(object, "change");
    const char sign = change == "added" ? '+' : change == "removed" ? '-' : '~';
    out += fmt::format("{} {}\n", sign, name_of(object));
    for (const json& key : object.at("keys")) {
      const std::string from = text_of(key, "from"), to = text_of(key, "to");
      if (from.empty()) {
        out += fmt::format("    + {} = {}\n", text_of(key, "key"), to);
      } else if (to.empty()) {
        out += fmt::format("    - {} = {}\n", text_of(key, "key"), from);
      } else {
        out += fmt::format("    ~ {} = {} -> {}\n", text_of(key, "key"), from, to);
      }
    }
  }
  if (out.empty()) out = "the files say the same\n";
  for (const json& sentence : response.at("overrides_dropped"))
    out += fmt::format("override dropped: {}\n", sentence.get<std::string>());
  if (!response.contains("flows") || response.at("flows").is_null()) return out;
  for (const json& flows : response.at("flows")) {
    out += fmt::format("{}: {:.3f} % of untracked flows move (ideal {:.3f} %); of {} tracked flows {} move\n",
                       text_of(flows, "service"), flows.at("hash_space_moved_percent").get<double>(),
                       flows.at("ideal_percent").get<double>(), flows.at("flows_active").get<uint64_t>(),
                       flows.at("flows_moved").get<uint64_t>());
    if (const auto forgotten = flows.value("flows_forgotten", uint64_t{0}); forgotten != 0)
      out += fmt::format(
          "{}: {} tracked flows are forgotten; where the lookup table says another backend, they move\n",
          text_of(flows, "service"), forgotten);
  }
  if (response.at("flows").empty()) out += "no flow moves\n";
  return out;
}

std::string format_overrides(const json& response) {
  TextTable table({"OBJECT", "OVERRIDE"});
  bool any = false;
  for (const json& service : response.at("services")) {
    table.add({text_of(service, "name"), "added"});
    any = true;
  }
  for (const json& entry : response.at("overrides")) {
    std::string said;
    const auto say = [&](const std::string& word) { said += (said.empty() ? "" : ", ") + word; };
    if (entry.contains("remove")) say("removed");
    if (entry.contains("address")) say("added, address " + text_of(entry, "address"));
    if (entry.contains("weight")) {
      const std::string was =
          entry.contains("weight_was") ? " (files: " + plain(entry["weight_was"]) + ")" : "";
      say("weight " + plain(entry["weight"]) + was);
    }
    if (entry.contains("admin")) say("admin " + text_of(entry, "admin"));
    if (entry.contains("reset_in_s"))
      say(fmt::format("reset in {:.0f} s", entry["reset_in_s"].get<double>()));
    if (entry.contains("enabled")) say(entry["enabled"].get<bool>() ? "enabled" : "disabled");
    table.add({name_of(entry), said});
    any = true;
  }
  return any ? table.text() : "no overrides: the files are in force as they are\n";
}

}  // namespace sluice
