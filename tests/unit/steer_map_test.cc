// The steering map and who keeps it: in a mount namespace of the test's own, which begins without bpffs.
// Needs root and the permission to make BPF maps; skipped without.
#include "controlplane/steer_map.h"

#include <linux/bpf.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include <boost/asio/io_context.hpp>
#include <gtest/gtest.h>

#include "controlplane/daemon.h"
#include "tests/unit/config_texts.h"

namespace sluice {
namespace {

constexpr std::chrono::seconds kTestLimit{20};

bool may_make_maps() {
  bpf_attr attributes = {};
  attributes.map_type = BPF_MAP_TYPE_HASH;
  attributes.key_size = attributes.value_size = 4;
  attributes.max_entries = 1;
  const long fd = syscall(SYS_bpf, BPF_MAP_CREATE, &attributes, sizeof attributes);
  if (fd >= 0) close(static_cast<int>(fd));
  return fd >= 0;
}

class SteerMapTest : public testing::Test {
 protected:
  void SetUp() override {
    if (geteuid() != 0 || !may_make_maps()) GTEST_SKIP() << "needs root and BPF";
    // Ends with this process; nothing of it reaches the machine's own mounts.
    ASSERT_EQ(unshare(CLONE_NEWNS), 0);
    ASSERT_EQ(mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr), 0);
    while (umount2(SteerMap::kBpffs, MNT_DETACH) == 0) {
    }
    char name[] = "/dev/shm/sluice-steer-XXXXXX";
    directory_ = mkdtemp(name);
    umask_ = umask(0077);
  }
  void TearDown() override {
    if (directory_.empty()) return;
    umask(umask_);
    umount2(SteerMap::kBpffs, MNT_DETACH);
    std::filesystem::remove_all(directory_);
  }
  static void mount_bpffs() { ASSERT_EQ(mount("bpf", SteerMap::kBpffs, "bpf", 0, nullptr), 0); }

  std::string directory_;
  mode_t umask_ = 0;
};

TEST_F(SteerMapTest, ItsDirectoriesMayBeReadByOthersWhateverTheUmask) {
  mount_bpffs();
  const Result<SteerMap> map = SteerMap::open(directory_);
  ASSERT_TRUE(map) << map.error().text();
  const std::filesystem::path instance = std::filesystem::path(map->path()).parent_path();
  for (const std::filesystem::path& made : {instance, instance.parent_path()}) {
    struct stat status = {};
    ASSERT_EQ(stat(made.c_str(), &status), 0) << made;
    EXPECT_EQ(status.st_mode & 07777, 0755u) << made;
  }
}

TEST_F(SteerMapTest, ADaemonStartedBeforeBpffsIsMountedSteersOnceItIs) {
  boost::asio::io_context io;
  DaemonOptions options;
  options.directory = directory_;
  options.config_path = directory_ + "/sluice.toml";
  options.state_directory = directory_ + "/state";
  const std::string unchecked = config_texts::right_service("health = { type = \"none\" }");
  std::ofstream(options.config_path) << unchecked
                                     << config_texts::with(config_texts::with(unchecked, "web", "other"),
                                                           "203.0.113.10", "203.0.113.11");
  std::vector<Diagnostic> errors;
  Result<std::unique_ptr<Daemon>> daemon = Daemon::start(io, options, errors);
  ASSERT_TRUE(daemon) << daemon.error().text();
  EXPECT_FALSE((*daemon)->steer_map().is_open());
  EXPECT_NE((*daemon)->steering_fault().find("no bpffs at"), std::string::npos)
      << (*daemon)->steering_fault();

  const auto limit = std::chrono::steady_clock::now() + kTestLimit;
  while (!(*daemon)->rollout().settled() && std::chrono::steady_clock::now() < limit)
    io.run_one_for(std::chrono::milliseconds(100));
  // From here on no publish leads to a new attempt.
  mount_bpffs();
  while (!(*daemon)->steering_fault().empty() && std::chrono::steady_clock::now() < limit)
    io.run_one_for(std::chrono::milliseconds(100));
  EXPECT_EQ((*daemon)->steering_fault(), "");
  // Two services on two addresses: each its own key and its address's.
  EXPECT_EQ((*daemon)->steer_map().keys(), 4u);
}

}  // namespace
}  // namespace sluice
