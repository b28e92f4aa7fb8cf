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

// Adds a flow; nobody else's is ever over.
FlowTable::Inserted insert(FlowTable& table, uint64_t hash, BackendId backend, FlowState state,
                           uint32_t now_s) {
  return table.insert({hash, backend, state, 900}, now_s, [](FlowTable::Place) { return false; });
}

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
        } else if (insert(t.table, hash, BackendId{backend}, FlowState::established, 1).place) {
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
  t.table.each([&](FlowTable::Place place) {
    RC_ASSERT(oracle.count(t.table.hash_at(place)) == 1);
    seen++;
  });
  RC_ASSERT(seen == oracle.size());
}

// Proves: the SSE2 masks of a bucket are those of the plain loops, whatever the bucket holds.
RC_GTEST_PROP(FlowTableProperty, vector_and_plain_masks_agree, ()) {
  FlowBucket bucket{};
  for (uint32_t i = 0; i < kBucketFlows; i++) {
    // Few values, so that parts of tags agree.
    bucket.tag_low[i] = *rc::gen::element(0u, 1u, 0x80000000u, 0xffffffffu);
    bucket.tag_high[i] = *rc::gen::element<uint16_t>(0, 1, 0x8000, 0xffff);
    bucket.backend[i] = *rc::gen::arbitrary<uint16_t>();
    bucket.state_time[i] = *rc::gen::oneOf(rc::gen::just<uint16_t>(0), rc::gen::arbitrary<uint16_t>());
  }
  bucket.marks = *rc::gen::arbitrary<uint32_t>();
  for (const uint64_t low : {0u, 1u, 0x80000000u, 0xffffffffu}) {
    for (const uint64_t high : {0u, 1u, 0x8000u, 0xffffu}) {
      const uint64_t hash = high << 48 | low << kTagShift | 5;
      RC_ASSERT(matching_flows(bucket, hash) == portable::matching_flows(bucket, hash));
      RC_ASSERT(matching_tags(bucket, hash) == portable::matching_tags(bucket, hash));
    }
  }
  RC_ASSERT(free_places(bucket) == portable::free_places(bucket));
  RC_ASSERT(unconfirmed_flows(bucket) == portable::unconfirmed_flows(bucket));
}

// Proves: whatever comes and goes, a second after a flow was over it is gone, and none goes before; the sweep
// finds that out from the seconds of its groups. Oracle: a map of when each flow is over.
RC_GTEST_PROP(FlowTableProperty, each_flow_goes_within_a_second_of_its_end, ()) {
  const uint32_t start_s = *rc::gen::element(10u, 8'000u, 65'400u, 1'000'000u);  // near every wrap
  Table t;
  struct Flow {
    uint32_t last_s;
    uint32_t timeout_s;
  };
  std::unordered_map<uint64_t, Flow> oracle;
  const auto over = [&](uint64_t hash, uint32_t now_s) {
    const Flow& flow = oracle.at(hash);
    return now_s - flow.last_s > flow.timeout_s;
  };
  std::mt19937_64 random(*rc::gen::arbitrary<uint32_t>());
  for (uint32_t now_s = start_s; now_s < start_s + 700; now_s++) {
    for (int i = 0; i < 4; i++) {
      // Half of them crowd, so that some are moved.
      const uint64_t hash = i % 2 == 0 ? crowded_hash(random() % 24) : random() << kTagShift | random() % 64;
      if (const FlowTable::Place place = t.table.find(hash)) {
        if (over(hash, now_s)) continue;
        FlowTable::Place(place).touch(FlowState::closing, now_s);
        Flow& flow = oracle.at(hash);
        flow.last_s = now_s;
        if (random() % 4 == 0) {
          flow.timeout_s = 5;
          t.table.expect(place, now_s, flow.timeout_s);
        }
        continue;
      }
      const auto timeout_s = static_cast<uint32_t>(random() % 600 + 1);
      const auto inserted =
          t.table.insert({hash, BackendId{1}, FlowState::closing, timeout_s}, now_s,
                         [&](FlowTable::Place place) { return over(t.table.hash_at(place), now_s); });
      if (inserted.place) oracle[hash] = {now_s, timeout_s};
    }
    t.table.sweep(t.table.groups(), UINT32_MAX, now_s, [&](FlowTable::Place place) -> uint32_t {
      const Flow& flow = oracle.at(t.table.hash_at(place));
      const uint32_t idle_s = now_s - flow.last_s;
      RC_ASSERT(place.idle_s(now_s) == idle_s);
      return idle_s > flow.timeout_s ? 0 : flow.timeout_s - idle_s + 1;
    });
    for (const auto& [hash, flow] : oracle) {
      const bool is_there = static_cast<bool>(t.table.find(hash));
      if (!over(hash, now_s)) {
        RC_ASSERT(is_there);
      } else {
        RC_ASSERT(!is_there);
      }
    }
    std::erase_if(oracle, [&](const auto& one) { return over(one.first, now_s); });
  }
}

