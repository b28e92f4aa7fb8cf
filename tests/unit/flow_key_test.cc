// The flow hash depends on every byte of the key and on the secret, and spreads flows evenly over a lookup
// table.
#include "src/flow_key.h"

#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <random>
#include <set>
#include <vector>

#include <gtest/gtest.h>

#include "src/size_limits.h"

namespace sluice {
namespace {

const HashSecret& secret() {
  static const HashSecret value = HashSecret::from_text(kDefaultSecretText);
  return value;
}

FlowKey4 key4() {
  return {net32(0xc0000201), net32(0xcb00710a), net16(40000), net16(80), 6};
}

FlowKey6 key6() {
  FlowKey6 key;
  for (uint8_t i = 0; i < 16; i++) {
    key.source[i] = i;
    key.destination[i] = static_cast<uint8_t>(0xf0 + i);
  }
  key.source_port = net16(40000);
  key.destination_port = net16(443);
  key.protocol = 17;
  return key;
}

template <typename Key>
void expect_every_bit_counts(const Key& key) {
  std::set<uint64_t> seen = {flow_hash(key, secret())};
  for (size_t bit = 0; bit < sizeof key * 8; bit++) {
    std::array<uint8_t, sizeof key> bytes;
    std::memcpy(bytes.data(), &key, sizeof key);
    bytes[bit / 8] = static_cast<uint8_t>(bytes[bit / 8] ^ 1u << bit % 8);
    Key changed;
    std::memcpy(&changed, bytes.data(), sizeof changed);
    EXPECT_TRUE(seen.insert(flow_hash(changed, secret())).second) << "bit " << bit << " makes no difference";
  }
}

TEST(FlowHashTest, EveryBitOfTheKeyCounts) {
  expect_every_bit_counts(key4());
  expect_every_bit_counts(key6());
}

TEST(FlowHashTest, SourceAndDestinationAreNotInterchangeable) {
  FlowKey4 swapped = key4();
  std::swap(swapped.source, swapped.destination);
  EXPECT_NE(flow_hash(swapped, secret()), flow_hash(key4(), secret()));
  FlowKey6 swapped_ports = key6();
  std::swap(swapped_ports.source_port, swapped_ports.destination_port);
  EXPECT_NE(flow_hash(swapped_ports, secret()), flow_hash(key6(), secret()));
}

TEST(FlowHashTest, IsAFunctionOfKeyAndSecret) {
  const HashSecret again = HashSecret::from_text(kDefaultSecretText);
  EXPECT_EQ(flow_hash(key4(), again), flow_hash(key4(), secret()));
  EXPECT_EQ(flow_hash(key6(), again), flow_hash(key6(), secret()));
}

TEST(FlowHashTest, TheSecretCounts) {
  std::set<uint64_t> seen4, seen6;
  const char* texts[] = {
      "", "a", "b", "sluice", "sluice ", "Sluice", "a much longer text than the 192 bytes need"};
  for (const char* text : texts) {
    EXPECT_TRUE(seen4.insert(flow_hash(key4(), HashSecret::from_text(text))).second) << text;
    EXPECT_TRUE(seen6.insert(flow_hash(key6(), HashSecret::from_text(text))).second) << text;
  }
}

TEST(LookupSlotTest, IsInRangeAtBothEnds) {
  for (const uint32_t slots : {3u, limits::kLookupSlotsDefault, limits::kLookupSlotsLarge}) {
    EXPECT_EQ(lookup_slot(0, slots), 0u);
    EXPECT_EQ(lookup_slot(UINT64_MAX, slots), slots - 1);
  }
}

TEST(LookupSlotTest, IsMonotonousInTheHash) {
  // The first hash of slot s is ceil(s * 2^64 / slots): one less is in the slot before.
  const uint32_t slots = limits::kLookupSlotsDefault;
  __extension__ using Wide = unsigned __int128;
  for (uint32_t slot = 1; slot < slots; slot++) {
    const auto first = static_cast<uint64_t>(((static_cast<Wide>(slot) << 64) + slots - 1) / slots);
    ASSERT_EQ(lookup_slot(first, slots), slot);
    ASSERT_EQ(lookup_slot(first - 1, slots), slot - 1);
  }
}

// Chi-squared over the slots. With k slots the statistic has mean k - 1 and variance 2 (k - 1); six standard
// deviations (for a fixed input, so the test cannot flicker).
template <typename MakeKey>
void expect_uniform(MakeKey make_key) {
  const uint32_t slots = 1021;
  const uint32_t flows = slots * 500;
  std::vector<uint32_t> count(slots);
  for (uint32_t i = 0; i < flows; i++) {
    const uint32_t slot = lookup_slot(flow_hash(make_key(i), secret()), slots);
    ASSERT_LT(slot, slots);
    count[slot]++;
  }
  const double expected = static_cast<double>(flows) / slots;
  double chi_squared = 0;
  for (const uint32_t n : count)
    chi_squared += (n - expected) * (n - expected) / expected;
  const double freedom = slots - 1;
  EXPECT_NEAR(chi_squared, freedom, 6 * std::sqrt(2 * freedom));
}

TEST(LookupSlotTest, SpreadsConsecutivePortsAndAddressesEvenly) {
  expect_uniform([](uint32_t i) {
    FlowKey4 key = key4();
    key.source_port = net16(static_cast<uint16_t>(i));
    key.source = net32(0x0a000000 + (i >> 16));
    return key;
  });
  expect_uniform([](uint32_t i) {
    FlowKey4 key = key4();
    key.source = net32(0x0a000000 + i);
    return key;
  });
  expect_uniform([](uint32_t i) {
    FlowKey6 key = key6();
    const uint32_t order = net32(i);
    std::memcpy(&key.source[12], &order, 4);
    return key;
  });
}

}  // namespace
}  // namespace sluice
