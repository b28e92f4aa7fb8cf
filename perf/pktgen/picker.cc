#include "perf/pktgen/picker.h"

#include <algorithm>
#include <bit>
#include <cmath>

namespace sluice::pktgen {
namespace {

constexpr double kWhole = 4294967296.0;  // 2^32

// The sum of 1/k over first + 1 .. first + size (flow numbers begin at 0). The midpoint rule is exact to
// 1/k^3.
double weight_of(uint32_t first, uint32_t size) {
  if (size == 1) return 1.0 / (first + 1.0);
  return std::log((first + size + 0.5) / (first + 0.5));
}

}  // namespace

Zipf::Zipf(uint32_t n) {
  std::vector<double> weights;
  double sum = 0;
  for (uint32_t first = 0; first < n;) {
    uint32_t size = 1;
    if (first >= kHead) size = std::min(std::max(std::bit_floor(first) / 64, 1u), n - first);
    blocks_.push_back({first, size, 0, 0});
    weights.push_back(weight_of(first, size));
    sum += weights.back();
    first += size;
  }
  // Vose's way to fill Walker's table: each block below the average is topped up by one above it.
  const double average = sum / static_cast<double>(weights.size());
  std::vector<uint32_t> small, large;
  for (uint32_t i = 0; i < weights.size(); i++) {
    weights[i] /= average;
    blocks_[i].alias = i;
    blocks_[i].threshold = 0xffffffff;
    (weights[i] < 1 ? small : large).push_back(i);
  }
  while (!small.empty() && !large.empty()) {
    const uint32_t less = small.back(), more = large.back();
    small.pop_back();
    blocks_[less].threshold = static_cast<uint32_t>(std::min(weights[less] * kWhole, kWhole - 1));
    blocks_[less].alias = more;
    weights[more] -= 1 - weights[less];
    if (weights[more] < 1) {
      large.pop_back();
      small.push_back(more);
    }
  }
}

Picker::Picker(const Trial& trial)
    : order_(trial.order), flows_(trial.flows), zipf_(trial.order == Order::zipf ? trial.flows : 1) {}

}  // namespace sluice::pktgen
