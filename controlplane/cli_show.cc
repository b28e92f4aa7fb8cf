// sluice show ..., sluice explain: what there is, and why.
#include "controlplane/cli.h"
#include "controlplane/cli_format.h"

namespace sluice {

using nlohmann::json;

void add_show(CLI::App& app, Arguments& arguments, Action& action) {
  CLI::App* show =
      app.add_subcommand("show", "what is configured, and how it is doing")->require_subcommand(1);
  CLI::App* services = show->add_subcommand("services", "VIPs and how many backends they have");
  services->add_flag("--stats", arguments.with_stats, "counters, too");
  services->callback([&] {
    action = [&] {
      return ask(arguments, {{"cmd", "show.services"}},
                 [&](const json& r) { return format_services(r, arguments.with_stats); });
    };
  });
  CLI::App* backends =
      show->add_subcommand("backends", "state, health, weight, share and next hop of each backend");
  backends->add_option("SERVICE", arguments.service, "of this service only");
  backends->add_flag("--stats", arguments.with_stats, "counters, too");
  backends->callback([&] {
    action = [&] {
      return ask(arguments, {{"cmd", "show.backends"}, {"service", arguments.service}},
                 [&](const json& r) { return format_backends(r, arguments.with_stats); });
    };
  });
  CLI::App* dataplane = show->add_subcommand("dataplane", "generation, ports, workers, drops by reason");
  dataplane->add_flag("--all", arguments.all_reasons, "reasons that never occurred, too");
  dataplane->callback([&] {
    action = [&] {
      return ask(arguments, {{"cmd", "show.dataplane"}},
                 [&](const json& r) { return format_dataplane(r, arguments.all_reasons); });
    };
  });

  CLI::App* overrides = show->add_subcommand("overrides", "what was decided at run time, beside the files");
  overrides->callback([&] {
    action = [&] { return ask(arguments, {{"cmd", "show.overrides"}}, format_overrides); };
  });

  CLI::App* explain = app.add_subcommand("explain", "which backend a flow gets, and why");
  explain->add_option("PROTO", arguments.protocol, "tcp or udp")->required();
  explain->add_option("CLIENT:PORT", arguments.client, "IPv6 as [ADDRESS]:PORT")->required();
  explain->add_option("VIP:PORT", arguments.vip)->required();
  explain->callback([&] {
    action = [&] {
      return ask(arguments,
                 {{"cmd", "explain"},
                  {"protocol", arguments.protocol},
                  {"client", arguments.client},
                  {"vip", arguments.vip}},
                 format_explain);
    };
  });
}

}  // namespace sluice
