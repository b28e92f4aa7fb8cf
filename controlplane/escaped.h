// Text of others in messages: what a file, a client or a backend says commands no terminal, pretends to be no
// other line, and is no longer than a reader can use.
//
// Escaped are the characters that command a terminal (C0 and C1 controls, DEL) or turn its text round (line
// separators, bidirectional controls), as \u001b, and bytes that are no UTF-8, as \xff. Tabs stay. Inside of
// a JSON text it is JSON as before: such characters stand in strings only, and bytes like these not at all.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace sluice {

// More than any name, address or key has.
inline constexpr size_t kQuotedMax = 80;

// Newlines stay.
std::string escaped(std::string_view text);
// Of a line whose columns count: each of them one '?'.
std::string masked(std::string_view line);
// What is quoted: on one line (a newline is \n), "..." for all beyond `bytes_max`.
std::string quotable(std::string_view text, size_t bytes_max = kQuotedMax);

}  // namespace sluice
