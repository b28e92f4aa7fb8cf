// A successor takes over the tables of a writer that ended anywhere: the last generation is whole, what
// workers may still use stays untouched until they acknowledge, and nothing is lost for good.
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "controlplane/publish.h"
#include "tests/unit/generation_image.h"

namespace sluice {
namespace {

constexpr uint64_t kBytes = 4 << 20;
constexpr ServiceId kWeb{3};
constexpr uint32_t kBackends = 130;  // on three pages

// Changes everything that a generation has, so that all of it carries `stamp`.
const std::vector<std::function<void(Publisher&, uint16_t)>> kSteps = {
    [](Publisher& p, uint16_t) { ASSERT_TRUE(p.begin()); },
    [](Publisher& p, uint16_t stamp) {
      for (uint32_t i = 0; i < kBackends; i++)
        p.edit_backend(BackendId{i}).mtu_bytes = stamp;
    },
    [](Publisher& p, uint16_t stamp) {
      for (uint32_t i = 0; i < kBackends; i++)
        p.edit_backend_cold(BackendId{i}).weight = stamp;
    },
    [](Publisher& p, uint16_t stamp) { p.edit_service_cold(kWeb).base_flows = stamp; },
    [](Publisher& p, uint16_t stamp) { p.set_lookup(kWeb, std::vector<uint16_t>(1009, stamp), stamp); },
    [](Publisher& p, uint16_t stamp) { p.set_members(kWeb, std::vector<BackendId>(100, BackendId{stamp})); },
    [](Publisher& p, uint16_t stamp) {
      p.set_vips(std::vector<Publisher::Vip>{{*IpAddress::parse("203.0.113.10"), stamp, 6, kWeb}});
    },
    [](Publisher& p, uint16_t stamp) { p.generation().services_count = stamp; },
};

void stage(Publisher& publisher, uint16_t stamp, size_t steps = kSteps.size()) {
  for (size_t i = 0; i < steps; i++)
    kSteps[i](publisher, stamp);
}

uint64_t publish(Publisher& publisher, uint16_t stamp) {
  stage(publisher, stamp);
  const Result<uint64_t> number = publisher.commit();
  EXPECT_TRUE(number) << number.error().text();
  return number ? *number : 0;
}

void expect_whole(const TablesView& view) {
  ASSERT_TRUE(view);
  const auto stamp = static_cast<uint16_t>(view.generation().services_count);
  for (uint32_t i = 0; i < kBackends; i++) {
    ASSERT_EQ(view.backend(BackendId{i}).mtu_bytes, stamp);
    ASSERT_EQ(view.backend_cold(BackendId{i}).weight, stamp);
  }
  ASSERT_EQ(view.service_cold(kWeb).base_flows, stamp);
  const auto lookup = view.lookup(view.service(kWeb));
  ASSERT_EQ(lookup.size(), 1009u);
  for (const uint16_t position : lookup)
    ASSERT_EQ(position, stamp);
  const auto members = view.members(view.service(kWeb));
  ASSERT_EQ(members.size(), 100u);
  for (const BackendId member : members)
    ASSERT_EQ(index(member), stamp);
  ASSERT_EQ(view.find_service(*IpAddress::parse("203.0.113.10"), net16(stamp), 6), kWeb);
}

class Takeover : public testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/dev/shm/sluice-takeover-XXXXXX";
    ASSERT_NE(mkdtemp(name), nullptr);
    directory_ = name;
  }
  void TearDown() override { std::filesystem::remove_all(directory_); }

  Publisher open() {
    Result<Publisher> publisher = Publisher::open(directory_, kBytes);
    EXPECT_TRUE(publisher) << publisher.error().text();
    return std::move(*publisher);
  }

  std::string directory_;
};

// Proves that whatever was staged when the writer ended is gone without a trace, and that the generation
// before is unchanged to the byte, is what the successor sees, and is continued by the next number.
TEST_F(Takeover, AfterEachStep) {
  for (size_t steps = 0; steps <= kSteps.size(); steps++) {
    SCOPED_TRACE(steps);
    std::string before;
    uint64_t number = 0;
    {
      Publisher first = open();
      number = publish(first, static_cast<uint16_t>(steps + 1));
      before = PinnedGeneration(first.base()).image();
      stage(first, 999, steps);
      // Ends here without commit or abort, as a killed process does: the mapping goes, the file stays.
    }
    Publisher second = open();
    const PinnedGeneration taken_over(second.base());
    EXPECT_EQ(taken_over.image(), before);
    EXPECT_EQ(taken_over.view.generation().number, number);
    expect_whole(second.current());
    EXPECT_EQ(publish(second, 500), number + 1);
    expect_whole(second.current());
    EXPECT_EQ(taken_over.image(), before);
  }
}

// Proves that a worker which still uses an older generation of the predecessor keeps it, however much the
// successor publishes, until the successor is told that nobody uses it; and that then all of that memory is
// back.
TEST_F(Takeover, OldGenerationsStayUntilAcknowledged) {
  uint64_t number = 0;
  Result<Segment> reader = Error{"not mapped yet", ""};
  std::string image;
  {
    Publisher first = open();
    publish(first, 1);
    reader = Segment::open_reader(directory_, kTablesSegment);
    ASSERT_TRUE(reader);
    number = publish(first, 2);
  }
  Publisher second = open();
  EXPECT_GT(second.memory().retired_bytes, 0u);
  // The reader was too slow for generation 1's number to be current; it pins generation 2 and its memory.
  const PinnedGeneration in_use(reader->base());
  image = in_use.image();
  for (uint16_t stamp = 3; stamp < 20; stamp++) {
    publish(second, stamp);
    second.reclaim(number - 1);
    ASSERT_EQ(in_use.image(), image);
  }
  expect_whole(in_use.view);
  second.reclaim(second.current().generation().number);
  EXPECT_EQ(second.memory().used_bytes, PinnedGeneration(second.base()).memory_bytes());
}

