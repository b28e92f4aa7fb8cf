#include "src/maglev.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cassert>
#include <cmath>
#include <limits>
#include <numeric>
#include <utility>

#define XXH_INLINE_ALL
#include <xxhash.h>

namespace sluice {
namespace {

// The first eight bytes, as a number that is in the keys' order: most comparisons need no more.
uint64_t prefix(std::string_view key) {
  std::array<char, 8> bytes{};
  key.copy(bytes.data(), bytes.size());
  return __builtin_bswap64(std::bit_cast<uint64_t>(bytes));
}

// Who takes a slot, turn by turn: rounds, in order, of those whose quota is not used up.
std::vector<uint16_t> turn_order(std::vector<uint32_t> quota, uint32_t slots) {
  std::vector<uint16_t> turns, taking;
  turns.reserve(slots);
  for (uint32_t i = 0; i < quota.size(); i++) {
    if (quota[i] > 0) taking.push_back(static_cast<uint16_t>(i));
  }
  while (!taking.empty()) {
    size_t still = 0;
    for (const uint16_t i : taking) {
      turns.push_back(i);
      if (--quota[i] > 0) taking[still++] = i;
    }
    taking.resize(still);
  }
  return turns;
}

// A member's walk through the slots: slot, slot + skip, slot + 2 skip, ... modulo the (prime) number of
// slots.
struct Walk {
  uint32_t slot;
  uint32_t skip;
};

Walk first_step(std::string_view key, uint32_t slots) {
  const XXH128_hash_t hash = XXH3_128bits(key.data(), key.size());
  return {static_cast<uint32_t>(hash.low64 % slots), static_cast<uint32_t>(hash.high64 % (slots - 1) + 1)};
}

uint32_t add_modulo(uint32_t a, uint32_t b, uint32_t modulus) {
  const uint32_t sum = a + b;
  return sum >= modulus ? sum - modulus : sum;
}

class Occupied {
 public:
  explicit Occupied(uint32_t slots) : words_((slots + 63) / 64) {}
  uint64_t test(uint32_t slot) const { return words_[slot / 64] >> (slot % 64) & 1; }
  void set(uint32_t slot) { words_[slot / 64] |= uint64_t{1} << (slot % 64); }

 private:
  std::vector<uint64_t> words_;
};

// The x with a * x = 1 modulo a prime, by Euclid.
uint32_t inverse_modulo(uint32_t a, uint32_t prime) {
  int64_t r0 = prime, r1 = a, x0 = 0, x1 = 1;
  while (r1 != 0) {
    const int64_t quotient = r0 / r1;
    r0 = std::exchange(r1, r0 - quotient * r1);
    x0 = std::exchange(x1, x0 - quotient * x1);
  }
  return static_cast<uint32_t>(x0 < 0 ? x0 + prime : x0);
}

// Slots still free and where each comes on a walk: slots take 20 bits and positions in the list 12, so that
// the first one met is the least of one word each, which vectorizes.
constexpr uint32_t kPositionBits = 12;
static_assert(limits::kLookupSlotsLarge < 1u << (32 - kPositionBits));

// Which of the free slots the walk meets first: that with the least (free - slot) / skip. Same answer as
// walking, for the end, when next to every step would meet an occupied slot. The multiplications by one
// factor modulo a prime are Shoup's: a product off by less than twice the modulus, without a division.
size_t first_met(const Walk& walk, std::span<const uint32_t> free, uint32_t slots) {
  const uint32_t inverse = inverse_modulo(walk.skip, slots);
  const auto quotient = static_cast<uint32_t>((uint64_t{inverse} << 32) / slots);
  const auto times_inverse = [=](uint32_t slot) {  // modulo slots
    const uint32_t product = slot * inverse - static_cast<uint32_t>(uint64_t{slot} * quotient >> 32) * slots;
    return std::min(product, product - slots);  // product < 2 slots; what is below 0 is large
  };
  const uint32_t here = times_inverse(walk.slot);
  uint32_t least = std::numeric_limits<uint32_t>::max();
  for (size_t i = 0; i < free.size(); i++) {
    const uint32_t ahead = times_inverse(free[i]) - here;
    least = std::min(least, std::min(ahead, ahead + slots) << kPositionBits | static_cast<uint32_t>(i));
  }
  return least & ((1u << kPositionBits) - 1);
}

// The first free slot of a walk, kStride steps looked at together: no guess has to be right for each step,
// and none waits for the one before it.
class Strides {
 public:
  static constexpr uint32_t kStride = 8;

  Strides(const Walk& walk, uint32_t slots) : slots_(slots), one_(walk.skip) {
    two_ = add_modulo(one_, one_, slots);
    four_ = add_modulo(two_, two_, slots);
  }
  uint32_t first_free(uint32_t slot, const Occupied& occupied) const {
    for (;;) {
      const std::array<uint32_t, kStride> at = steps_from(slot);
      uint64_t taken = 0;
      for (uint32_t i = 0; i < kStride; i++)
        taken |= occupied.test(at[i]) << i;
      if (taken != (1u << kStride) - 1) return at[static_cast<size_t>(std::countr_one(taken))];
      slot = add_modulo(at[4], four_, slots_);
    }
  }

 private:
  std::array<uint32_t, kStride> steps_from(uint32_t slot) const {
    const uint32_t next = add_modulo(slot, one_, slots_);
    const uint32_t third = add_modulo(slot, two_, slots_), fourth = add_modulo(next, two_, slots_);
    return {slot,
            next,
            third,
            fourth,
            add_modulo(slot, four_, slots_),
            add_modulo(next, four_, slots_),
            add_modulo(third, four_, slots_),
            add_modulo(fourth, four_, slots_)};
  }

