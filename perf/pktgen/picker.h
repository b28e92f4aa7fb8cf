// Which flow the next packet belongs to: uniform, Zipf with exponent 1, or one after the other. A
// multiplication or two a pick; no division, no logarithm. Also the generator's source of random numbers.
#pragma once

#include <cstdint>
#include <vector>

#include "perf/pktgen/trial.h"

namespace sluice::pktgen {

// wyrand: one 64x64 multiplication a number; good enough by far to choose flows by.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed * 0x9e3779b97f4a7c15ULL + 1) {}
  uint64_t next() {
    __extension__ using Wide = unsigned __int128;
    state_ += 0xa0761d6478bd642fULL;
    const Wide product = static_cast<Wide>(state_) * (state_ ^ 0xe7037ed1a0b428dbULL);
    return static_cast<uint64_t>(product >> 64) ^ static_cast<uint64_t>(product);
  }

 private:
  uint64_t state_;
};

// 0 .. range - 1 from 32 random bits, without a division.
constexpr uint32_t scale(uint32_t random, uint32_t range) {
  return static_cast<uint32_t>((uint64_t{random} * range) >> 32);
}

// Number k of 1 .. n with a probability in proportion to 1/k; flow k - 1. The first kHead numbers have the
// exact probability; the others come in blocks of 1/64 of a power of two with the exact sum and, within a
// block, evenly (they differ by less than 1/64 there). One look into Walker's alias table (some 60 KiB at 100
// million flows) a pick.
class Zipf {
 public:
  explicit Zipf(uint32_t n);
  uint32_t pick(uint64_t random) const {
    const uint64_t place = (random >> 32) * blocks_.size();
    const Block* block = &blocks_[place >> 32];
    if (static_cast<uint32_t>(place) >= block->threshold) block = &blocks_[block->alias];
    return block->first + scale(static_cast<uint32_t>(random), block->size);
  }

 private:
  static constexpr uint32_t kHead = 2048;
  struct Block {
    uint32_t first, size;
    uint32_t threshold, alias;  // of 2^32: keep this block, else that one
  };
  std::vector<Block> blocks_;
};

class Picker {
 public:
  explicit Picker(const Trial& trial);
  uint32_t pick(Random& random) {
    switch (order_) {
      case Order::uniform:
        return scale(static_cast<uint32_t>(random.next() >> 32), flows_);
      case Order::zipf:
        return zipf_.pick(random.next());
      case Order::sequential:
        break;
    }
    const uint32_t flow = next_;
    next_ = flow + 1 == flows_ ? 0 : flow + 1;
    return flow;
  }

 private:
  Order order_;
  uint32_t flows_;
  uint32_t next_ = 0;
  Zipf zipf_;
};

}  // namespace sluice::pktgen
