// Shared-memory segments and the instance lock: a successor takes over what its predecessor left, and
// everything that is not exactly the expected segment is refused with an error that names the remedy.
#include "src/segment.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>

#include <gtest/gtest.h>

namespace sluice {
namespace {

constexpr SegmentKind kKind = {"widgets", "widgetd", 0x0123456789abcdefULL, layout_hash({64, 8, 16})};
constexpr uint64_t kBytes = 1 << 20;

class SegmentTest : public testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/sluice-segment-XXXXXX";
    ASSERT_NE(mkdtemp(name), nullptr);
    directory_ = name;
    path_ = directory_ + "/" + kKind.file;
  }
  void TearDown() override { std::filesystem::remove_all(directory_); }

  void create() {
    Result<Segment> segment = Segment::open_writer(directory_, kKind, kBytes);
    ASSERT_TRUE(segment) << segment.error().text();
  }

  template <typename T>
  void overwrite(size_t offset, T value) {
    std::fstream file(path_, std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(static_cast<std::streamoff>(offset));
    file.write(reinterpret_cast<const char*>(&value), sizeof value);
    ASSERT_TRUE(file.flush());
  }

  // Both ways in refuse the file, say why, and tell how to get rid of it; the file stays as it is.
  void expect_refused(const std::string& why) {
    const auto size = std::filesystem::file_size(path_);
    const Result<Segment> writer = Segment::open_writer(directory_, kKind, kBytes);
    const Result<Segment> reader = Segment::open_reader(directory_, kKind);
    for (const Result<Segment>* result : {&writer, &reader}) {
      ASSERT_FALSE(*result);
      EXPECT_NE(result->error().what.find(why), std::string::npos) << result->error().what;
      EXPECT_NE(result->error().what.find(path_), std::string::npos) << result->error().what;
      EXPECT_NE(result->error().remedy.find("rm " + path_), std::string::npos) << result->error().remedy;
    }
    EXPECT_EQ(std::filesystem::file_size(path_), size);
  }

  std::string directory_;
  std::string path_;
};

TEST_F(SegmentTest, AFreshOneIsZeroBehindACompleteHeader) {
  Result<Segment> segment = Segment::open_writer(directory_, kKind, kBytes);
  ASSERT_TRUE(segment) << segment.error().text();
  EXPECT_TRUE(segment->was_created());
  EXPECT_TRUE(segment->is_open());
  EXPECT_EQ(segment->size(), kBytes);
  const SegmentHeader& header = segment->header();
  EXPECT_EQ(header.magic, kKind.magic);
  EXPECT_EQ(header.abi_version, kAbiVersion);
  EXPECT_EQ(header.layout_hash, kKind.layout_hash);
  EXPECT_EQ(header.size, kBytes);
  EXPECT_NE(header.incarnation, 0u);
  EXPECT_EQ(header.writer_pid.load(), static_cast<uint32_t>(getpid()));
  EXPECT_LE(header.heartbeat_ns.load(), monotonic_ns());
  EXPECT_GT(header.heartbeat_ns.load(), 0u);
  for (uint64_t i = sizeof(SegmentHeader); i < kBytes; i++) {
    ASSERT_EQ(segment->base()[i], std::byte{0}) << i;
  }
  EXPECT_FALSE(std::filesystem::exists(path_ + ".new"));
}

TEST_F(SegmentTest, ASuccessorTakesOverContentsAndIncarnation) {
  uint64_t incarnation;
  {
    Result<Segment> first = Segment::open_writer(directory_, kKind, kBytes);
    ASSERT_TRUE(first);
    first->base()[kBytes - 1] = std::byte{42};
    incarnation = first->header().incarnation;
    first->header().writer_pid = 1;  // as if another process had been the writer
  }
  Result<Segment> second = Segment::open_writer(directory_, kKind, kBytes);
  ASSERT_TRUE(second) << second.error().text();
  EXPECT_FALSE(second->was_created());
  EXPECT_EQ(second->base()[kBytes - 1], std::byte{42});
  EXPECT_EQ(second->header().incarnation, incarnation);
  EXPECT_EQ(second->header().writer_pid.load(), static_cast<uint32_t>(getpid()));
}

TEST_F(SegmentTest, AReaderSeesWhatTheWriterWrites) {
  Result<Segment> writer = Segment::open_writer(directory_, kKind, kBytes);
  Result<Segment> reader = Segment::open_reader(directory_, kKind);
  ASSERT_TRUE(writer);
  ASSERT_TRUE(reader) << reader.error().text();
  EXPECT_EQ(reader->size(), kBytes);
  EXPECT_FALSE(reader->was_created());
  writer->base()[1000] = std::byte{7};
  EXPECT_EQ(reader->base()[1000], std::byte{7});
}

TEST_F(SegmentTest, AReadersMappingCannotBeWritten) {
  create();
  Result<Segment> reader = Segment::open_reader(directory_, kKind);
  ASSERT_TRUE(reader);
  EXPECT_DEATH(reader->base()[1000] = std::byte{1}, "");
}

TEST_F(SegmentTest, AReaderWithoutASegmentIsToldWhomToStart) {
  const Result<Segment> reader = Segment::open_reader(directory_, kKind);
  ASSERT_FALSE(reader);
  EXPECT_NE(reader.error().what.find(path_), std::string::npos);
  EXPECT_NE(reader.error().remedy.find("widgetd"), std::string::npos);
}

TEST_F(SegmentTest, RefusesAnotherMagic) {
  create();
  overwrite<uint64_t>(offsetof(SegmentHeader, magic), 0x1122334455667788ULL);
  expect_refused("is not a Sluice 'widgets' segment");
}

TEST_F(SegmentTest, RefusesAnotherAbiVersion) {
  create();
  overwrite<uint32_t>(offsetof(SegmentHeader, abi_version), kAbiVersion + 1);
  expect_refused("ABI version " + std::to_string(kAbiVersion + 1));
}

TEST_F(SegmentTest, RefusesAnotherLayout) {
  create();
  overwrite<uint64_t>(offsetof(SegmentHeader, layout_hash), kKind.layout_hash + 1);
  expect_refused("layout");
}

TEST_F(SegmentTest, RefusesAHeaderThatClaimsAnotherSize) {
  create();
  overwrite<uint64_t>(offsetof(SegmentHeader, size), kBytes * 2);
  expect_refused(std::to_string(kBytes * 2));
}

TEST_F(SegmentTest, RefusesATruncatedFile) {
  create();
  for (const uint64_t size : {kBytes - 1, uint64_t{4096}, uint64_t{sizeof(SegmentHeader)}}) {
    std::filesystem::resize_file(path_, size);
    expect_refused("the file has " + std::to_string(size));
  }
}

TEST_F(SegmentTest, RefusesAFileShorterThanAHeader) {
  create();
  for (const uint64_t size : {sizeof(SegmentHeader) - 1, size_t{1}, size_t{0}}) {
    std::filesystem::resize_file(path_, size);
    expect_refused("shorter than a segment header");
  }
}

TEST_F(SegmentTest, RefusesAFileOfZeroes) {
  create();
  std::filesystem::resize_file(path_, 0);
  std::filesystem::resize_file(path_, kBytes);
  expect_refused("is not a Sluice 'widgets' segment");
}

TEST_F(SegmentTest, AWriterRefusesAnotherSizeThanItsOwn) {
  create();
  const Result<Segment> writer = Segment::open_writer(directory_, kKind, kBytes * 2);
  ASSERT_FALSE(writer);
  EXPECT_NE(writer.error().what.find(std::to_string(kBytes)), std::string::npos) << writer.error().what;
  EXPECT_NE(writer.error().what.find(std::to_string(kBytes * 2)), std::string::npos) << writer.error().what;
  EXPECT_NE(writer.error().remedy.find("rm " + path_), std::string::npos);
  EXPECT_TRUE(Segment::open_writer(directory_, kKind, kBytes)) << "it is still there and whole";
}

TEST_F(SegmentTest, AHalfWrittenFileOfACrashedWriterIsNoObstacle) {
  std::ofstream(path_ + ".new") << "left over";
  create();
  EXPECT_TRUE(Segment::open_reader(directory_, kKind));
}

TEST_F(SegmentTest, NoDirectoryIsAnErrorNotACrash) {
  const Result<Segment> writer = Segment::open_writer(directory_ + "/missing", kKind, kBytes);
  ASSERT_FALSE(writer);
  EXPECT_NE(writer.error().what.find("missing"), std::string::npos);
}

TEST_F(SegmentTest, KnowsWhenItsFileWasReplacedOrRemoved) {
  create();
  Result<Segment> reader = Segment::open_reader(directory_, kKind);
  ASSERT_TRUE(reader);
  EXPECT_FALSE(reader->is_stale());
  const uint64_t before = reader->header().incarnation;

  std::filesystem::remove(path_);
  EXPECT_TRUE(reader->is_stale());
  create();
  EXPECT_TRUE(reader->is_stale()) << "a new file under the name is not the mapped one";
  EXPECT_EQ(reader->header().incarnation, before) << "the old mapping stays readable";

  Result<Segment> again = Segment::open_reader(directory_, kKind);
  ASSERT_TRUE(again);
  EXPECT_FALSE(again->is_stale());
  EXPECT_NE(again->header().incarnation, before);
}

TEST_F(SegmentTest, TakingOverDoesNotMakeReadersStale) {
  create();
  Result<Segment> reader = Segment::open_reader(directory_, kKind);
  ASSERT_TRUE(reader);
  create();
  EXPECT_FALSE(reader->is_stale());
}

TEST_F(SegmentTest, AnonymousHasAHeaderAndNoFile) {
  const Segment segment = Segment::anonymous(kKind, kBytes);
  EXPECT_EQ(segment.header().magic, kKind.magic);
  EXPECT_EQ(segment.size(), kBytes);
  EXPECT_FALSE(segment.is_stale());
  EXPECT_TRUE(std::filesystem::is_empty(directory_));
}

TEST(LayoutHashTest, OrderAndValuesCount) {
  EXPECT_NE(layout_hash({1, 2}), layout_hash({2, 1}));
  EXPECT_NE(layout_hash({1, 2}), layout_hash({1, 3}));
  EXPECT_NE(layout_hash({1, 2}), layout_hash({1, 2, 0}));
  EXPECT_EQ(layout_hash({64, 8, 16}), kKind.layout_hash);
}

TEST_F(SegmentTest, InstanceDirectoryIsMadeOnceAndFoundAgain) {
  const std::string path = directory_ + "/instance";
  EXPECT_TRUE(make_instance_directory(path));
  EXPECT_TRUE(make_instance_directory(path));
  EXPECT_TRUE(std::filesystem::is_directory(path));
  const Result<Done> deep = make_instance_directory(directory_ + "/no/such/parent");
  ASSERT_FALSE(deep);
  EXPECT_NE(deep.error().remedy.find("mkdir -p"), std::string::npos);
}

TEST(InstanceDirectoryTest, OptionBeforeEnvironmentBeforeDefault) {
  unsetenv("SLUICE_DIR");
  EXPECT_EQ(instance_directory(""), kDefaultDirectory);
  setenv("SLUICE_DIR", "/tmp/from-environment", 1);
  EXPECT_EQ(instance_directory(""), "/tmp/from-environment");
  EXPECT_EQ(instance_directory("/tmp/from-option"), "/tmp/from-option");
  setenv("SLUICE_DIR", "", 1);
  EXPECT_EQ(instance_directory(""), kDefaultDirectory);
  unsetenv("SLUICE_DIR");
}

using InstanceLockTest = SegmentTest;

TEST_F(InstanceLockTest, ASecondHolderIsRefusedWithPidAndRemedy) {
  const Result<InstanceLock> first = InstanceLock::acquire(directory_, "widgetd");
  ASSERT_TRUE(first) << first.error().text();
  const Result<InstanceLock> second = InstanceLock::acquire(directory_, "widgetd");
  ASSERT_FALSE(second);
  const std::string pid = std::to_string(getpid());
  EXPECT_NE(second.error().what.find("another widgetd (pid " + pid + ")"), std::string::npos)
      << second.error().what;
  EXPECT_NE(second.error().remedy.find("kill " + pid), std::string::npos) << second.error().remedy;
  EXPECT_TRUE(InstanceLock::acquire(directory_, "other-program"));
}

TEST_F(InstanceLockTest, IsHeldExactlyWhileTheHolderLives) {
  EXPECT_FALSE(InstanceLock::is_held(directory_, "widgetd")) << "never locked";
  {
    const Result<InstanceLock> lock = InstanceLock::acquire(directory_, "widgetd");
    ASSERT_TRUE(lock);
    EXPECT_TRUE(InstanceLock::is_held(directory_, "widgetd"));
    EXPECT_TRUE(InstanceLock::is_held(directory_, "widgetd")) << "asking does not take it";
  }
  EXPECT_FALSE(InstanceLock::is_held(directory_, "widgetd"));
  EXPECT_TRUE(InstanceLock::acquire(directory_, "widgetd"));
}

TEST_F(InstanceLockTest, MovesWithItsOwner) {
  Result<InstanceLock> lock = InstanceLock::acquire(directory_, "widgetd");
  ASSERT_TRUE(lock);
  {
    InstanceLock moved = std::move(*lock);
    EXPECT_TRUE(InstanceLock::is_held(directory_, "widgetd"));
  }
  EXPECT_FALSE(InstanceLock::is_held(directory_, "widgetd"));
}

TEST_F(InstanceLockTest, AKilledHolderFreesIt) {
  int ready[2];
  ASSERT_EQ(pipe(ready), 0);
  const pid_t child = fork();
  if (child == 0) {
    const Result<InstanceLock> lock = InstanceLock::acquire(directory_, "widgetd");
    const char held = lock ? 'y' : 'n';
    if (write(ready[1], &held, 1) != 1) _exit(1);
    for (;;)
      pause();
  }
  char held = '?';
  ASSERT_EQ(read(ready[0], &held, 1), 1);
  EXPECT_EQ(held, 'y');
  EXPECT_TRUE(InstanceLock::is_held(directory_, "widgetd"));
  const Result<InstanceLock> refused = InstanceLock::acquire(directory_, "widgetd");
  ASSERT_FALSE(refused);
  EXPECT_NE(refused.error().what.find("(pid " + std::to_string(child) + ")"), std::string::npos)
      << refused.error().what;

  ASSERT_EQ(kill(child, SIGKILL), 0);
  ASSERT_EQ(waitpid(child, nullptr, 0), child);
  close(ready[0]);
  close(ready[1]);
  EXPECT_FALSE(InstanceLock::is_held(directory_, "widgetd"));
  EXPECT_TRUE(InstanceLock::acquire(directory_, "widgetd"));
}

}  // namespace
}  // namespace sluice
