// The flow table against a std::unordered_map, and its promises when full.
#include <random>
#include <unordered_map>
#include <vector>

#include <gtest/gtest.h>
#include <rapidcheck.h>
#include <rapidcheck/gtest.h>

#include "dataplane/flow_table.h"

namespace sluice {
namespace {

struct Table {
  explicit Table(uint32_t bits = kBucketBitsMin) : buckets(size_t{1} << bits), table(buckets.data(), bits) {}
  std::vector<FlowBucket> buckets;
  FlowTable table;
};

const auto kNothingExpires = [](FlowTable::Place) { return false; };

// Hashes that all have the same home bucket: the hard case, on purpose.
uint64_t crowded_hash(uint64_t i) {
  return i * 0x9e3779b97f4a7c15ULL << kTagShift | 7;
}

// Proves: after any sequence of insert, touch, change of backend and erase, the table holds exactly what a
// map holds, and every entry gives its whole hash back. The hashes crowd into few buckets, so flows are moved
// and live away from home.
RC_GTEST_PROP(FlowTableProperty, agrees_with_a_map, ()) {
  struct Flow {
    BackendId backend;
    FlowState state;
  };
  Table t;
  std::unordered_map<uint64_t, Flow> oracle;
  const auto operations =
      *rc::gen::container<std::vector<std::tuple<uint8_t, uint8_t, uint32_t>>>(rc::gen::tuple(
          rc::gen::arbitrary<uint8_t>(), rc::gen::inRange<uint8_t>(0, 24), rc::gen::inRange(0u, 1u << 17)));
  for (const auto& [kind, which, backend] : operations) {
    const uint64_t hash = crowded_hash(which);
    FlowTable::Place place = t.table.find(hash);
    const auto known = oracle.find(hash);
    RC_ASSERT(static_cast<bool>(place) == (known != oracle.end()));
    if (place) {
      RC_ASSERT(place.backend() == known->second.backend);
      RC_ASSERT(place.state() == known->second.state);
      RC_ASSERT(t.table.hash_at(place) == hash);
    }
    switch (kind % 4) {
      case 0:
      case 1:
        if (place) {
          place.set_backend(BackendId{backend});
          place.touch(FlowState::closing, 5);
          oracle[hash] = {BackendId{backend}, FlowState::closing};
        } else if (t.table.insert(hash, BackendId{backend}, FlowState::established, 1, kNothingExpires)
                       .place) {
          oracle[hash] = {BackendId{backend}, FlowState::established};
        }
        break;
      case 2:
        if (place) {
          t.table.erase(place);
          oracle.erase(hash);
        }
        break;
      default:
        if (place) {
          place.touch(FlowState::udp, 9);
          oracle[hash].state = FlowState::udp;
        }
    }
  }
  size_t seen = 0;
  t.table.sweep(t.table.buckets(), [&](FlowTable::Place place) {
    RC_ASSERT(oracle.count(t.table.hash_at(place)) == 1);
    seen++;
    return false;
  });
  RC_ASSERT(seen == oracle.size());
}

// Proves: at the advertised number of flows (16 bytes each) next to none is without a place, all others are
// found with what they hold, and a lookup looks at little more than one line on average.
TEST(FlowTable, holds_the_advertised_number_of_flows) {
  Table t;
  const uint64_t flows = 4 * t.table.buckets();
  std::mt19937_64 random(1);
  std::vector<uint64_t> tracked;
  uint64_t untracked = 0;
  for (uint64_t i = 0; i < flows; i++) {
    const uint64_t hash = random();
    const BackendId backend{static_cast<uint32_t>(hash % limits::kBackendsMax)};
    if (t.table.insert(hash, backend, FlowState::established, 1, kNothingExpires).place) {
      tracked.push_back(hash);
    } else {
      untracked++;
    }
  }
  EXPECT_LE(untracked, flows / 100'000);
  uint64_t lines = 0;
  for (const uint64_t hash : tracked) {
    const FlowTable::Place place = t.table.find(hash);
    ASSERT_TRUE(place);
    ASSERT_EQ(index(place.backend()), hash % limits::kBackendsMax);
    ASSERT_EQ(t.table.hash_at(place), hash);
    lines += place.bucket == &t.buckets[hash & (t.table.buckets() - 1)] ? 1 : 2;
  }
  const double lines_a_hit = static_cast<double>(lines) / static_cast<double>(tracked.size());
  RecordProperty("untracked", static_cast<int>(untracked));
  RecordProperty("lines_a_hit", std::to_string(lines_a_hit));
  EXPECT_LE(lines_a_hit, 1.1);
}

// Proves: a flood of unconfirmed flows through every bucket takes no confirmed flow's place.
TEST(FlowTable, unconfirmed_flows_never_push_out_confirmed_ones) {
  Table t;
  std::mt19937_64 random(2);
  std::vector<uint64_t> confirmed;
  for (uint64_t i = 0; i < 2 * t.table.buckets(); i++) {
    confirmed.push_back(random());
    ASSERT_TRUE(
        t.table.insert(confirmed.back(), BackendId{1}, FlowState::established, 1, kNothingExpires).place);
  }
  for (uint64_t i = 0; i < 20 * t.table.buckets(); i++) {
    (void)t.table.insert(random(), BackendId{2}, FlowState::syn, 1, kNothingExpires);
  }
  for (const uint64_t hash : confirmed) {
    const FlowTable::Place place = t.table.find(hash);
    ASSERT_TRUE(place);
    ASSERT_EQ(place.backend(), BackendId{1});
  }
}

// Proves: when both buckets are full of confirmed flows a new one is refused, and none of them is lost; an
// expired or an unconfirmed one among them gives way and is named.
TEST(FlowTable, a_full_bucket_refuses_or_takes_the_weakest) {
  Table t;
  std::vector<uint64_t> placed;
  uint64_t next = 1;
  for (int refusals = 0; refusals < 1; next++) {
    const auto inserted =
        t.table.insert(crowded_hash(next), BackendId{9}, FlowState::established, 1, kNothingExpires);
    EXPECT_FALSE(inserted.displaced);
    if (inserted.place) placed.push_back(crowded_hash(next));
    refusals += inserted.place ? 0 : 1;
  }
  for (const uint64_t hash : placed)
    ASSERT_TRUE(t.table.find(hash));

  FlowTable::Place weak = t.table.find(placed[0]);
  weak.touch(FlowState::syn, 1);
  weak.set_backend(BackendId{70'000});
  const uint64_t refused = crowded_hash(next - 1);
  const auto inserted = t.table.insert(refused, BackendId{3}, FlowState::established, 2, kNothingExpires);
  // The weak flow is in the home bucket of all of these, so the refused one, tried again, takes its place.
  ASSERT_TRUE(inserted.place);
  EXPECT_TRUE(inserted.displaced);
  EXPECT_FALSE(inserted.victim_expired);
  EXPECT_EQ(inserted.victim_backend, BackendId{70'000});
  EXPECT_FALSE(t.table.find(placed[0]));
  EXPECT_EQ(t.table.find(refused).backend(), BackendId{3});
}

// Proves: what sluiced reads from outside is what the worker holds, in either bucket.
TEST(FlowTable, can_be_read_from_outside) {
  std::vector<std::byte> memory(flows_bytes(2, kBucketBitsMin) + 64);
  auto* base =
      reinterpret_cast<std::byte*>((reinterpret_cast<uintptr_t>(memory.data()) + 63) & ~uintptr_t{63});
  auto& header = *reinterpret_cast<FlowsHeader*>(base);
  header.workers_count = 2;
  header.bucket_bits = kBucketBitsMin;
  FlowTable second(flow_buckets(base, 1), kBucketBitsMin);
  for (uint64_t i = 0; i < 9; i++) {
    ASSERT_TRUE(second
                    .insert(crowded_hash(i), BackendId{static_cast<uint32_t>(100 + i)}, FlowState::udp, 10,
                            kNothingExpires)
                    .place);
  }
  for (uint64_t i = 0; i < 9; i++) {
    FlowSeen seen;
    ASSERT_TRUE(find_flow(base, crowded_hash(i), 14, seen));
    EXPECT_EQ(seen.worker, 1u);
    EXPECT_EQ(seen.backend, BackendId{static_cast<uint32_t>(100 + i)});
    EXPECT_EQ(seen.state, FlowState::udp);
    EXPECT_EQ(seen.idle_s, 4u);
  }
  FlowSeen seen;
  EXPECT_FALSE(find_flow(base, crowded_hash(10), 14, seen));
}

}  // namespace
}  // namespace sluice
