// Bookkeeping of a segment's memory: nothing is handed out twice, nothing is lost, neighbours grow together
// again.
#include "controlplane/segment_memory.h"

#include <map>
#include <random>
#include <vector>

#include <gtest/gtest.h>

namespace sluice {
namespace {

// Proves first fit, rounding to units, exact accounting, and merging on both sides.
TEST(SegmentMemory, AllocatesFirstFitAndMerges) {
  SegmentMemory memory(100, 200);
  EXPECT_EQ(memory.size_bytes(), 6400u);
  EXPECT_EQ(memory.allocate(64 * 10), 100u);
  EXPECT_EQ(memory.allocate(1), 110u);
  EXPECT_EQ(memory.allocate(65), 111u);
  EXPECT_EQ(memory.used_bytes(), 13u * 64);
  EXPECT_EQ(memory.used_end(), 113u);

  memory.release(100, 64 * 10);
  EXPECT_EQ(memory.allocate(64 * 11), 113u) << "the hole of 10 is too small";
  memory.release(111, 65);
  memory.release(110, 1);
  EXPECT_EQ(memory.allocate(64 * 13), 100u) << "three neighbours are one again";
  EXPECT_EQ(memory.used_end(), 124u);
  memory.release(113, 64 * 11);
  EXPECT_EQ(memory.used_end(), 113u);
  EXPECT_EQ(memory.allocate(64 * 11), 113u);
  EXPECT_EQ(memory.allocate(64 * 77), std::nullopt);
  EXPECT_EQ(memory.allocate(64 * 76), 124u);
  EXPECT_EQ(memory.used_bytes(), memory.size_bytes());
  EXPECT_EQ(memory.used_end(), 200u);
  EXPECT_EQ(memory.allocate(1), std::nullopt);
}

// Proves that a takeover can claim exactly what is free, once, and sees what is left.
TEST(SegmentMemory, TakesGivenRanges) {
  SegmentMemory memory(10, 100);
  EXPECT_TRUE(memory.take(20, 64 * 5));
  EXPECT_FALSE(memory.take(24, 64)) << "taken";
  EXPECT_FALSE(memory.take(19, 128)) << "half taken";
  EXPECT_FALSE(memory.take(9, 64)) << "outside";
  EXPECT_FALSE(memory.take(99, 65)) << "half outside";
  EXPECT_FALSE(memory.take(0xffffffff, UINT64_MAX)) << "must not wrap";
  EXPECT_FALSE(memory.take(30, 0));
  EXPECT_TRUE(memory.take(30, 64));

  const auto free = memory.free_below(40);
  ASSERT_EQ(free.size(), 3u);
  EXPECT_EQ(free[0].offset, 10u);
  EXPECT_EQ(free[0].bytes, 10u * 64);
  EXPECT_EQ(free[1].offset, 25u);
  EXPECT_EQ(free[1].bytes, 5u * 64);
  EXPECT_EQ(free[2].offset, 31u);
  EXPECT_EQ(free[2].bytes, 9u * 64);
}

// Proves the same against an oracle that marks every unit, over random allocations, takes and releases.
TEST(SegmentMemory, AgreesWithAMapOfUnits) {
  constexpr uint32_t kFirst = 7, kUnits = 400;
  std::mt19937 random(1);
  SegmentMemory memory(kFirst, kFirst + kUnits);
  std::vector<bool> used(kUnits, false);
  std::map<uint32_t, uint64_t> parts;  // offset to bytes
  const auto units = [](uint64_t bytes) { return static_cast<uint32_t>((bytes + 63) / 64); };
  const auto fits = [&](uint32_t at, uint32_t count) {
    for (uint32_t i = at; i < at + count; i++) {
      if (i >= kUnits || used[i]) return false;
    }
    return true;
  };
  const auto mark = [&](uint32_t at, uint32_t count, bool value) {
    for (uint32_t i = at; i < at + count; i++)
      used[i] = value;
  };

  for (int step = 0; step < 20'000; step++) {
    const uint64_t bytes = 1 + random() % (64 * 40);
    const uint32_t action = random() % 4;
    if (action == 0) {
      const uint32_t at = random() % kUnits;
      const bool expected = fits(at, units(bytes));
      ASSERT_EQ(memory.take(kFirst + at, bytes), expected);
      if (expected) parts.emplace(at, bytes), mark(at, units(bytes), true);
    } else if (action == 1) {
      uint32_t at = 0;
      while (at < kUnits && !fits(at, units(bytes)))
        at++;
      const std::optional<Offset64> got = memory.allocate(bytes);
      ASSERT_EQ(got, at < kUnits ? std::optional<Offset64>(kFirst + at) : std::nullopt);
      if (got) parts.emplace(at, bytes), mark(at, units(bytes), true);
    } else if (!parts.empty()) {
      auto part = parts.begin();
      std::advance(part, random() % parts.size());
      memory.release(kFirst + part->first, part->second);
      mark(part->first, units(part->second), false);
      parts.erase(part);
    }
    ASSERT_EQ(memory.used_bytes(), static_cast<uint64_t>(std::count(used.begin(), used.end(), true)) * 64);
  }
  for (const auto& [at, bytes] : parts)
    memory.release(kFirst + at, bytes);
  EXPECT_EQ(memory.allocate(kUnits * 64), kFirst) << "all of it in one piece again";
}

}  // namespace
}  // namespace sluice
