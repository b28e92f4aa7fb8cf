// One publisher and several readers at full speed, memory reused as fast as acknowledgements allow: no reader
// ever sees a generation that is not whole. Built with ThreadSanitizer (-Db_sanitize=thread) it also proves
// that the ordering rests on the two release/acquire pairs of src/tables.h and on nothing else.
#include <array>
#include <atomic>
#include <cstdint>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "controlplane/publish.h"

namespace sluice {
namespace {

constexpr uint32_t kReaders = 3;
constexpr uint32_t kServices = 70;   // on two pages
constexpr uint32_t kBackends = 130;  // on three pages
constexpr uint64_t kGenerations = 4000;

struct alignas(64) Reader {
  std::atomic<uint64_t> acknowledged{0};
  uint64_t generations_seen = 0;
  std::string fault;
};

// What must hold within one generation: every backend carries the generation's number, and every service's
// table and members carry its checksum, whichever generation they were last changed in.
std::string fault_of(const TablesView& view) {
  const uint64_t number = view.generation().number;
  const auto in_generation = [&] { return " in generation " + std::to_string(number); };
  if (view.generation().services_count != static_cast<uint32_t>(number))
    return "foreign root" + in_generation();
  for (uint32_t i = 0; i < kBackends; i++) {
    if (view.backend(BackendId{i}).mtu_bytes != static_cast<uint16_t>(number)) {
      return "backend " + std::to_string(i) + " is of another" + in_generation();
    }
  }
  for (uint32_t i = 0; i < kServices; i++) {
    const ServiceRecord& service = view.service(ServiceId{i});
    const uint64_t stamp = service.lookup_checksum;
    for (const uint16_t position : view.lookup(service)) {
      if (position != static_cast<uint16_t>(stamp))
        return "torn table of " + std::to_string(i) + in_generation();
    }
    for (const BackendId member : view.members(service)) {
      if (index(member) != static_cast<uint32_t>(stamp))
        return "torn members of " + std::to_string(i) + in_generation();
    }
    if (stamp > number) return "table from the future" + in_generation();
  }
  return "";
}

// A worker's loop: acquire once, use, acknowledge.
void read_until(const std::byte* base, const std::atomic<bool>& stop, Reader& reader) {
  uint64_t last = 0;
  while (!stop.load(std::memory_order_relaxed) && reader.fault.empty()) {
    const TablesView view = TablesView::acquire(base);
    if (!view) continue;
    const uint64_t number = view.generation().number;
    reader.fault = number < last ? "generations go backwards" : fault_of(view);
    // In use for a while, as by a worker that is interrupted: the publisher goes on meanwhile, with what it
    // may reuse.
    std::this_thread::yield();
    if (reader.fault.empty()) reader.fault = fault_of(view);
    reader.generations_seen += number != last ? 1 : 0;
    last = number;
    // As in a worker: nothing of the generation is read behind this. Pairs with the load in
    // least_acknowledged.
    reader.acknowledged.store(number, std::memory_order_release);
  }
  // A reader that gives up must not hold up the publisher; the test fails by its fault.
  reader.acknowledged.store(UINT64_MAX, std::memory_order_release);
}

uint64_t least_acknowledged(const std::array<Reader, kReaders>& readers) {
  uint64_t least = UINT64_MAX;
  for (const Reader& reader : readers) {
    least = std::min(least, reader.acknowledged.load(std::memory_order_acquire));
  }
  return least;
}

void stage_random(Publisher& publisher, uint64_t number, std::mt19937& random) {
  publisher.generation().services_count = static_cast<uint32_t>(number);
  for (uint32_t i = 0; i < kBackends; i++)
    publisher.edit_backend(BackendId{i}).mtu_bytes = static_cast<uint16_t>(number);
  for (int changes = 0; changes < 3; changes++) {
    const ServiceId service{static_cast<uint32_t>(random() % kServices)};
    publisher.set_lookup(service, std::vector<uint16_t>(1 + random() % 500, static_cast<uint16_t>(number)),
                         number);
    publisher.set_members(service,
                          std::vector<BackendId>(random() % 100, BackendId{static_cast<uint32_t>(number)}));
  }
}

// Proves that no reader ever sees half a generation or one whose memory was reused under it. The segment
// holds only a few generations, so every byte of it is used again and again.
TEST(PublishRace, ReadersSeeWholeGenerationsOnly) {
  Publisher publisher = Publisher::anonymous(512 << 10);
  std::array<Reader, kReaders> readers;
  std::atomic<bool> stop{false};
  std::vector<std::thread> threads;
  for (Reader& reader : readers) {
    threads.emplace_back([&] { read_until(publisher.base(), stop, reader); });
  }

  std::mt19937 random(11);
  uint64_t published = 0, refused = 0;
  while (published < kGenerations) {
    bool done = false;
    if (publisher.begin()) {
      stage_random(publisher, published + 1, random);
      done = static_cast<bool>(publisher.commit());
    }
    published += done ? 1 : 0;
    refused += done ? 0 : 1;
    // Every so often all readers catch up, so that each sees hundreds of generations on however slow a
    // machine.
    const bool catch_up = !done || published % 10 == 0;
    do {
      const uint64_t least = least_acknowledged(readers);
      if (least == UINT64_MAX) break;
      publisher.reclaim(least);
      if (!catch_up || least == published) break;
      std::this_thread::yield();
    } while (true);
    if (least_acknowledged(readers) == UINT64_MAX) break;
  }
  stop.store(true, std::memory_order_relaxed);
  for (std::thread& thread : threads)
    thread.join();

  for (const Reader& reader : readers) {
    EXPECT_EQ(reader.fault, "");
    EXPECT_GE(reader.generations_seen, kGenerations / 10);
  }
  EXPECT_EQ(published, kGenerations);
  EXPECT_EQ(publisher.current().generation().number, kGenerations);
  RecordProperty("refused", static_cast<int>(refused));
}

}  // namespace
}  // namespace sluice
