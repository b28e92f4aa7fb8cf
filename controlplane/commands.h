// What each request on the control socket does (protocol.h says how they travel). The response of a command
// that changes something comes when every worker has acknowledged the new generation, or says who has not.
// An argument of another type, or that the command does not take, is refused (bad_request).
//
//   cmd               arguments                        response, besides v and ok
//   show.services                                      services: [...]           (report.h)
//   show.backends     [service [backend]]              backends: [...]
//   show.dataplane                                     ...
//   show.generation                                    generation checksum workers memory ...
//   show.flows        [service [backend]] [list]       backends: [...] by state; flows: [...], `list` of them
//   show.events       [kind] [service] [last]          events: [...]; kind and service with * and ?
//   watch             [kind] [service]                 a line for each event; ends when the client goes
//   session.show      [service [key]] [backend]        sessions: [...], backends: [...] with their counts
//                     [pinned] [limit]
//   session.pin       service key backend [ttl_s]      before after
//                     [force]
//   session.unpin     service key                      before after
//   session.export    [service]                        lines with sessions (command_session_file.cc)
//   session.import    secret services backends         the counts, or of a dry run faults: [...]
//                     sessions [skip_unknown]
//                     [force] [more] [total],
//                     or dry_run
//   backend.admin     service backend, or targets;     generation changed workers acknowledged ack_us note
//                     admin [reset_after_ms] [force]   [reset_in_s]: the seconds until then, of each backend
//   backend.weight    the same; weight [force]         the same; lasts until the file's weight changes
//   backend.add       service backend address [weight] the same
//   backend.remove    as admin's; [force]              the same
//   service.enable    services enabled [force]         the same
//   service.add       definition                       the same
//   service.remove    service [force]                  the same
//   overrides.clear   [target]                         the same
//   overrides.write   [dry_run]                        the same, file and what it holds
//   show.overrides                                     overrides: [...]
//   reload                                             the same, warnings: [text]; errors: error and diagnostics
//   config.apply      sources [dry_run] [confirm_s]    the same
//   config.confirm, config.rollback                    the same
//   explain           protocol client vip [key]        (explain.h)
//   rebalance         service [over_s] [max_moves] [rate] [reset]   lines with progress; command_rebalance.cc
//   rebalance.plan    the same                         the same, and nothing is moved
//
// The commands themselves are in command_*.cc, by subject.
#pragma once

#include <cstdint>

#include <nlohmann/json.hpp>

#include "controlplane/daemon.h"
#include "controlplane/protocol.h"

namespace sluice {

// Refuses what the client's role does not allow, and audits what needs the role admin.
void handle_command(Daemon& daemon, const nlohmann::json& request, uint64_t received_ns, const Reply& reply);

}  // namespace sluice
