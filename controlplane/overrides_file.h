// Overrides as a configuration file: how they are written back.
#pragma once

#include <string>

#include "controlplane/overrides.h"
#include "src/result.h"

namespace sluice {

// `path` is that file, as a predecessor wrote it, or not there. The text it has with these overrides added:
// what they say of a backend or service goes before what the file said of it. An Error when the file is not
// one of overrides and services only.
Result<std::string> text_with(const std::string& path, const Overrides& overrides);

// Replaces the file by `text`, or creates it and its directory; all at once. Empty, or why not.
std::string write_text(const std::string& path, const std::string& text);

}  // namespace sluice
