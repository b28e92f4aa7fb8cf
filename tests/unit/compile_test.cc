// From the model to a generation: workers find in it what the model says, the same on every balancer, and a
// change costs what it changes.
#include "controlplane/compile.h"

#include <algorithm>
#include <cstring>
#include <random>
#include <set>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "src/lookup_table.h"
#include "tests/unit/generation_image.h"
#include "tests/unit/models.h"

namespace sluice {
namespace {

using namespace models;

// Who owns each slot of a service's table, by name.
std::vector<std::string> owners(const TablesView& view, const ServiceRecord& service) {
  std::vector<std::string> names;
  for (const uint16_t position : view.lookup(service)) {
    names.emplace_back(view.backend_cold(view.members(service)[position]).name);
  }
  return names;
}

std::set<std::string> member_names(const TablesView& view, ServiceId id) {
  std::set<std::string> names;
  for (const BackendId member : view.members(view.service(id)))
    names.insert(view.backend_cold(member).name);
  return names;
}

// Proves that every field of the model that a worker needs arrives in its record, and that selection over the
// whole table reaches exactly the service's own backends.
TEST(Compile, PublishesWhatTheModelSays) {
  Publisher publisher = Publisher::anonymous();
  Config config = small_config();
  config.services[1].forward = Forward::l2dsr;
  config.services[1].port = 0;
  config.services[1].idle_syn_s = 1;
  config.services[1].idle_established_s = 2;
  config.services[1].idle_closing_s = 3;
  config.services[1].idle_udp_s = 4;
  config.services[1].lookup_slots = limits::kLookupSlotsLarge;
  Model model = model_of(config, publisher);
  model.edit_all()[0].backends[1].next_hop.mtu_bytes = 100'000;  // loopback's is 65,536
  model.edit_all()[0].backends[1].next_hop.port = 3;
  const Compiled done = compiled(model, publisher);
  EXPECT_EQ(done.generation, 1u);
  EXPECT_EQ(done.tables_built, 2u);

  const TablesView view = publisher.current();
  EXPECT_EQ(view.generation().services_count, 2u);
  EXPECT_EQ(view.generation().backends_count, 5u);
  const HashSecret secret = HashSecret::from_text(config.secret);
  EXPECT_EQ(view.generation().secret.bytes, secret.bytes);
  for (const Service& service : model.services()) {
    const ServiceRecord& record = view.service(service.id);
    EXPECT_EQ(record.forward, service.config.forward);
    EXPECT_EQ(record.protocol, service.config.protocol);
    EXPECT_EQ(record.port, service.config.port);
    EXPECT_EQ(record.vip, service.config.vip);
    EXPECT_EQ(record.idle_s[ServiceRecord::kSyn], service.config.idle_syn_s);
    EXPECT_EQ(record.idle_s[ServiceRecord::kEstablished], service.config.idle_established_s);
    EXPECT_EQ(record.idle_s[ServiceRecord::kClosing], service.config.idle_closing_s);
    EXPECT_EQ(record.idle_s[ServiceRecord::kUdp], service.config.idle_udp_s);
    EXPECT_EQ(view.lookup(record).size(), service.config.lookup_slots);
    EXPECT_STREQ(view.service_cold(service.id).name, service.config.name.c_str());
    EXPECT_EQ(view.find_service(service.config.vip, net16(service.config.port), service.config.protocol),
              service.id);
    std::set<BackendId> own, selected;
    for (const Backend& backend : service.backends)
      own.insert(backend.id);
    for (const uint16_t position : view.lookup(record))
      selected.insert(view.members(record)[position]);
    EXPECT_EQ(selected, own);
  }

  const Backend& backend = model.services()[0].backends[1];
  const BackendRecord& record = view.backend(backend.id);
  EXPECT_EQ(record.flags, BackendRecord::kAlive | BackendRecord::kResolved | BackendRecord::kTakesNew |
                              BackendRecord::kConfigured);
  EXPECT_EQ(record.outer_bytes, sizeof(wire::Ipv4));
  EXPECT_TRUE(record.outer_is_v4());
  EXPECT_EQ(record.mtu_bytes, 65'535);
  EXPECT_EQ(record.port, 3);
  EXPECT_EQ(std::memcmp(record.destination_mac(), backend.next_hop.mac.bytes.data(), 6), 0);
  EXPECT_EQ(std::memcmp(record.source_mac(), backend.next_hop.source_mac.bytes.data(), 6), 0);
  EXPECT_EQ(record.service, model.services()[0].id);
  EXPECT_EQ(record.outer_source(), backend.next_hop.source);
  EXPECT_EQ(record.outer_destination(), backend.config.address);
}

// Proves the sum in the outer header against RFC 1071 computed byte by byte: with what the data plane adds,
// the header sums to 0xffff.
TEST(Compile, OuterSumIsTheConstantPartOfTheHeader) {
  Publisher publisher = Publisher::anonymous();
  Model model = model_of(small_config(), publisher);
  compiled(model, publisher);
  const BackendRecord& record = publisher.current().backend(model.services()[0].backends[0].id);

  const uint8_t tos = 0xb8, protocol = wire::kProtoIpip, total_length[2] = {0x05, 0xb4}, id[2] = {0x12, 0x34},
                df[2] = {0x40, 0};
  uint8_t header[20] = {0x45,  tos, total_length[0], total_length[1], id[0], id[1], df[0],
                        df[1], 64,  protocol};
  std::memcpy(header + 12, record.outer_source().bytes.data() + 12, 4);
  std::memcpy(header + 16, record.outer_destination().bytes.data() + 12, 4);
  const auto add = [](uint32_t sum, uint32_t high, uint32_t low) {
    sum += high << 8 | low;
    return (sum & 0xffff) + (sum >> 16);
  };
  uint32_t reference = 0;
  for (int i = 0; i < 20; i += 2)
    reference = add(reference, header[i], header[i + 1]);

  wire::Ipv4 outer;
  std::memcpy(&outer, record.header + sizeof(wire::Ethernet), sizeof outer);
  const uint16_t constant = net16(outer.checksum);
  uint32_t sum = add(0, constant >> 8, constant & 0xff);
  sum = add(sum, 0, tos);
  sum = add(sum, total_length[0], total_length[1]);
  sum = add(sum, id[0], id[1]);
  sum = add(sum, df[0], df[1]);
  EXPECT_EQ(sum, reference);
}

// Proves that the tables do not depend on the order of the file or on ids: two balancers with different
// histories agree.
TEST(Compile, SameTablesForAnyOrderAndHistory) {
  Config config;
  config.services = {service_config("web", 1, 40), service_config("api", 2, 7)};
  for (size_t i = 0; i < 40; i++)
    config.services[0].backends[i].weight = static_cast<uint32_t>(1 + i * 13 % 200);
  Publisher first = Publisher::anonymous();
  Model one = model_of(config, first);
  compiled(one, first);

  std::mt19937 random(5);
  for (int round = 0; round < 3; round++) {
    Publisher other = Publisher::anonymous();
    Config past;
    past.services = {service_config("gone", 9, static_cast<uint32_t>(1 + random() % 20))};
    Model model = model_of(past, other);
    compiled(model, other);
    std::shuffle(config.services.begin(), config.services.end(), random);
    for (ServiceConfig& service : config.services) {
      std::shuffle(service.backends.begin(), service.backends.end(), random);
    }
    reconcile(model, config);
    assign(model, other);
    bring_up(model);
    compiled(model, other);

    for (const Service& service : one.services()) {
      const ServiceRecord& mine = first.current().service(service.id);
      const ServiceRecord& theirs = other.current().service(model.find_service(service.config.name)->id);
      EXPECT_EQ(mine.lookup_checksum, theirs.lookup_checksum);
      EXPECT_NE(mine.lookup_checksum, 0u);
      EXPECT_EQ(owners(first.current(), mine), owners(other.current(), theirs));
    }
  }
}

// Proves that a service's table is its method's, built anew when that changes; and that one which ignores
// weights knows of them only what slow start has left.
TEST(Compile, TheMethodMakesTheTable) {
  Config config = small_config();
  const uint32_t weights[] = {100, 50, 200};
  for (size_t i = 0; i < 3; i++)
    config.services[0].backends[i].weight = weights[i];
  Publisher publisher = Publisher::anonymous();
  Model model = model_of(config, publisher);
  compiled(model, publisher);
  const auto table = [&] {
    const auto lookup = publisher.current().lookup(publisher.current().service(model.services()[0].id));
    return std::vector<uint16_t>(lookup.begin(), lookup.end());
  };
  const auto expected = [&](Method method, std::vector<MaglevMember> members) {
    std::vector<uint16_t> slots(limits::kLookupSlotsDefault);
    EXPECT_TRUE(lookup_build(method, members, slots));
    return slots;
  };
  for (const auto& [name, method] : kMethods) {
    if (method == Method::maglev) continue;
    config.services[0].method = method;
    reconcile(model, config);
    EXPECT_EQ(compiled(model, publisher).tables_built, 1u) << name;
    EXPECT_EQ(publisher.current().service(model.services()[0].id).method, static_cast<uint8_t>(method));
    EXPECT_EQ(table(), ignores_weight(method) ? expected(method, {{"b0", 100}, {"b1", 100}, {"b2", 100}})
                                              : expected(method, {{"b0", 100}, {"b1", 50}, {"b2", 200}}))
        << name;
  }
  config.services[0].method = Method::round_robin;
  reconcile(model, config);
  edit(model, "web", "b2").ramp_permille = kRampWhole / 4;
  compiled(model, publisher);
  EXPECT_EQ(table(), expected(Method::round_robin, {{"b0", 100}, {"b1", 100}, {"b2", 25}}));
  // From here on its changes alone: a weight in force that stays the same may be another part of the whole.
  edit(model, "web", "b2").ramp_permille = kRampWhole;
  compiled(model, publisher);
  model.set_weight({0, 2}, 50);
  EXPECT_EQ(compiled(model, publisher).tables_built, 0u);
  EXPECT_EQ(table(), expected(Method::round_robin, {{"b0", 100}, {"b1", 100}, {"b2", 100}}));
}

// Proves that a model which says nothing new publishes nothing.
TEST(Compile, NothingNewIsNotPublished) {
  Publisher publisher = Publisher::anonymous();
  Model model = model_of(small_config(), publisher);
  compiled(model, publisher);
  const uint64_t used = publisher.memory().used_bytes;
  std::reverse(model.edit_all().begin(), model.edit_all().end());
  model.edit_all()[0].backends[0].check_detail = "no part of the tables";
  const Compiled again = compiled(model, publisher);
  EXPECT_EQ(again.generation, 1u);
  EXPECT_EQ(again.tables_built, 0u);
  EXPECT_EQ(publisher.memory().used_bytes, used);
}

// Proves the price of a change, in the size that the project is measured at (10 services of 100 backends): by
// pages and tables, only what changed is new, and everything else is shared with the generation before.
TEST(Compile, AChangeCostsWhatItChanges) {
  Config config;
  for (uint32_t i = 0; i < 10; i++)
    config.services.push_back(service_config("s" + std::to_string(i), i, 100));
  Publisher publisher = Publisher::anonymous();
  Model model = model_of(config, publisher);
  EXPECT_EQ(compiled(model, publisher).tables_built, 10u);

  const auto new_parts = [&](uint32_t expected_tables) {
    const PinnedGeneration before(publisher.base());
    const auto old_parts = parts_of(before.view, before.root);
    const Compiled done = compiled(model, publisher);
    EXPECT_EQ(done.tables_built, expected_tables);
    EXPECT_EQ(done.generation, before.view.generation().number + 1);
    const PinnedGeneration after(publisher.base());
    std::multiset<uint64_t> sizes;
    for (const auto& part : parts_of(after.view, after.root)) {
      if (std::find(old_parts.begin(), old_parts.end(), part) == old_parts.end()) sizes.insert(part.second);
    }
    publisher.reclaim(done.generation);
    EXPECT_EQ(publisher.memory().used_bytes, after.memory_bytes());
    return sizes;
  };
  constexpr uint64_t kRoot = sizeof(Generation), kTable = limits::kLookupSlotsDefault * 2,
                     kServicePage = kPageRecords * sizeof(ServiceRecord),
                     kBackendPage = kPageRecords * sizeof(BackendRecord),
                     kColdPage = kPageRecords * sizeof(BackendCold);
  using Sizes = std::multiset<uint64_t>;

  const BackendPlace place{4, 50};
  model.set_weight(place, 10);
  EXPECT_EQ(new_parts(1), (Sizes{kRoot, kTable, members_bytes(100), kServicePage, kColdPage}));
  model.set_admin(place, Admin::drain, monotonic_ns());
  EXPECT_EQ(new_parts(1), (Sizes{kRoot, kTable, members_bytes(99), kServicePage, kBackendPage, kColdPage}));
  model.set_admin(place, Admin::maint, monotonic_ns());  // loses its flows; takes no new ones as before
  EXPECT_EQ(new_parts(0), (Sizes{kRoot, kBackendPage, kColdPage}));
  NextHop hop = next_hop();
  hop.mac.bytes[5]++;
  model.set_next_hop({7, 3}, hop);
  EXPECT_EQ(new_parts(0), (Sizes{kRoot, kBackendPage}));
  model.edit_all()[2].config.idle_udp_s++;
  EXPECT_EQ(new_parts(0), (Sizes{kRoot, kServicePage}));
  model.edit_all()[2].config.port = 443;
  // Ten services, each with a VIP of its own: twenty entries, at most half full.
  EXPECT_EQ(new_parts(0), (Sizes{kRoot, kServicePage, 64 * sizeof(VipEntry)}));
  model.set_secret("another");
  EXPECT_EQ(new_parts(0), (Sizes{kRoot}));
  model.edit_all()[1].config.lookup_slots = limits::kLookupSlotsLarge;
  EXPECT_EQ(new_parts(1), (Sizes{kRoot, limits::kLookupSlotsLarge * 2, members_bytes(100), kServicePage}));
}

// 20 services at once, in portions of 8 tables: each publishes whole services and leaves the rest noted; who
// was left comes first, whatever has changed since; in the end all is as if it had been one generation.
TEST(Compile, InPortions) {
  Config config;
  for (uint32_t i = 0; i < 20; i++)
    config.services.push_back(service_config("s" + std::to_string(i), i, 4));
  Publisher publisher = Publisher::anonymous(), whole_publisher = Publisher::anonymous();
  Model model = model_of(config, publisher), whole = model_of(config, whole_publisher);
  compiled(model, publisher);
  compiled(whole, whole_publisher);
  for (uint32_t i = 0; i < 20; i++) {
    for (const uint32_t backend : {0u, 1u}) {
      model.set_health({i, backend}, Health::down, monotonic_ns());
      whole.set_health({i, backend}, Health::down, monotonic_ns());
    }
  }
  Portion portion{8 * limits::kLookupSlotsDefault, 0};
  uint32_t built = 0;
  for (const uint32_t expected : {8u, 8u, 5u}) {
    const Result<Compiled> done = compile(model, publisher, nullptr, portion);
    ASSERT_TRUE(done) << done.error().text();
    EXPECT_EQ(done->tables_built, expected);
    built += done->tables_built;
    EXPECT_EQ(done->left_from.has_value(), built < 21);
    portion.from = done->left_from.value_or(0);
    if (built == 8) {
      EXPECT_EQ(portion.from, 8u);
      model.set_health({2, 2}, Health::down,
                       monotonic_ns());  // before those that wait, and after them in turn
      whole.set_health({2, 2}, Health::down, monotonic_ns());
    }
    publisher.reclaim(done->generation);
  }
  EXPECT_TRUE(model.changed().empty());
  compiled(whole, whole_publisher);
  for (const Service& service : model.services()) {
    const auto table = publisher.current().lookup(publisher.current().service(service.id));
    const auto expected = whole_publisher.current().lookup(whole_publisher.current().service(service.id));
    EXPECT_TRUE(std::equal(table.begin(), table.end(), expected.begin(), expected.end()))
        << service.config.name;
  }
}

// Proves the three separate conditions: who takes new flows, and who keeps the old ones.
TEST(Compile, WhoTakesAndWhoKeeps) {
  using Type = HealthConfig::Type;
  const struct {
    const char* what;
    Type check;
    bool initially_up;
    Admin admin;
    Health health;
    uint32_t weight;
    bool resolved;
    bool takes, keeps;
  } cases[] = {
      {"up", Type::tcp, false, Admin::ready, Health::up, 100, true, true, true},
      {"draining", Type::tcp, false, Admin::drain, Health::up, 100, true, false, true},
      {"in maintenance", Type::tcp, false, Admin::maint, Health::up, 100, true, false, false},
      {"failed", Type::tcp, false, Admin::ready, Health::down, 100, true, false, false},
      {"failed while draining", Type::tcp, false, Admin::drain, Health::down, 100, true, false, false},
      {"unchecked", Type::tcp, false, Admin::ready, Health::unknown, 100, true, false, false},
      {"unchecked but initially up", Type::tcp, true, Admin::ready, Health::unknown, 100, true, true, true},
      {"failed although initially up", Type::tcp, true, Admin::ready, Health::down, 100, true, false, false},
      {"without checks", Type::none, false, Admin::ready, Health::unknown, 100, true, true, true},
      {"weight 0", Type::tcp, false, Admin::ready, Health::up, 0, true, false, true},
      {"no next hop", Type::tcp, false, Admin::ready, Health::up, 100, false, false, true},
  };
  for (const auto& c : cases) {
    SCOPED_TRACE(c.what);
    Publisher publisher = Publisher::anonymous();
    Model model = model_of(small_config(), publisher);
    Service& service = model.edit_all()[0];
    for (size_t i = 1; i < service.backends.size(); i++)
      service.backends[i].health = Health::down;
    Backend& backend = service.backends[0];
    service.config.health.type = c.check;
    service.config.initially_up = c.initially_up;
    backend.admin = c.admin;
    backend.health = c.health;
    backend.weight_override = c.weight;
    backend.next_hop.resolved = c.resolved;
    compiled(model, publisher);
    const TablesView view = publisher.current();
    EXPECT_EQ(member_names(view, service.id).contains("b0"), c.takes);
    EXPECT_EQ((view.backend(backend.id).flags & BackendRecord::kAlive) != 0, c.keeps);
    EXPECT_EQ((view.backend(backend.id).flags & BackendRecord::kResolved) != 0, c.resolved);
    if (c.check == Type::none) continue;  // then the other two are members as well
    EXPECT_EQ(view.lookup(view.service(service.id)).empty(), !c.takes)
        << "no table when nobody takes new flows";
  }
}

// Proves that a removed service leaves nothing behind, but for the quarantine of its backends' ids.
TEST(Compile, RemovedServicesGiveEverythingBack) {
  Publisher publisher = Publisher::anonymous();
  Config config = small_config();
  Model model = model_of(config, publisher);
  compiled(model, publisher);
  const Service gone = model.services()[1];
  config.services.pop_back();
  reconcile(model, config);
  assign(model, publisher);
  const uint64_t before_ns = monotonic_ns();
  const Compiled done = compiled(model, publisher);
  EXPECT_EQ(done.tables_built, 0u);
  publisher.reclaim(done.generation);

  const TablesView view = publisher.current();
  EXPECT_EQ(view.service(gone.id).forward, Forward::none);
  EXPECT_TRUE(view.lookup(view.service(gone.id)).empty());
  EXPECT_EQ(view.service_cold(gone.id).name[0], '\0');
  EXPECT_EQ(view.find_service(gone.config.vip, net16(80), wire::kProtoTcp), kNoService);
  EXPECT_EQ(view.find_service(model.services()[0].config.vip, net16(80), wire::kProtoTcp),
            model.services()[0].id);
  EXPECT_EQ(view.generation().services_count, 1u);
  for (const Backend& backend : gone.backends) {
    EXPECT_EQ(view.backend(backend.id).flags, 0);
    EXPECT_EQ(view.backend_cold(backend.id).name[0], '\0');
    EXPECT_GE(view.backend_cold(backend.id).removed_ns, before_ns);
  }
  EXPECT_EQ(publisher.memory().used_bytes, PinnedGeneration(publisher.base()).memory_bytes());
}

// Proves that a segment too small for a change is an error which leaves the current generation in force, and
// that the same change goes through once memory is back.
TEST(Compile, OutOfMemoryChangesNothing) {
  Publisher publisher = Publisher::anonymous(620 << 10);
  Model model = model_of(small_config(), publisher);
  compiled(model, publisher);
  const std::string before = PinnedGeneration(publisher.base()).image();
  model.edit_all()[0].backends[0].weight_override = 1;
  compiled(model, publisher);  // the first table's memory is retired now, and nothing is left for another
  const std::string second = PinnedGeneration(publisher.base()).image();
  EXPECT_NE(second, before);
  model.edit_all()[0].backends[0].weight_override = 2;
  model.edit_all()[1].backends[0].weight_override = 2;
  const Result<Compiled> refused = compile(model, publisher, nullptr);
  ASSERT_FALSE(refused);
  EXPECT_FALSE(refused.error().remedy.empty());
  EXPECT_EQ(PinnedGeneration(publisher.base()).image(), second);
  publisher.reclaim(2);
  EXPECT_EQ(compiled(model, publisher).generation, 3u);
}

}  // namespace
}  // namespace sluice
