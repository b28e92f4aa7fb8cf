// The session table under several threads: none lost, none twice, none mixed up. Also for ThreadSanitizer.
// SLUICE_STRESS_S=600 runs it for ten minutes.
#include <barrier>
#include <cstdlib>
#include <map>
#include <random>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "dataplane/session_table.h"
#include "src/segment.h"

namespace sluice {
namespace {

constexpr uint32_t kThreads = 4;
constexpr uint64_t kLines = kSessionLinesMin;

// Hashes whose homes are three neighbouring lines: more than those hold, so they meet, spill over and give
// way.
std::vector<uint64_t> crowded_hashes(uint32_t count) {
  std::mt19937_64 random(7);
  std::vector<uint64_t> hashes;
  while (hashes.size() < count) {
    const uint64_t hash = random() >> 16;  // low homes
    if (session_home(hash, kLines) < 3) hashes.push_back(hash);
  }
  return hashes;
}

BackendId backend_of(uint64_t hash) {
  return BackendId{static_cast<uint32_t>(hash * 0x9e3779b97f4a7c15ULL >> 47) & (limits::kBackendsMax - 1)};
}

struct alignas(64) Tally {
  std::vector<int64_t> made, removed;
  uint64_t wrong = 0;  // found, and another's
  uint64_t no_place = 0;
};

// Proves: whatever four threads make, look up, change, remove and sweep at the same few lines at the same
// time, each session is there exactly as often as it was made and not removed: once or not at all; and a
// lookup never finds another's.
TEST(SessionRace, none_is_lost_or_twice) {
  const char* const stress = std::getenv("SLUICE_STRESS_S");
  const auto until =
      std::chrono::steady_clock::now() + std::chrono::seconds(stress != nullptr ? std::atoi(stress) : 0);
  std::vector<SessionLine> lines(kLines);
  SessionTable table(lines.data(), kLines);
  const std::vector<uint64_t> hashes = crowded_hashes(48);
  std::vector<Tally> tallies(kThreads);
  for (Tally& tally : tallies) {
    tally.made.resize(hashes.size());
    tally.removed.resize(hashes.size());
  }
  std::map<uint64_t, size_t> position_of;
  for (size_t i = 0; i < hashes.size(); i++)
    position_of[session_identity(hashes[i])] = i;

  uint64_t rounds = 0;
  bool goes_on = true;
  std::vector<int64_t> expected(hashes.size());
  const auto compare = [&]() noexcept {
    for (size_t i = 0; i < hashes.size(); i++) {
      expected[i] = 0;
      for (const Tally& tally : tallies)
        expected[i] += tally.made[i] - tally.removed[i];
      EXPECT_TRUE(expected[i] == 0 || expected[i] == 1) << "session " << i << ": " << expected[i];
    }
    std::vector<int64_t> there(hashes.size());
    each_session(lines.data(), kLines, 0, 64, [&](const SessionSeen& seen) {
      const auto found = position_of.find(seen.hash);
      ASSERT_NE(found, position_of.end());
      there[found->second]++;
      EXPECT_EQ(seen.session.backend, backend_of(hashes[found->second]));
    });
    EXPECT_EQ(there, expected);
    for (size_t i = 0; i < hashes.size(); i++)
      EXPECT_EQ(static_cast<bool>(table.find(hashes[i])), expected[i] == 1) << i;
    rounds++;
    goes_on = !::testing::Test::HasFailure() &&
              (rounds < 30 || (stress != nullptr && std::chrono::steady_clock::now() < until));
  };
  std::barrier round(kThreads, compare);

  const auto work = [&](uint32_t number) {
    std::mt19937_64 random(number);
    Tally& tally = tallies[number];
    while (goes_on) {
      for (int step = 0; step < 2'000; step++) {
        // Often all threads are at the same few sessions.
        const size_t i = random() % (step % 500 < 400 ? 6 : hashes.size());
        const uint64_t hash = hashes[i];
        const SessionValue fresh{backend_of(hash), SessionKind::learnt, 0, static_cast<uint32_t>(step), 0};
        const uint64_t dice = random() % 16;
        if (dice < 7) {
          const SessionTable::Made made = table.find_or_make(hash, fresh);
          tally.made[i] += made.made;
          tally.no_place += !made.found;
          if (made.found) tally.wrong += made.found.session().backend != fresh.backend;
        } else if (dice < 10) {
          if (SessionTable::Found found = table.find(hash)) {
            tally.wrong += found.session().backend != fresh.backend;
            SessionTable::change(found, fresh);
          }
        } else if (dice < 15) {
          if (SessionTable::Found found = table.find(hash)) tally.removed[i] += table.remove(hash, found);
        } else {
          // What the sweep removes is known by its backend.
          table.sweep(
              random() % 8, 4, [&](const SessionValue& session) { return session.last_s % 8 != 0; },
              [&](const SessionValue& session) {
                for (size_t of = 0; of < hashes.size(); of++)
                  tally.removed[of] += backend_of(hashes[of]) == session.backend;
              });
        }
      }
      round.arrive_and_wait();
    }
  };
  std::vector<std::thread> threads;
  for (uint32_t number = 0; number < kThreads; number++)
    threads.emplace_back(work, number);
  for (std::thread& thread : threads)
    thread.join();

  int64_t made = 0;
  for (const Tally& tally : tallies) {
    EXPECT_EQ(tally.wrong, 0u);
    for (const int64_t count : tally.made)
      made += count;
  }
  EXPECT_GT(made, 1'000);
  RecordProperty("rounds", std::to_string(rounds));
  // With nobody there, no home says that its sessions are elsewhere.
  for (const uint64_t hash : hashes) {
    SessionTable::Found found = table.find(hash);
    EXPECT_TRUE(!found || table.remove(hash, found));
  }
  for (const SessionLine& line : lines)
    EXPECT_EQ(line.away.load(), 0u);
}

}  // namespace
}  // namespace sluice
