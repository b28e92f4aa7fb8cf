// The session table by itself, and the keys that sessions have.
#include "dataplane/session_table.h"

#include <random>
#include <set>
#include <vector>

#include <gtest/gtest.h>

#include "src/session_key.h"

namespace sluice {
namespace {

// Proves: the SSE2 comparison says what the plain loop says.
TEST(SessionTable, both_comparisons_agree) {
  std::mt19937 random(11);
  for (int round = 0; round < 20'000; round++) {
    SessionLine line{};
    for (uint32_t slot = 0; slot < kLineSessions; slot++) {
      line.tag_low[slot].store(random() % 3 << 31 | random() % 3);
      line.tag_high[slot].store(static_cast<uint16_t>(random() % 3 << 15 | random() % 3));
    }
    const auto low = static_cast<uint32_t>(random() % 3 << 31 | random() % 3);
    const auto high = static_cast<uint16_t>(random() % 3 << 15 | random() % 3);
    ASSERT_EQ(matching_sessions(line, low, high), portable::matching_sessions(line, low, high));
  }
}

// Proves: place and entry give the hash back, wherever a session lives; and at capacity (two a line) next to
// none is without a place, a lookup hardly looks further than one line, and a session costs 32 bytes.
TEST(SessionTable, at_capacity) {
  constexpr uint64_t kLines = kSessionLinesMin + 38;
  std::vector<SessionLine> lines(kLines);
  SessionTable table(lines.data(), kLines);
  std::mt19937_64 random(12);
  std::set<uint64_t> hashes;
  uint64_t without = 0;
  for (uint64_t i = 0; i < sessions_capacity(kLines); i++) {
    const uint64_t hash = random();
    const auto made = table.find_or_make(hash, {BackendId{7}, SessionKind::learnt, 0, 5, 6});
    without += !made.found;
    if (made.made) hashes.insert(session_identity(hash));
  }
  EXPECT_EQ(without, 0u);
  EXPECT_EQ(sizeof(SessionLine) * kLines, 32 * sessions_capacity(kLines));
  std::set<uint64_t> seen;
  uint64_t away = 0, homes_with_away = 0;
  each_session(lines.data(), kLines, 0, kLines, [&](const SessionSeen& session) {
    seen.insert(session.hash);
    away += session.session.distance != 0;
    EXPECT_EQ(session.session.last_s, 5u);
    EXPECT_EQ(session.session.created, 6u);
  });
  EXPECT_EQ(seen, hashes);
  for (const SessionLine& line : lines)
    homes_with_away += line.away.load() != 0;
  EXPECT_LT(away, hashes.size() / 14);
  EXPECT_LT(homes_with_away, kLines / 12);
  for (const uint64_t hash : hashes) {
    SessionTable::Found found = table.find(hash);
    ASSERT_TRUE(found);
    ASSERT_EQ(table.glance(hash).at, found.session().distance == 0 ? found.at : nullptr);
    ASSERT_TRUE(table.remove(hash, found));
    ASSERT_FALSE(table.glance(hash));
  }
  for (const SessionLine& line : lines)
    ASSERT_EQ(line.away.load(), 0u);
}

// Proves: of an address exactly the first bits count, in either family; and a service is not a group of its
// name.
TEST(SessionKey, the_first_bits_of_an_address) {
  ServiceRecord service{};
  const HashSecret secret = HashSecret::from_text("a");
  const auto same = [&](const char* one, const char* other) {
    return client_session(*IpAddress::parse(one), service, secret) ==
           client_session(*IpAddress::parse(other), service, secret);
  };
  service.client_bits[0] = 32;
  service.client_bits[1] = 128;
  EXPECT_FALSE(same("10.0.0.1", "10.0.0.0"));
  EXPECT_FALSE(same("2001:db8::1", "2001:db8::"));
  service.client_bits[0] = 20;
  service.client_bits[1] = 56;
  EXPECT_TRUE(same("10.0.31.1", "10.0.16.255"));
  EXPECT_FALSE(same("10.0.31.1", "10.0.32.1"));
  EXPECT_TRUE(same("2001:db8:0:1::1", "2001:db8:0:ff:1::"));
  EXPECT_FALSE(same("2001:db8:0:1::1", "2001:db8:0:100::1"));
  service.client_bits[1] = 72;
  EXPECT_TRUE(same("2001:db8::1", "2001:db8::ff:1:1"));
  EXPECT_FALSE(same("2001:db8::1", "2001:db8:0:0:100::1"));
  service.client_bits[0] = service.client_bits[1] = 1;
  EXPECT_TRUE(same("127.1.2.3", "1.1.1.1"));
  EXPECT_FALSE(same("127.1.2.3", "128.1.1.1"));
  EXPECT_NE(session_salt("service web"), session_salt("group web"));
}

}  // namespace
}  // namespace sluice
