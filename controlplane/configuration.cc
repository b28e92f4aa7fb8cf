#include "controlplane/configuration.h"

#include <algorithm>
#include <utility>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#define XXH_INLINE_ALL
#include <xxhash.h>

namespace sluice {
namespace {

using nlohmann::json;

int64_t unix_ms() {
  return std::chrono::duration_cast<std::chrono::milliseconds>(
             std::chrono::system_clock::now().time_since_epoch())
      .count();
}

uint64_t hash_of(const std::vector<ConfigSource>& sources) {
  uint64_t hash = 0;
  for (const ConfigSource& source : sources) {
    hash = XXH3_64bits_withSeed(source.file.data(), source.file.size(), hash);
    hash = XXH3_64bits_withSeed(source.text.data(), source.text.size(), hash);
  }
  return hash;
}

// Files may hold any bytes; state is JSON. A configuration that was taken over is valid UTF-8.
json to_json(const std::vector<ConfigSource>& sources) {
  json out = json::array();
  for (const ConfigSource& source : sources)
    out.push_back({{"file", source.file}, {"text", source.text}});
  return out;
}

std::vector<ConfigSource> sources_of(const json& list) {
  std::vector<ConfigSource> sources;
  for (const json& source : list)
    sources.push_back({source.at("file").get<std::string>(), source.at("text").get<std::string>()});
  return sources;
}

std::string dump(const json& object) {
  return object.dump(1, ' ', false, json::error_handler_t::replace) + "\n";
}

}  // namespace

Configuration::Parsed Configuration::parse(std::vector<ConfigSource> sources) {
  ConfigResult read = parse_config(sources);
  Parsed parsed{std::nullopt, std::move(read.errors), std::move(read.warnings)};
  if (read.config)
    parsed.version = Version{std::move(sources), std::move(*read.config), std::move(read.written)};
  return parsed;
}

Configuration::Configuration(boost::asio::io_context& io, boost::asio::thread_pool& disk, std::string path,
                             std::string state_directory, Events& events)
    : io_(io),
      path_(std::move(path)),
      state_directory_(std::move(state_directory)),
      events_(events),
      deadline_(io),
      config_file_(
          io, disk, state_directory_ + "/config.json", [this] { return config_contents(); },
          [this](const std::string& fault) {
            if (fault.empty()) saved_again(overrides_file_);
            fault.empty() ? told("state_saved", Event::Level::info, "the configuration is kept on disk again")
                          : told("state_not_saved", Event::Level::error,
                                 "the configuration is in force but not kept: " + fault);
          }),
      overrides_file_(
          io, disk, state_directory_ + "/overrides.json", [this] { return overrides_contents(); },
          [this](const std::string& fault) {
            if (fault.empty()) saved_again(config_file_);
            fault.empty() ? told("state_saved", Event::Level::info, "overrides are kept on disk again")
                          : told("state_not_saved", Event::Level::error,
                                 "overrides are in force but not kept: " + fault);
          }) {}

void Configuration::finish() {
  config_file_.finish();
  overrides_file_.finish();
}

// The other file may have gone with the directory.
void Configuration::saved_again(StateFile& other) {
  other.save();
  if (saved_again_) saved_again_();
}

void Configuration::told(const char* kind, Event::Level level, std::string sentence) {
  Event event;
  event.level = level;
  event.kind = kind;
  event.text = std::move(sentence);
  events_.add(std::move(event));
}

std::optional<std::string> Configuration::read(const StateFile& file) {
  const Result<std::optional<std::string>> contents = file.read();
  if (contents) return *contents;
  told("state_damaged", Event::Level::error, contents.error().what);
  return std::nullopt;
}

Configuration::Parsed Configuration::begin() {
  if (const std::string fault = make_state_directory(state_directory_); !fault.empty()) {
    told("state_not_saved", Event::Level::error, "nothing will be kept over a restart: " + fault);
  }
  if (const auto contents = read(overrides_file_)) restore_overrides(*contents);
  const std::optional<std::string> kept = read(config_file_);
  const uint64_t kept_hash = kept && restore_config(*kept) ? files_hash_ : 0;

  if (pending_) arm(std::chrono::milliseconds(pending_->deadline_unix_ms - unix_ms()));

  Parsed files = read_files();
  const bool has_kept = !version_.sources.empty();
  if (has_kept && (!files.version || files.version->files_hash == kept_hash)) {
    if (!files.version) {
      for (const Diagnostic& error : files.errors)
        told("config_error", Event::Level::error, error.text());
      told("config_refused", Event::Level::error,
           path_ + " is faulty: the last good configuration is in force; mend it, then: sluice reload");
    }
    return {version_, {}, std::move(files.warnings)};
  }
  return files;  // changed since: newer than what was in force, on trial or not
}

Configuration::Parsed Configuration::read_files() {
  ConfigFiles files = read_config_files(path_);
  if (!files.errors.empty()) return {std::nullopt, std::move(files.errors), {}};
  const uint64_t hash = hash_of(files.sources);
  Parsed parsed = parse(std::move(files.sources));
  if (parsed.version) parsed.version->files_hash = hash;
  return parsed;
}

Config Configuration::effective(const Version& version, const Overrides& overrides,
                                std::vector<OverrideFault>& faults) {
  Config config = version.config;
  lay_over(config, overrides, faults);
  return config;
}

void Configuration::take(Version version, std::optional<Trial> trial) {
  version_ = std::move(version);
  if (version_.files_hash != 0) files_hash_ = version_.files_hash;
  taken_unix_ms_ = unix_ms();
  pending_.reset();
  deadline_.cancel();
  if (trial) {
    const std::chrono::milliseconds length = trial->length;
    pending_ = Pending{std::move(*trial), unix_ms() + length.count()};
    arm(length);
  }
  config_file_.save();
}

void Configuration::take(Overrides overrides, uint64_t edition_at_least) {
  ahead_.reset();
  overrides_ = std::move(overrides);
  edition_ = std::max(edition_ + 1, edition_at_least);
  overrides_file_.save();
}

void Configuration::set_overrides(std::vector<std::pair<OverrideKey, Override>> entries) {
  for (auto& [key, entry] : entries)
    overrides_.set(key, std::move(entry));
  edition_++;
  overrides_file_.save();
}

// Calls `done` once: when it is called itself, or when patience ends.
StateFile::Saved Configuration::patiently(StateFile::Saved done) {
  struct Wait {
    boost::asio::steady_timer timer;
    StateFile::Saved done;
  };
  auto wait = std::make_shared<Wait>(Wait{boost::asio::steady_timer(io_), std::move(done)});
  wait->timer.expires_after(kDiskPatience);
  wait->timer.async_wait([wait](const boost::system::error_code& error) {
    if (!error && wait->done) std::exchange(wait->done, nullptr)("the disk has not answered yet");
  });
  return [wait](const std::string& fault) {
    wait->timer.cancel();
    if (wait->done) std::exchange(wait->done, nullptr)(fault);
  };
}

void Configuration::when_saved(StateFile::Saved done) {
  overrides_file_.when_saved([this, done = patiently(std::move(done))](const std::string& fault) {
    fault.empty() ? config_file_.when_saved(done) : done(fault);
  });
}

void Configuration::save_ahead(Overrides next, StateFile::Saved done) {
  ahead_ = std::move(next);
  overrides_file_.save();
  overrides_file_.when_saved(patiently(std::move(done)));
}

// ---- Confirmation -----------------------------------------------------------------------------------------

// The timer is a steady one. Only a successor has to trust the wall clock: whatever that did meanwhile, it
// waits no longer than was asked for.
void Configuration::arm(std::chrono::milliseconds left) {
  deadline_.expires_after(
      std::clamp<std::chrono::milliseconds>(left, std::chrono::milliseconds(0), pending_->trial.length));
  deadline_.async_wait([this](const boost::system::error_code& error) {
    if (error || !pending_) return;
    roll_back_();
    if (pending_) arm(kRollBackRetry);
  });
}

std::chrono::seconds Configuration::pending_left() const {
  return std::chrono::duration_cast<std::chrono::seconds>(deadline_.expiry() -
                                                          std::chrono::steady_clock::now());
}

void Configuration::confirm() {
  pending_.reset();
  deadline_.cancel();
  config_file_.save();
}

Overrides Configuration::overrides_before_trial() const {
  Overrides before = overrides_;
  for (const auto& [name, service] : trial().dropped.services()) {
    if (!before.services().contains(name)) before.add_service(name, service);
  }
  const auto same = [](const Override* a, const Override* b) {
    return a == nullptr || b == nullptr ? a == b : *a == *b;
  };
  for (const auto& [key, entry] : trial().dropped.entries()) {
    if (same(overrides_.find(key), trial().left.find(key))) before.set(key, entry);
  }
  return before;
}

// ---- On disk ----------------------------------------------------------------------------------------------

std::string Configuration::config_contents() const {
  json out = {
      {"sources", to_json(version_.sources)}, {"files_hash", files_hash_}, {"taken_unix_ms", taken_unix_ms_}};
  if (pending_)
    out["pending"] = {{"before", to_json(pending_->trial.before.sources)},
                      {"dropped", pending_->trial.dropped.to_json()},
                      {"left", pending_->trial.left.to_json()},
                      {"deadline_unix_ms", pending_->deadline_unix_ms},
                      {"length_s", pending_->trial.length.count()}};
  return dump(out);
}

bool Configuration::restore_config(const std::string& contents) {
  try {
    const json kept = json::parse(contents);
    Parsed parsed = parse(sources_of(kept.at("sources")));
    if (!parsed.version) {  // kept by a sluiced of another schema
      told("state_damaged", Event::Level::error,
           "the last good configuration is not understood: " + parsed.errors.front().text());
      return false;
    }
    version_ = std::move(*parsed.version);
    files_hash_ = kept.at("files_hash").get<uint64_t>();
    taken_unix_ms_ = kept.at("taken_unix_ms").get<int64_t>();
    if (kept.contains("pending")) {
      const json& pending = kept["pending"];
      Parsed before = parse(sources_of(pending.at("before")));
      std::vector<std::string> faults;  // its own writing, and only the way back
      if (before.version)
        pending_ = Pending{{std::move(*before.version), Overrides::from_json(pending.at("dropped"), faults),
                            Overrides::from_json(pending.at("left"), faults),
                            std::chrono::seconds(pending.at("length_s").get<int64_t>())},
                           pending.at("deadline_unix_ms").get<int64_t>()};
    }
    return true;
  } catch (const json::exception& fault) {
    told("state_damaged", Event::Level::error, config_file_.path() + ": " + fault.what());
    return false;
  }
}

std::string Configuration::overrides_contents() const {
  json out = (ahead_ ? *ahead_ : overrides_).to_json();
  out["edition"] = edition_ + (ahead_ ? 1 : 0);
  return dump(out);
}

void Configuration::restore_overrides(const std::string& contents) {
  try {
    const json kept = json::parse(contents);
    std::vector<std::string> faults;
    overrides_ = Overrides::from_json(kept, faults);
    edition_ = kept.at("edition").get<uint64_t>();
    for (std::string& fault : faults)
      told("override_dropped", Event::Level::warning, std::move(fault));
  } catch (const json::exception& fault) {
    told("state_damaged", Event::Level::error, overrides_file_.path() + ": " + fault.what());
  }
}

}  // namespace sluice
