#include "src/lookup_table.h"

#include <algorithm>
#include <bit>
#include <cassert>
#include <limits>
#include <numeric>
#include <queue>
#include <utility>
#include <vector>

#define XXH_INLINE_ALL
#include <xxhash.h>

namespace sluice {
namespace {

// The members with weight, in key order: what follows counts in this order, and the table is written in it
// first.
struct Members {
  std::vector<uint16_t> positions;
  std::vector<uint32_t> weights;
  std::vector<uint64_t> seeds;
  size_t size() const { return positions.size(); }
  uint64_t total_weight() const { return std::accumulate(weights.begin(), weights.end(), uint64_t{0}); }
};

Members with_weight(std::span<const MaglevMember> all) {
  Members members;
  for (const uint16_t position : order_by_key(all)) {
    const MaglevMember& member = all[position];
    assert(member.weight <= limits::kWeightMax);
    if (member.weight == 0) continue;
    members.positions.push_back(position);
    members.weights.push_back(member.weight);
    members.seeds.push_back(XXH3_64bits(member.key.data(), member.key.size()));
  }
  return members;
}

// The n-th random number of a seed (SplitMix64).
uint64_t draw(uint64_t seed, uint64_t n) {
  uint64_t x = seed + (n + 1) * 0x9e3779b97f4a7c15ULL;
  x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ULL;
  x = (x ^ x >> 27) * 0x94d049bb133111ebULL;
  return x ^ x >> 31;
}

uint64_t scale(uint64_t random, uint64_t below) {
  __extension__ using Wide = unsigned __int128;
  return static_cast<uint64_t>(Wide{random} * below >> 64);
}

// ---- Darts: minimal, rendezvous
// ---------------------------------------------------------------------------------

// A member throws one dart each kTick / weight, from a moment of its own on. The longest that it takes to hit
// every slot is a single member's, of weight 1, at 655,373 slots: some 14 darts a slot, 2^62 ticks; 2^64
// would be enough for 100 darts a slot, which no member needs in the life of this universe.
constexpr uint64_t kTick = uint64_t{1} << 38;

struct Thrower {
  uint64_t seed;
  uint64_t time;  // of its next dart
  uint64_t step;
  uint64_t thrown = 0;

  Thrower(uint64_t member_seed, uint32_t weight)
      : seed(member_seed),
        time(scale(draw(member_seed, UINT64_MAX - 1), kTick / weight)),
        step(kTick / weight) {}
  uint32_t dart(uint32_t slots) {
    time += step;
    return static_cast<uint32_t>(scale(draw(seed, thrown++), slots));
  }
};

std::vector<Thrower> throwers(const Members& members) {
  std::vector<Thrower> all;
  all.reserve(members.size());
  for (size_t i = 0; i < members.size(); i++)
    all.emplace_back(members.seeds[i], members.weights[i]);
  return all;
}

// Whoever hits a slot first has it. In waves of one dart a slot, so that only the end is in vain; inside a
// wave member by member: the times decide. At equal times the first in key order.
void rendezvous(const Members& members, std::span<uint16_t> table) {
  const auto slots = static_cast<uint32_t>(table.size());
  std::vector<Thrower> all = throwers(members);
  constexpr uint64_t kNever = std::numeric_limits<uint64_t>::max();
  std::vector<uint64_t> hit_at(slots, kNever);
  const uint64_t wave = std::max(slots * kTick / members.total_weight(), uint64_t{1});
  uint32_t free = slots;
  for (uint64_t end = wave; free > 0; end += wave) {
    assert(end >= wave);
    for (size_t i = 0; i < all.size(); i++) {
      while (all[i].time < end) {
        const uint64_t time = all[i].time;
        const uint32_t slot = all[i].dart(slots);
        if (time >= hit_at[slot]) continue;
        free -= hit_at[slot] == kNever;
        hit_at[slot] = time;
        table[slot] = static_cast<uint16_t>(i);
      }
    }
  }
}

// Who throws when, to within a round in which the heaviest throws once: a timing wheel.
class Wheel {
 public:
  static constexpr uint32_t kRounds = 1 << 15;
  static constexpr uint16_t kNone = 0xffff;
  static_assert(kRounds > 2 * limits::kWeightMax, "no step is as long as a turn of it");
  static_assert(limits::kBackendsPerServiceMax < kNone);

