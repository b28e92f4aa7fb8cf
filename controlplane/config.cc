#include "controlplane/config.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>

#include <cstdio>
#include <cstring>
#include <memory>

#include "controlplane/config_schema.h"

namespace sluice {
namespace {

// A full configuration (131,072 backends) has some 10 MiB.
constexpr size_t kFileBytesMax = 64u << 20;
// TOML lets a key have any number of parts, and the parser's memory of them is as deep. Ours have three.
constexpr uint32_t kKeyPartsMax = 32;

// The file's bytes; or what is wrong with it. Never waits: a FIFO or a device is no configuration.
std::string read_file(const std::string& path, std::string& text) {
  const int descriptor = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (descriptor < 0) return std::strerror(errno);
  const std::unique_ptr<FILE, int (*)(FILE*)> file(fdopen(descriptor, "r"), &std::fclose);
  struct stat status;
  if (fstat(descriptor, &status) != 0) return std::strerror(errno);
  if (S_ISDIR(status.st_mode)) return std::strerror(EISDIR);
  if (!S_ISREG(status.st_mode)) return "it is not a regular file";
  char buffer[65536];
  while (const size_t got = std::fread(buffer, 1, sizeof buffer, file.get())) {
    text.append(buffer, got);
    if (text.size() > kFileBytesMax)
      return "it is larger than " + std::to_string(kFileBytesMax >> 20) + " MiB";
  }
  return std::ferror(file.get()) != 0 ? std::strerror(errno) : "";
}

// Where a key of more than kKeyPartsMax parts begins to have them, if anywhere: a run of that many dots with
// nothing between them that could end a key. What is quoted counts as part of a key, which it may be.
std::optional<Position> key_of_too_many_parts(std::string_view text) {
  Position at{1, 0};
  uint32_t dots = 0;
  for (const char c : text) {
    at.column++;
    if (c == '.') {
      if (++dots > kKeyPartsMax) return at;
    } else if (c == '=' || c == ',' || c == '[' || c == ']' || c == '{' || c == '}' || c == '#') {
      dots = 0;
    } else if (c == '\n') {
      at = {at.line + 1, 0};
      dots = 0;
    }
  }
  return std::nullopt;
}

// As much white space as the first `characters` of a line take on a terminal.
std::string indent_like(std::string_view line, uint32_t characters) {
  std::string indent;
  for (const char c : line) {
    const bool continues_character = (static_cast<unsigned char>(c) & 0xc0) == 0x80;  // UTF-8, RFC 3629 3
    if (continues_character) continue;
    if (indent.size() == characters) break;
    indent += c == '\t' ? '\t' : ' ';
  }
  indent.resize(characters, ' ');
  return indent;
}

}  // namespace

std::string Diagnostic::text() const {
  std::string out = file;
  if (line > 0) out += ":" + std::to_string(line) + ":" + std::to_string(column);
  out += ": " + message;
  if (!suggestion.empty()) out += " (" + suggestion + ")";
  if (!source_line.empty() && column > 0) {
    out += "\n  " + source_line + "\n  " + indent_like(source_line, column - 1) + "^";
  }
  return out;
}

ConfigResult parse_config(std::string_view text, const std::string& file) {
  ConfigResult result;
  DiagnosticSink sink(text, file);
  Config config;
  if (const std::optional<Position> at = key_of_too_many_parts(text)) {
    sink.syntax_error(*at, "more than " + std::to_string(kKeyPartsMax) + " dots in a row");
    result.errors = sink.take_errors();
    return result;
  }
  try {
    config = read_config(toml::parse(text, std::string_view(file)), sink);
  } catch (const toml::parse_error& fault) {
    sink.syntax_error(position(fault.source()), std::string(fault.description()));
  }
  result.errors = sink.take_errors();
  result.warnings = sink.take_warnings();
  if (result.errors.empty()) result.config = std::move(config);
  return result;
}

ConfigResult load_config(const std::string& path) {
  std::string text;
  if (const std::string fault = read_file(path, text); !fault.empty()) {
    ConfigResult result;
    result.errors.push_back(
        {Diagnostic::Kind::file, path, 0, 0, "cannot read the configuration: " + fault, "", ""});
    return result;
  }
  return parse_config(text, path);
}

}  // namespace sluice
