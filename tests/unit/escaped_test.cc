// What others say in our messages stays a text.
#include "controlplane/escaped.h"

#include <string>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

namespace sluice {
namespace {

TEST(Escaped, what_is_text_stays) {
  for (const char* text :
       {"", "no service 'web'\n  try: sluice show services", "a\tb", "Größe €", "\U0001f600", "\\u001b"})
    EXPECT_EQ(escaped(text), text);
}

TEST(Escaped, nothing_commands_a_terminal) {
  EXPECT_EQ(escaped("\x1b[2J\a\r\x7f"), "\\u001b[2J\\u0007\\u000d\\u007f");
  EXPECT_EQ(escaped(std::string_view("\0", 1)), "\\u0000");
  EXPECT_EQ(escaped("\u009b2J"), "\\u009b2J") << "CSI as one character";
  EXPECT_EQ(escaped("\u202egpj"), "\\u202egpj") << "from right to left";
  EXPECT_EQ(quotable("b1'\nsluice: all is well"), "b1'\\nsluice: all is well");
}

TEST(Escaped, what_is_no_utf8_is_told_byte_by_byte) {
  EXPECT_EQ(escaped("\x9b"), "\\x9b");
  EXPECT_EQ(escaped("a\xff\xc3"), "a\\xff\\xc3") << "cut in the middle of a character";
  EXPECT_EQ(escaped("\xc0\x9b"), "\\xc0\\x9b") << "longer than it needs be";
  EXPECT_EQ(escaped("\xe0\x82\x9b"), "\\xe0\\x82\\x9b");
  EXPECT_EQ(escaped("\xed\xa0\x80"), "\\xed\\xa0\\x80") << "half of a pair";
  EXPECT_EQ(escaped("\xf4\x90\x80\x80"), "\\xf4\\x90\\x80\\x80") << "beyond the last one";
}

TEST(Escaped, json_stays_the_same_json) {
  const nlohmann::json all = {{"text", "\x1b\x7f\u009b\u202e\n\tä"}};
  const std::string line = all.dump() + "\n", out = escaped(line);
  EXPECT_EQ(out.find('\x7f'), std::string::npos);
  EXPECT_EQ(out.find("\u009b"), std::string::npos);
  EXPECT_EQ(nlohmann::json::parse(out), all);
}

TEST(Escaped, a_masked_line_keeps_its_columns) {
  EXPECT_EQ(masked("\ta = \"\x1b\u009b\u202e\xff\" # ä"), "\ta = \"????\" # ä");
}

TEST(Escaped, what_is_quoted_is_cut) {
  const std::string name(kQuotedMax, 'x');
  EXPECT_EQ(quotable(name), name);
  EXPECT_EQ(quotable(name + "y"), name + "...");
  EXPECT_EQ(quotable("ab\x1b", 7), "ab...") << "no half of an escape";
  EXPECT_EQ(quotable("aä", 2), "a...");
}

}  // namespace
}  // namespace sluice