  explicit Wheel(size_t members) : heads_(kRounds, kNone), next_(members) {}
  // From `now` on in rounds of 2^shift ticks; empty.
  void start(uint64_t now, int shift) {
    std::fill(heads_.begin(), heads_.end(), kNone);
    shift_ = shift;
    round_ = now >> shift;
  }
  void add(uint16_t member, uint64_t time) {
    uint16_t& head = heads_[(time >> shift_) % kRounds];
    next_[member] = std::exchange(head, member);
  }
  // Those of the next round, as a list to go through with next(); who is added meanwhile comes in a later
  // one.
  uint16_t take_round() { return std::exchange(heads_[round_++ % kRounds], kNone); }
  uint16_t next(uint16_t member) const { return next_[member]; }
  uint64_t now() const { return round_ << shift_; }

 private:
  std::vector<uint16_t> heads_, next_;
  int shift_ = 0;
  uint64_t round_ = 0;
};

// How many members there are of each magnitude of weight: the heaviest's says how long a round is.
class Magnitudes {
 public:
  void add(const Thrower& thrower) { counts_[of(thrower)]++; }
  void remove(const Thrower& thrower) { counts_[of(thrower)]--; }
  // The largest power of two, of ticks, that no step is shorter than.
  int shortest() const {
    return static_cast<int>(std::find_if(counts_.begin(), counts_.end(), [](uint32_t n) { return n > 0; }) -
                            counts_.begin());
  }

