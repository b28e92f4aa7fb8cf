#include "controlplane/compile.h"

#include <algorithm>
#include <cassert>
#include <cstring>
#include <map>
#include <set>
#include <span>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <vector>

#include "controlplane/published.h"
#include "controlplane/records.h"
#include "controlplane/takers.h"

namespace sluice {
namespace {

template <typename Record>
bool same(const Record& a, const Record& b) {
  static_assert(std::has_unique_object_representations_v<Record>, "padding would be compared as well");
  return std::memcmp(&a, &b, sizeof(Record)) == 0;
}

// One compilation: what the model wants against what is staged.
class Compilation {
 public:
  Compilation(const Model& model, Publisher& publisher, const StatsSegment* stats)
      : model_(model), publisher_(publisher), stats_(stats), now_ns_(monotonic_ns()) {}

  // Either leaves staged what the model says: the first whatever is published, the second if only what the
  // model notes as changed differs from the current generation.
  void stage_all();
  void stage_changed(const Portion& portion);

  std::span<const BackendPlace> staged() const { return staged_; }
  std::optional<uint32_t> left_from() const { return left_from_; }
  bool changed() const { return changed_; }
  uint32_t tables_built() const { return tables_built_; }
  uint64_t build_ns() const { return build_ns_; }

 private:
  void remove_services();
  void remove_backends();
  void stage_twins();
  void stage_service(const Service& service);
  void stage_service_cold(const Service& service);
  bool lookup_is_current(const Service& service, const std::vector<Taker>& takers) const;
  bool changes_lookup(const Service& service, const Backend& backend) const;
  std::vector<Taker> takers_after(const Service& service, std::span<const Backend* const> changed) const;
  void build_lookup(const Service& service, const std::vector<Taker>& takers);
  void stage_backend(const Service& service, const Backend& backend);
  void stage_vips();
  void stage_root();

