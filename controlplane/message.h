// Messages of the control socket (protocol.h describes them), for both sides: version, error codes, lines.
#pragma once

#include <string>

#include <nlohmann/json.hpp>

#include "src/result.h"

namespace sluice {

inline constexpr int kProtocolVersion = 1;

// Error codes; the CLI's exit code follows from them.
inline constexpr const char* kCodeBadRequest =
    "bad_request";  // the request itself: syntax, version, arguments
inline constexpr const char* kCodeNotFound = "not_found";
inline constexpr const char* kCodeSyntax = "config_syntax";      // configuration file: unreadable or not TOML
inline constexpr const char* kCodeSemantic = "config_semantic";  // configuration file: contradicts itself
inline constexpr const char* kCodeFailed = "failed";
inline constexpr const char* kCodeDenied = "denied";  // the client's role does not allow it (access.h)
inline constexpr const char* kCodeTooSlow = "too_slow";  // a stream that was not read is cut off
inline constexpr const char* kCodeBusy = "busy";      // nothing was done: try again in a moment

std::string socket_path(const std::string& directory);
nlohmann::json ok_response();
nlohmann::json error_response(const char* code, const Error& error);
// One line, with its newline; whatever is not UTF-8 in it is replaced.
std::string to_line(const nlohmann::json& object);

}  // namespace sluice
