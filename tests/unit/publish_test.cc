// The writing side of the tables: generations are immutable once published, share what did not change, and
// their memory comes back exactly when nobody can use it any more. tests/unit/takeover_test.cc kills the
// writer.
#include "controlplane/publish.h"

#include <deque>
#include <map>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "tests/unit/generation_image.h"

namespace sluice {
namespace {

constexpr uint64_t kBytes = 4 << 20;
constexpr ServiceId kWeb{3}, kFar{200};
constexpr BackendId kOne{1}, kOther{5000};

std::vector<uint16_t> positions(size_t count, uint16_t value) {
  return std::vector<uint16_t>(count, value);
}

uint64_t commit(Publisher& publisher) {
  const Result<uint64_t> number = publisher.commit();
  EXPECT_TRUE(number) << number.error().text();
  return number ? *number : 0;
}

void begin(Publisher& publisher) {
  const Result<Done> begun = publisher.begin();
  ASSERT_TRUE(begun) << begun.error().text();
}

// Two services on two pages, one with a table; two backends on two pages; a VIP.
Publisher with_first_generation() {
  Publisher publisher = Publisher::anonymous(kBytes);
  begin(publisher);
  publisher.edit_service(kWeb).forward = Forward::ipip;
  publisher.edit_service(kFar).forward = Forward::l2dsr;
  publisher.edit_backend(kOne).mtu_bytes = 1;
  publisher.edit_backend(kOther).mtu_bytes = 2;
  publisher.edit_backend_cold(kOne).weight = 3;
  publisher.edit_service_cold(kWeb).base_flows = 4;
  publisher.set_lookup(kWeb, positions(1009, 0), 77);
  publisher.set_members(kWeb, std::vector{kOne});
  publisher.set_vips(std::vector<Publisher::Vip>{{*IpAddress::parse("203.0.113.10"), 80, 6, kWeb}});
  EXPECT_EQ(commit(publisher), 1u);
  return publisher;
}

// Proves that the very first generation is complete: any id may be looked up in it, and nothing is found.
TEST(Publish, AnEmptyGenerationAnswersEveryLookup) {
  Publisher publisher = Publisher::anonymous(kBytes);
  EXPECT_FALSE(publisher.current());
  begin(publisher);
  EXPECT_FALSE(publisher.current()) << "staged is not published";
  EXPECT_EQ(commit(publisher), 1u);
  const TablesView view = publisher.current();
  ASSERT_TRUE(view);
  EXPECT_EQ(view.service(ServiceId{limits::kServicesMax - 1}).forward, Forward::none);
  EXPECT_EQ(view.backend(BackendId{limits::kBackendsMax - 1}).flags, 0);
  EXPECT_EQ(view.service_cold(ServiceId{0}).name[0], '\0');
  EXPECT_EQ(view.backend_cold(BackendId{0}).name[0], '\0');
  EXPECT_EQ(view.find_service(*IpAddress::parse("203.0.113.10"), net16(80), 6), kNoService);
  EXPECT_EQ(publisher.memory().used_bytes, sizeof(Generation));
}

// Proves isolation and sharing: a commit leaves every byte of the generation before as it was, and copies
// only the pages that were edited.
TEST(Publish, CopiesOnlyWhatChangesAndNothingOld) {
  Publisher publisher = with_first_generation();
  const PinnedGeneration old(publisher.base());
  const std::string before = old.image();

  begin(publisher);
  publisher.edit_backend(kOther).mtu_bytes = 99;
  publisher.set_lookup(kWeb, positions(2003, 1), 78);
  EXPECT_EQ(publisher.staged().backend(kOther).mtu_bytes, 99) << "the writer sees what it stages";
  EXPECT_EQ(publisher.current().backend(kOther).mtu_bytes, 2) << "and nobody else does";
  EXPECT_EQ(commit(publisher), 2u);

  EXPECT_EQ(old.image(), before);
  const TablesView now = publisher.current();
  EXPECT_EQ(now.backend(kOther).mtu_bytes, 99);
  EXPECT_EQ(now.backend(kOne).mtu_bytes, 1);
  EXPECT_EQ(now.lookup(now.service(kWeb)).size(), 2003u);
  EXPECT_EQ(now.service(kWeb).lookup_checksum, 78u);
  EXPECT_EQ(now.members(now.service(kWeb)).size(), 1u);
  EXPECT_GE(now.generation().published_ns, old.view.generation().published_ns);

  // By page: those of kOther and of kWeb's record are new, all else is shared.
  const Generation& was = old.view.generation();
  const Generation& is = now.generation();
  for (uint32_t page = 0; page < kBackendPages; page++) {
    EXPECT_EQ(is.backend_pages[page] != was.backend_pages[page], page == index(kOther) / kPageRecords)
        << page;
    EXPECT_EQ(is.backend_cold_pages[page], was.backend_cold_pages[page]);
  }
  for (uint32_t page = 0; page < kServicePages; page++) {
    EXPECT_EQ(is.service_pages[page] != was.service_pages[page], page == index(kWeb) / kPageRecords) << page;
    EXPECT_EQ(is.service_cold_pages[page], was.service_cold_pages[page]);
  }
  EXPECT_EQ(is.vips, was.vips);
  EXPECT_EQ(now.service(kWeb).members, old.view.service(kWeb).members);
}

// Proves that memory comes back exactly: nothing before the acknowledgement, all of it and no more after it.
TEST(Publish, ReclaimsExactly) {
  Publisher publisher = with_first_generation();
  EXPECT_EQ(publisher.memory().used_bytes, PinnedGeneration(publisher.base()).memory_bytes());

  const PinnedGeneration old(publisher.base());
  begin(publisher);
  publisher.edit_backend(kOther).mtu_bytes = 99;
  publisher.set_lookup(kWeb, positions(2003, 1), 78);
  commit(publisher);
  const uint64_t used = publisher.memory().used_bytes;
  const uint64_t replaced = sizeof(Generation) +
                            kPageRecords * (sizeof(BackendRecord) + sizeof(ServiceRecord)) +
                            (1009 * 2 + 63) / 64 * 64;
  EXPECT_EQ(publisher.memory().retired_bytes, replaced);

  publisher.reclaim(1);
  EXPECT_EQ(publisher.memory().used_bytes, used) << "generation 1 is in use";
  publisher.reclaim(3);
  EXPECT_EQ(publisher.memory().used_bytes, used) << "no generation of this segment has that number yet";
  publisher.reclaim(2);
  EXPECT_EQ(publisher.memory().retired_bytes, 0u);
  EXPECT_EQ(publisher.memory().used_bytes, used - replaced);
  EXPECT_EQ(publisher.memory().used_bytes, PinnedGeneration(publisher.base()).memory_bytes());
}

// Proves that an abandoned staging leaves no trace, and that what it replaced twice does not pile up.
TEST(Publish, AbortGivesEverythingBack) {
  Publisher publisher = with_first_generation();
  const std::string before = PinnedGeneration(publisher.base()).image();
  const uint64_t used = publisher.memory().used_bytes;

  begin(publisher);
  publisher.edit_backend(kOne).mtu_bytes = 9;
  publisher.set_lookup(kWeb, positions(2003, 1), 1);
  const uint64_t staged = publisher.memory().used_bytes;
  for (int i = 0; i < 10; i++)
    publisher.set_lookup(kWeb, positions(2003, 1), 1);
  EXPECT_EQ(publisher.memory().used_bytes, staged);
  publisher.set_lookup(kWeb, {}, 0);
  publisher.set_members(kWeb, {});
  publisher.set_vips({});
  publisher.abort();
  publisher.abort();

  EXPECT_EQ(publisher.memory().used_bytes, used);
  EXPECT_EQ(publisher.memory().retired_bytes, 0u);
  EXPECT_EQ(PinnedGeneration(publisher.base()).image(), before);
}

// Proves that a service without takers has neither table nor members, and gives their memory back.
TEST(Publish, EmptySetsTakeNoMemory) {
  Publisher publisher = with_first_generation();
  begin(publisher);
  publisher.set_lookup(kWeb, {}, 5);
  publisher.set_members(kWeb, {});
  publisher.set_vips({});
  publisher.reclaim(commit(publisher));
  const TablesView view = publisher.current();
  EXPECT_TRUE(view.lookup(view.service(kWeb)).empty());
  EXPECT_TRUE(view.members(view.service(kWeb)).empty());
  EXPECT_EQ(view.service(kWeb).lookup_slots, 0u);
  EXPECT_EQ(view.service(kWeb).lookup_checksum, 0u);
  EXPECT_EQ(view.find_service(*IpAddress::parse("203.0.113.10"), net16(80), 6), kNoService);
  EXPECT_EQ(publisher.memory().used_bytes, PinnedGeneration(publisher.base()).memory_bytes());
}

// Proves the rule of the VIP table (a power of two, at most half full) and that it finds what is in it and
// nothing else.
TEST(Publish, FindsVips) {
  Publisher publisher = Publisher::anonymous(kBytes);
  for (const uint32_t count : {1u, 2u, 3u, 64u, 1000u}) {
    std::vector<Publisher::Vip> vips;
    for (uint32_t i = 0; i < count; i++) {
      vips.push_back({IpAddress::v4(net32(0xcb007100 + i / 4)),
                      static_cast<uint16_t>(i % 4 == 3 ? 0 : 80 + i % 4),
                      static_cast<uint8_t>(i % 2 == 0 ? 6 : 17), ServiceId{i}});
    }
    begin(publisher);
    publisher.set_vips(vips);
    commit(publisher);
    const TablesView view = publisher.current();
    const uint32_t size = view.generation().vips_mask + 1;
    EXPECT_EQ(size & (size - 1), 0u);
    EXPECT_GE(size, 2 * count);
    EXPECT_EQ(view.generation().has_any_port, count >= 4 ? 1u : 0u);
    for (const Publisher::Vip& vip : vips) {
      EXPECT_EQ(view.find_service(vip.vip, net16(vip.port), vip.protocol), vip.service);
    }
    EXPECT_EQ(view.find_service(vips[0].vip, net16(80), 1), kNoService);
    EXPECT_EQ(view.find_service(vips[0].vip, net16(81), 6), kNoService);
    EXPECT_EQ(view.find_service(vips[0].vip, net16(9), 17), count >= 4 ? ServiceId{3} : kNoService)
        << "any port";
  }
}

// Proves that a full segment is an error that names a remedy, publishes nothing, loses nothing, and passes
// when memory comes back. Every way to run out is met: the segment fills up step by step.
TEST(Publish, OutOfMemoryPublishesNothing) {
  int refused = 0;
  for (uint64_t bytes = 32 << 10; bytes < 256 << 10; bytes += 1024) {
    Publisher publisher = Publisher::anonymous(bytes);
    if (!publisher.begin() || !publisher.commit()) continue;
    const std::string before = PinnedGeneration(publisher.base()).image();
    const Publisher::Memory memory = publisher.memory();

    bool published = false;
    if (publisher.begin()) {
      publisher.edit_backend(kOne).mtu_bytes = 7;
      publisher.edit_backend_cold(kOther).weight = 7;
      publisher.edit_service_cold(kWeb).base_flows = 7;
      publisher.set_lookup(kWeb, positions(30'011, 7), 7);
      publisher.set_members(kWeb, std::vector<BackendId>(1000, kOne));
      publisher.set_vips(std::vector<Publisher::Vip>(500, {IpAddress{}, 80, 6, kWeb}));
      const Result<uint64_t> number = publisher.commit();
      published = static_cast<bool>(number);
      if (!number) {
        EXPECT_NE(number.error().what.find("tables segment is full"), std::string::npos);
        EXPECT_FALSE(number.error().remedy.empty());
      }
    }
    if (published) {
      EXPECT_EQ(publisher.current().lookup(publisher.current().service(kWeb))[30'010], 7);
      continue;
    }
    refused++;
    EXPECT_EQ(PinnedGeneration(publisher.base()).image(), before) << bytes;
    EXPECT_EQ(publisher.memory().used_bytes, memory.used_bytes) << bytes;
    EXPECT_EQ(publisher.current().generation().number, 1u);
  }
  EXPECT_GT(refused, 20);

  // What is retired is in the way until it is acknowledged, and then no longer.
  Publisher tight = Publisher::anonymous(64 << 10);
  begin(tight);
  tight.edit_backend(kOne).mtu_bytes = 1;
  commit(tight);
  begin(tight);
  tight.edit_backend(kOne).mtu_bytes = 2;
  commit(tight);
  const Result<Done> third = tight.begin();
  if (third) tight.edit_backend(kOne).mtu_bytes = 3;
  ASSERT_FALSE(third && tight.commit());
  tight.reclaim(2);
  begin(tight);
  tight.edit_backend(kOne).mtu_bytes = 4;
  commit(tight);
  EXPECT_EQ(tight.current().backend(kOne).mtu_bytes, 4);
}

// What the random test below believes the tables to hold.
struct Oracle {
  std::map<uint32_t, uint16_t> mtu_by_backend;
  std::map<uint32_t, std::vector<uint16_t>> lookup_by_service;
  std::map<uint32_t, std::vector<BackendId>> members_by_service;
};

void expect_equal(const TablesView& view, const Oracle& oracle) {
  for (const auto& [id, mtu] : oracle.mtu_by_backend)
    ASSERT_EQ(view.backend(BackendId{id}).mtu_bytes, mtu);
  for (const auto& [id, lookup] : oracle.lookup_by_service) {
    const auto span = view.lookup(view.service(ServiceId{id}));
    ASSERT_TRUE(std::equal(span.begin(), span.end(), lookup.begin(), lookup.end()));
  }
  for (const auto& [id, members] : oracle.members_by_service) {
    const auto span = view.members(view.service(ServiceId{id}));
    ASSERT_TRUE(std::equal(span.begin(), span.end(), members.begin(), members.end()));
  }
}

// Proves, over thousands of random changes, aborts, exhaustions and late acknowledgements: the current
// generation holds what was last committed, every generation that is not acknowledged away keeps its bytes,
// and no byte of memory is lost.
TEST(Publish, AgreesWithAnOracle) {
  std::mt19937 random(7);
  Publisher publisher = Publisher::anonymous(512 << 10);
  begin(publisher);
  commit(publisher);
  Oracle committed;
  std::deque<std::pair<PinnedGeneration, std::string>> in_use;  // with the image each had when it was current
  int refused = 0;

  for (int round = 0; round < 3000; round++) {
    Oracle staged = committed;
    bool published = false;
    if (publisher.begin()) {
      for (uint32_t edits = 1 + random() % 4; edits > 0; edits--) {
        const uint32_t backend = random() % 300, service = random() % 100;
        const auto value = static_cast<uint16_t>(random());
        switch (random() % 3) {
          case 0:
            publisher.edit_backend(BackendId{backend}).mtu_bytes = staged.mtu_by_backend[backend] = value;
            break;
          case 1:
            staged.lookup_by_service[service] = positions(random() % 3 * 500, value);
            publisher.set_lookup(ServiceId{service}, staged.lookup_by_service[service], value);
            break;
          default:
            staged.members_by_service[service].assign(random() % 40, BackendId{value});
            publisher.set_members(ServiceId{service}, staged.members_by_service[service]);
        }
      }
      if (random() % 8 == 0) {
        publisher.abort();
      } else {
        published = static_cast<bool>(publisher.commit());
        refused += published ? 0 : 1;
      }
    }
    if (published) committed = std::move(staged);
    ASSERT_NO_FATAL_FAILURE(expect_equal(publisher.current(), committed));

    if (published)
      in_use.emplace_back(PinnedGeneration(publisher.base()), PinnedGeneration(publisher.base()).image());
    for (const auto& [generation, image] : in_use)
      ASSERT_EQ(generation.image(), image);
    if (random() % 3 == 0 && !in_use.empty()) {
      in_use.erase(in_use.begin(), in_use.begin() + static_cast<ptrdiff_t>(random() % in_use.size()));
      publisher.reclaim(in_use.front().first.view.generation().number);
    }
  }
  EXPECT_GT(refused, 0) << "the segment is meant to be too small at times";
  publisher.reclaim(publisher.current().generation().number);
  EXPECT_EQ(publisher.memory().used_bytes, PinnedGeneration(publisher.base()).memory_bytes());
  EXPECT_EQ(publisher.memory().retired_bytes, 0u);
}

}  // namespace
}  // namespace sluice
