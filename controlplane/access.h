// Who may do what on the control socket: what the kernel says of a peer, and the role that follows.
//
// root and the user that sluiced runs as are administrators. Others get a role from the groups that
// `[control]` of the configuration names, which the kernel tells of the peer as they were when it connected;
// no password, no file of ours. Without such groups nobody else may even connect.
#pragma once

#include <sys/types.h>

#include <optional>
#include <string>
#include <vector>

#include "src/result.h"

namespace sluice {

enum class Role : uint8_t { none, read, admin };  // each may do what those before it may
const char* text(Role role);

struct Credentials {
  uid_t uid = 0;
  gid_t gid = 0;
  pid_t pid = 0;
  std::vector<gid_t> groups;        // besides gid
  std::optional<uid_t> login_user;  // as who the person logged in, before any sudo

  bool is_in(gid_t group) const;
};
// Of the process that connected this unix socket, as it was then.
Result<Credentials> peer_credentials(int socket);

// Whom a request is from.
struct Client {
  Role role = Role::none;
  Credentials peer;

  // "alice (uid 1000, pid 4242)", "root for alice (uid 0, pid 4242)". Reads the user database.
  std::string who() const;
};

struct Access {
  std::optional<gid_t> admin_group;
  std::optional<gid_t> read_group;
  bool everyone_reads = false;
  // For messages: as the configuration names them; empty when there is none.
  std::string admin_group_name;
  std::string read_group_name;

  // Group names, or numbers; "*" as `read_group`: everyone. A group that does not exist gives nobody
  // anything, and is told in `unknown`. Reads the group database, which may be a slow one: once a
  // configuration.
  static Access of_groups(const std::string& admin_group, const std::string& read_group,
                          std::vector<std::string>& unknown);

  Role role_of(const Credentials& peer) const;
  // Of the socket: the kernel can tell one group from others, not two, so it lets everyone connect once a
  // group is named, and role_of decides.
  mode_t socket_mode() const;
  // What somebody without the role `needed` is told.
  Error refusal(const Client& client, Role needed) const;
};

}  // namespace sluice
