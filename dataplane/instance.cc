#include "dataplane/instance.h"

#include <errno.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "dataplane/huge_pages.h"

namespace sluice {
namespace {

void tell(const std::string& line) {
  std::fprintf(stderr, "sluice-dataplane: %s\n", line.c_str());
}

// Counters of a predecessor that was killed between adding parts of a batch: what it received is what it
// accounted for.
void repair(WorkerStats& worker) {
  uint64_t accounted = worker.packets.forwarded.get() + worker.packets.answered.get();
  for (const Counter& reason : worker.packets.by_reason)
    accounted += reason.get();
  worker.packets.received.set(accounted);
  const uint64_t sequence = worker.sequence.load(std::memory_order_relaxed);
  worker.sequence.store(sequence + sequence % 2, std::memory_order_release);
}

// Gauges of a worker that will not run: nobody else would ever set them.
void forget_gauges(WorkerStats& worker) {
  // Reading what was never used would take memory for it.
  if (worker.flows.active.get() != 0) {
    worker.flows.active.set(0);
    for (BackendCounters& backend : worker.backends) {
      if (backend.flows_active.get() != 0) backend.flows_active.set(0);
    }
  }
  const SessionCounters& sessions = worker.sessions;
  if ((sessions.made.get() | sessions.moved.get() | sessions.ended.get()) == 0) return;
  worker.sessions.active.set(0);
  for (Counter& active : worker.sessions_active) {
    if (active.get() != 0) active.set(0);
  }
}

}  // namespace

// The segment as it is found, in hugepages of a hugetlbfs, or in the instance's directory, there in
// transparent huge pages or in plain ones.
Result<Segment> Instance::open_flows_segment(uint64_t bytes, bool may_be_huge) {
  const std::string path = directory_ + "/" + kFlowsSegment.file;
  if (access(path.c_str(), F_OK) != 0) {
    unlink(path.c_str());  // a link to what is gone
    const std::string name = huge_file_name(directory_, kFlowsSegment.file);
    remove_huge_orphan(name);
    if (const auto place = may_be_huge ? find_huge_place(bytes) : std::nullopt) {
      const std::string file = place->mount + "/" + name;
      Result<Segment> flows = Segment::open_writer(directory_, kFlowsSegment, bytes, file);
      if (flows) return flows;
      tell(flows.error().text());
    }
  }
  return Segment::open_writer(directory_, kFlowsSegment, bytes);
}

void Instance::forget_flows_file() {
  const std::string path = directory_ + "/" + kFlowsSegment.file;
  if (char* target = realpath(path.c_str(), nullptr); target != nullptr) {
    unlink(target);
    std::free(target);
  }
  unlink(path.c_str());
}

Result<Done> Instance::open_flows(const Options& options) {
  const uint32_t bits = bucket_bits_for(options.flows_max);
  const uint64_t lines = session_lines_for(options.sessions_max);
  const uint64_t bytes = flows_bytes(options.workers, bits, lines);
  // Flows of another table size or number of workers cannot be taken over: a flow's worker and bucket would
  // differ.
  if (const Result<Segment> found = Segment::open_reader(directory_, kFlowsSegment);
      found && (found->as<const FlowsHeader>().workers_count != options.workers ||
                found->as<const FlowsHeader>().bucket_bits != bits ||
                found->as<const FlowsHeader>().session_lines != lines)) {
    tell("--workers, --flows-max or --sessions-max changed: tracked flows and sessions are forgotten");
    forget_flows_file();
  }
  Result<Segment> flows = open_flows_segment(bytes, !options.no_huge);
  if (!flows) return flows.error();
  flows_ = std::move(*flows);
  if (Result<Done> done = flows_.populate(0, flows_.size()); !done) {
    return Error{done.error().what, done.error().remedy + ", or a smaller --flows-max or --sessions-max"};
  }
  flows_.collapse();
  tell_memory(options);
  auto& header = flows_.as<FlowsHeader>();
  if (flows_.was_created()) {
    header.workers_count = options.workers;
    header.bucket_bits = bits;
    header.session_lines = lines;
    header.tables_incarnation = 0;
  }
  keep_or_forget_flows();
  return Done{};
}

void Instance::tell_memory(const Options& options) const {
  const uint64_t page_bytes = flows_.page_bytes();
  const char* pages = page_bytes >= 1 << 30                 ? "pages of 1 GiB"
                      : flows_.is_huge()                    ? "pages of 2 MiB"
                      : page_bytes >= kTransparentPageBytes ? "transparent pages of 2 MiB"
                                                            : "plain pages";
  char line[200];
  std::snprintf(line, sizeof line, "%u x %llu flows and %llu sessions take %.0f MiB, in %s", options.workers,
                static_cast<unsigned long long>(flows_capacity(bucket_bits_for(options.flows_max))),
                static_cast<unsigned long long>(sessions_capacity(session_lines_for(options.sessions_max))),
                static_cast<double>(flows_.size()) / (1 << 20), pages);
  tell(line);
  if (page_bytes < kTransparentPageBytes && !options.no_huge)
    tell("lookups in big tables are slower so\n  try: " + huge_pages_remedy(flows_.size()) + "; then rm " +
         directory_ + "/" + kFlowsSegment.file + " and start again");
}

void Instance::forget(bool sessions_too) {
  std::byte* const sessions = reinterpret_cast<std::byte*>(session_lines(flows_.base()));
  std::byte* const end = sessions_too ? flows_.base() + flows_.size() : sessions;
  std::byte* const begin = flows_.base() + sizeof(FlowsHeader);
  std::memset(begin, 0, static_cast<size_t>(end - begin));
}

void Instance::keep_or_forget_flows() {
  uint64_t last_alive_ns = 0;
  for (const WorkerStats& worker : stats().workers) {
    last_alive_ns = std::max(last_alive_ns, worker.heartbeat_ns.get());
  }
  const uint64_t incarnation_before = flows_.as<FlowsHeader>().tables_incarnation;
  const bool same_tables =
      attach_tables() != nullptr && tables_.back().header().incarnation == incarnation_before;
  // Ages in the table are modulo 2^13 seconds and were not looked at since.
  const bool in_time = monotonic_ns() - last_alive_ns < uint64_t{limits::kSweepPeriodMax} * 1'000'000'000;
  if (flows_.was_created()) return;
  if (same_tables && in_time) {
    tell("going on with the flows of the data plane before");
  } else {
    flows_.as<FlowsHeader>().tables_incarnation = 0;  // first: half of the flows must not be taken for all
    forget(!same_tables);
    if (same_tables) flows_.as<FlowsHeader>().tables_incarnation = incarnation_before;
  }
}

Result<Instance> Instance::open(const Options& options) {
  Instance instance;
  instance.directory_ = options.directory;
  if (Result<Done> done = make_instance_directory(options.directory); !done) return done.error();
  Result<InstanceLock> lock = InstanceLock::acquire(options.directory, kDataplaneLock);
  if (!lock) return lock.error();
  instance.lock_ = std::move(*lock);
  Result<Segment> stats = Segment::open_writer(options.directory, kStatsSegment, sizeof(StatsSegment));
  if (!stats) return stats.error();
  instance.stats_ = std::move(*stats);
  const uint64_t used_bytes = offsetof(StatsSegment, workers) + options.workers * sizeof(WorkerStats);
  if (Result<Done> done = instance.stats_.populate(0, used_bytes); !done) return done.error();
  return instance;
}

const std::byte* Instance::attach_tables() {
  if (!tables_.empty() && !tables_.back().is_stale()) return nullptr;
  if (access((directory_ + "/" + kTablesSegment.file).c_str(), F_OK) != 0) return nullptr;
  Result<Segment> tables = Segment::open_reader(directory_, kTablesSegment);
  if (!tables) {
    if (tables.error().what != last_error_) tell(tables.error().text());
    last_error_ = tables.error().what;
    return nullptr;
  }
  const uint64_t root =
      uint64_t{tables->as<const TablesHeader>().current.load(std::memory_order_acquire)} * 64;
  if (root + sizeof(Generation) > tables->size()) {
    tell(directory_ + "/" + kTablesSegment.file + " is damaged: not used");
    return nullptr;
  }
  last_error_.clear();
  tables_.push_back(std::move(*tables));
  auto& flows = flows_.as<FlowsHeader>();
  if (flows.tables_incarnation != tables_.back().header().incarnation) flows.tables_incarnation = 0;
  return tables_.back().base();
}

const std::byte* Instance::attach_commands() {
  if (!commands_.empty() && !commands_.back().is_stale()) return nullptr;
  if (access((directory_ + "/" + kCommandsSegment.file).c_str(), F_OK) != 0) return nullptr;
  Result<Segment> commands = Segment::open_reader(directory_, kCommandsSegment);
  if (commands && commands->size() < sizeof(CommandsSegment))
    commands = Error{directory_ + "/" + kCommandsSegment.file + " is damaged: not used", ""};
  if (!commands) {
    if (commands.error().what != last_commands_error_) tell(commands.error().text());
    last_commands_error_ = commands.error().what;
    return nullptr;
  }
  last_commands_error_.clear();
  commands_.push_back(std::move(*commands));
  return commands_.back().base();
}

void Instance::settle_flows() {
  auto& flows = flows_.as<FlowsHeader>();
  if (tables_.empty() || flows.tables_incarnation != 0) return;
  const uint64_t incarnation = tables_.back().header().incarnation;
  for (uint32_t i = 0; i < flows.workers_count; i++) {
    if (stats().workers[i].acknowledged_incarnation.load(std::memory_order_acquire) != incarnation) return;
  }
  flows.tables_incarnation = incarnation;
}

void Instance::announce(const std::vector<PortInfo>& ports, const Options& options, uint64_t tsc_hz) {
  StatsHeader& header = stats().header;
  for (uint32_t i = 0; i < limits::kWorkersMax; i++)
    stats().workers[i].active.set(i < options.workers ? 1 : 0);
  for (WorkerStats& worker : stats().workers)
    repair(worker);
  for (uint32_t i = options.workers; i < limits::kWorkersMax; i++)
    forget_gauges(stats().workers[i]);
  header.workers_count = options.workers;
  header.ports_count = static_cast<uint32_t>(ports.size());
  for (size_t i = 0; i < ports.size(); i++)
    header.ports[i] = ports[i];
  header.started_ns = monotonic_ns();
  header.tsc_hz = tsc_hz;
  header.flows_max = flows_capacity(bucket_bits());
  header.sessions_max = sessions_capacity(flows_.as<FlowsHeader>().session_lines);
  header.flows_bytes = flows_.size();
  header.flows_page_bytes = flows_.page_bytes();
  std::snprintf(header.version, sizeof header.version, "%s", SLUICE_VERSION);
  // Release: all of the above is seen by whoever sees the new number (sluiced's load-acquire).
  header.starts.fetch_add(1, std::memory_order_release);
}

void Instance::tell_if_removed() {
  if (told_removed_ || (!stats_.is_stale() && !flows_.is_stale())) return;
  told_removed_ = true;
  tell("stats or flows was removed from " + directory_ +
       ": forwarding goes on, but nobody sees it\n  try: restart sluice-dataplane");
}

void Instance::heartbeat() {
  stats_.header().heartbeat_ns.store(monotonic_ns(), std::memory_order_relaxed);
}

void Instance::leave() {
  for (WorkerStats& worker : stats().workers)
    worker.active.set(0);
  stats_.header().writer_pid.store(0, std::memory_order_relaxed);
}

}  // namespace sluice
