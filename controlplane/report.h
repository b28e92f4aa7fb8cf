// What `sluice show` tells, as JSON: the model and the published tables joined with the data plane's
// counters.
//
// Counters of a service or backend are sums over all workers ever, less what their id had counted for a
// predecessor of the same id (ServiceCold / BackendCold base_*). Times are durations in seconds, so that no
// clock needs to be known. Cost: O(backends x workers), and one pass over the lookup tables shown (65,537
// slots each) for the shares.
#pragma once

#include <string>

#include <nlohmann/json.hpp>

#include "controlplane/daemon.h"

namespace sluice {

const char* text(Admin admin);
const char* text(Health health);
const char* text(Forward forward);
const char* protocol_text(uint8_t protocol);

nlohmann::json report_services(const Daemon& daemon);
// Of one service, or of all when `only_service` is empty.
nlohmann::json report_backends(const Daemon& daemon, const std::string& only_service);
nlohmann::json report_dataplane(const Daemon& daemon);

// Why this backend takes no new flows; empty when it does.
std::string why_no_new_flows(const Service& service, const Backend& backend);
nlohmann::json report_next_hop(const NextHop& hop);

}  // namespace sluice
