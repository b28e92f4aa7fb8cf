#include "controlplane/overrides_file.h"

#include <filesystem>
#include <fstream>
#include <sstream>

#include <fmt/format.h>

#include "controlplane/json_tree.h"
#include "controlplane/state_file.h"

namespace sluice {
namespace {

using nlohmann::json;

constexpr const char* kHeading =
    "# What operators decided at run time, written back by `sluice overrides write`.\n"
    "# It is laid over the services of the other files. Move it there by hand whenever you like.\n\n";

// What a file of ours says, as a list of the same shape as Overrides::to_json.
Result<json> read_overrides(const std::string& path) {
  if (!std::filesystem::exists(path)) return json::object();
  try {
    std::ostringstream out;
    const toml::table table = toml::parse_file(path);
    for (const auto& [key, value] : table) {
      if (key.str() != "service" && key.str() != "override")
        return Error{fmt::format("{} holds more than overrides: '{}'", path, key.str()),
                     "move that into another file of conf.d"};
    }
    out << toml::json_formatter{table};
    return json::parse(out.str());
  } catch (const toml::parse_error& fault) {
    return Error{fmt::format("{} is not TOML: {}", path, fault.description()), "sluice check " + path};
  } catch (const json::exception& fault) {
    return Error{fmt::format("{} cannot be read: {}", path, fault.what()), "sluice check " + path};
  }
}

Override laid_over(Override below, const Override& above) {
  if (above.remove) return above;
  if (above.weight) below.weight = above.weight;
  if (above.admin) below.admin = above.admin;
  if (above.address) below.address = above.address;
  if (above.enabled) below.enabled = above.enabled;
  below.remove = false;
  return below;
}

}  // namespace

Result<std::string> text_with(const std::string& path, const Overrides& overrides) {
  const Result<json> before = read_overrides(path);
  if (!before) return before.error();
  std::vector<std::string> faults;
  Overrides all = Overrides::from_json(*before, faults);
  if (!faults.empty()) return Error{path + ": " + faults.front(), "sluice check " + path};
  for (const auto& [name, service] : overrides.services())
    all.add_service(name, service);
  for (auto [key, entry] : overrides.entries()) {
    entry.weight_was.reset();
    entry.address_was.reset();
    const Override* known = all.find(key);
    all.set(key, laid_over(known == nullptr ? Override() : *known, entry));
  }
  json document = all.to_json();
  for (const char* list : {"service", "override"}) {
    if (document[list].empty()) document.erase(list);
  }
  const std::string text = document.dump(-1, ' ', false, json::error_handler_t::replace);
  toml::table tree;
  DiagnosticSink sink(text, path);
  read_json(text, tree, sink);
  std::ostringstream out;
  out << kHeading << tree << "\n";
  return std::move(out).str();
}

std::string write_text(const std::string& path, const std::string& text) {
  std::error_code fault;
  const std::filesystem::path folder = std::filesystem::path(path).parent_path();
  std::filesystem::create_directories(folder, fault);
  if (fault) return fmt::format("cannot create {}: {}", folder.string(), fault.message());
  // What is written under another name first does not end in .toml: it is no configuration. Not for all to
  // read: a service's checks may carry credentials.
  return write_durably(path, text, 0640);
}

}  // namespace sluice
