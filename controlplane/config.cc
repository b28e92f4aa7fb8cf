#include "controlplane/config.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <memory>

#include "controlplane/config_schema.h"
#include "controlplane/json_tree.h"

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

namespace {

struct ParsedFile {
  toml::table tree;
  DiagnosticSink sink;
  ParsedFile(const ConfigSource& source) : sink(source.text, source.file) {}
};

// False: not even a tree; the sink says why.
bool read_tree(const ConfigSource& source, ParsedFile& parsed) {
  if (source.file.ends_with(".json")) {
    read_json(source.text, parsed.tree, parsed.sink);
    return !parsed.sink.has_errors();
  }
  if (const std::optional<Position> at = key_of_too_many_parts(source.text)) {
    parsed.sink.syntax_error(*at, "more than " + std::to_string(kKeyPartsMax) + " dots in a row");
    return false;
  }
  try {
    parsed.tree = toml::parse(source.text, std::string_view(source.file));
    return true;
  } catch (const toml::parse_error& fault) {
    parsed.sink.syntax_error(position(fault.source()), std::string(fault.description()));
    return false;
  }
}

bool is_config_name(const std::string& name) {
  return !name.starts_with('.') && (name.ends_with(".toml") || name.ends_with(".json"));
}

}  // namespace

ConfigResult parse_config(std::span<const ConfigSource> sources) {
  ConfigResult result;
  ConfigReader reader;
  std::vector<std::unique_ptr<ParsedFile>> files;
  bool all_are_trees = true;
  for (const ConfigSource& source : sources) {
    files.push_back(std::make_unique<ParsedFile>(source));
    if (read_tree(source, *files.back())) {
      reader.read(files.back()->tree, files.back()->sink);
    } else {
      all_are_trees = false;
    }
  }
  if (all_are_trees && !files.empty()) reader.finish(files.front()->sink);
  for (const auto& file : files) {
    for (Diagnostic& error : file->sink.take_errors())
      result.errors.push_back(std::move(error));
    for (Diagnostic& warning : file->sink.take_warnings())
      result.warnings.push_back(std::move(warning));
  }
  if (!result.errors.empty()) return result;
  result.config = std::move(reader.config());
  result.written = std::move(reader.written());
  return result;
}

ConfigResult parse_config(std::string_view text, const std::string& file) {
  const ConfigSource source{file, std::string(text)};
  return parse_config(std::span(&source, 1));
}

ConfigFiles read_config_files(const std::string& path) {
  ConfigFiles files;
  const auto add = [&](const std::string& file) {
    ConfigSource source{file, ""};
    if (const std::string fault = read_file(file, source.text); !fault.empty()) {
      files.errors.push_back(
          {Diagnostic::Kind::file, file, 0, 0, "cannot read the configuration: " + fault, "", ""});
    }
    files.sources.push_back(std::move(source));
  };
  add(path);
  std::error_code fault;
  const std::filesystem::path folder = std::filesystem::path(path).parent_path() / "conf.d";
  std::vector<std::string> more;
  for (std::filesystem::directory_iterator entry(folder, fault), end; !fault && entry != end;
       entry.increment(fault)) {
    if (is_config_name(entry->path().filename().string())) more.push_back(entry->path().string());
  }
  if (fault && fault != std::errc::no_such_file_or_directory && fault != std::errc::not_a_directory) {
    files.errors.push_back({Diagnostic::Kind::file, folder.string(), 0, 0,
                            "cannot read the configuration: " + fault.message(), "", ""});
  }
  std::sort(more.begin(), more.end());
  for (const std::string& file : more)
    add(file);
  return files;
}

ConfigResult load_config(const std::string& path) {
  ConfigFiles files = read_config_files(path);
  if (files.errors.empty()) return parse_config(files.sources);
  ConfigResult result;
  result.errors = std::move(files.errors);
  return result;
}

}  // namespace sluice
