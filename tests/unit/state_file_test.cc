// What is kept on disk: whole or not at all, told when it cannot be, written again when it can.
#include "controlplane/state_file.h"

#include <sys/stat.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include <gtest/gtest.h>

namespace sluice {
namespace {

class StateFileTest : public testing::Test {
 protected:
  StateFileTest() {
    char name[] = "/tmp/sluice-state-XXXXXX";
    folder_ = mkdtemp(name);
    path_ = folder_ + "/x.json";
  }
  ~StateFileTest() override {
    disk_.join();
    std::filesystem::remove_all(folder_);
  }
  StateFile make() {
    return StateFile(
        io_, disk_, path_, [this] { return contents_; },
        [this](const std::string& fault) { faults_.push_back(fault); });
  }

  boost::asio::io_context io_;
  boost::asio::thread_pool disk_{1};
  std::string folder_, path_, contents_;
  std::vector<std::string> faults_;
};

// Proves that what was saved is read, and that all who wait hear of it although only the newest is written.
TEST_F(StateFileTest, KeepsTheNewest) {
  StateFile file = make();
  const auto nothing = file.read();
  ASSERT_TRUE(nothing);
  EXPECT_FALSE(*nothing);
  int told = 0;
  for (int i = 0; i < 100; i++) {
    contents_ = "version " + std::to_string(i);
    file.save();
    file.when_saved([&](const std::string& fault) {
      EXPECT_EQ(fault, "");
      told++;
    });
  }
  io_.run();
  EXPECT_EQ(told, 100);
  EXPECT_EQ(**file.read(), "version 99");
  EXPECT_FALSE(std::filesystem::exists(path_ + ".new"));
  EXPECT_TRUE(faults_.empty());
}

// Proves that damage of any byte is seen, told, and kept aside.
TEST_F(StateFileTest, SeesDamage) {
  const std::string good = "some contents that matter";
  for (size_t at = 0; at < 60; at += 3) {
    ASSERT_EQ(replace_file(path_, good), "");
    StateFile file = make();
    ASSERT_EQ(**file.read(), good);
    std::fstream raw(path_, std::ios::in | std::ios::out | std::ios::binary);
    raw.seekg(0, std::ios::end);
    if (at >= static_cast<size_t>(raw.tellg())) break;
    raw.seekp(static_cast<std::streamoff>(at));
    raw.put('\x7f');
    raw.close();
    const auto damaged = file.read();
    ASSERT_FALSE(damaged) << at;
    EXPECT_NE(damaged.error().what.find(path_ + ".damaged"), std::string::npos);
    EXPECT_FALSE(*file.read()) << "it is out of the way";
  }
  // A cut-off one, too: a power loss on a file system that keeps names before data.
  ASSERT_EQ(replace_file(path_, good), "");
  for (const auto length : {0u, 5u, 32u, 40u}) {
    ASSERT_EQ(replace_file(path_, good), "");
    std::filesystem::resize_file(path_, length);
    EXPECT_FALSE(make().read()) << length;
  }
  // What nobody could finish reading.
  ASSERT_EQ(replace_file(path_, good), "");
  std::filesystem::resize_file(path_, StateFile::kBytesMax + 1);
  EXPECT_FALSE(make().read());
  EXPECT_FALSE(std::filesystem::exists(path_));
  ASSERT_EQ(mkfifo(path_.c_str(), 0600), 0);
  EXPECT_FALSE(make().read());
  EXPECT_FALSE(*make().read());
}

// Proves that a directory that is gone is told once, and that it is made again, and saved into, by itself.
TEST_F(StateFileTest, TriesAgain) {
  std::filesystem::remove_all(folder_);
  StateFile file = make();
  contents_ = "precious";
  file.save();
  std::string heard;
  file.when_saved([&](const std::string& fault) { heard = fault; });
  while (faults_.empty())
    io_.run_one();
  EXPECT_NE(heard.find("No such file or directory"), std::string::npos);
  EXPECT_NE(file.fault(), "");
  while (faults_.size() < 2)
    io_.run_one();
  EXPECT_EQ(faults_.back(), "");
  EXPECT_EQ(file.fault(), "");
  EXPECT_EQ(**file.read(), "precious");
}

// Proves that an end with something still due loses nothing.
TEST_F(StateFileTest, WritesTheLastAtTheEnd) {
  StateFile file = make();
  contents_ = "first";
  file.save();
  contents_ = "last";
  file.save();
  disk_.join();
  file.finish();
  EXPECT_EQ(**file.read(), "last");
}

}  // namespace
}  // namespace sluice
