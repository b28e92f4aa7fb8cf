// The file of `sluice session export`: a header line and a line a session, all of them JSON objects.
//
//   {"sluice_sessions":1,"secret":"...","services":{"web":"..."},"time":1790000000,"count":2,"checksum":"..."}
//   {"service":"web","backend":"b1","hash":"0123456789abcdef","kind":"learnt","idle_s":12,"age_s":640}
//   {"service":"web","backend":"b2","hash":"123456789abcdef0","kind":"pinned","age_s":64}
//
// A pinned one with an end has "left_s". Ages are of `time`, seconds of the wall clock. `secret` and
// `services` are fingerprints of what the hashes come from (session_registry.h): under others they name
// nobody. `checksum`:
// XXH3 of all bytes behind the header line, then of that line with a checksum of 0; so a file that was
// damaged or cut short is found before anything is done.
#pragma once

#include <cstdint>
#include <cstdio>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "src/result.h"
#include "src/session_layout.h"

namespace sluice {

struct SavedSession {
  std::string service, backend;
  uint64_t hash = 0;
  SessionKind kind = SessionKind::learnt;
  uint32_t rest_s = 0;  // learnt: idle for; pinned_until: left
  uint32_t age_s = 0;

  bool operator==(const SavedSession&) const = default;
};

struct SessionFileHeader {
  std::string secret;
  std::map<std::string, std::string> services;
  uint64_t time_s = 0;
  uint64_t count = 0;
  std::string checksum;
};

// Writes to a temporary file, as the header is known last.
class SessionFileWriter {
 public:
  // `path` empty: standard output. What was there under that name stays until finish().
  static Result<SessionFileWriter> open(const std::string& path);
  SessionFileWriter(SessionFileWriter&&) noexcept;
  ~SessionFileWriter();  // without finish(): nothing is left

  // First of all, with count and checksum open.
  Result<Done> begin(SessionFileHeader header);
  Result<Done> add(const SavedSession& session);
  Result<Done> finish();
  uint64_t count() const;

 private:
  struct State;
  explicit SessionFileWriter(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

struct SessionFileFault {
  uint64_t line;  // from 1
  std::string what;
};
struct SessionFileRead {
  SessionFileHeader header;
  std::vector<SessionFileFault> faults;  // all of them; empty: the file is whole
};
// Reads all of it. `visit(line, session)` is called for each line that is well-formed, also of a file with
// faults. An Error: it cannot be read at all.
Result<SessionFileRead> read_session_file(const std::string& path,
                                          const std::function<void(uint64_t, const SavedSession&)>& visit);

}  // namespace sluice
