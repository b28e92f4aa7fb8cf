#include "src/maglev.h"

#include <algorithm>
#include <cassert>
#include <numeric>

#define XXH_INLINE_ALL
#include <xxhash.h>

namespace sluice {
namespace {

constexpr uint32_t kNone = 0xffffffff;

// Positions in `members` by key. What follows works on this order only.
std::vector<uint16_t> order_by_key(std::span<const MaglevMember> members) {
  std::vector<uint16_t> order(members.size());
  std::iota(order.begin(), order.end(), uint16_t{0});
  std::sort(order.begin(), order.end(), [&](uint16_t a, uint16_t b) { return members[a].key < members[b].key; });
  return order;
}

// A member's walk through the slots: offset, offset + skip, offset + 2 skip, ... modulo the (prime) number of slots.
struct Walk {
  uint32_t slot;
  uint32_t skip;
};

Walk first_step(std::string_view key, uint32_t slots) {
  const XXH128_hash_t hash = XXH3_128bits(key.data(), key.size());
  return {static_cast<uint32_t>(hash.low64 % slots), static_cast<uint32_t>(hash.high64 % (slots - 1) + 1)};
}

class Occupied {
 public:
  explicit Occupied(uint32_t slots) : words_((slots + 63) / 64) {}
  bool test(uint32_t slot) const { return words_[slot / 64] >> (slot % 64) & 1; }
  void set(uint32_t slot) { words_[slot / 64] |= uint64_t{1} << (slot % 64); }

 private:
  std::vector<uint64_t> words_;
};

// Who takes a turn in which round. Member i's k-th turn is in round ceil(k * w_max / w_i), so nobody's weight has to be
// added up round by round: members wait in a list per round, and each is visited once a turn.
class Turns {
 public:
  Turns(std::span<const uint32_t> weights, uint32_t slots)
      : weights_(weights),
        heaviest_(*std::max_element(weights.begin(), weights.end())),
        next_(weights.size(), kNone),
        taken_(weights.size(), 0),
        // The heaviest takes one slot a round, so the table is full after `slots` rounds at the latest.
        rounds_(size_t{slots} + 2, List{}) {
    for (uint32_t i = 0; i < weights.size(); i++) wait(i);
  }

  // The members whose turn is in the next round, in order.
  const std::vector<uint32_t>& next_round() {
    due_.clear();
    const List list = rounds_[++round_];
    for (uint32_t i = list.head; i != kNone; i = next_[i]) due_.push_back(i);
    if (!std::is_sorted(due_.begin(), due_.end())) std::sort(due_.begin(), due_.end());
    return due_;
  }

  // Member i took its turn and waits for the next one.
  void wait(uint32_t i) {
    const uint64_t turn = ++taken_[i];
    const uint64_t round = (turn * heaviest_ + weights_[i] - 1) / weights_[i];
    if (round >= rounds_.size()) return;
    List& list = rounds_[round];
    next_[i] = kNone;
    if (list.head == kNone) {
      list.head = i;
    } else {
      next_[list.tail] = i;
    }
    list.tail = i;
  }

 private:
  struct List {
    uint32_t head = kNone;
    uint32_t tail = kNone;
  };
  std::span<const uint32_t> weights_;
  uint64_t heaviest_;
  std::vector<uint32_t> next_;
  std::vector<uint64_t> taken_;
  std::vector<List> rounds_;
  std::vector<uint32_t> due_;
  size_t round_ = 0;
};

}  // namespace

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

  Occupied occupied(slots);
  Turns turns(weights, slots);
  for (uint32_t filled = 0;;) {
    for (const uint32_t i : turns.next_round()) {
      uint32_t slot = walks[i].slot;
      const uint32_t skip = walks[i].skip;
      while (occupied.test(slot)) {
        slot += skip;
        if (slot >= slots) slot -= slots;
      }
      occupied.set(slot);
      table[slot] = positions[i];
      walks[i].slot = slot;
      if (++filled == slots) return true;
      turns.wait(i);
    }
  }
}

uint64_t maglev_checksum(std::span<const MaglevMember> members, std::span<const uint16_t> table) {
  std::vector<uint64_t> key_hash(members.size());
  for (size_t i = 0; i < members.size(); i++) key_hash[i] = XXH3_64bits(members[i].key.data(), members[i].key.size());
  uint64_t sum = table.size();
  for (const uint16_t position : table) sum = (sum ^ key_hash[position]) * 0x9e3779b97f4a7c15ULL + (sum >> 29);
  return sum;
}

}  // namespace sluice
