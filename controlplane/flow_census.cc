#include "controlplane/flow_census.h"

#include <algorithm>
#include <memory>

#include <boost/asio/post.hpp>

namespace sluice {
namespace {

class Walk : public std::enable_shared_from_this<Walk> {
 public:
  Walk(boost::asio::io_context& io, Segment flows, size_t list, std::function<bool(BackendId)> is_listed,
       std::function<void(const Result<FlowCensus>&)> done)
      : io_(io),
        flows_(std::move(flows)),
        list_(std::min(list, FlowCensus::kListedMax)),
        is_listed_(std::move(is_listed)),
        done_(std::move(done)) {
    const auto& header = flows_.as<const FlowsHeader>();
    census_.workers = header.workers_count;
    buckets_per_worker_ = uint64_t{1} << header.bucket_bits;
    census_.capacity = header.workers_count * flows_capacity(header.bucket_bits);
  }

  void step() {
    const uint64_t total = census_.workers * buckets_per_worker_;
    const uint64_t end = std::min(total, next_ + FlowCensus::kSliceBytes / sizeof(FlowBucket));
    const auto now_s = static_cast<uint32_t>(monotonic_ns() / 1'000'000'000);
    const FlowBucket* buckets = flow_buckets(flows_.base(), 0);
    for (; next_ < end; next_++)
      look(buckets[next_], now_s);
    if (next_ == total) return done_(std::move(census_));
    boost::asio::post(io_, [self = shared_from_this()] { self->step(); });
  }

 private:
  void look(const FlowBucket& bucket, uint32_t now_s) {
    for (uint32_t i = 0; i < kBucketFlows; i++) {
      if (bucket.state_time[i] == 0) continue;
      const BackendId backend = backend_of(bucket, i);
      const FlowState state = state_of(bucket, i);
      census_.counts[backend][static_cast<size_t>(state)]++;
      if (census_.listed.size() < list_ && is_listed_(backend)) list_one(bucket, i, now_s);
    }
  }

  void list_one(const FlowBucket& bucket, uint32_t i, uint32_t now_s) {
    const uint64_t mask = buckets_per_worker_ - 1;
    const uint64_t here = next_ & mask;
    const bool is_away = (bucket.marks >> (3 * kBucketFlows + i) & 1) != 0;
    const uint64_t home = is_away ? here ^ other_bucket_distance(bucket.tag_low[i], mask) : here;
    const uint64_t tag = uint64_t{bucket.tag_high[i]} << 32 | bucket.tag_low[i];
    // Where tag and bucket number overlap they say the same.
    const uint64_t hash = tag << kTagShift | (home & ((uint64_t{1} << kTagShift) - 1));
    census_.listed.push_back({hash,
                              {static_cast<uint32_t>(next_ / buckets_per_worker_), backend_of(bucket, i),
                               state_of(bucket, i), idle_s(bucket, i, now_s)}});
  }

  boost::asio::io_context& io_;
  const Segment flows_;
  const size_t list_;
  const std::function<bool(BackendId)> is_listed_;
  const std::function<void(const Result<FlowCensus>&)> done_;
  uint64_t buckets_per_worker_ = 0;
  uint64_t next_ = 0;
  FlowCensus census_;
};

}  // namespace

const char* text(FlowState state) {
  switch (state) {
    case FlowState::empty:
      return "none";
    case FlowState::syn:
      return "syn";
    case FlowState::midstream:
      return "midstream";
    case FlowState::udp_new:
      return "udp_new";
    case FlowState::established:
      return "established";
    case FlowState::closing:
      return "closing";
    case FlowState::udp:
      return "udp";
    case FlowState::long_lived:
      return "established";
  }
  return "?";
}

void take_flow_census(boost::asio::io_context& io, const std::string& directory, uint64_t tables_incarnation,
                      size_t list, std::function<bool(BackendId)> is_listed,
                      std::function<void(const Result<FlowCensus>&)> done) {
  Result<Segment> flows = Segment::open_reader(directory, kFlowsSegment);
  if (!flows) return done(flows.error());
  const Error none{"there are no flows of this configuration: no data plane has run with it",
                   "sluice show workers"};
  if (!holds_its_tables(flows->base(), flows->size()) ||
      flows->as<const FlowsHeader>().tables_incarnation != tables_incarnation) {
    return done(none);
  }
  std::make_shared<Walk>(io, std::move(*flows), list, std::move(is_listed), std::move(done))->step();
}

}  // namespace sluice
