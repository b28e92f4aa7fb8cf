// Exit codes of sluice and sluiced, for scripts.
#pragma once

#include <algorithm>
#include <vector>

#include "controlplane/config.h"

namespace sluice {

inline constexpr int kExitOk = 0;
inline constexpr int kExitFailure = 1;
inline constexpr int kExitUsage = 2;
inline constexpr int kExitParse = 3;        // the configuration cannot be read or is not TOML
inline constexpr int kExitSemantic = 4;     // the configuration contradicts itself or names unknown things
inline constexpr int kExitUnreachable = 5;  // no daemon answers on the control socket
inline constexpr int kExitTimeout = 6;
inline constexpr int kExitDiffers = 7;  // sluice diff: the two are not the same

// Of a configuration with these errors: the more basic fault wins.
inline int exit_code_of(const std::vector<Diagnostic>& errors) {
  if (errors.empty()) return kExitOk;
  const bool all_semantic = std::all_of(errors.begin(), errors.end(), [](const Diagnostic& error) {
    return error.kind == Diagnostic::Kind::semantic;
  });
  return all_semantic ? kExitSemantic : kExitParse;
}

}  // namespace sluice
