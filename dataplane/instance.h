// The data plane's side of shared memory: its own segments, and the tables that it reads.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "dataplane/options.h"
#include "dataplane/session_table.h"
#include "src/flow_layout.h"
#include "src/result.h"
#include "src/segment.h"
#include "src/stats.h"

namespace sluice {

class Instance {
 public:
  // Takes the instance's lock, and opens or takes over `stats`.
  static Result<Instance> open(const Options& options);
  // Opens or takes over `flows`, and attaches the tables if there are any. Says on stderr what became of the
  // flows. Only once the ports run: a start that fails must not cost a flow.
  Result<Done> open_flows(const Options& options);

  StatsSegment& stats() { return stats_.as<StatsSegment>(); }
  std::byte* flows_base() { return flows_.base(); }
  SessionTable sessions() {
    return SessionTable(session_lines(flows_.base()), flows_.as<FlowsHeader>().session_lines);
  }
  uint32_t bucket_bits() const { return flows_.as<FlowsHeader>().bucket_bits; }

  // The tables segment as last mapped; null: none yet.
  const std::byte* tables_base() const { return tables_.empty() ? nullptr : tables_.back().base(); }
  // Maps the tables segment when there is a new one. Returns its base then, else null. The first Error of a
  // kind is told on stderr (another version, ...); a missing segment is none: sluiced may start later.
  const std::byte* attach_tables();

  // The same for the commands segment.
  const std::byte* attach_commands();

  // Says whose ids the flows name, once every worker uses the tables that were attached last (and has
  // forgotten the flows of others). Until then a successor would have to forget them all. Called now and
  // then.
  void settle_flows();

  void announce(const std::vector<PortInfo>& ports, const Options& options, uint64_t tsc_hz);
  void heartbeat();
  // On stderr, once.
  void tell_if_removed();
  // An orderly end.
  void leave();

 private:
  Result<Segment> open_flows_segment(uint64_t bytes, bool may_be_huge);
  void forget_flows_file();
  void tell_memory(const Options& options) const;
  void keep_or_forget_flows();
  void forget(bool sessions_too);

  std::string directory_;
  InstanceLock lock_;
  Segment stats_;
  Segment flows_;
  std::vector<Segment> tables_;  // all that were ever mapped: workers may still read an old one
  std::vector<Segment> commands_;
  std::string last_error_;
  std::string last_commands_error_;
  bool told_removed_ = false;
};

}  // namespace sluice
