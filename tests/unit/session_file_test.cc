// The file of exported sessions: what was written is read, and nothing else is taken for it.
#include "controlplane/session_file.h"

#include <sys/stat.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <sstream>

#include <gtest/gtest.h>

namespace sluice {
namespace {

class SessionFileTest : public testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/sluice-sessions-XXXXXX";
    directory_ = mkdtemp(name);
    path_ = directory_ + "/sessions.json";
    const Result<Done> written = write(sessions_);
    ASSERT_TRUE(written) << written.error().text();
    std::ostringstream text;
    text << std::ifstream(path_).rdbuf();
    text_ = text.str();
  }
  void TearDown() override { std::filesystem::remove_all(directory_); }

  Result<Done> write(const std::vector<SavedSession>& sessions) {
    Result<SessionFileWriter> writer = SessionFileWriter::open(path_);
    if (!writer) return writer.error();
    SessionFileHeader header;
    header.secret = "1f2e3d4c";
    header.services = {{"web", "00000000000000aa"}, {"https", "00000000000000bb"}};
    header.time_s = 1'790'000'000;
    Result<Done> done = writer->begin(header);
    for (const SavedSession& session : sessions) {
      if (done) done = writer->add(session);
    }
    return done ? writer->finish() : done;
  }
  SessionFileRead read(const std::string& text) {
    std::ofstream(path_, std::ios::trunc) << text;
    seen_.clear();
    Result<SessionFileRead> result =
        read_session_file(path_, [&](uint64_t, const SavedSession& session) { seen_.push_back(session); });
    EXPECT_TRUE(result);
    return result ? *result : SessionFileRead();
  }

  const std::vector<SavedSession> sessions_ = {
      {"web", "b1", 0x0123456789abcdef, SessionKind::learnt, 12, 640},
      {"web", "b2", 0xfedcba9876543210, SessionKind::pinned, 0, 64},
      {"https", "b1", 7, SessionKind::pinned_until, 3600, 0},
  };
  std::string directory_, path_, text_;
  std::vector<SavedSession> seen_;
};

TEST_F(SessionFileTest, what_was_written_is_read) {
  const SessionFileRead found = read(text_);
  EXPECT_TRUE(found.faults.empty()) << found.faults[0].what;
  EXPECT_EQ(seen_, sessions_);
  EXPECT_EQ(found.header.secret, "1f2e3d4c");
  EXPECT_EQ(found.header.services.at("https"), "00000000000000bb");
  EXPECT_EQ(found.header.time_s, 1'790'000'000u);
  EXPECT_EQ(found.header.count, 3u);
  ASSERT_TRUE(write({}));
  std::ostringstream empty;
  empty << std::ifstream(path_).rdbuf();
  EXPECT_TRUE(read(empty.str()).faults.empty()) << "none is a number, too";
}

TEST_F(SessionFileTest, every_byte_that_changed_is_found) {
  for (size_t i = 0; i < text_.size(); i++) {
    for (const char mask : {1, 32}) {
      std::string damaged = text_;
      damaged[i] = static_cast<char>(damaged[i] ^ mask);
      EXPECT_FALSE(read(damaged).faults.empty()) << "byte " << i << " of " << damaged;
    }
  }
}

TEST_F(SessionFileTest, every_end_that_is_missing_is_found) {
  for (size_t bytes = 0; bytes < text_.size(); bytes++)
    EXPECT_FALSE(read(text_.substr(0, bytes)).faults.empty()) << bytes << " bytes";
  EXPECT_FALSE(read(text_ + text_.substr(text_.rfind('{'))).faults.empty()) << "a line more";
}

TEST_F(SessionFileTest, all_faults_are_told_with_their_lines) {
  const std::string header = text_.substr(0, text_.find('\n') + 1);
  const SessionFileRead found =
      read(header + "rubbish\n" +
           R"({"service":"web","backend":"b1","hash":"12","kind":"learnt","idle_s":1,"age_s":1})"
           "\n" +
           R"({"service":"web","backend":"b1","hash":"0123456789abcdef","kind":"learnt","age_s":1})"
           "\n");
  ASSERT_EQ(found.faults.size(), 4u);
  EXPECT_EQ(found.faults[0].line, 2u);
  EXPECT_EQ(found.faults[1].line, 3u);
  EXPECT_NE(found.faults[1].what.find("hash"), std::string::npos);
  EXPECT_EQ(found.faults[2].line, 4u);
  EXPECT_NE(found.faults[2].what.find("kind"), std::string::npos);
  EXPECT_NE(found.faults[3].what.find("checksum"), std::string::npos);
  EXPECT_TRUE(seen_.empty());
}

TEST_F(SessionFileTest, an_export_that_is_not_finished_leaves_what_was_there) {
  {
    Result<SessionFileWriter> writer = SessionFileWriter::open(path_);
    ASSERT_TRUE(writer);
    ASSERT_TRUE(writer->begin({}));
    ASSERT_TRUE(writer->add(sessions_[0]));
  }
  std::ostringstream text;
  text << std::ifstream(path_).rdbuf();
  EXPECT_EQ(text.str(), text_);
  size_t files = 0;
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator(directory_))
    files++;
  EXPECT_EQ(files, 1u);
}

// Proves that what is no place for a file is refused before anything is written, and stays as it is.
TEST_F(SessionFileTest, an_export_goes_only_where_a_file_may_be) {
  namespace fs = std::filesystem;
  const std::string folder = directory_ + "/folder", pipe = directory_ + "/pipe", null = directory_ + "/null";
  fs::create_directory(folder);
  ASSERT_EQ(mkfifo(pipe.c_str(), 0600), 0);
  fs::create_symlink("/dev/null", null);
  const std::pair<std::string, const char*> places[] = {
      {folder, "is no regular file"},
      {pipe, "is no regular file"},
      {null, "is no regular file"},
      {directory_ + "/none/file", "No such file or directory"},
      {path_ + "/file", "Not a directory"}};
  for (const auto& [path, why] : places) {
    const Result<SessionFileWriter> writer = SessionFileWriter::open(path);
    ASSERT_FALSE(writer) << path;
    EXPECT_NE(writer.error().what.find(path), std::string::npos) << writer.error().what;
    EXPECT_NE(writer.error().what.find(why), std::string::npos) << writer.error().what;
  }
  EXPECT_TRUE(fs::is_directory(folder));
  EXPECT_TRUE(fs::is_fifo(pipe));
  EXPECT_TRUE(fs::is_symlink(null));
  EXPECT_EQ(std::distance(fs::directory_iterator(directory_), {}), 4) << "and nothing beside them";
}

}  // namespace
}  // namespace sluice
