// What operators decide at run time, laid over the files: what fits, what does not, what the files overtake.
#include "controlplane/overrides.h"

#include <algorithm>
#include <set>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "controlplane/config.h"
#include "tests/unit/config_texts.h"

namespace sluice {
namespace {

using namespace config_texts;
using nlohmann::json;

Config files(const std::string& b1_rest = "") {
  const ConfigResult result =
      parse_config(service_with("") + backend("b1", "10.0.1.11", b1_rest) + backend("b2", "10.0.1.12"), "f");
  EXPECT_TRUE(result.config) << all_texts(result.errors);
  return *result.config;
}

IpAddress address(const char* text) {
  return *IpAddress::parse(text);
}

Override added(const char* at) {
  Override entry;
  entry.address = address(at);
  return entry;
}

Override removed() {
  Override entry;
  entry.remove = true;
  return entry;
}

std::vector<std::string> names(const ServiceConfig& service) {
  std::vector<std::string> all;
  for (const BackendConfig& b : service.backends)
    all.push_back(b.name);
  return all;
}

// Proves what each override does to the configuration, and that one that does not fit does nothing.
TEST(Overrides, AreLaidOver) {
  Overrides overrides;
  overrides.set({"web", "b3"}, added("10.0.1.13"));
  overrides.set({"web", "b2"}, removed());
  overrides.set({"web", "b9"}, removed());              // there is none
  overrides.set({"web", "b4"}, added("10.0.1.11"));     // b1's
  overrides.set({"web", "b5"}, added("203.0.113.10"));  // the VIP
  overrides.set({"nobody", "b1"}, added("10.0.1.15"));
  Config config = files();
  std::vector<OverrideFault> faults;
  lay_over(config, overrides, faults);
  EXPECT_EQ(names(config.services[0]), (std::vector<std::string>{"b1", "b3"}));
  std::vector<OverrideKey> at_fault;
  for (const OverrideFault& fault : faults)
    at_fault.push_back(fault.key);
  EXPECT_EQ(at_fault,
            (std::vector<OverrideKey>{{"nobody", "b1"}, {"web", "b4"}, {"web", "b5"}, {"web", "b9"}}));
}

// Proves that what a service says of all its backends holds for those that are added.
TEST(Overrides, AnAddedBackendHasItsServicesLimits) {
  const ConfigResult read =
      parse_config(service_with("max_flows = 7\nmax_sessions = 8\naffinity = \"client\"") +
                       backend("b1", "10.0.1.11", "max_flows = 9\n") + backend("b2", "10.0.1.12"),
                   "f");
  ASSERT_TRUE(read.config) << all_texts(read.errors);
  Config config = *read.config;
  Overrides overrides;
  overrides.set({"web", "b3"}, added("10.0.1.13"));
  std::vector<OverrideFault> faults;
  lay_over(config, overrides, faults);
  ASSERT_TRUE(faults.empty());
  const std::vector<BackendConfig>& backends = config.services[0].backends;
  ASSERT_EQ(backends.size(), 3u);
  EXPECT_EQ(backends[0].max_flows, 9u);
  EXPECT_EQ(backends[1].max_flows, 7u);
  EXPECT_EQ(backends[2].max_flows, 7u);
  EXPECT_EQ(backends[2].max_sessions, 8u);
}

// Proves that a service can be added and taken out, and that its name and VIP must be free.
TEST(Overrides, AddAndRemoveServices) {
  const auto service = [](const char* name, const char* vip) {
    return json{{"name", name},      {"vip", vip},
                {"port", 80},        {"protocol", "tcp"},
                {"forward", "ipip"}, {"backend", {{{"name", "x1"}, {"address", "10.0.2.1"}}}}};
  };
  Overrides overrides;
  overrides.add_service("new", service("new", "203.0.113.99"));
  overrides.add_service("taken", service("taken", "203.0.113.10"));
  overrides.set({"web", ""}, removed());
  Config config = files();
  std::vector<OverrideFault> faults;
  lay_over(config, overrides, faults);
  ASSERT_EQ(config.services.size(), 1u);
  EXPECT_EQ(config.services[0].name, "new");
  ASSERT_EQ(faults.size(), 1u);
  EXPECT_EQ(faults[0].key, (OverrideKey{"taken", ""}));
}

// Proves that a service of a group is refused for what `sluice check` refuses it for.
TEST(Overrides, AnAddedServiceFitsItsGroup) {
  const ConfigResult read =
      parse_config(service_with("affinity = \"client\"\ngroup = \"shop\"") + backend("b1", "10.0.1.11"), "f");
  ASSERT_TRUE(read.config) << all_texts(read.errors);
  const auto fault_of = [&](const json& differs) {
    json service = {{"name", "tls"},     {"vip", "203.0.113.10"},
                    {"port", 443},       {"protocol", "tcp"},
                    {"forward", "ipip"}, {"affinity", "client"},
                    {"group", "shop"},   {"backend", {{{"name", "b1"}, {"address", "10.0.1.11"}}}}};
    service.update(differs);
    Overrides overrides;
    overrides.add_service("tls", service);
    Config config = *read.config;
    std::vector<OverrideFault> faults;
    lay_over(config, overrides, faults);
    EXPECT_EQ(config.services.size(), faults.empty() ? 2u : 1u);
    return faults.empty() ? "" : faults.front().why;
  };
  EXPECT_EQ(fault_of(json::object()), "");
  EXPECT_EQ(fault_of({{"affinity", "prefix"}, {"prefix", {{"v4", 20}}}}),
            "'tls' and 'web' of group 'shop' name their sessions differently: give them the same affinity, "
            "prefix and key");
  EXPECT_EQ(fault_of({{"max_lifetime", "3h"}}),
            "'tls' and 'web' of group 'shop' treat their sessions differently: give them the same "
            "idle_timeout.session, max_lifetime and on_failure");
  EXPECT_EQ(fault_of({{"affinity", "connection"}}), "") << "without sessions there is no group";
  EXPECT_EQ(fault_of({{"affinity", "prefix"}, {"group", "other"}}), "");
}

Override drained(uint64_t reset_at_ns, uint64_t reset_after_ms) {
  Override entry;
  entry.admin = Admin::drain;
  entry.reset = ResetDeadline{reset_at_ns, reset_after_ms};
  return entry;
}

// Proves that who is to be reset is known whatever becomes of the overrides, and read from disk only of who
// drains.
TEST(Overrides, KnowWhoIsToBeReset) {
  using Keys = std::set<OverrideKey>;
  Overrides overrides;
  overrides.set({"web", "b1"}, drained(5, 1));
  overrides.set({"web", "b2"}, drained(6, 1));
  overrides.set({"dns", "b1"}, drained(7, 1));
  overrides.set({"web", "b3"}, removed());
  EXPECT_EQ(overrides.to_reset(), (Keys{{"dns", "b1"}, {"web", "b1"}, {"web", "b2"}}));
  overrides.set({"web", "b1"}, removed());
  overrides.set({"web", "b2"}, {});
  EXPECT_EQ(overrides.to_reset(), (Keys{{"dns", "b1"}}));
  overrides.forget_service("dns");
  EXPECT_TRUE(overrides.to_reset().empty());
  std::vector<std::string> faults;
  const Overrides read = Overrides::from_json(json::parse(R"({"override":[
      {"service":"web","backend":"b1","admin":"migrate","reset_at_ns":5,"reset_after_ms":1},
      {"service":"web","backend":"b2","admin":"ready","reset_at_ns":5,"reset_after_ms":1},
      {"service":"web","backend":"b3","reset_at_ns":5,"reset_after_ms":1},
      {"service":"web","backend":"b4","admin":"drain","reset_at_ns":5}]})"),
                                              faults);
  EXPECT_TRUE(faults.empty());
  EXPECT_EQ(read.to_reset(), (Keys{{"web", "b1"}}));
}

