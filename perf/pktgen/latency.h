// Latencies in log-linear buckets, as HDR histograms have them: 32 of equal width for each power of two, so a
// value is known to within 1/32 of itself (exactly below 64), from 1 to 2^32 - 1 cycles. Fixed size (7 KiB),
// no allocation; add is a handful of instructions. One writer; read when the trial is over.
#pragma once

#include <array>
#include <bit>
#include <cstdint>

namespace sluice::pktgen {

class LatencyHistogram {
 public:
  static constexpr uint32_t kSubBits = 5;
  static constexpr uint32_t kSub = 1u << kSubBits;
  static constexpr uint32_t kBuckets = (32 - kSubBits + 1) * kSub;

  static constexpr uint32_t bucket_of(uint32_t value) {
    if (value < kSub) return value;
    const auto shift = static_cast<uint32_t>(std::bit_width(value)) - kSubBits - 1;
    return (shift << kSubBits) + (value >> shift);
  }
  // The greatest value of a bucket.
  static constexpr uint32_t upper(uint32_t bucket) {
    if (bucket < 2 * kSub) return bucket;
    const uint32_t shift = (bucket >> kSubBits) - 1;
    const uint64_t sub = (bucket & (kSub - 1)) + kSub;
    return static_cast<uint32_t>(((sub + 1) << shift) - 1);
  }

  void add(uint32_t value, uint64_t times) {
    counts_[bucket_of(value)] += times;
    max_ = value > max_ ? value : max_;
  }
  uint64_t total() const {
    uint64_t sum = 0;
    for (const uint64_t count : counts_)
      sum += count;
    return sum;
  }
  uint32_t max() const { return max_; }
  // The smallest bound that at least this share (0..1) of all values keep to; 0 when there are none.
  uint32_t quantile(double share) const {
    const uint64_t all = total();
    if (all == 0) return 0;
    auto rank = static_cast<uint64_t>(share * static_cast<double>(all));
    if (static_cast<double>(rank) < share * static_cast<double>(all)) rank++;
    uint64_t below = 0;
    for (uint32_t bucket = 0; bucket < kBuckets; bucket++) {
      below += counts_[bucket];
      if (below >= rank && below > 0) return upper(bucket) < max_ ? upper(bucket) : max_;
    }
    return max_;
  }
  const std::array<uint64_t, kBuckets>& counts() const { return counts_; }

 private:
  std::array<uint64_t, kBuckets> counts_{};
  uint32_t max_ = 0;
};

}  // namespace sluice::pktgen
