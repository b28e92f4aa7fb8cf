// What operators call a session is what the workers call it, and each that they made is found from outside.
#include "controlplane/session_registry.h"

#include <unistd.h>

#include <cstdlib>
#include <optional>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "dataplane/session_table.h"
#include "src/session_key.h"

namespace sluice {
namespace {

const HashSecret kSecret = HashSecret::from_text("test");

ServiceRecord by_client(uint8_t bits_v4, uint8_t bits_v6, const char* vip) {
  ServiceRecord service{};
  service.flags = ServiceRecord::kSessions;
  service.vip = *IpAddress::parse(vip);
  service.session_salt = session_salt("web");
  service.client_bits[0] = bits_v4;
  service.client_bits[1] = bits_v6;
  return service;
}
uint64_t named(const char* key, const ServiceRecord& service) {
  const Result<uint64_t> hash = session_of_key(key, service, kSecret);
  EXPECT_TRUE(hash) << hash.error().text();
  return hash ? *hash : 0;
}
std::string refusal(const char* key, const ServiceRecord& service) {
  const Result<uint64_t> hash = session_of_key(key, service, kSecret);
  return hash ? "" : hash.error().what;
}

TEST(SessionRegistry, a_client_is_named_by_the_bits_that_count) {
  const ServiceRecord whole = by_client(32, 128, "203.0.113.1"), net = by_client(24, 56, "203.0.113.1");
  EXPECT_NE(named("198.51.100.7", whole), named("198.51.100.8", whole));
  EXPECT_EQ(named("198.51.100.7", net), named("198.51.100.250", net));
  EXPECT_NE(named("198.51.100.7", net), named("198.51.101.7", net));
  const ServiceRecord net6 = by_client(24, 56, "2001:db8::1");
  EXPECT_EQ(named("2001:db8:0:11ff::1", net6), named("2001:db8:0:1100:ff::", net6));
  EXPECT_NE(named("2001:db8:0:11ff::1", net6), named("2001:db8:0:12ff::1", net6));
  EXPECT_NE(refusal("198.51.100", whole), "");
  EXPECT_NE(refusal("198.51.100.0/24", net), "");
  EXPECT_NE(refusal("", whole), "");
  EXPECT_NE(refusal("2001:db8::1", whole).find("different IP versions"), std::string::npos);
}

TEST(SessionRegistry, a_key_is_named_by_its_bytes) {
  ServiceRecord service = by_client(32, 128, "203.0.113.1");
  service.flags |= ServiceRecord::kByKey;
  service.key_bytes = 3;
  const std::array<uint8_t, 3> bytes = {0x0a, 0xff, 0x00};
  EXPECT_EQ(named("0aff00", service), session_hash(payload_key(bytes, service), kSecret));
  EXPECT_EQ(named("0AFF00", service), named("0aff00", service));
  for (const char* bad : {"", "0aff0", "0aff000", "0aff0g", "0x0aff", "-1-1-1", " 0aff0", "198.51.100.7"})
    EXPECT_NE(refusal(bad, service).find("is not 3 bytes in hex"), std::string::npos) << bad;
}

TEST(SessionRegistry, fingerprints_differ_where_names_do) {
  const ServiceRecord service = by_client(24, 56, "203.0.113.1");
  ServiceRecord other = service;
  other.vip = *IpAddress::parse("203.0.113.2");
  other.session_idle_s = 7;
  EXPECT_EQ(fingerprint(service), fingerprint(other)) << "its keys name the same sessions";
  other.client_bits[1] = 64;
  EXPECT_NE(fingerprint(service), fingerprint(other));
  other = service;
  other.session_salt++;
  EXPECT_NE(fingerprint(service), fingerprint(other));
  other = service;
  other.key_offset = 256;
  EXPECT_NE(fingerprint(service), fingerprint(other));
  EXPECT_NE(fingerprint(kSecret), fingerprint(HashSecret::from_text("another")));
}

// As the workers do it (dataplane/commands.h): a pin takes the place of anything, an import of what is less.
TEST(SessionRegistry, what_is_there_decides_whether_a_backend_gets_one_more) {
  constexpr BackendId kOwn{1}, kOther{2};
  const auto more = [&](CommandKind kind, SessionKind session, std::optional<SessionValue> there) {
    CommandEntry command{};
    command.kind = kind;
    command.session = session;
    command.backend = kOwn;
    return makes_one_more(command, there);
  };
  const auto in_table = [](BackendId backend, SessionKind kind) {
    return SessionValue{backend, kind, 0, 0, 0};
  };
  constexpr auto kPin = CommandKind::pin, kImport = CommandKind::import;
  constexpr auto kLearnt = SessionKind::learnt, kPinned = SessionKind::pinned;
  EXPECT_TRUE(more(kPin, kPinned, std::nullopt));
  EXPECT_TRUE(more(kImport, kLearnt, std::nullopt));
  for (const SessionKind there : {kLearnt, kPinned, SessionKind::pinned_until}) {
    EXPECT_FALSE(more(kPin, kPinned, in_table(kOwn, there)));
    EXPECT_TRUE(more(kPin, kPinned, in_table(kOther, there)));
    EXPECT_FALSE(more(kImport, kLearnt, in_table(kOther, there)));
    EXPECT_EQ(more(kImport, kPinned, in_table(kOther, there)), there == kLearnt);
    EXPECT_FALSE(more(kImport, kPinned, in_table(kOwn, there)));
  }
}

// Two workers' clocks may be a moment apart: what one wrote is not old for the other.
TEST(SessionRegistry, what_was_written_a_moment_ahead_is_no_age) {
  ServiceRecord service = by_client(32, 128, "203.0.113.1");
  service.session_idle_s = 60;
  service.session_life_s = 3600;
  for (const uint32_t now_s : {64u * 1000, (1u << 22) - 1, 1u << 22, 1u << 21, 5u}) {
    const uint32_t ahead_s = now_s + 1;
    const SessionValue session{BackendId{1}, SessionKind::learnt, 0, ahead_s & kSessionTimeMask,
                               (ahead_s >> kCreatedShift) & kCreatedMask};
    EXPECT_FALSE(is_over(session, service, now_s)) << now_s;
    EXPECT_EQ(since_s(session.last_s, now_s), 0u);
    EXPECT_LE(age_s(session, now_s), 63u);
    EXPECT_FALSE(is_over(session, service, now_s + 60));
    EXPECT_TRUE(is_over(session, service, now_s + 60 + refresh_s(60) + 2));
    SessionValue pinned = session;
    pinned.kind = SessionKind::pinned_until;
    EXPECT_FALSE(is_over(pinned, service, now_s)) << "it ends in a second";
    EXPECT_TRUE(is_over(pinned, service, now_s + 1));
  }
}

// A data plane that starts with another --sessions-max makes another file; who has the old one still sees
// what nobody uses any more.
TEST(SessionRegistry, a_table_that_is_made_anew_is_noticed) {
  char name[] = "/tmp/sluice-registry-XXXXXX";
  const std::string directory = mkdtemp(name);
  const auto make = [&](uint64_t lines) {
    Result<Segment> made = Segment::open_writer(directory, kFlowsSegment, flows_bytes(0, 0, lines));
    EXPECT_TRUE(made) << made.error().text();
    auto& header = made->as<FlowsHeader>();
    header.session_lines = lines;
    header.tables_incarnation = 7;
    return std::move(*made);
  };
  const std::string path = directory + "/" + kFlowsSegment.file;
  {
    const Segment flows = make(kSessionLinesMin);
    const Result<SessionRegistry> registry = SessionRegistry::open(directory, 7);
    ASSERT_TRUE(registry) << registry.error().text();
    EXPECT_TRUE(registry->is_current(7));
    EXPECT_FALSE(registry->is_current(8));
    flows.as<FlowsHeader>().tables_incarnation = 8;
    EXPECT_FALSE(registry->is_current(7)) << "emptied in its place";
    flows.as<FlowsHeader>().tables_incarnation = 7;
    unlink(path.c_str());
    EXPECT_FALSE(registry->is_current(7));
    const Segment next = make(2 * kSessionLinesMin);
    EXPECT_FALSE(registry->is_current(7));
    EXPECT_TRUE(SessionRegistry::open(directory, 7)->is_current(7));
  }
  unlink(path.c_str());
  rmdir(directory.c_str());
}

// At the beginning, in the middle and round the end of the table, more than their home lines hold.
TEST(SessionRegistry, every_session_is_found_wherever_it_found_a_place) {
  std::vector<SessionLine> lines(kSessionLinesMin);
  SessionTable table(lines.data(), lines.size());
  std::vector<uint64_t> hashes;
  for (const uint64_t home :
       {uint64_t{0}, uint64_t{1}, kSessionLinesMin / 2 + 1, kSessionLinesMin - 2, kSessionLinesMin - 1}) {
    for (uint64_t i = 0; i < 24; i++)
      hashes.push_back(first_high(home, kSessionLinesMin) << 32 | (i * 77 + 2));
  }
  for (size_t i = 0; i < hashes.size(); i++)
    ASSERT_TRUE(
        table.find_or_make(hashes[i], {BackendId{static_cast<uint32_t>(i)}, SessionKind::learnt, 0, 1, 1})
            .made);
  for (size_t i = 0; i < hashes.size(); i++) {
    const auto seen = find_session(lines.data(), lines.size(), hashes[i]);
    ASSERT_TRUE(seen) << i;
    EXPECT_EQ(seen->hash, hashes[i]);
    EXPECT_EQ(index(seen->session.backend), i);
    EXPECT_FALSE(find_session(lines.data(), lines.size(), hashes[i] + 1));
  }
}

}  // namespace
}  // namespace sluice
