#include "controlplane/session_file.h"

#include <errno.h>
#include <sys/stat.h>
#include <unistd.h>

#include <charconv>
#include <cstdlib>
#include <cstring>
#include <optional>

#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <xxhash.h>

namespace sluice {
namespace {

using nlohmann::json;

constexpr int kFormat = 2;  // 1 had other hashes of IPv4 clients
constexpr size_t kLineBytesMax = 1 << 20;  // the header names each service

Error cannot(const char* what, const std::string& path) {
  return {fmt::format("cannot {} {}: {}", what, path.empty() ? "the export" : path, std::strerror(errno)),
          ""};
}

bool is_special(const struct stat& file) {
  return !S_ISREG(file.st_mode) && !S_ISDIR(file.st_mode);
}

// Of one length for all counts and checksums.
std::string to_line(const SessionFileHeader& header) {
  return fmt::format(
      "{{\"sluice_sessions\":{},\"secret\":\"{}\",\"services\":{},\"time\":{},\"count\":{:>20},\"checksum\":"
      "\"{:0>16}\"}}\n",
      kFormat, header.secret, json(header.services).dump(), header.time_s, header.count, header.checksum);
}

const char* text(SessionKind kind) {
  return kind == SessionKind::learnt ? "learnt" : "pinned";
}

// Names hold nothing that JSON escapes (configuration: is_name).
std::string to_line(const SavedSession& s) {
  const char* const rest = s.kind == SessionKind::learnt ? "idle_s" : "left_s";
  return fmt::format(
      "{{\"service\":\"{}\",\"backend\":\"{}\",\"hash\":\"{:016x}\",\"kind\":\"{}\",{}\"age_s\":{}}}\n",
      s.service, s.backend, s.hash, text(s.kind),
      s.kind == SessionKind::pinned ? "" : fmt::format("\"{}\":{},", rest, s.rest_s), s.age_s);
}

std::optional<std::string> text_in(const json& object, const char* key) {
  const auto found = object.find(key);
  if (found == object.end() || !found->is_string()) return std::nullopt;
  return found->get<std::string>();
}
std::optional<uint64_t> number_in(const json& object, const char* key) {
  const auto found = object.find(key);
  if (found == object.end() || !found->is_number_unsigned()) return std::nullopt;
  return found->get<uint64_t>();
}
std::optional<uint32_t> seconds_in(const json& object, const char* key) {
  const std::optional<uint64_t> number = number_in(object, key);
  if (!number || *number > UINT32_MAX) return std::nullopt;
  return static_cast<uint32_t>(*number);
}

// Empty: it is one.
std::string parse(const std::string& line, SavedSession& session) {
  const json object = json::parse(line, nullptr, /*allow_exceptions=*/false);
  if (!object.is_object()) return "no JSON object";
  const auto service = text_in(object, "service"), backend = text_in(object, "backend"),
             hash = text_in(object, "hash"), kind = text_in(object, "kind");
  const auto age_s = seconds_in(object, "age_s");
  if (!service || !backend) return "no \"service\" and \"backend\"";
  session.service = *service;
  session.backend = *backend;
  const char* const end = hash ? hash->data() + hash->size() : nullptr;
  if (!hash || hash->size() != 16 || std::from_chars(hash->data(), end, session.hash, 16).ptr != end)
    return "\"hash\" is not 16 hex digits";
  if (!age_s) return "\"age_s\" is no number of seconds";
  session.age_s = *age_s;
  const auto idle_s = seconds_in(object, "idle_s"), left_s = seconds_in(object, "left_s");
  if (kind == "learnt" && idle_s && !object.contains("left_s")) {
    session.kind = SessionKind::learnt;
    session.rest_s = *idle_s;
  } else if (kind == "pinned" && !object.contains("idle_s") && (left_s || !object.contains("left_s"))) {
    session.kind = left_s ? SessionKind::pinned_until : SessionKind::pinned;
    session.rest_s = left_s.value_or(0);
  } else {
    return "\"kind\" is not \"learnt\" with \"idle_s\", or \"pinned\", with \"left_s\" if it ends";
  }
  return "";
}

std::string parse(const std::string& line, SessionFileHeader& header) {
  const json object = json::parse(line, nullptr, /*allow_exceptions=*/false);
  const auto format = object.is_object() ? number_in(object, "sluice_sessions") : std::nullopt;
  if (!format) return "this is no export of sessions: no header";
  if (*format != kFormat) return fmt::format("an export of version {}, and this is {}", *format, kFormat);
  const auto secret = text_in(object, "secret"), checksum = text_in(object, "checksum");
  const auto time_s = number_in(object, "time"), count = number_in(object, "count");
  const auto services = object.find("services");
  if (!secret || !checksum || !time_s || !count || services == object.end() || !services->is_object())
    return "the header is not whole";
  for (const auto& [name, fingerprint] : services->items()) {
    if (!fingerprint.is_string()) return "the header is not whole";
    header.services[name] = fingerprint.get<std::string>();
  }
  header.secret = *secret;
  header.checksum = *checksum;
  header.time_s = *time_s;
  header.count = *count;
  return "";
}

}  // namespace

namespace {

// Of the lines that are hashed already, and the header with a checksum of 0.
std::string checksum_of(XXH3_state_t* lines, const std::string& header) {
  XXH3_64bits_update(lines, header.data(), header.size());
  return fmt::format("{:016x}", XXH3_64bits_digest(lines));
}

}  // namespace

struct SessionFileWriter::State {
  ~State() {
    if (file != nullptr) std::fclose(file);
    if (!part.empty()) unlink(part.c_str());
    XXH3_freeState(hash);
  }
  std::string path, part;
  FILE* file = nullptr;
  SessionFileHeader header;
  size_t header_bytes = 0;
  XXH3_state_t* hash = XXH3_createState();
};

SessionFileWriter::SessionFileWriter(std::unique_ptr<State> state) : state_(std::move(state)) {}
SessionFileWriter::SessionFileWriter(SessionFileWriter&&) noexcept = default;
SessionFileWriter::~SessionFileWriter() = default;

Result<SessionFileWriter> SessionFileWriter::open(const std::string& path) {
  auto state = std::make_unique<State>();
  state->path = path;
  if (path.empty()) {
    state->file = std::tmpfile();
  } else {
    // A device or a pipe would be replaced; a directory could not be, which would be seen last of all.
    struct stat there {};
    if (stat(path.c_str(), &there) == 0 && !S_ISREG(there.st_mode))
      return Error{path + " is no regular file", "without --file the export goes to standard output"};
    state->part = path + ".part";
    state->file = std::fopen(state->part.c_str(), "w+e");
  }
  if (state->file == nullptr) return cannot("write", state->part);
  XXH3_64bits_reset(state->hash);
  return SessionFileWriter(std::move(state));
}

Result<Done> SessionFileWriter::begin(SessionFileHeader header) {
  state_->header = std::move(header);
  const std::string line = to_line(state_->header);
  state_->header_bytes = line.size();
  if (std::fwrite(line.data(), 1, line.size(), state_->file) != line.size())
    return cannot("write", state_->part);
  return Done{};
}

Result<Done> SessionFileWriter::add(const SavedSession& session) {
  const std::string line = to_line(session);
  if (std::fwrite(line.data(), 1, line.size(), state_->file) != line.size())
    return cannot("write", state_->part);
  XXH3_64bits_update(state_->hash, line.data(), line.size());
  state_->header.count++;
  return Done{};
}

Result<Done> SessionFileWriter::finish() {
  state_->header.checksum.clear();
  state_->header.checksum = checksum_of(state_->hash, to_line(state_->header));
  const std::string line = to_line(state_->header);
  std::rewind(state_->file);
  if (line.size() != state_->header_bytes ||
      std::fwrite(line.data(), 1, line.size(), state_->file) != line.size() || std::fflush(state_->file) != 0)
    return cannot("write", state_->part);
  if (!state_->path.empty()) {
    if (fsync(fileno(state_->file)) != 0 || std::rename(state_->part.c_str(), state_->path.c_str()) != 0)
      return cannot("write", state_->path);
    state_->part.clear();
    return Done{};
  }
  std::rewind(state_->file);
  char bytes[64 * 1024];
  for (size_t got; (got = std::fread(bytes, 1, sizeof bytes, state_->file)) > 0;) {
    if (std::fwrite(bytes, 1, got, stdout) != got) return cannot("write", "standard output");
  }
  return std::fflush(stdout) == 0 ? Result<Done>(Done{}) : cannot("write", "standard output");
}

uint64_t SessionFileWriter::count() const {
  return state_->header.count;
}

Result<SessionFileRead> read_session_file(const std::string& path,
                                          const std::function<void(uint64_t, const SavedSession&)>& visit) {
  const std::unique_ptr<FILE, int (*)(FILE*)> file(std::fopen(path.c_str(), "re"), &std::fclose);
  if (file == nullptr) return cannot("read", path);
  struct stat there {};
  if (fstat(fileno(file.get()), &there) == 0 && is_special(there))
    return Error{path + " is no regular file: an import reads it twice", "write it to a file first"};
  const std::unique_ptr<XXH3_state_t, XXH_errorcode (*)(XXH3_state_t*)> hash(XXH3_createState(),
                                                                             &XXH3_freeState);
  XXH3_64bits_reset(hash.get());
  SessionFileRead read;
  SavedSession session;
  std::string header_line;
  char* buffer = nullptr;
  size_t room = 0;
  uint64_t number = 0;
  for (ssize_t bytes; (bytes = getline(&buffer, &room, file.get())) >= 0;) {
    number++;
    const std::string line(buffer, std::min(static_cast<size_t>(bytes), kLineBytesMax));
    const bool is_whole = line.ends_with('\n');
    if (number == 1) {
      const std::string fault =
          is_whole ? parse(line, read.header) : "this is no export of sessions: no header";
      if (!fault.empty()) {
        read.faults.push_back({number, fault});
        break;  // what follows is of nothing known
      }
      header_line = line;
      const std::string& checksum = read.header.checksum;
      if (const size_t at = line.rfind(checksum); !checksum.empty() && at != std::string::npos)
        header_line.replace(at, checksum.size(), checksum.size(), '0');
      continue;
    }
    XXH3_64bits_update(hash.get(), buffer, static_cast<size_t>(bytes));
    const std::string fault = is_whole ? parse(line, session) : "it is cut short";
    if (!fault.empty()) {
      read.faults.push_back({number, fault});
    } else {
      visit(number, session);
    }
  }
  const bool is_read = std::ferror(file.get()) == 0;
  std::free(buffer);
  if (!is_read) return cannot("read", path);
  if (number == 0) read.faults.push_back({1, "the file is empty"});
  if (number == 0 || (number == 1 && !read.faults.empty())) return read;
  if (number - 1 != read.header.count) {
    read.faults.push_back(
        {number, fmt::format("{} sessions, and the header says {}: it is damaged or cut short", number - 1,
                             read.header.count)});
  } else if (checksum_of(hash.get(), header_line) != read.header.checksum) {
    read.faults.push_back({1, "the checksum does not fit: the file is damaged or was changed"});
  }
  return read;
}

}  // namespace sluice
