// What administrators did is told once each, however many requests it took.
#include "controlplane/audit.h"

#include <optional>

#include <gtest/gtest.h>

namespace sluice {
namespace {

using nlohmann::json;

class AuditTest : public testing::Test {
 protected:
  AuditTest() : audit_(io_, events_, std::chrono::milliseconds(20)) {
    client_.role = Role::admin;
    client_.peer.uid = 60'000;
    client_.peer.pid = 7;
  }

  void import(bool more, const json& response, const json& options = json::object()) {
    json request = {{"v", 1}, {"cmd", "session.import"}, {"total", 20}, {"more", more}};
    request["sessions"] = json::array({json::array({0, "00", 0, 0, 0})});
    request.update(options);
    audit_.add(client_, {"session.import", request, true}, response);
  }
  static json done(uint64_t made, uint64_t kept) {
    return {{"ok", true}, {"before", nullptr}, {"after", {{"made", made}, {"kept", kept}}}};
  }
  // In order; each once.
  std::vector<json> told() {
    std::vector<json> all;
    for (const Event& event : events_.kept()) {
      EXPECT_EQ(event.kind, "audit");
      all.push_back(event.details);
    }
    return all;
  }

  boost::asio::io_context io_;
  Events events_;
  Audit audit_;
  Client client_;
};

TEST_F(AuditTest, one_request_is_one_event) {
  import(false, done(3, 0));
  audit_.add(client_,
             {"backend.weight", {{"v", 1}, {"cmd", "backend.weight"}, {"weight", 5}, {"more", true}}, false},
             {{"ok", true}, {"before", 4}, {"after", 5}});
  import(true, {{"ok", false}, { "error", "no" }});
  const std::vector<json> events = told();
  ASSERT_EQ(events.size(), 3u);
  EXPECT_EQ(events[0].at("after"), (json{{"made", 3}, {"kept", 0}}));
  EXPECT_EQ(events[0].at("arguments"), (json{{"total", 20}}));
  EXPECT_EQ(events[1].at("arguments"), (json{{"weight", 5}, {"more", true}})) << "not a command in parts";
  EXPECT_EQ(events[2].at("error"), "no");
  for (const json& event : events)
    EXPECT_FALSE(event.contains("part"));
}

TEST_F(AuditTest, many_requests_are_a_begin_and_an_end_with_the_sums) {
  for (int i = 0; i < 100; i++)
    import(true, done(5, 2));
  EXPECT_EQ(told().size(), 1u);
  import(false, done(1, 0));
  const std::vector<json> events = told();
  ASSERT_EQ(events.size(), 2u);
  EXPECT_EQ(events[0].at("part"), "begin");
  EXPECT_EQ(events[1].at("part"), "end");
  EXPECT_EQ(events[1].at("after"), (json{{"made", 501}, {"kept", 200}}));
  EXPECT_EQ(events[1].at("requests"), 101);
  EXPECT_EQ(events[1].at("ok"), true);
  EXPECT_NE(events_.kept().back().text.find(R"({"kept":200,"made":501} in 101 requests)"), std::string::npos)
      << events_.kept().back().text;
  import(false, done(1, 0));
  EXPECT_EQ(told().size(), 3u) << "the next one is another";
}

TEST_F(AuditTest, a_refusal_ends_it) {
  import(true, done(5, 0));
  json refusal = {{"ok", false}, {"error", "worker 0 has not answered"}, {"after", {{"made", 2u}}}};
  import(true, refusal);
  const std::vector<json> events = told();
  ASSERT_EQ(events.size(), 2u);
  EXPECT_EQ(events[1].at("ok"), false);
  EXPECT_EQ(events[1].at("error"), "worker 0 has not answered");
  EXPECT_EQ(events[1].at("after").at("made"), 7) << "what was done before is told";
}

TEST_F(AuditTest, who_goes_is_told_with_what_was_done) {
  import(true, done(5, 0));
  io_.run();
  std::vector<json> events = told();
  ASSERT_EQ(events.size(), 2u);
  EXPECT_EQ(events[1].at("part"), "end");
  EXPECT_EQ(events[1].at("after").at("made"), 5);
  EXPECT_EQ(events[1].at("error"), "no more of it came");
}

// Nothing hides behind a begin: another process, or other arguments, are told for themselves.
TEST_F(AuditTest, what_differs_is_another_one) {
  import(true, done(1, 0));
  client_.peer.pid = 8;
  import(true, done(2, 0));
  import(true, done(4, 0), {{ "force", true }});
  import(false, done(8, 0), {{ "force", true }});
  const std::vector<json> events = told();
  ASSERT_EQ(events.size(), 5u);
  EXPECT_EQ(events[0].at("pid"), 7);
  EXPECT_EQ(events[1].at("pid"), 8);
  EXPECT_EQ(events[2].at("part"), "end");
  EXPECT_EQ(events[2].at("after").at("made"), 2);
  EXPECT_EQ(events[3].at("arguments"), (json{{"total", 20}, {"force", true}}));
  EXPECT_EQ(events[4].at("after").at("made"), 12);
}

}  // namespace
}  // namespace sluice