 private:
  static size_t of(const Thrower& thrower) { return static_cast<size_t>(std::bit_width(thrower.step) - 1); }
  std::array<uint32_t, 64> counts_{};
};

// The same, and who has its share throws no more.
void minimal(const Members& members, std::span<uint16_t> table) {
  const auto slots = static_cast<uint32_t>(table.size());
  constexpr uint16_t kFree = 0xffff;
  std::fill(table.begin(), table.end(), kFree);
  std::vector<uint32_t> lacks = exact_shares(members.weights, slots);
  std::vector<Thrower> all = throwers(members);
  std::vector<uint16_t> throwing;
  Magnitudes magnitudes;
  for (size_t i = 0; i < all.size(); i++) {
    if (lacks[i] == 0) continue;
    throwing.push_back(static_cast<uint16_t>(i));
    magnitudes.add(all[i]);
  }
  Wheel wheel(all.size());
  uint32_t in_play = static_cast<uint32_t>(throwing.size());
  for (uint64_t now = 0; in_play > 1;) {
    const int shift = magnitudes.shortest();
    wheel.start(now, shift);
    std::erase_if(throwing, [&](uint16_t i) { return lacks[i] == 0; });
    for (const uint16_t i : throwing)
      wheel.add(i, all[i].time);
    // Longer rounds when those who throw that often have their shares: else most rounds would be empty.
    while (in_play > 1 && magnitudes.shortest() == shift) {
      for (uint16_t i = wheel.take_round(), next; i != Wheel::kNone; i = next) {
        next = wheel.next(i);
        const uint32_t slot = all[i].dart(slots);
        if (table[slot] == kFree) {
          table[slot] = i;
          if (--lacks[i] == 0) {
            magnitudes.remove(all[i]);
            in_play--;
            continue;
          }
        }
        wheel.add(i, all[i].time);
      }
    }
    now = wheel.now();
  }
  // Nobody else is left for the rest.
  const auto last =
      std::find_if(lacks.begin(), lacks.end(), [](uint32_t n) { return n > 0; }) - lacks.begin();
  std::replace(table.begin(), table.end(), kFree, static_cast<uint16_t>(last));
}

// ---- Ring
// -------------------------------------------------------------------------------------------------------

// 2^doublings points for each unit of weight; never less than one a member.
int ring_doublings(const Members& members) {
  const uint64_t total = members.total_weight();
  int doublings = 1;
  while ((total << doublings) < 100 * members.size())
    doublings++;
  while (doublings >= 0 ? total << doublings > kRingPointsMax : total >> -doublings > kRingPointsMax)
    doublings--;
  return doublings;
}

// Places on the circle are the slots, and parts of them.
void ring(const Members& members, std::span<uint16_t> table) {
  const auto slots = static_cast<uint32_t>(table.size());
  const int doublings = ring_doublings(members);
  constexpr uint64_t kNone = std::numeric_limits<uint64_t>::max();
  std::vector<uint64_t> first(slots, kNone);  // the first point of each slot
  for (size_t i = 0; i < members.size(); i++) {
    const uint64_t weight = members.weights[i];
    const uint64_t points =
        doublings >= 0 ? weight << doublings : std::max(weight >> -doublings, uint64_t{1});
    for (uint64_t n = 0; n < points; n++) {
      const uint64_t point = draw(members.seeds[i], n);
      const uint64_t slot = scale(point, slots);
      if (point >= first[slot]) continue;
      first[slot] = point;
      table[slot] = static_cast<uint16_t>(i);
    }
  }
  // A slot without a point goes with the next one that has some; around from the last to the first.
  uint16_t owner = table[static_cast<size_t>(
      std::find_if(first.begin(), first.end(), [](uint64_t point) { return point != kNone; }) -
      first.begin())];
  for (uint32_t slot = slots; slot-- > 0;) {
    if (first[slot] != kNone) owner = table[slot];
    table[slot] = owner;
  }
}

// ---- Schedule: weighted round robin, modulo
// ---------------------------------------------------------------------

// `counts` add up to the schedule's length. The j-th turn of a member may not come before its share of what
// went by is more than j - 1, and must come before it is more than j; the most urgent goes first, in key
// order among equals. One can always be kept so (Baruah et al. 1996, proportionate progress).
std::vector<uint16_t> schedule(std::span<const uint32_t> counts, uint32_t length) {
  struct Turn {
    uint32_t before;
    uint16_t member;
    bool operator<(const Turn& other) const {  // of a queue whose largest comes first
      return std::pair(other.before, other.member) < std::pair(before, member);
    }
  };
  std::vector<std::vector<uint16_t>> from(length);
  for (size_t i = 0; i < counts.size(); i++) {
    if (counts[i] > 0) from[0].push_back(static_cast<uint16_t>(i));
  }
  std::vector<uint16_t> turns(length);
  std::vector<uint32_t> had(counts.size());
  std::priority_queue<Turn> due;
  for (uint32_t now = 0; now < length; now++) {
    for (const uint16_t i : from[now]) {
      const uint64_t ends = uint64_t{had[i] + 1} * length;
      due.push({static_cast<uint32_t>((ends + counts[i] - 1) / counts[i]), i});
    }
    assert(!due.empty() && due.top().before > now);
    const uint16_t i = due.top().member;
    due.pop();
    turns[now] = i;
    if (++had[i] == counts[i]) continue;
    const auto begins = static_cast<uint32_t>(uint64_t{had[i]} * length / counts[i]);
    from[std::max(begins, now + 1)].push_back(i);
  }
  return turns;
}

// The shortest schedule of these weights, over and over; if it is longer than the table, one of their shares
// of it.
void repeat_schedule(const Members& members, std::span<uint16_t> table) {
  const auto slots = static_cast<uint32_t>(table.size());
  const uint32_t divisor = std::accumulate(members.weights.begin(), members.weights.end(), 0u,
                                           [](uint32_t a, uint32_t b) { return std::gcd(a, b); });
  const uint64_t length = members.total_weight() / divisor;
  std::vector<uint32_t> counts = members.weights;
  if (length <= slots) {
    for (uint32_t& count : counts)
      count /= divisor;
  } else {
    counts = exact_shares(members.weights, slots);
  }
  const std::vector<uint16_t> turns =
      schedule(counts, static_cast<uint32_t>(std::min<uint64_t>(length, slots)));
  for (uint32_t slot = 0; slot < slots; slot++)
    table[slot] = turns[slot % turns.size()];
}

}  // namespace

bool lookup_build(Method method, std::span<const MaglevMember> all, std::span<uint16_t> table) {
  void (*fill)(const Members&, std::span<uint16_t>) = nullptr;
  switch (method) {
    case Method::minimal:
      fill = minimal;
      break;
    case Method::rendezvous:
      fill = rendezvous;
      break;
    case Method::ring:
      fill = ring;
      break;
    case Method::modulo:
    case Method::round_robin:
    case Method::weighted_round_robin:
      fill = repeat_schedule;
      break;
    default:
      return maglev_build(all, table);
  }
  assert(all.size() <= limits::kBackendsPerServiceMax);
  const Members members = with_weight(all);
  if (members.size() == 0) return false;
  fill(members, table);
  for (uint16_t& owner : table)
    owner = members.positions[owner];
  return true;
}

uint32_t whole_rounds(Method method, std::span<const MaglevMember> members, uint32_t slots) {
  if (method != Method::round_robin && method != Method::weighted_round_robin) return slots;
  uint32_t divisor = 0;
  uint64_t total = 0;
  for (const MaglevMember& member : members) {
    divisor = std::gcd(divisor, member.weight);
    total += member.weight;
  }
  if (total == 0 || total / divisor > slots) return slots;
  return slots - slots % static_cast<uint32_t>(total / divisor);
}

}  // namespace sluice
