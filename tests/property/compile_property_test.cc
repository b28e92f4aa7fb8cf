// Compiling only what the model notes as changed, against compiling everything: after any sequence of what
// can happen to a model, refusals of a full segment included, the current generation is what a compilation
// from nothing would publish.
#include <algorithm>
#include <cstring>
#include <ostream>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>
#include <rapidcheck.h>
#include <rapidcheck/gtest.h>

#include "tests/unit/generation_image.h"
#include "tests/unit/models.h"

namespace sluice {
namespace {

// A few generations fit while nothing is reclaimed; then publishing is refused.
constexpr uint64_t kTablesBytes = 320 << 10;
constexpr uint32_t kServicesMost = 3, kBackendsMost = 6;

// What the cases have met, all together: each must have happened, or the property says nothing of it.
struct Met {
  uint64_t incremental = 0;
  uint64_t tables_built_incrementally = 0;
  uint64_t refused = 0;
  uint64_t reloads_taken_back = 0;
  uint64_t panics = 0;
  uint64_t sorries = 0;
  uint64_t holds = 0;
  uint64_t ramp_steps = 0;
} met;

struct Step {
  uint8_t kind;
  uint32_t service;
  uint32_t backend;
  uint32_t value;
};

ServiceConfig service_config(uint32_t number) {
  ServiceConfig config = models::service_config("s" + std::to_string(number), number, 3);
  config.lookup_slots = 251;  // any prime does
  if (number % 2 == 0) {
    config.method = Method::round_robin;  // which knows of weights only what slow start makes of them
    config.policy.slow_start = Milliseconds(4'000);
    config.policy.flap.count = 2;
    config.backends.push_back({"sorry", models::v4(0x0afe0000 + number), 100, Admin::ready, true});
  } else {
    config.policy.min_healthy = {2, false};
  }
  return config;
}

template <typename Record>
bool same(const Record& a, const Record& b) {
  return std::memcmp(&a, &b, sizeof(Record)) == 0;
}

// Without where its parts are.
ServiceRecord placeless(ServiceRecord record) {
  record.lookup = record.members = 0;
  return record;
}

std::set<std::string> vip_entries(const TablesView& view) {
  std::set<std::string> entries;
  const auto* first = view.at<VipEntry>(view.generation().vips);
  for (const VipEntry& entry : std::span(first, view.generation().vips_mask + 1)) {
    if (entry.used != 0) entries.emplace(reinterpret_cast<const char*>(&entry), sizeof entry);
  }
  return entries;
}

void showValue(const Step& step, std::ostream& out) {
  out << "{" << step.kind % 16 << ", " << step.service << ", " << step.backend << ", " << step.value << "}";
}

// A sluiced without its sockets: the model, and all that happens to it.
class World {
 public:
  World() : publisher_(Publisher::anonymous(kTablesBytes)) {
    config_.services = {service_config(0), service_config(1)};
    reconcile(model_, config_);
    models::assign(model_, publisher_);
  }

  void take(const Step& step) {
    switch (step.kind % 16) {
      case 0:
      case 1:
        return model_.set_weight(place(step), 50 * (step.value % 4));
      case 2:
        return model_.set_admin(place(step), static_cast<Admin>(step.value % 3), now_ns_);
      case 3:
        return model_.set_health(place(step), static_cast<Health>(step.value % 3), now_ns_);
      case 4:
        return model_.set_next_hop(place(step), hop(step.value));
      case 5:
        return move_next_hops(step.value);
      case 6:
        return model_.note_check(place(step), "L4TOUT", "", step.value);
      case 7:
        return refuse_edit(step);
      case 8:
      case 9:
        return reload(step);
      case 10:
        return be_succeeded();
      case 11:
        return interfere(step);
      case 12:
        return acknowledge();
      case 13:
        return flap(step);
      case 14:
        return let_time_pass(step.value);
      default:
        return publish();
    }
  }

  // Like Rollout::publish. What was refused stays to be published.
  void publish() {
    const TablesView before = publisher_.current();
    const uint64_t number_before = before ? before.generation().number : 0;
    const bool incremental =
        before && model_.base() == Model::Base{publisher_.header().incarnation, number_before};
    const std::string image = before ? PinnedGeneration(publisher_.base()).image() : "";
    const Result<Compiled> done = compile(model_, publisher_, nullptr);
    if (!done) {
      met.refused++;
      if (before) RC_ASSERT(PinnedGeneration(publisher_.base()).image() == image);
      return;
    }
    if (incremental) {
      met.incremental++;
      met.tables_built_incrementally += done->tables_built;
    }
    for (const News& news : model_.take_news()) {
      met.panics += news.kind == News::Kind::panic ? 1 : 0;
      met.sorries += news.kind == News::Kind::sorry ? 1 : 0;
      met.holds += news.kind == News::Kind::flapping ? 1 : 0;
    }
    expect_whole();
  }

  void acknowledge() {
    if (publisher_.current()) publisher_.reclaim(publisher_.current().generation().number);
  }

 private:
  BackendPlace place(const Step& step) const {
    const auto service = static_cast<uint32_t>(step.service % model_.services().size());
    return {service, static_cast<uint32_t>(step.backend % model_.services()[service].backends.size())};
  }

  static NextHop hop(uint32_t value) {
    NextHop hop = models::next_hop();
    hop.resolved = value % 5 != 0;
    hop.mac.bytes[5] = static_cast<uint8_t>(value % 3);
    return hop;
  }

  // A gateway is replaced: all services' backends.
  void move_next_hops(uint32_t value) {
    for (uint32_t s = 0; s < model_.services().size(); s++) {
      for (uint32_t b = 0; b < model_.services()[s].backends.size(); b++)
        model_.set_next_hop({s, b}, hop(value));
    }
  }

  // A command that is answered with an error takes its edit back.
  void refuse_edit(const Step& step) {
    const BackendPlace at = place(step);
    const Backend before = model_.backend(at);
    model_.set_weight(at, step.value % 200);
    model_.set_admin(at, Admin::maint, now_ns_);
    if (step.value % 2 == 0) publish();
    model_.put_back(at, before);
  }

  void flap(const Step& step) {
    for (uint32_t i = 0; i < step.value % 4; i++) {
      model_.set_health(place(step), Health::down, now_ns_);
      model_.set_health(place(step), Health::up, now_ns_);
    }
  }

  void let_time_pass(uint32_t value) {
    now_ns_ += uint64_t{value} * 10'000'000;
    const bool changed = model_.advance(now_ns_, 1 + value % 2);
    for (const Service& service : model_.services()) {
      for (const Backend& backend : service.backends)
        met.ramp_steps += changed && backend.ramps() ? 1 : 0;
    }
  }

  void edit_policy(const Step& step, ServiceConfig& service) {
    PolicyConfig& policy = service.policy;
    const uint32_t value = step.backend;
    switch (step.value / 9 % 8) {
      case 0:
        policy.min_healthy = {value % 4, false};
        return;
      case 1:
        policy.quorum = {{1 + value % 3, false}, value % 2 == 0, false, value % 2};
        return;
      case 2:
        policy.on_failure = static_cast<OnFailure>(value % 3);
        return;
      case 3:
        policy.flap.count = value % 3;
        return;
      case 4:
        policy.slow_start = Milliseconds(1'000 * (value % 3));
        return;
      case 5:
        service.enabled = !service.enabled;
        return;
      case 6:
        service.method = kMethods[step.value / 72 % kMethods.size()].second;
        return;
      default:
        service.backends.front().admin = static_cast<Admin>(value % 3);
        return;
    }
  }

  void edit_file(const Step& step) {
    std::vector<ServiceConfig>& services = config_.services;
    ServiceConfig& service = services[step.service % services.size()];
    std::vector<BackendConfig>& backends = service.backends;
    const size_t which = step.backend % backends.size();
    switch (step.value % 9) {
      case 8:
        return edit_policy(step, service);
      case 0:
        if (services.size() < kServicesMost) services.push_back(service_config(10 + next_name_++));
        return;
      case 1:
        if (services.size() > 1) services.erase(services.begin());
        return;
      case 2:
        if (backends.size() < kBackendsMost) {
          const uint32_t number = next_name_++;
          backends.insert(backends.begin(),
                          {"n" + std::to_string(number), models::v4(0x0aff0000 + number), 70});
        }
        return;
      case 3:
        if (backends.size() > 1) backends.erase(backends.begin() + static_cast<long>(which));
        return;
      case 4:
        backends[which].weight = 30 + step.value % 50;
        return;
      case 5:
        service.health.type = service.health.type == HealthConfig::Type::none ? HealthConfig::Type::tcp
                                                                              : HealthConfig::Type::none;
        return;
      case 6:
        service.port++;
        return;
      default:
        service.lookup_slots = service.lookup_slots == 251 ? 509 : 251;
        service.idle_udp_s++;
        return;
    }
  }

  // Like Daemon::adopt: when there is no room for it, the old model is back.
  void reload(const Step& step) {
    const Config config_before = config_;
    edit_file(step);
    Model next = model_;
    reconcile(next, config_);
    models::assign(next, publisher_);
    next.begin_ramps(now_ns_);
    std::swap(model_, next);
    const uint64_t refused_before = met.refused;
    publish();
    if (met.refused == refused_before) return;
    met.reloads_taken_back++;
    std::swap(model_, next);
    config_ = config_before;
  }

  // A new process knows the file and the tables.
  void be_succeeded() {
    model_ = Model();
    reconcile(model_, config_);
    models::assign(model_, publisher_, now_ns_);
    model_.begin_ramps(now_ns_);
  }

  // Somebody else publishes something else.
  void interfere(const Step& step) {
    if (!publisher_.current() || !publisher_.begin()) return;
    publisher_.edit_backend(model_.backend(place(step)).id).mtu_bytes = 1;
    publisher_.edit_backend_cold(model_.backend(place(step)).id).weight = limits::kWeightMax;
    [[maybe_unused]] const Result<uint64_t> refused_or_not = publisher_.commit();
  }

  // The current generation is what the model makes in an empty segment, and comparing everything finds no
  // difference.
  void expect_whole() {
    Publisher fresh = Publisher::anonymous();
    Model copy = model_;
    RC_ASSERT(static_cast<bool>(compile(copy, fresh, nullptr)));
    const TablesView wanted = fresh.current(), found = publisher_.current();
    RC_ASSERT(same(found.generation().secret, wanted.generation().secret));
    RC_ASSERT(found.generation().services_count == wanted.generation().services_count);
    RC_ASSERT(found.generation().backends_count == wanted.generation().backends_count);
    RC_ASSERT(vip_entries(found) == vip_entries(wanted));
    // Ids are handed out from 0 on, and a page of them is more than a case uses.
    for (uint32_t i = 0; i < kPageRecords; i++) {
      expect_same_service(found, wanted, ServiceId{i});
      expect_same_backend(found, wanted, BackendId{i});
    }
    const uint64_t number = found.generation().number;
    copy.edit_all();
    const Result<Compiled> again = compile(copy, publisher_, nullptr);
    if (!again) return;  // there is not even room to look
    RC_ASSERT(again->generation == number);
  }

  static void expect_same_service(const TablesView& found, const TablesView& wanted, ServiceId id) {
    const ServiceRecord& service = found.service(id);
    const ServiceRecord& expected = wanted.service(id);
    RC_ASSERT(same(placeless(service), placeless(expected)));
    RC_ASSERT(same(found.service_cold(id), wanted.service_cold(id)));
    RC_ASSERT(std::ranges::equal(found.members(service), wanted.members(expected)));
    RC_ASSERT(std::ranges::equal(found.lookup(service), wanted.lookup(expected)));
  }

  static void expect_same_backend(const TablesView& found, const TablesView& wanted, BackendId id) {
    RC_ASSERT(same(found.backend(id), wanted.backend(id)));
    BackendCold cold = found.backend_cold(id);
    if (cold.name[0] == '\0') cold.removed_ns = 0;  // a fresh segment has no past
    RC_ASSERT(same(cold, wanted.backend_cold(id)));
  }

  Publisher publisher_;
  Config config_;
  Model model_;
  uint32_t next_name_ = 0;
  uint64_t now_ns_ = monotonic_ns();
};

TEST(CompileProperty, WhatIsCompiledOfChangesIsWhatIsCompiledOfAll) {
  EXPECT_TRUE(rc::check([] {
    // Four times as many as usual: most things take several steps to go wrong.
    const auto steps = *rc::gen::scale(
        4, rc::gen::container<std::vector<Step>>(rc::gen::build<Step>(
               rc::gen::set(&Step::kind), rc::gen::set(&Step::service, rc::gen::inRange(0u, kServicesMost)),
               rc::gen::set(&Step::backend, rc::gen::inRange(0u, kBackendsMost)),
               rc::gen::set(&Step::value, rc::gen::inRange(0u, 1000u)))));
    World world;
    for (const Step& step : steps)
      world.take(step);
    world.acknowledge();
    world.publish();
  }));
  EXPECT_GT(met.incremental, 0u);
  EXPECT_GT(met.tables_built_incrementally, 0u);
  EXPECT_GT(met.refused, 0u);
  EXPECT_GT(met.reloads_taken_back, 0u);
  EXPECT_GT(met.panics, 0u);
  EXPECT_GT(met.sorries, 0u);
  EXPECT_GT(met.holds, 0u);
  EXPECT_GT(met.ramp_steps, 0u);
}

}  // namespace
}  // namespace sluice