// Proves that a deadline holds over a restart, and after a reboot, when the clock began anew, is neither
// farther than was asked for nor ever early, and does not go farther with each restart.
TEST(Overrides, ADeadlineIsNeverLateByMoreThanAReboot) {
  constexpr uint64_t kS = 1'000'000'000, kAfterMs = 300'000;
  const OverrideKey b1{"web", "b1"};
  Overrides overrides;
  overrides.set(b1, drained(10'000 * kS + 300 * kS, kAfterMs));
  const auto at_s = [&] { return overrides.find(b1)->reset->at_ns / kS; };
  overrides.bound_resets(10'200 * kS);  // a restart
  EXPECT_EQ(at_s(), 10'300u);
  overrides.bound_resets(99'999 * kS);  // long after it
  EXPECT_EQ(at_s(), 10'300u);
  overrides.bound_resets(20 * kS);  // a reboot
  EXPECT_EQ(at_s(), 320u);
  overrides.bound_resets(200 * kS);
  EXPECT_EQ(at_s(), 320u);
}

// Proves that what is written down is what is read again, for every kind of override.
TEST(Overrides, GoThroughJson) {
  Overrides overrides;
  Override all = added("2001:db8::1");
  all.weight = 0;
  all.weight_was = 100;
  all.address_was = IpAddress::parse("2001:db8::2");
  all.admin = Admin::maint;
  overrides.set({"web", "b1"}, all);
  overrides.set({"web", "b2"}, removed());
  overrides.set({"web", "b3"}, drained(UINT64_MAX / 2, 300'000));
  Override off;
  off.enabled = false;
  overrides.set({"web", ""}, off);
  overrides.add_service("s", {{"name", "s"}});
  std::vector<std::string> faults;
  EXPECT_EQ(Overrides::from_json(json::parse(overrides.to_json().dump()), faults), overrides);
  EXPECT_TRUE(faults.empty());
  Overrides::from_json(
      json::parse(R"({"override":[{"service":3},{"service":"a","weight":"x"},4],"service":[{}]})"), faults);
  EXPECT_EQ(faults.size(), 4u);
}

// Proves which of the files' changes end an override: the rule for a weight that changed there, for a backend
// that is there now, for one that is gone; and that everything else stays.
TEST(Overrides, GiveWayToTheFiles) {
  Overrides overrides;
  Override weight;
  weight.weight = 7;
  weight.weight_was = 100;
  weight.admin = Admin::drain;
  overrides.set({"web", "b1"}, weight);
  overrides.set({"web", "b2"}, added("10.0.1.12"));
  overrides.set({"web", "b3"}, added("10.0.1.13"));
  overrides.set({"web", "b7"}, removed());
  overrides.set({"gone", "b1"}, weight);
  std::vector<std::string> told;
  const Overrides same = without_overtaken(overrides, files(), told);
  EXPECT_EQ(same.find({"web", "b1"})->weight, 7u);
  EXPECT_EQ(same.find({"web", "b2"}), nullptr);
  ASSERT_NE(same.find({"web", "b3"}), nullptr);
  EXPECT_EQ(same.find({"web", "b7"}), nullptr);
  EXPECT_EQ(same.find({"gone", "b1"}), nullptr);
  EXPECT_EQ(told.size(), 3u);
  const Overrides changed = without_overtaken(overrides, files("weight = 50\n"), told);
  EXPECT_EQ(changed.find({"web", "b1"})->weight, std::nullopt);
  EXPECT_EQ(changed.find({"web", "b1"})->admin, Admin::drain);

  // One that the files have with another address than it was added with; one whose address was changed.
  Override other = added("10.0.1.99");
  other.weight = 30;
  overrides.set({"web", "b2"}, other);
  EXPECT_EQ(without_overtaken(overrides, files(), told).find({"web", "b2"}), nullptr);
  EXPECT_TRUE(std::any_of(told.begin(), told.end(), [](const std::string& sentence) {
    return sentence.find("10.0.1.99") != std::string::npos;
  }));
  other.address_was = IpAddress::parse("10.0.1.12");
  overrides.set({"web", "b2"}, other);
  EXPECT_EQ(*without_overtaken(overrides, files(), told).find({"web", "b2"}), other);
}

// Proves that the same may stand in a file, weights and all, and that faults there have their place.
TEST(Overrides, StandInFiles) {
  const std::string base = right_service();
  const ConfigResult right = parse_config(
      base +
          "[[override]]\nservice = \"web\"\nbackend = \"b1\"\nweight = 3\n"
          "[[override]]\nservice = \"web\"\nbackend = \"b2\"\naddress = \"10.0.1.12\"\nweight = 4\n",
      "f");
  ASSERT_TRUE(right.config) << all_texts(right.errors);
  EXPECT_EQ(right.config->services[0].backends[0].weight, 3u);
  EXPECT_EQ(right.config->services[0].backends[1].weight, 4u);
  const ConfigResult wrong =
      parse_config(base +
                       "[[override]]\nservice = \"wbe\"\nbackend = \"b1\"\nweight = 3\n"
                       "[[override]]\nservice = \"web\"\nweight = 4\n",
                   "f");
  ASSERT_EQ(wrong.errors.size(), 2u) << all_texts(wrong.errors);
  EXPECT_EQ(wrong.errors[0].line, 11u);
  EXPECT_EQ(wrong.errors[0].message, "no service 'wbe'");
  const ConfigResult unnamed = parse_config(
      base + "[[override]]\nservice = \"web\"\nbackend = \"*b2\"\naddress = \"10.0.1.12\"\n", "f");
  ASSERT_EQ(unnamed.errors.size(), 1u) << all_texts(unnamed.errors);
  EXPECT_EQ(unnamed.errors[0].message, "'*b2' is no name: letters, digits, '.', '_' and '-'");
  EXPECT_EQ(wrong.errors[1].message, "'weight' is about a backend: name it");
}

}  // namespace
}  // namespace sluice
