// The wall clock's jumps are told, its pace is not.
#include "controlplane/clock_watch.h"

#include <gtest/gtest.h>

namespace sluice {
namespace {

constexpr int64_t kYearMs = 365 * 86'400'000ll;
constexpr uint64_t kTickNs = 100'000'000;

TEST(ClockWatch, TellsJumpsOfBothDirectionsOnce) {
  ClockWatch watch;
  uint64_t steady_ns = 5'000'000'000;
  int64_t wall_ms = 1'800'000'000'000;
  const auto look_after = [&](int64_t jump_ms) {
    steady_ns += kTickNs;
    wall_ms += 100 + jump_ms;
    return watch.look(steady_ns, wall_ms);
  };
  EXPECT_EQ(watch.look(steady_ns, wall_ms), std::nullopt) << "the first look has nothing to compare with";
  EXPECT_EQ(look_after(0), std::nullopt);
  EXPECT_EQ(look_after(kYearMs), kYearMs);
  EXPECT_EQ(look_after(0), std::nullopt);
  EXPECT_EQ(look_after(-2 * kYearMs), -2 * kYearMs);
  EXPECT_EQ(look_after(ClockWatch::kJumpMs - 1), std::nullopt);
  EXPECT_EQ(look_after(-ClockWatch::kJumpMs), -ClockWatch::kJumpMs);
}

TEST(ClockWatch, ALateLookAndASlewAreNoJumps) {
  ClockWatch watch;
  EXPECT_EQ(watch.look(0, 0), std::nullopt);
  EXPECT_EQ(watch.look(3'600'000'000'000, 3'600'000), std::nullopt);
  uint64_t steady_ns = 3'600'000'000'000;
  int64_t wall_ms = 3'600'000;
  for (int i = 0; i < 10'000; i++)
    EXPECT_EQ(watch.look(steady_ns += kTickNs, wall_ms += 101), std::nullopt);
}

}  // namespace
}  // namespace sluice
