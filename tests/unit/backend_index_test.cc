// Finding a backend by id, by name and by address.
#include "controlplane/backend_index.h"

#include <algorithm>

#include <gtest/gtest.h>

#include "tests/unit/models.h"

namespace sluice {
namespace {

using namespace models;

TEST(BackendIndex, FindsEveryBackendByAnyOfItsNames) {
  Publisher publisher = Publisher::anonymous();
  const Model model = model_of(small_config(), publisher);
  const BackendIndex index(model);
  for (uint32_t s = 0; s < model.services().size(); s++) {
    const Service& service = model.services()[s];
    for (uint32_t b = 0; b < service.backends.size(); b++) {
      const BackendPlace place{s, b};
      EXPECT_EQ(index.find(service.backends[b].id), place);
      EXPECT_EQ(index.find(service.config.name, service.backends[b].config.name), place);
      const auto there = index.at(service.backends[b].config.address);
      EXPECT_TRUE(there.size() == 1 && there[0] == place);
    }
  }
  EXPECT_EQ(index.ids().size(), 5u);
  EXPECT_EQ(index.addresses().size(), 5u);
}

TEST(BackendIndex, WhatIsNotThereIsNotFound) {
  Publisher publisher = Publisher::anonymous();
  const BackendIndex index(model_of(small_config(), publisher));
  EXPECT_EQ(index.find("web", "b9"), std::nullopt);
  EXPECT_EQ(index.find("api", "b2"), std::nullopt) << "another service's";
  EXPECT_EQ(index.find("b0", "web"), std::nullopt);
  EXPECT_EQ(index.find(kUnassignedBackend), std::nullopt);
  EXPECT_TRUE(index.at(v4(0x0a0a0a0a)).empty());
  EXPECT_EQ(BackendIndex().find("web", "b0"), std::nullopt);
}

// A host may serve several services: its next hop is all of theirs.
TEST(BackendIndex, AnAddressIsEverybodysWhoHasIt) {
  Config config = small_config();
  config.services[1].backends[1].address = config.services[0].backends[2].address;
  Publisher publisher = Publisher::anonymous();
  const BackendIndex index(model_of(config, publisher));
  const auto there = index.at(config.services[0].backends[2].address);
  ASSERT_EQ(there.size(), 2u);
  EXPECT_TRUE(std::ranges::count(there, BackendPlace{0, 2}) == 1);
  EXPECT_TRUE(std::ranges::count(there, BackendPlace{1, 1}) == 1);
  EXPECT_EQ(index.addresses().size(), 4u) << "each once";
  EXPECT_EQ(index.ids().size(), 5u);
}

}  // namespace
}  // namespace sluice