  const Model& model_;
  Publisher& publisher_;
  const StatsSegment* stats_;
  const uint64_t now_ns_;
  bool changed_ = false;
  bool vips_changed_ = false;
  uint32_t tables_built_ = 0;
  uint64_t build_ns_ = 0;
  uint64_t slots_built_ = 0;
  std::vector<BackendPlace> staged_;  // by stage_changed
  std::optional<uint32_t> left_from_;
};

void Compilation::stage_all() {
  remove_services();
  remove_backends();
  stage_twins();
  for (const Service& service : model_.services()) {
    const std::vector<Taker> takers = takers_of(service);
    if (!lookup_is_current(service, takers)) build_lookup(service, takers);
    stage_service(service);
    for (const Backend& backend : service.backends)
      stage_backend(service, backend);
  }
  if (vips_changed_) stage_vips();
  stage_root();
}

// Around from portion.from: whoever changes all the time does not keep the others waiting.
void Compilation::stage_changed(const Portion& portion) {
  const std::set<BackendPlace>& changed = model_.changed();
  auto place = changed.lower_bound({portion.from, 0});
  while (staged_.size() < changed.size()) {
    if (place == changed.end()) place = changed.begin();
    const uint32_t position = place->service;
    if (slots_built_ >= portion.slots_max) {
      left_from_ = position;
      return;
    }
    const Service& service = model_.services()[position];
    std::vector<const Backend*> backends;
    bool lookup_changed = false;
    for (; place != changed.end() && place->service == position; ++place) {
      const Backend& backend = model_.backend(*place);
      staged_.push_back(*place);
      backends.push_back(&backend);
      lookup_changed |= changes_lookup(service, backend);
      stage_backend(service, backend);
    }
    if (lookup_changed) build_lookup(service, takers_after(service, backends));
    stage_service_cold(service);
  }
}

void Compilation::remove_services() {
  std::vector<bool> wanted(limits::kServicesMax, false);
  for (const Service& service : model_.services())
    wanted.at(index(service.id)) = true;
  for_each_service_cold(publisher_.current(), [&](ServiceId id, const ServiceCold& cold) {
    if (cold.name[0] == '\0' || wanted[index(id)]) return;
    publisher_.set_lookup(id, {}, 0);
    publisher_.set_members(id, {});
    publisher_.set_twins(id, {});
    publisher_.edit_service(id) = ServiceRecord{};
    publisher_.edit_service_cold(id) = ServiceCold{};
    changed_ = vips_changed_ = true;
  });
}

void Compilation::remove_backends() {
  std::vector<bool> wanted(limits::kBackendsMax, false);
  for (const Service& service : model_.services()) {
    for (const Backend& backend : service.backends)
      wanted.at(index(backend.id)) = true;
  }
  for_each_backend_cold(publisher_.current(), [&](BackendId id, const BackendCold& cold) {
    if (cold.name[0] == '\0' || wanted[index(id)]) return;
    publisher_.edit_backend(id) = BackendRecord{};
    BackendCold& quarantined = publisher_.edit_backend_cold(id);
    quarantined = BackendCold{};
    quarantined.removed_ns = now_ns_;
    changed_ = true;
  });
}

// Which backends of its group's other services are a service's own by another id. They change with the
// configuration only.
void Compilation::stage_twins() {
  std::map<std::string_view, std::vector<const Service*>> groups;
  for (const Service& service : model_.services()) {
    const bool is_in_one = has_sessions(service.config.affinity) && !service.config.session.group.empty();
    groups[is_in_one ? service.config.session.group : std::string_view()].push_back(&service);
  }
  for (const auto& [group, services] : groups) {
    std::map<std::string_view, std::vector<const Backend*>> namesakes;
    for (const Service* service : services) {
      if (group.empty()) break;
      for (const Backend& backend : service->backends)
        namesakes[backend.config.name].push_back(&backend);
    }
    for (const Service* service : services) {
      std::vector<Twin> twins;
      for (const Backend& own : service->backends) {
        if (group.empty()) break;
        for (const Backend* other : namesakes[own.config.name])
          if (other != &own) twins.push_back({other->id, own.id});
      }
      std::sort(twins.begin(), twins.end(), [](const Twin& a, const Twin& b) { return a.other < b.other; });
      const auto published = publisher_.staged().twins(publisher_.staged().service(service->id));
      if (std::equal(twins.begin(), twins.end(), published.begin(), published.end())) continue;
      publisher_.set_twins(service->id, twins);
      changed_ = true;
    }
  }
}

void Compilation::stage_service_cold(const Service& service) {
  const ServiceCold& published_cold = publisher_.staged().service_cold(service.id);
  const ServiceCold cold = service_cold(service, published_cold, stats_);
  if (!same(cold, published_cold)) {
    publisher_.edit_service_cold(service.id) = cold;
    changed_ = true;
  }
}

void Compilation::stage_service(const Service& service) {
  stage_service_cold(service);
  const ServiceRecord& published = publisher_.staged().service(service.id);
  const ServiceRecord record = service_record(service, published);
  if (same(record, published)) return;
  const auto key = [](const ServiceRecord& r) {
    return std::tuple(r.forward != Forward::none, r.flags & ServiceRecord::kServed, r.vip, r.port,
                      r.protocol);
  };
  if (key(record) != key(published)) vips_changed_ = true;
  publisher_.edit_service(service.id) = record;
  changed_ = true;
}

// A table is a function of its method, its members' names and weights, and its size. The current generation
// has them all: the weight in the cold record is the one that the table of the same generation was built
// with.
bool Compilation::lookup_is_current(const Service& service, const std::vector<Taker>& takers) const {
  const TablesView current = publisher_.current();
  if (!current) return takers.empty();
  const ServiceRecord& record = current.service(service.id);
  const bool same_service = service.config.name == current.service_cold(service.id).name;
  if (!same_service) return takers.empty();
  const auto method = static_cast<Method>(record.method);
  if (!takers.empty() &&
      (record.lookup_slots != service.config.lookup_slots || method != service.config.method))
    return false;
  const auto members = current.members(record);
  return std::equal(takers.begin(), takers.end(), members.begin(), members.end(),
                    [&](const Taker& taker, BackendId id) {
                      return taker == published_taker(method, id, current.backend_cold(id));
                    });
}

// The same for one backend of a service that is otherwise as published.
bool Compilation::changes_lookup(const Service& service, const Backend& backend) const {
  const TablesView current = publisher_.current();
  const bool took_new = (current.backend(backend.id).flags & BackendRecord::kTakesNew) != 0;
  if (service.takes_new(backend) != took_new) return true;
  return took_new && taker_of(service, backend) !=
                         published_taker(service.config.method, backend.id, current.backend_cold(backend.id));
}

// takers_of for a service of which only these backends changed: the others are the published members, which
// are in order already. Neither sorts nor looks at those that stay out, so it is cheap beside the table's
// build.
std::vector<Taker> Compilation::takers_after(const Service& service,
                                             std::span<const Backend* const> changed) const {
  std::vector<BackendId> changed_ids;
  std::vector<Taker> changed_takers;
  for (const Backend* backend : changed) {
    changed_ids.push_back(backend->id);
    if (!service.takes_new(*backend)) continue;
    changed_takers.push_back(taker_of(service, *backend));
  }
  std::sort(changed_ids.begin(), changed_ids.end());
  std::sort(changed_takers.begin(), changed_takers.end(), Taker::by_name);

  const TablesView current = publisher_.current();
  std::vector<Taker> others;
  for (const BackendId id : current.members(current.service(service.id))) {
    if (std::binary_search(changed_ids.begin(), changed_ids.end(), id)) continue;
    others.push_back(published_taker(service.config.method, id, current.backend_cold(id)));
  }
  std::vector<Taker> takers(others.size() + changed_takers.size());
  std::merge(others.begin(), others.end(), changed_takers.begin(), changed_takers.end(), takers.begin(),
             Taker::by_name);
  return takers;
}

void Compilation::build_lookup(const Service& service, const std::vector<Taker>& takers) {
  changed_ = true;
  std::vector<BackendId> ids;
  std::vector<uint16_t> weights;
  for (const Taker& taker : takers) {
    ids.push_back(taker.id);
    weights.push_back(static_cast<uint16_t>(taker.weight));
  }
  const uint64_t start_ns = monotonic_ns();
  const TakersTable table = table_of(service.config.method, takers, service.config.lookup_slots);
  if (!takers.empty()) {
    build_ns_ += monotonic_ns() - start_ns;
    assert(!table.slots.empty());  // takers all have weight
    tables_built_++;
    slots_built_ += table.slots.size();
  }
  publisher_.set_members(service.id, ids, weights);
  publisher_.set_lookup(service.id, table.slots, maglev_checksum(table.members, table.slots), table.turns);
}

void Compilation::stage_backend(const Service& service, const Backend& backend) {
  const BackendCold& published_cold = publisher_.staged().backend_cold(backend.id);
  const BackendCold cold = backend_cold(service, backend, published_cold, stats_);
  if (!same(cold, published_cold)) {
    publisher_.edit_backend_cold(backend.id) = cold;
    changed_ = true;
  }
  const BackendRecord record = backend_record(service, backend);
  if (same(record, publisher_.staged().backend(backend.id))) return;
  publisher_.edit_backend(backend.id) = record;
  changed_ = true;
}

void Compilation::stage_vips() {
  std::vector<Publisher::Vip> vips;
  std::set<IpAddress> addresses;
  for (const Service& service : model_.services()) {
    const ServiceConfig& config = service.config;
    if (!config.enabled) continue;
    vips.push_back({config.vip, config.port, config.protocol, service.id});
    if (addresses.insert(config.vip).second) vips.push_back({config.vip, 0, 0, service.id});
  }
  publisher_.set_vips(vips);
}

void Compilation::stage_root() {
  const HashSecret secret = HashSecret::from_text(model_.secret());
  const auto services_count = static_cast<uint32_t>(model_.services().size());
  uint32_t backends_count = 0;
  for (const Service& service : model_.services())
    backends_count += static_cast<uint32_t>(service.backends.size());

  Generation& root = publisher_.generation();
  // The first generation is published even when it is empty: workers wait for one.
  const bool same_root = publisher_.current() && same(root.secret, secret) &&
                         root.services_count == services_count && root.backends_count == backends_count;
  if (same_root) return;
  root.secret = secret;
  root.services_count = services_count;
  root.backends_count = backends_count;
  changed_ = true;
}

}  // namespace

Result<Compiled> compile(Model& model, Publisher& publisher, const StatsSegment* stats,
                         const Portion& portion) {
  model.settle();
  const uint64_t incarnation = publisher.header().incarnation;
  const TablesView current = publisher.current();
  const bool knows_current = current && model.base() == Model::Base{incarnation, current.generation().number};
  if (knows_current && model.changed().empty()) return Compiled{model.base().generation, 0, 0, {}};

  if (Result<Done> begun = publisher.begin(); !begun) return begun.error();
  Compilation compilation(model, publisher, stats);
  if (knows_current) {
    compilation.stage_changed(portion);
  } else {
    compilation.stage_all();
  }
  Compiled result{0, compilation.tables_built(), compilation.build_ns(), compilation.left_from()};
  if (compilation.changed()) {
    publisher.generation().overrides_edition = model.overrides_edition();
    const Result<uint64_t> number = publisher.commit();
    if (!number) return number.error();
    result.generation = *number;
  } else {
    publisher.abort();
    result.generation = current.generation().number;
  }
  if (knows_current) {
    model.is_published_in({incarnation, result.generation}, compilation.staged());
  } else {
    model.is_published_in({incarnation, result.generation});
  }
  return result;
}

}  // namespace sluice
