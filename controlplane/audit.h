// Who changed what: an event of kind "audit" for each command that needs the role admin, done or refused.
//
// A command that comes in many requests, "more": true in all but the last, is two events: one when it begins,
// and one when it ends, with the sums of what its answers said. It ends with the last request, with one that
// is refused, or when none came for kPatience. Requests belong to it that are of the same process and ask for
// the same, but for the lists in them.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <string>
#include <tuple>

#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <nlohmann/json.hpp>

#include "controlplane/access.h"
#include "controlplane/events.h"

namespace sluice {

class Audit {
 public:
  static constexpr std::chrono::seconds kPatience{30};

  // What of a request is told: of long values only their size.
  struct Request {
    Request(std::string name, const nlohmann::json& request, bool may_be_in_parts);

    std::string command;
    nlohmann::json arguments;
    bool has_more = false;
  };

  // `events` outlives this.
  Audit(boost::asio::io_context& io, Events& events, std::chrono::milliseconds patience = kPatience)
      : io_(io), events_(events), patience_(patience) {}

  // Of the answer are told its generation, "before" and "after" (anything that shows what the command
  // changed), or its error; of many, the sums of the numbers in their "after".
  void add(const Client& client, const Request& request, const nlohmann::json& response);

 private:
  struct Series {
    Series(boost::asio::io_context& io, Client of, Request first, uint64_t number_of_it)
        : client(std::move(of)), request(std::move(first)), number(number_of_it), patience(io) {}

    Client client;
    Request request;
    uint64_t number;
    uint64_t requests = 0;
    std::map<std::string, uint64_t> sums;
    boost::asio::steady_timer patience;
  };
  using Key = std::tuple<uid_t, pid_t, std::string>;

  void begin(const Key& key, const Client& client, const Request& request);
  void wait(const Key& key);
  // `error`: why it ended early; empty: it did not.
  void end(const Key& key, const std::string& error);

  boost::asio::io_context& io_;
  Events& events_;
  const std::chrono::milliseconds patience_;
  std::map<Key, Series> series_;
  uint64_t last_number_ = 0;
};

}  // namespace sluice