// Proves: a sweep does bounded work: it stops after so many groups, or so many that it looked into.
TEST(FlowTable, a_sweep_is_bounded) {
  Table t;
  for (uint64_t i = 0; i < 1'000; i++)
    insert(t.table, i * 0x9e3779b97f4a7c15ULL, BackendId{1}, FlowState::established, 1);
  uint64_t seen = 0;
  const auto count = [&](FlowTable::Place) -> uint32_t { return seen++, 100; };
  EXPECT_EQ(t.table.sweep(10, UINT32_MAX, 1, count), 10u);
  EXPECT_EQ(t.table.sweep(t.table.groups(), 3, 1, count), 3u);
  EXPECT_LE(seen, 13u * FlowTable::kGroupBuckets * kBucketFlows);
  while (seen < 1'000)
    t.table.sweep(t.table.groups(), 7, 1, count);
  // Nothing is due any more: nothing is looked at.
  t.table.sweep(t.table.groups(), UINT32_MAX, 1, count);
  EXPECT_EQ(seen, 1'000u);
}

// Proves: a flow that may rest for days keeps its age through every wrap of the stored time, never early.
TEST(FlowTable, ages_of_days_do_not_wrap) {
  Table t;
  const uint32_t begin_s = 1'000'003;
  const FlowTable::Place place = insert(t.table, 77, BackendId{1}, FlowState::long_lived, begin_s).place;
  for (uint32_t rest_s = 0; rest_s < limits::kIdleTimeoutMax + 600; rest_s += 61) {
    const uint32_t idle_s = place.idle_s(begin_s + rest_s);
    ASSERT_LE(idle_s, rest_s);
    ASSERT_GE(idle_s + 256, rest_s);
  }
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
    if (insert(t.table, hash, backend, FlowState::established, 1).place) {
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
    ASSERT_TRUE(insert(t.table, confirmed.back(), BackendId{1}, FlowState::established, 1).place);
  }
  for (uint64_t i = 0; i < 20 * t.table.buckets(); i++) {
    (void)insert(t.table, random(), BackendId{2}, FlowState::syn, 1);
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
    const auto inserted = insert(t.table, crowded_hash(next), BackendId{9}, FlowState::established, 1);
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
  const auto inserted = insert(t.table, refused, BackendId{3}, FlowState::established, 2);
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
  std::vector<std::byte> memory(flows_bytes(2, kBucketBitsMin, 0) + 64);
  auto* base =
      reinterpret_cast<std::byte*>((reinterpret_cast<uintptr_t>(memory.data()) + 63) & ~uintptr_t{63});
  auto& header = *reinterpret_cast<FlowsHeader*>(base);
  header.workers_count = 2;
  header.bucket_bits = kBucketBitsMin;
  FlowTable second(flow_buckets(base, 1), kBucketBitsMin);
  for (uint64_t i = 0; i < 9; i++) {
    ASSERT_TRUE(
        insert(second, crowded_hash(i), BackendId{static_cast<uint32_t>(100 + i)}, FlowState::udp, 10).place);
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