// Proves the same for a generation that was no longer current when the writer ended: the successor cannot
// know what is in it, so everything ever used stays until the current generation is acknowledged, and no
// longer.
TEST_F(Takeover, UnknownMemoryStaysUntilAcknowledged) {
  uint64_t number = 0;
  const auto first = std::make_unique<Publisher>(open());
  publish(*first, 1);
  const PinnedGeneration in_use(first->base());
  const std::string image = in_use.image();
  number = publish(*first, 2);

  // `first` stays mapped for the reader's sake and does nothing any more.
  Publisher second = open();
  for (uint16_t stamp = 3; stamp < 20; stamp++) {
    publish(second, stamp);
    second.reclaim(number - 1);
    ASSERT_EQ(in_use.image(), image);
  }
  second.reclaim(second.current().generation().number);
  EXPECT_EQ(second.memory().used_bytes, PinnedGeneration(second.base()).memory_bytes());
  publish(second, 20);
  EXPECT_NE(in_use.image(), image) << "its memory is used again, so the check above could have failed";
}

// Proves that a successor may publish at once although nobody has acknowledged anything, and that restarts do
// not fill the segment up, when acknowledgements come later.
TEST_F(Takeover, PublishesBeforeAnyAcknowledgement) {
  for (uint16_t life = 1; life <= 200; life++) {
    Publisher publisher = open();
    ASSERT_EQ(publish(publisher, life), 2u * life - 1);
    publisher.reclaim(2u * life - 1);
    ASSERT_EQ(publish(publisher, life), 2u * life);
    publisher.reclaim(2u * life);
    ASSERT_NO_FATAL_FAILURE(expect_whole(publisher.current()));
  }
}

// Proves that a segment which is not what its writer left is refused with a remedy, instead of being walked.
TEST_F(Takeover, RefusesADamagedSegment) {
  {
    Publisher publisher = open();
    publish(publisher, 1);
  }
  const std::string path = directory_ + "/tables";
  std::filesystem::copy(path, path + ".good");
  const auto damage = [&](const std::function<void(TablesHeader&, Generation&, ServiceRecord&)>& change) {
    std::filesystem::copy(path + ".good", path, std::filesystem::copy_options::overwrite_existing);
    {
      Result<Segment> segment = Segment::open_writer(directory_, kTablesSegment, kBytes);
      ASSERT_TRUE(segment);
      auto& header = segment->as<TablesHeader>();
      auto& root = *reinterpret_cast<Generation*>(segment->base() + header.current.load() * 64ULL);
      const auto page = root.service_pages[index(kWeb) / kPageRecords];
      auto* services = reinterpret_cast<ServiceRecord*>(segment->base() + page * 64ULL);
      change(header, root, services[index(kWeb) % kPageRecords]);
    }
    const Result<Publisher> refused = Publisher::open(directory_, kBytes);
    ASSERT_FALSE(refused);
    EXPECT_NE(refused.error().what.find("is damaged"), std::string::npos);
    EXPECT_NE(refused.error().remedy.find("rm " + path), std::string::npos);
  };
  damage([](TablesHeader& header, Generation&, ServiceRecord&) { header.current = kBytes / 64 - 1; });
  damage([](TablesHeader& header, Generation&, ServiceRecord&) { header.current = 1; });
  damage([](TablesHeader&, Generation& root, ServiceRecord&) { root.backend_pages[7] = 0; });
  damage(
      [](TablesHeader&, Generation& root, ServiceRecord&) { root.backend_pages[0] = root.backend_pages[1]; });
  damage([](TablesHeader&, Generation& root, ServiceRecord&) { root.backend_cold_pages[0] = UINT32_MAX; });
  damage([](TablesHeader&, Generation& root, ServiceRecord&) { root.vips_mask = 2; });
  damage([](TablesHeader&, Generation& root, ServiceRecord&) { root.vips_mask = UINT32_MAX; });
  damage([](TablesHeader&, Generation&, ServiceRecord& web) { web.lookup_slots = UINT32_MAX; });
  damage([](TablesHeader&, Generation&, ServiceRecord& web) { web.turns = web.lookup_slots + 1; });
  damage([](TablesHeader&, Generation&, ServiceRecord& web) { web.members = web.lookup; });
}

// Proves that a writer killed with SIGKILL while it publishes, at whatever instruction, leaves a whole
// generation, and that its successor goes on from it.
TEST_F(Takeover, AfterSigkillAnywhere) {
  std::mt19937 random(3);
  uint64_t last = 0;
  for (int round = 0; round < 30; round++) {
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      Publisher publisher = open();
      for (uint16_t stamp = 1;; stamp++)
        publisher.reclaim(publish(publisher, stamp));
    }
    // Once it publishes, it is killed somewhere in one of the next generations.
    for (int i = 0; i < 10'000; i++) {
      const Result<Segment> seen = Segment::open_reader(directory_, kTablesSegment);
      const TablesView view = seen ? TablesView::acquire(seen->base()) : TablesView();
      if (view && view.generation().number > last + 3) break;
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    std::this_thread::sleep_for(std::chrono::microseconds(random() % 2000));
    kill(child, SIGKILL);
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    ASSERT_TRUE(WIFSIGNALED(status)) << "it ended by itself";

    Publisher successor = open();
    ASSERT_NO_FATAL_FAILURE(expect_whole(successor.current()));
    ASSERT_GT(successor.current().generation().number, last + 3) << "it never published";
    last = publish(successor, 7);
    ASSERT_NO_FATAL_FAILURE(expect_whole(successor.current()));
  }
}

}  // namespace
}  // namespace sluice
