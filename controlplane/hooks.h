// Notify hooks: commands of the configuration that are run when something happens (interface_config.h).
//
// A hook's command gets the event as one line of JSON on standard input, and in the environment
// SLUICE_EVENT_KIND, _LEVEL, _TEXT, _NUMBER, _TIME, SLUICE_SERVICE, SLUICE_BACKEND and SLUICE_COALESCED; PATH
// is the system's, all else is unset. No shell.
//
// One run of a hook at a time, in the events' order. `burst` runs are possible at once and each `per` again;
// of the events beyond that only the newest is told, as soon as one is possible, with the number of those
// that it stands for (SLUICE_COALESCED): what a hook heard last is how things are. A run that takes longer
// than `timeout` is killed with all that it started. A run that fails is an event (hook_failed); no hook is
// told of events of kind hook_*, nor of those of level debug.
//
// Owner: sluiced's one thread, which never waits for a hook.
#pragma once

#include <memory>
#include <vector>

#include <boost/asio/io_context.hpp>

#include "controlplane/events.h"
#include "controlplane/interface_config.h"

namespace sluice {

class Hooks {
 public:
  Hooks(boost::asio::io_context& io, Events& events);
  ~Hooks();  // kills those that run

  // A hook that stays as it is keeps what it is at; one that is gone is killed.
  void follow(const std::vector<HookConfig>& configs);

 private:
  class Hook;
  boost::asio::io_context& io_;
  Events& events_;
  uint64_t listener_ = 0;  // 0: no hooks
  std::vector<std::shared_ptr<Hook>> hooks_;
};

}  // namespace sluice
