// Events: who hears of what, and how they look; the text of metrics.
#include "controlplane/events.h"

#include <gtest/gtest.h>

#include "controlplane/metrics.h"

namespace sluice {
namespace {

Event event_of(const std::string& kind, Event::Level level = Event::Level::info) {
  Event event;
  event.kind = kind;
  event.level = level;
  event.text = kind;
  return event;
}

TEST(EventsTest, NumbersGoOnWithoutGapsAndTheRingKeepsTheLast) {
  Events events;
  for (size_t i = 0; i < Events::kEventsKept + 10; i++)
    events.add(event_of("x"));
  ASSERT_EQ(events.kept().size(), Events::kEventsKept);
  EXPECT_EQ(events.kept().front().number, 11u);
  EXPECT_EQ(events.kept().back().number, events.last_number());
}

TEST(EventsTest, ATextCommandsNoTerminal) {
  Events events;
  events.add(Event::Level::info, "x", "hook said \x1b[2J\x07\x7f\n  try: again");
  EXPECT_EQ(events.kept().back().text, "hook said ?[2J??\n  try: again");
}

TEST(EventsTest, DebugIsForThoseWhoAskForIt) {
  Events events;
  int all = 0, kept = 0;
  EXPECT_FALSE(events.wants_debug());
  events.listen([&](const Event&) { kept++; });
  EXPECT_FALSE(events.wants_debug());
  const uint64_t id = events.listen([&](const Event&) { all++; }, /*with_debug=*/true);
  EXPECT_TRUE(events.wants_debug());
  events.add(event_of("check", Event::Level::debug));
  events.add(event_of("backend_up"));
  EXPECT_EQ(all, 2);
  EXPECT_EQ(kept, 1);
  EXPECT_EQ(events.kept().size(), 1u);
  EXPECT_EQ(events.last_number(), 1u) << "what is not kept has no number";
  events.unlisten(id);
  EXPECT_FALSE(events.wants_debug());
  events.add(event_of("backend_up"));
  EXPECT_EQ(all, 2);
}

TEST(EventsTest, AsJsonItHasWhatThereIs) {
  Event event = event_of("backend_down", Event::Level::warning);
  event.time_unix_ms = 1'768'000'000'042;
  const nlohmann::json bare = to_json(event);
  EXPECT_EQ(bare["time"], "2026-01-09T23:06:40.042Z");
  EXPECT_EQ(bare["level"], "warning");
  for (const char* absent : {"number", "service", "backend", "details"})
    EXPECT_FALSE(bare.contains(absent)) << absent;
  event.number = 7;
  event.service = "web";
  event.backend = "b1";
  event.details = {{"result", "L4CON"}};
  const nlohmann::json full = to_json(event);
  EXPECT_EQ(full["number"], 7);
  EXPECT_EQ(full["service"], "web");
  EXPECT_EQ(full["backend"], "b1");
  EXPECT_EQ(full["details"]["result"], "L4CON");
}

TEST(EventsTest, PatternsAreThoseOfTheShell) {
  EXPECT_TRUE(matches("*", "anything"));
  EXPECT_TRUE(matches("backend_*", "backend_up"));
  EXPECT_FALSE(matches("backend_*", "service_panic"));
  EXPECT_TRUE(matches("b?", "b1"));
  EXPECT_FALSE(matches("b?", "b10"));
}

// ---- the text of metrics ----

TEST(MetricsTextTest, EachTypeHasTheNameThatOpenMetricsAsksFor) {
  MetricsText text;
  text.family("sluice_backend_bytes", "counter", "bytes", "Bytes.");
  text.sample("a=\"b\"", uint64_t{18'446'744'073'709'551'615u});
  text.family("sluice_build", "info", "", "Build.");
  text.sample("version=\"1\"", uint64_t{1});
  text.family("sluice_age_seconds", "gauge", "seconds", "Age.");
  text.sample("", 0.25);
  EXPECT_EQ(text.take(),
            "# TYPE sluice_backend_bytes counter\n"
            "# UNIT sluice_backend_bytes bytes\n"
            "# HELP sluice_backend_bytes Bytes.\n"
            "sluice_backend_bytes_total{a=\"b\"} 18446744073709551615\n"
            "# TYPE sluice_build info\n"
            "# HELP sluice_build Build.\n"
            "sluice_build_info{version=\"1\"} 1\n"
            "# TYPE sluice_age_seconds gauge\n"
            "# UNIT sluice_age_seconds seconds\n"
            "# HELP sluice_age_seconds Age.\n"
            "sluice_age_seconds 0.25\n"
            "# EOF\n");
}

TEST(MetricsTextTest, LabelsAreEscaped) {
  EXPECT_EQ(metric_label("port", "eth0"), "port=\"eth0\"");
  EXPECT_EQ(metric_label("port", "a\"b\\c\nd"), "port=\"a\\\"b\\\\c\\nd\"");
}

}  // namespace
}  // namespace sluice
