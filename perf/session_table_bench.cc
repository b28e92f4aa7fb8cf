// The session table by itself, with keys as the flow table's: workers share one.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <string>

#include "dataplane/session_table.h"
#include "perf/big_array.h"
#include "perf/table_bench.h"
#include "src/session_key.h"

namespace sluice {
namespace {

using perf::kBatch;
using perf::kPrepared;

constexpr uint32_t kNowS = 1000;

struct Sessions {
  explicit Sessions(uint64_t sessions)
      : lines(session_lines_for(sessions)), memory(lines), table(memory.data(), lines) {}

  uint64_t hash(const FlowKey4& key) const {
    return session_hash(SessionKey4{key.source, key.source_port, 1}, secret);
  }
  void clear() { std::memset(static_cast<void*>(memory.data()), 0, memory.bytes()); }
  uint32_t insert(const FlowKey4* keys, uint32_t count) {
    uint32_t placed = 0;
    uint64_t hashes[kBatch];
    for (uint32_t first = 0; first < count; first += kBatch) {
      const uint32_t step = std::min(kBatch, count - first);
      for (uint32_t i = 0; i < step; i++) {
        hashes[i] = hash(keys[first + i]);
        table.prefetch(hashes[i]);
      }
      for (uint32_t i = 0; i < step; i++) {
        const SessionValue session = {BackendId{7}, SessionKind::learnt, 0, kNowS, 0};
        placed += table.find_or_make(hashes[i], session).found ? 1 : 0;
      }
    }
    return placed;
  }
  // As the flow table's, in two passes.
  template <uint32_t kStep>
  uint32_t lookup(const FlowKey4* keys, uint32_t count) const {
    uint32_t found = 0;
    uint64_t away[kPrepared];
    uint32_t away_count = 0;
    each_called<kStep>(keys, count, [&](uint64_t one) {
      if (const SessionTable::Found session = table.find_home(one)) [[likely]] {
        found += is_right(session);
      } else if (table.may_be_away(one)) {
        table.prefetch_away(one);
        away[away_count++] = one;
      }
    });
    for (uint32_t i = 0; i < away_count; i++)
      found += is_right(table.find(away[i]));
    return found;
  }

  // `look` at each key's hash, whose line was called kStep keys before.
  template <uint32_t kStep, typename Look>
  void each_called(const FlowKey4* keys, uint32_t count, Look&& look) const {
    uint64_t hashes[kStep];
    for (uint32_t i = 0; i < kStep; i++) {
      hashes[i] = hash(keys[i]);
      table.prefetch(hashes[i]);
    }
    for (uint32_t i = kStep; i < count; i++) {
      uint64_t& one = hashes[i % kStep];
      look(one);
      one = hash(keys[i]);
      table.prefetch(one);
    }
    for (uint32_t i = 0; i < kStep; i++)
      look(hashes[(count + i) % kStep]);
  }
  static bool is_right(SessionTable::Found session) {
    return session && session.session().backend == BackendId{7};
  }

  size_t bytes() const { return memory.bytes(); }
  const char* pages() const { return memory.pages(); }

  HashSecret secret = HashSecret::from_text(kDefaultSecretText);
  uint64_t lines;
  perf::BigArray<SessionLine> memory;
  SessionTable table;
};

// The same in one pass, by find() alone.
struct SessionsByFind : Sessions {
  using Sessions::Sessions;

  template <uint32_t kStep>
  uint32_t lookup(const FlowKey4* keys, uint32_t count) const {
    uint32_t found = 0;
    each_called<kStep>(keys, count, [&](uint64_t one) { found += is_right(table.find(one)); });
    return found;
  }
};

[[maybe_unused]] const bool registered = [] {
  using perf::add;
  for (const uint64_t sessions : {uint64_t{100'000}, uint64_t{1'000'000}, uint64_t{10'000'000}}) {
    const std::string count = "/" + std::to_string(sessions);
    add("session_table/lookup" + count,
        [=](auto& state) { perf::lookup<Sessions, kBatch>(state, sessions); });
    add("session_table/find" + count,
        [=](auto& state) { perf::lookup<SessionsByFind, kBatch>(state, sessions); });
    add("session_table/miss" + count, [=](auto& state) { perf::miss<Sessions>(state, sessions); });
    add(
        "session_table/insert" + count, [=](auto& state) { perf::insert<Sessions>(state, sessions); }, true);
    add(
        "session_table/lookup_by_four" + count,
        [=](auto& state) { perf::by_four<Sessions, false>(state, sessions); }, true);
    add(
        "session_table/insert_by_four" + count,
        [=](auto& state) { perf::by_four<Sessions, true>(state, sessions); }, true);
  }
  return true;
}();

}  // namespace
}  // namespace sluice
