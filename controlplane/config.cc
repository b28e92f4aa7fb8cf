#include "controlplane/config.h"

#include <errno.h>

#include <cstdio>
#include <cstring>
#include <memory>

#include "controlplane/config_schema.h"

namespace sluice {
namespace {

// The file's bytes, or errno.
int read_file(const std::string& path, std::string& text) {
  const std::unique_ptr<FILE, int (*)(FILE*)> file(std::fopen(path.c_str(), "re"), &std::fclose);
  if (file == nullptr) return errno;
  char buffer[65536];
  while (const size_t got = std::fread(buffer, 1, sizeof buffer, file.get()))
    text.append(buffer, got);
  return std::ferror(file.get()) != 0 ? errno : 0;
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
  if (const int fault = read_file(path, text); fault != 0) {
    ConfigResult result;
    result.errors.push_back({Diagnostic::Kind::file, path, 0, 0,
                             "cannot read the configuration: " + std::string(std::strerror(fault)), "", ""});
    return result;
  }
  return parse_config(text, path);
}

}  // namespace sluice
