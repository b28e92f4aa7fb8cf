// How the `body` pattern of a check is compiled: the same way where it is judged and where it is used.
//
// RE2, because the text is a stranger's: its time is linear in the text and its stack does not grow with it.
#pragma once

#include <re2/re2.h>

namespace sluice {

inline RE2::Options pattern_options() {
  RE2::Options options;
  // A pattern whose automaton outgrows this is matched slower, never wrong.
  options.set_max_mem(1 << 20);
  options.set_log_errors(false);
  options.set_encoding(RE2::Options::EncodingLatin1);  // bytes: the body may be anything
  options.set_never_capture(true);
  return options;
}

}  // namespace sluice