  uint32_t slots_;
  uint32_t one_, two_, four_;
};

// From this part of the table on, most steps meet an occupied slot, and strides are cheaper; measured.
constexpr uint32_t kStridesFromPercent = 50;
// With few free slots, looking at each of them is cheaper than walking (slots / free steps): as many as the
// square root of all; measured, and as fast with thrice as many.
uint32_t few_free(uint32_t slots) {
  return std::min(static_cast<uint32_t>(std::sqrt(slots)), 1u << kPositionBits);
}

// Lets the members fill the table in the order of `turns`, each the next free slot of its walk.
void fill(std::span<Walk> walks, std::span<const uint16_t> turns, std::span<const uint16_t> positions,
          std::span<uint16_t> table) {
  const auto slots = static_cast<uint32_t>(table.size());
  Occupied occupied(slots);
  uint32_t turn = 0;
  const auto take = [&](Walk& walk, uint32_t slot) {
    occupied.set(slot);
    table[slot] = positions[turns[turn]];
    walk.slot = add_modulo(slot, walk.skip, slots);
  };
  const uint32_t few_from = slots - few_free(slots);
  const uint32_t strides_from = static_cast<uint32_t>(uint64_t{slots} * kStridesFromPercent / 100);
  for (const uint32_t end = std::min(strides_from, few_from); turn < end; turn++) {
    Walk& walk = walks[turns[turn]];
    uint32_t slot = walk.slot;
    while (occupied.test(slot) != 0)
      slot = add_modulo(slot, walk.skip, slots);
    take(walk, slot);
  }
  for (; turn < few_from; turn++) {
    Walk& walk = walks[turns[turn]];
    take(walk, Strides(walk, slots).first_free(walk.slot, occupied));
  }
  std::vector<uint32_t> free;
  for (uint32_t slot = 0; slot < slots; slot++) {
    if (!occupied.test(slot)) free.push_back(slot);
  }
  for (; turn < slots; turn++) {
    const size_t met = first_met(walks[turns[turn]], free, slots);
    table[free[met]] = positions[turns[turn]];
    free[met] = free.back();
    free.pop_back();
  }
}

}  // namespace

std::vector<uint16_t> order_by_key(std::span<const MaglevMember> members) {
  std::vector<std::pair<uint64_t, uint16_t>> by_prefix(members.size());
  for (size_t i = 0; i < members.size(); i++)
    by_prefix[i] = {prefix(members[i].key), static_cast<uint16_t>(i)};
  std::sort(by_prefix.begin(), by_prefix.end(), [&](const auto& a, const auto& b) {
    return a.first != b.first ? a.first < b.first : members[a.second].key < members[b.second].key;
  });
  std::vector<uint16_t> order(members.size());
  std::transform(by_prefix.begin(), by_prefix.end(), order.begin(),
                 [](const auto& member) { return member.second; });
  return order;
}

std::vector<uint32_t> exact_shares(std::span<const uint32_t> weights, uint32_t slots) {
  const uint64_t total = std::accumulate(weights.begin(), weights.end(), uint64_t{0});
  std::vector<uint32_t> quota(weights.size());
  std::vector<std::pair<uint64_t, uint32_t>> fractions(weights.size());
  uint32_t left = slots;
  for (uint32_t i = 0; i < weights.size(); i++) {
    const uint64_t share = uint64_t{slots} * weights[i];
    quota[i] = static_cast<uint32_t>(share / total);
    fractions[i] = {total - share % total, i};
    left -= quota[i];
  }
  std::sort(fractions.begin(), fractions.end());
  for (uint32_t i = 0; i < left; i++)
    quota[fractions[i].second]++;
  return quota;
}

bool maglev_build(std::span<const MaglevMember> members, std::span<uint16_t> table) {
  assert(members.size() <= limits::kBackendsPerServiceMax);
  assert(table.size() > 2);
  const auto slots = static_cast<uint32_t>(table.size());

  std::vector<uint16_t> positions;
  std::vector<uint32_t> weights;
  std::vector<Walk> walks;
  for (const uint16_t position : order_by_key(members)) {
    const MaglevMember& member = members[position];
    assert(member.weight <= limits::kWeightMax);
    if (member.weight == 0) continue;
    positions.push_back(position);
    weights.push_back(member.weight);
    walks.push_back(first_step(member.key, slots));
  }
  if (positions.empty()) return false;
  fill(walks, turn_order(exact_shares(weights, slots), slots), positions, table);
  return true;
}

uint64_t maglev_checksum(std::span<const MaglevMember> members, std::span<const uint16_t> table) {
  std::vector<uint64_t> key_hash(members.size());
  for (size_t i = 0; i < members.size(); i++)
    key_hash[i] = XXH3_64bits(members[i].key.data(), members[i].key.size());
  const auto mix = [](uint64_t& sum, uint64_t hash) {
    sum = (sum ^ hash) * 0x9e3779b97f4a7c15ULL + (sum >> 29);
    // One by one: GCC's vectors, of gathers and 64-bit products, take five times as long.
    __asm__("" : "+r"(sum));
  };
  // Each step waits for the one before; sums side by side wait at the same time.
  constexpr size_t kLanes = 8;
  std::array<uint64_t, kLanes> sums{};
  const size_t whole = table.size() - table.size() % kLanes;
  for (size_t slot = 0; slot < whole; slot += kLanes) {
    for (size_t lane = 0; lane < kLanes; lane++)
      mix(sums[lane], key_hash[table[slot + lane]]);
  }
  uint64_t sum = table.size();
  for (size_t slot = whole; slot < table.size(); slot++)
    mix(sum, key_hash[table[slot]]);
  for (const uint64_t lane : sums)
    mix(sum, lane);
  return sum;
}

}  // namespace sluice
