#include "controlplane/access.h"

#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <cstring>
#include <map>

#include <fmt/format.h>
#include <grp.h>
#include <pwd.h>

namespace sluice {
namespace {

std::optional<gid_t> find_group(const std::string& name) {
  gid_t number = 0;
  const auto [end, fault] = std::from_chars(name.data(), name.data() + name.size(), number);
  if (fault == std::errc() && end == name.data() + name.size()) return number;
  const group* found = getgrnam(name.c_str());
  if (found == nullptr) return std::nullopt;
  return found->gr_gid;
}

// Each is asked for once: a directory service may take its time to answer, and sluiced has one thread.
std::string user_name(uid_t uid) {
  constexpr size_t kKnownMax = 1024;
  static std::map<uid_t, std::string> known;
  if (const auto found = known.find(uid); found != known.end()) return found->second;
  if (known.size() >= kKnownMax) known.clear();
  const passwd* found = getpwuid(uid);
  return known[uid] = found == nullptr ? "" : found->pw_name;
}

// What pam_loginuid left; nothing for a process that no login led to.
std::optional<uid_t> login_user(pid_t pid) {
  FILE* file = std::fopen(fmt::format("/proc/{}/loginuid", pid).c_str(), "re");
  if (file == nullptr) return std::nullopt;
  unsigned int uid = 0;
  const bool is_read = std::fscanf(file, "%u", &uid) == 1;
  std::fclose(file);
  if (!is_read || uid == static_cast<uid_t>(-1)) return std::nullopt;
  return uid;
}

}  // namespace

const char* text(Role role) {
  if (role == Role::admin) return "admin";
  return role == Role::read ? "read" : "none";
}

bool Credentials::is_in(gid_t group) const {
  return gid == group || std::find(groups.begin(), groups.end(), group) != groups.end();
}

Result<Credentials> peer_credentials(int socket) {
  ucred peer = {};
  socklen_t size = sizeof peer;
  if (getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0)
    return Error{fmt::format("cannot tell who connected: {}", std::strerror(errno)), ""};
  Credentials result{peer.uid, peer.gid, peer.pid, {}, login_user(peer.pid)};
  // Says how much room it wants when it has too little.
  for (socklen_t bytes = 16 * sizeof(gid_t);;) {
    result.groups.resize(bytes / sizeof(gid_t));
    if (getsockopt(socket, SOL_SOCKET, SO_PEERGROUPS, result.groups.data(), &bytes) == 0) {
      result.groups.resize(bytes / sizeof(gid_t));
      return result;
    }
    if (errno != ERANGE) break;
  }
  result.groups.clear();
  return result;
}

std::string Client::who() const {
  std::string name = user_name(peer.uid);
  if (name.empty()) name = "somebody";
  if (peer.login_user && *peer.login_user != peer.uid) {
    const std::string person = user_name(*peer.login_user);
    name += " for " + (person.empty() ? fmt::format("uid {}", *peer.login_user) : person);
  }
  return fmt::format("{} (uid {}, pid {})", name, peer.uid, peer.pid);
}

Access Access::of_groups(const std::string& admin_group, const std::string& read_group,
                         std::vector<std::string>& unknown) {
  Access access;
  access.admin_group_name = admin_group;
  access.read_group_name = read_group;
  access.everyone_reads = read_group == "*";
  if (!admin_group.empty()) {
    access.admin_group = find_group(admin_group);
    if (!access.admin_group) unknown.push_back(admin_group);
  }
  if (!read_group.empty() && !access.everyone_reads) {
    access.read_group = find_group(read_group);
    if (!access.read_group) unknown.push_back(read_group);
  }
  return access;
}

Role Access::role_of(const Credentials& peer) const {
  if (peer.uid == 0 || peer.uid == geteuid()) return Role::admin;
  if (admin_group && peer.is_in(*admin_group)) return Role::admin;
  if (everyone_reads || (read_group && peer.is_in(*read_group))) return Role::read;
  return Role::none;
}

mode_t Access::socket_mode() const {
  return admin_group || read_group || everyone_reads ? 0666 : 0600;
}

Error Access::refusal(const Client& client, Role needed) const {
  const std::string what =
      fmt::format("{} has the role {}; this needs {}", client.who(), text(client.role), text(needed));
  const bool by_reading = needed == Role::read && read_group;
  const std::string& group = by_reading ? read_group_name : admin_group_name;
  const char* key = by_reading ? "read_group" : "admin_group";
  if (group.empty()) return {what, fmt::format("use sudo, or set {} in [control] of the configuration", key)};
  return {what, fmt::format("use sudo, or become a member of the group '{}' ([control] {})", group, key)};
}

}  // namespace sluice
