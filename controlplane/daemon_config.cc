// The part of controlplane/daemon.h that takes configurations and overrides over: from files or a command to
// a model, to a generation, to the disk.
#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>

#include <fmt/format.h>

#include "controlplane/compile.h"
#include "controlplane/config_diff.h"
#include "controlplane/daemon.h"
#include "controlplane/overrides_file.h"

namespace sluice {
namespace {

using nlohmann::json;

constexpr uint64_t kHealthSavePeriodNs = 1'000'000'000;

// For assign_ids(). One that is still starting has its predecessor's heartbeat, and start.
uint64_t dataplane_since_ns(const DataplaneView& dataplane, uint64_t now_ns) {
  constexpr uint64_t kSilenceMaxNs = 60'000'000'000;
  const StatsSegment* const stats = dataplane.stats();
  if (!dataplane.is_running() || stats == nullptr) return kNoDataplane;
  return stats->workers[0].heartbeat_ns.get() + kSilenceMaxNs < now_ns ? kNoDataplane
                                                                       : stats->header.started_ns;
}

std::string path_of(const OverrideKey& key) {
  return key.second.empty() ? key.first : key.first + "/" + key.second;
}

// Weight and admin state are what the overrides say, and the files' where they say nothing.
void lay_over_states(Model& model, const Overrides& overrides, uint64_t now_ns) {
  for (Service& service : model.edit_all()) {
    for (Backend& backend : service.backends) {
      const Override* entry = overrides.find({service.config.name, backend.config.name});
      backend.weight_override.reset();
      if (entry != nullptr && entry->weight && *entry->weight != backend.config.weight)
        backend.weight_override = entry->weight;
      const Admin admin =
          entry != nullptr ? entry->admin.value_or(backend.config.admin) : backend.config.admin;
      if (is_out(admin) && !is_out(backend.admin)) {
        backend.health = Health::unknown;
        backend.health_since_ns = now_ns;
        backend.flaps = {};
        backend.ramp_permille = kRampWhole;
        backend.starts_cold = true;
      }
      backend.admin = admin;
    }
  }
}

// The reverse: what the tables knew goes into the overrides.
void take_states(const Model& model, Overrides& overrides) {
  for (const Service& service : model.services()) {
    for (const Backend& backend : service.backends) {
      const OverrideKey key{service.config.name, backend.config.name};
      const Override* known = overrides.find(key);
      Override entry = known == nullptr ? Override() : *known;
      // It has its deadline while it is what it was when that was given.
      if (entry.admin != backend.admin) entry.reset.reset();
      entry.admin.reset();
      if (backend.admin != backend.config.admin || entry.reset) entry.admin = backend.admin;
      if (!entry.address) {
        entry.weight = backend.weight_override;
        entry.weight_was.reset();
        if (entry.weight) entry.weight_was = backend.config.weight;
      } else if (backend.weight_override) {
        entry.weight = backend.weight_override;
      }
      overrides.set(key, std::move(entry));
    }
  }
}

}  // namespace

// ---- Into the model ---------------------------------------------------------------------------------------

// The hash is a flow's identity: under another secret no packet finds its flow again.
Result<Done> Daemon::check_secret(const Config& config) {
  const TablesView current = publisher_.current();
  dataplane_.refresh();
  if (!current || !dataplane_.is_running()) return Done{};
  if (HashSecret::from_text(config.secret).bytes == current.generation().secret.bytes) return Done{};
  return Error{"the secret differs from the one in use: every tracked flow would be forgotten",
               "put the old secret back, or stop sluice-dataplane before the change"};
}

Result<Model> Daemon::model_of(const Configuration::Version& version, Overrides& overrides, From from,
                               std::vector<std::string>& dropped) {
  overrides = without_overtaken(overrides, version.config, dropped);
  std::vector<OverrideFault> faults;
  const Config config = Configuration::effective(version, overrides, faults);
  for (const OverrideFault& fault : faults) {
    dropped.push_back(
        fmt::format("the override of '{}' does not fit any more: {}", path_of(fault.key), fault.why));
    overrides.set(fault.key, {});
  }
  if (config.services.empty())
    return Error{"no service would be left: every one is taken out by an override", "sluice show overrides"};
  if (const Result<Done> fits = check_secret(config); !fits) return fits.error();

  Model next = model_;
  reconcile(next, config);
  const uint64_t now_ns = monotonic_ns();
  if (const Result<Done> assigned =
          assign_ids(next, publisher_.current(), now_ns, dataplane_since_ns(dataplane_, now_ns));
      !assigned)
    return assigned.error();
  if (from == From::tables) {
    take_states(next, overrides);
  } else {
    lay_over_states(next, overrides, now_ns);
  }
  overrides.bound_resets(now_ns);
  for (Service& service : next.edit_all()) {
    for (Backend& backend : service.backends) {
      if (backend.health_since_ns == 0) backend.health_since_ns = now_ns;
    }
  }
  return next;
}

Result<Daemon::Change> Daemon::adopt(Model next) {
  const TablesView current = publisher_.current();
  const uint64_t number_before = current ? current.generation().number : 0;
  next.begin_ramps(monotonic_ns());
  std::swap(model_, next);
  follow_model();
  const Result<Compiled> published = rollout_->publish();
  if (!published) {
    std::swap(model_, next);
    follow_model();
    rollout_->publish_soon();  // next hops may have moved meanwhile
  }
  // Also after a fault: follow_model has forgotten the checks of the backends that were to go.
  follow_all_checks();
  if (!published) return published.error();
  return Change{published->generation != number_before, published->generation};
}

Result<Daemon::Change> Daemon::adopt(const Configuration::Version& version, Overrides& overrides, From from,
                                     std::vector<std::string>* dropped) {
  std::vector<std::string> sentences;
  Result<Model> next = model_of(version, overrides, from, sentences);
  if (!next) return next.error();
  const bool overrides_change = overrides != configuration_->overrides();
  next->set_overrides_edition(configuration_->edition() + (overrides_change ? 1 : 0));
  if (from == From::overrides && model_.services().empty()) remember_kept_health(*next);
  Result<Change> adopted = adopt(std::move(*next));
  if (!adopted) return adopted;
  for (const std::string& sentence : sentences)
    note(Event::Level::warning, "override_dropped", sentence);
  if (dropped != nullptr) *dropped = std::move(sentences);
  return adopted;
}

void Daemon::take_version(Configuration::Version version, std::optional<Configuration::Trial> trial) {
  if (interfaces_) interfaces_->follow(version.config.interfaces);
  configuration_->take(std::move(version), std::move(trial));
}

void Daemon::take_overrides(Overrides overrides) {
  if (overrides != configuration_->overrides()) configuration_->take(std::move(overrides));
  model_.set_overrides_edition(configuration_->edition());
}

Result<Daemon::Change> Daemon::begin_with(Configuration::Version version) {
  const TablesView current = publisher_.current();
  const uint64_t tables_edition = current ? current.generation().overrides_edition : 0;
  const bool tables_are_newer = tables_edition > configuration_->edition();
  Overrides overrides = configuration_->overrides();
  const Result<Change> adopted = adopt(version, overrides, tables_are_newer ? From::tables : From::overrides);
  const Configuration::Version* last_good = configuration_->last_good();
  if (!adopted && last_good != nullptr && last_good->sources != version.sources) {
    note(Event::Level::error, "config_refused",
         fmt::format("{} cannot be used: {}; the last good configuration is in force", options_.config_path,
                     adopted.error().text()));
    return begin_with(*last_good);
  }
  if (!adopted) return adopted.error();
  if (tables_are_newer) {
    configuration_->take(std::move(overrides), tables_edition);
  } else {
    take_overrides(std::move(overrides));
  }
  // What was in force last stays as it is on disk, with its way back when it is on trial.
  if (last_good == nullptr || last_good->sources != version.sources) take_version(std::move(version));
  note(Event::Level::info, "started",
       fmt::format("sluiced " SLUICE_VERSION " runs instance {}: {} services, generation {}",
                   options_.directory, model_.services().size(), adopted->generation));
  return adopted;
}

// ---- Configurations ---------------------------------------------------------------------------------------

Daemon::Applied Daemon::apply(std::vector<ConfigSource> sources, const ApplyOptions& options) {
  Configuration::Parsed parsed = Configuration::parse(std::move(sources));
  return apply(std::move(parsed), options);
}

Daemon::Applied Daemon::reload() {
  return apply(configuration_->read_files(), {});
}

Daemon::Applied Daemon::apply(Configuration::Parsed parsed, const ApplyOptions& options) {
  Applied applied;
  applied.errors = std::move(parsed.errors);
  applied.warnings = std::move(parsed.warnings);
  if (!options.dry_run) note_diagnostics(applied);
  if (!parsed.version) return applied;
  const Configuration::Version before = configuration_->version();
  const std::string file = parsed.version->sources.front().file;
  applied.objects = diff_written(before.written, parsed.version->written);

  if (configuration_->is_pending() && !options.dry_run) {
    applied.change =
        Error{"another configuration waits to be confirmed", "sluice confirm, or: sluice rollback"};
    return applied;
  }
  const Overrides overrides_before = configuration_->overrides();
  Overrides overrides = overrides_before;
  if (options.dry_run) {
    const Result<Model> next =
        model_of(*parsed.version, overrides, From::overrides, applied.overrides_dropped);
    if (next) {
      applied.flows = diff_flows(model_, *next, publisher_.current(), dataplane_.stats());
    } else {
      applied.change = next.error();
    }
    return applied;
  }
  applied.change = adopt(*parsed.version, overrides, From::overrides, &applied.overrides_dropped);
  if (!applied.change) {
    note(Event::Level::error, "config_refused",
         fmt::format("{} not taken over, the old configuration stays: {}", file,
                     applied.change.error().text()));
    return applied;
  }
  std::optional<Configuration::Trial> trial;
  if (options.confirm)
    trial = Configuration::Trial{before, difference(overrides_before, overrides),
                                 difference(overrides, overrides_before), *options.confirm};
  // First the version, and with it the way back: whoever is killed between them has lost no override.
  take_version(std::move(*parsed.version), std::move(trial));
  take_overrides(std::move(overrides));
  note(Event::Level::info, "config_applied",
       fmt::format("{} taken over: {} services, generation {}", file, model_.services().size(),
                   applied.change->generation));
  if (options.confirm)
    note(Event::Level::info, "config_pending",
         fmt::format("back to the configuration before in {} s, unless confirmed", options.confirm->count()));
  return applied;
}

void Daemon::note_diagnostics(const Applied& applied) {
  for (const Diagnostic& warning : applied.warnings)
    note(Event::Level::warning, "config_warning", warning.text());
  for (const Diagnostic& error : applied.errors)
    note(Event::Level::error, "config_error", error.text());
  if (!applied.errors.empty())
    note(Event::Level::error, "config_refused",
         applied.errors.front().file + " not taken over, the old configuration stays");
}

Result<Daemon::Change> Daemon::confirm() {
  if (!configuration_->is_pending())
    return Error{"no configuration waits to be confirmed", "sluice apply FILE --confirm 60s"};
  configuration_->confirm();
  note(Event::Level::info, "config_confirmed", "the configuration is confirmed: " + configuration_->origin());
  return Change{false, publisher_.current().generation().number};
}

Result<Daemon::Change> Daemon::roll_back() {
  if (!configuration_->is_pending())
    return Error{"no configuration waits to be confirmed: there is nothing to go back to",
                 "sluice apply FILE with the configuration that is wanted"};
  return go_back();
}

Result<Daemon::Change> Daemon::go_back() {
  Configuration::Version before = configuration_->trial().before;
  Overrides overrides = configuration_->overrides_before_trial();
  const Result<Change> adopted = adopt(before, overrides, From::overrides);
  if (!adopted) {
    note(Event::Level::error, "config_refused",
         "the configuration before could not be put back, will be tried again: " + adopted.error().text());
    return adopted;
  }
  // First the overrides: while the trial is on disk, whoever comes after a SIGKILL goes back as well.
  take_overrides(std::move(overrides));
  take_version(std::move(before));
  note(Event::Level::warning, "config_rolled_back",
       fmt::format("back to {}: {} services, generation {}", configuration_->origin(),
                   model_.services().size(), adopted->generation));
  return adopted;
}

// ---- Overrides that add or remove -------------------------------------------------------------------------

void Daemon::edit_overrides(OverrideEdit edit) {
  edits_.push_back(std::move(edit));
  if (!edits_run_) run_edits();
}

// All that wait, in their order, as one change: each one that does not fit is refused by itself.
void Daemon::run_edits() {
  edits_run_ = true;
  std::vector<OverrideEdit> edits = std::exchange(edits_, {});
  std::vector<std::pair<OverrideEdit, std::string>> refused;
  Overrides next;
  for (bool fits = false; !fits;) {
    fits = true;
    next = configuration_->overrides();
    std::vector<OverrideEdit> good;
    for (OverrideEdit& edit : edits) {
      if (std::string why = edit.change(next); !why.empty()) {
        refused.emplace_back(std::move(edit), std::move(why));
      } else {
        good.push_back(std::move(edit));
      }
    }
    edits = std::move(good);
    std::vector<OverrideFault> faults;
    Configuration::effective(configuration_->version(), next, faults);
    for (const OverrideFault& fault : faults) {
      // The last one that touched it is at fault: those before it fitted, or are found in the next round.
      const auto last = std::find_if(edits.rbegin(), edits.rend(),
                                     [&](const OverrideEdit& edit) { return edit.key == fault.key; });
      if (last == edits.rend()) continue;
      refused.emplace_back(std::move(*last), fault.why);
      edits.erase(std::next(last).base());
      fits = false;
    }
  }
  for (const auto& [edit, why] : refused)
    edit.done(Error{why, ""});
  if (edits.empty()) {
    edits_run_ = false;
    if (!edits_.empty()) run_edits();
    return;
  }
  configuration_->save_ahead(std::move(next), [this, edits = std::move(edits)](const std::string&) mutable {
    finish_edits(std::move(edits));
  });
}

// Weights and admin states may have been set while the disk was busy: the edits are made to what is in force
// now.
void Daemon::finish_edits(std::vector<OverrideEdit> edits) {
  Overrides next = configuration_->overrides();
  std::vector<std::string> refused(edits.size());  // meanwhile
  for (size_t i = 0; i < edits.size(); i++)
    refused[i] = edits[i].change(next);
  const Result<Change> change = adopt(configuration_->version(), next, From::overrides);
  // When it failed, what was written ahead is not in force: the file has to follow.
  if (!change) next = configuration_->overrides();
  configuration_->take(std::move(next));
  model_.set_overrides_edition(configuration_->edition());
  for (size_t i = 0; i < edits.size(); i++)
    refused[i].empty() ? edits[i].done(change) : edits[i].done(Error{refused[i], ""});
  edits_run_ = false;
  if (!edits_.empty()) run_edits();
}

Daemon::Written Daemon::write_overrides(bool dry_run) {
  Written written;
  const std::filesystem::path config(options_.config_path);
  written.file = (config.parent_path() / "conf.d" / "overrides.toml").string();
  const auto failed = [&](Error error) {
    written.change = std::move(error);
    return written;
  };
  if (configuration_->origin() != options_.config_path)
    return failed({fmt::format("the configuration in force is {}, not {}", configuration_->origin(),
                               options_.config_path),
                   fmt::format("put it into {}, then: sluice reload", options_.config_path)});
  if (configuration_->is_pending())
    return failed({"a configuration waits to be confirmed", "sluice confirm, or: sluice rollback"});
  if (configuration_->overrides().is_empty())
    return failed({"there are no overrides", "sluice show overrides"});
  if (const auto& waiting = configuration_->overrides().to_reset(); !waiting.empty())
    return failed(
        {fmt::format("{} drains and will be reset, which no file can say", path_of(*waiting.begin())),
         "wait for that, or decide now: sluice backend ready|reset " + path_of(*waiting.begin())});
  const Result<std::string> text = text_with(written.file, configuration_->overrides());
  if (!text) return failed(text.error());
  written.text = *text;
  if (dry_run) return written;

  std::string before;
  const bool existed = std::filesystem::exists(written.file);
  if (existed) {
    std::ifstream file(written.file, std::ios::binary);
    before.assign(std::istreambuf_iterator<char>(file), {});
  }
  if (const std::string fault = write_text(written.file, *text); !fault.empty()) return failed({fault, ""});
  const auto take_back = [&] {
    if (existed) {
      write_text(written.file, before);
    } else {
      std::filesystem::remove(written.file);
    }
  };
  Configuration::Parsed parsed = configuration_->read_files();
  if (!parsed.version) {
    take_back();
    return failed({"the files with the overrides in them have errors: " + parsed.errors.front().text(),
                   "sluice check " + options_.config_path});
  }
  Overrides none;
  written.change = adopt(*parsed.version, none, From::overrides);
  if (!written.change) {
    take_back();
    return written;
  }
  take_overrides({});
  take_version(std::move(*parsed.version));
  note(Event::Level::info, "overrides_written", "the overrides are in " + written.file + " now");
  return written;
}

// ---- Health on disk ---------------------------------------------------------------------------------------

// Written as text, for it delays the loop: 10,000 backends take 12 ms as a JSON tree, and 3 ms so. Names need
// no escapes (config_schema.h).
std::string Daemon::health_contents() const {
  fmt::memory_buffer out;
  std::string_view before = "{\n";
  for (const Service& service : model_.services()) {
    for (const Backend& backend : service.backends) {
      if (backend.health == Health::unknown) continue;
      fmt::format_to(std::back_inserter(out), R"({}"{}/{}":{{"address":"{}","up":{}}})", before,
                     service.config.name, backend.config.name, backend.config.address.text(),
                     backend.health == Health::up);
      before = ",\n";
    }
  }
  return before == "{\n" ? "{}\n" : fmt::to_string(out) + "\n}\n";
}

void Daemon::keep_health() {
  const uint64_t now_ns = monotonic_ns();
  if (!health_changed_ || now_ns - health_saved_ns_ < kHealthSavePeriodNs) return;
  health_changed_ = false;
  health_saved_ns_ = now_ns;
  health_file_->save();
}

// After a reboot nobody was checked yet: each is taken as it was seen last, until its first check.
void Daemon::remember_kept_health(Model& model) {
  const Result<std::optional<std::string>> kept = health_file_->read();
  if (!kept) return note(Event::Level::error, "state_damaged", kept.error().what);
  if (!*kept) return;
  const json health = json::parse(**kept, nullptr, /*allow_exceptions=*/false);
  for (Service& service : model.edit_all()) {
    for (Backend& backend : service.backends) {
      if (backend.health != Health::unknown || is_out(backend.admin)) continue;
      const auto found = health.find(service.config.name + "/" + backend.config.name);
      if (found == health.end() || found->value("address", "") != backend.config.address.text()) continue;
      backend.health = found->value("up", false) ? Health::up : Health::down;
    }
  }
}

}  // namespace sluice
