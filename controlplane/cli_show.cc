// sluice show ..., sluice explain: what there is, and why.
#include "controlplane/cli.h"
#include "controlplane/cli_format.h"

namespace sluice {
namespace {

using nlohmann::json;

std::string no_notes(const json&) {
  return "";
}

Counters counters_of(const Arguments& arguments) {
  if (arguments.with_rate) return Counters::rates;
  return arguments.with_stats ? Counters::sums : Counters::none;
}

// SERVICE or SERVICE/BACKEND, in a request.
json target_of(const Arguments& arguments) {
  const size_t slash = arguments.target.find('/');
  json request = {{"service", arguments.target.substr(0, slash)}};
  if (slash != std::string::npos) request["backend"] = arguments.target.substr(slash + 1);
  return request;
}

void add_services(CLI::App& show, Arguments& arguments, Action& action) {
  static const Listing kListing = {"show.services", "/services", {"name"}, {"packets", "bytes", "flows"}};
  CLI::App* services = show.add_subcommand("services", "VIPs and how many backends they have");
  services->add_flag("--stats", arguments.with_stats, "counters, too");
  add_listing_options(*services, arguments, true);
  services->callback([&] {
    action = [&] {
      return ask_listing(
          arguments, json::object(), kListing,
          [&](const json& r) { return table_of_services(r, counters_of(arguments)); }, no_notes);
    };
  });
}

void add_backends(CLI::App& show, Arguments& arguments, Action& action) {
  static const Listing kListing = {
      "show.backends", "/backends", {"service", "name"}, {"packets", "bytes", "flows"}};
  CLI::App* backends =
      show.add_subcommand("backends", "state, health, weight, share and next hop of each backend");
  backends->add_option("SERVICE[/BACKEND]", arguments.target, "only of these");
  backends->add_flag("--stats", arguments.with_stats, "counters, too");
  add_listing_options(*backends, arguments, true);
  backends->callback([&] {
    action = [&] {
      return ask_listing(
          arguments, target_of(arguments), kListing,
          [&](const json& r) { return table_of_backends(r, counters_of(arguments)); }, notes_on_backends);
    };
  });
}

void add_dataplane(CLI::App& show, Arguments& arguments, Action& action) {
  static const Listing kWorkers = {"show.dataplane",
                                   "/dataplane/workers",
                                   {"worker"},
                                   {"received", "forwarded", "answered", "passed", "dropped"}};
  static const Listing kReasons = {"show.dataplane", "/dataplane/reasons", {"name"}, {"packets"}};
  const auto listing = [&](const char* name, const char* help, const Listing& what, auto* table) {
    CLI::App* command = show.add_subcommand(name, help);
    add_listing_options(*command, arguments, true);
    command->callback([&arguments, &action, &what, table] {
      action = [&arguments, &what, table] {
        return ask_listing(
            arguments, json::object(), what,
            [&](const json& r) { return table(r, arguments.with_rate ? Counters::rates : Counters::sums); },
            no_notes);
      };
    });
  };
  listing("workers", "what each worker does", kWorkers, &table_of_workers);
  listing("drops", "packets that were not forwarded, by reason", kReasons, &table_of_reasons);

  CLI::App* dataplane = show.add_subcommand("dataplane", "generation, ports, workers, drops by reason");
  dataplane->add_flag("--all", arguments.all_reasons, "reasons that never occurred, too");
  dataplane->callback([&] {
    action = [&] {
      return ask(arguments, {{"cmd", "show.dataplane"}},
                 [&](const json& r) { return format_dataplane(r, arguments.all_reasons); });
    };
  });
  CLI::App* generation =
      show.add_subcommand("generation", "which tables are in force, since when, and who uses them");
  generation->callback([&] {
    action = [&] { return ask(arguments, {{"cmd", "show.generation"}}, format_generation); };
  });
}

void add_flows(CLI::App& show, Arguments& arguments, Action& action) {
  static const Listing kListing = {"show.flows", "/backends", {"service", "backend"}, {}};
  CLI::App* flows = show.add_subcommand("flows", "how many flows each backend has, by state");
  flows->add_option("SERVICE[/BACKEND]", arguments.target, "only of these");
  flows->add_option("--list", arguments.listed, "so many of them, too, as hashes");
  add_listing_options(*flows, arguments, false);
  flows->callback([&] {
    action = [&] {
      json request = target_of(arguments);
      request["list"] = arguments.listed;
      return ask_listing(arguments, std::move(request), kListing, table_of_flows, notes_on_flows);
    };
  });
}

void add_past_events(CLI::App& show, Arguments& arguments, Action& action) {
  CLI::App* events = show.add_subcommand("events", "what happened lately (sluice watch: what happens)");
  events->add_option("--kind", arguments.kind, "only of this kind; * and ?");
  events->add_option("--service", arguments.service, "only of this service; * and ?");
  events->add_option("--last", arguments.listed, "only so many (of the 4096 that are kept)")
      ->check(CLI::Range(1, 4096));
  events->callback([&] {
    action = [&] {
      json request = {{"cmd", "show.events"}, {"kind", arguments.kind}, {"service", arguments.service}};
      if (arguments.listed != 0) request["last"] = arguments.listed;
      return ask(arguments, std::move(request), format_events);
    };
  });
}

}  // namespace

void add_show(CLI::App& app, Arguments& arguments, Action& action) {
  CLI::App* show =
      app.add_subcommand("show", "what is configured, and how it is doing")->require_subcommand(1);
  add_services(*show, arguments, action);
  add_backends(*show, arguments, action);
  add_dataplane(*show, arguments, action);
  add_flows(*show, arguments, action);
  add_past_events(*show, arguments, action);

  CLI::App* overrides = show->add_subcommand("overrides", "what was decided at run time, beside the files");
  overrides->callback([&] {
    action = [&] { return ask(arguments, {{"cmd", "show.overrides"}}, format_overrides); };
  });

  CLI::App* explain = app.add_subcommand("explain", "which backend a flow gets, and why");
  explain->add_option("PROTO", arguments.protocol, "tcp or udp")->required();
  explain->add_option("CLIENT:PORT", arguments.client, "IPv6 as [ADDRESS]:PORT")->required();
  explain->add_option("VIP:PORT", arguments.vip)->required();
  explain->add_option("--key", arguments.key, "of a service with keys: the packet's, in hex");
  explain->callback([&] {
    action = [&] {
      return ask(arguments,
                 {{"cmd", "explain"},
                  {"protocol", arguments.protocol},
                  {"client", arguments.client},
                  {"vip", arguments.vip},
                  {"key", arguments.key}},
                 format_explain);
    };
  });
}

}  // namespace sluice
