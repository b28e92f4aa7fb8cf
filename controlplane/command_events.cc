// watch: every event from now on, as lines, until the client goes. show.events: those of the past.
//
// A reader that is too slow is cut off (Reply::part): it gets what was queued, then an answer that says how
// many it missed since. The others, and sluiced, do not notice.
#include <array>

#include <fmt/format.h>

#include "controlplane/command_parts.h"
#include "controlplane/message.h"

namespace sluice {
namespace {

using nlohmann::json;

class Watch : public std::enable_shared_from_this<Watch> {
 public:
  Watch(Events& events, const Reply& reply, std::string kind, std::string service)
      : events_(events), reply_(reply), kind_(std::move(kind)), service_(std::move(service)) {}

  // The events own it from here on.
  void begin() {
    listener_ = events_.listen([self = shared_from_this()](const Event& event) { self->on_event(event); },
                               /*with_debug=*/true);
    reply_.on_close([weak = weak_from_this()] {
      if (const auto self = weak.lock()) self->events_.unlisten(self->listener_);
    });
    reply_.part({{"v", kProtocolVersion}, {"kind", "watching"}, {"after", events_.last_number()}});
  }

 private:
  void on_event(const Event& event) {
    if (!matches(kind_, event.kind) || !(service_.empty() || matches(service_, event.service))) return;
    if (missed_ == 0) {
      json line = to_json(event);
      line["v"] = kProtocolVersion;
      if (reply_.part(line)) return;
      reply_.after_sent([self = shared_from_this()] { self->cut_off(); });
    }
    missed_++;
  }

  void cut_off() {
    const auto self = shared_from_this();  // unlisten lets go of it
    events_.unlisten(listener_);
    json response = error_response(
        kCodeTooSlow,
        {fmt::format("you read too slowly: {} events were missed", missed_), "sluice show events"});
    response["missed"] = missed_;
    reply_(response);
  }

  Events& events_;
  const Reply reply_;
  const std::string kind_;
  const std::string service_;
  uint64_t listener_ = 0;
  uint64_t missed_ = 0;
};

void watch(Daemon& daemon, const json& request, uint64_t, const Reply& reply) {
  const std::string kind = text_of(request, "kind").value_or("*");
  std::make_shared<Watch>(daemon.events(), reply, kind.empty() ? "*" : kind,
                          text_of(request, "service").value_or(""))
      ->begin();
}

// The newest `last` of those that match, in their order.
void show_events(Daemon& daemon, const json& request, uint64_t, const Reply& reply) {
  const std::string kind = text_of(request, "kind").value_or("");
  const std::string service = text_of(request, "service").value_or("");
  const auto asked = request.find("last");
  const uint64_t most = asked != request.end() ? asked->get<uint64_t>() : Events::kEventsKept;
  std::vector<const Event*> chosen;
  const std::deque<Event>& kept = daemon.events().kept();
  for (auto event = kept.rbegin(); event != kept.rend() && chosen.size() < most; ++event) {
    if ((kind.empty() || matches(kind, event->kind)) && (service.empty() || matches(service, event->service)))
      chosen.push_back(&*event);
  }
  json response = ok_response();
  response["last_number"] = daemon.events().last_number();
  response["oldest_kept"] = kept.empty() ? 0 : kept.front().number;
  response["events"] = json::array();
  for (auto event = chosen.rbegin(); event != chosen.rend(); ++event)
    response["events"].push_back(to_json(**event));
  reply(response);
}

}  // namespace

std::span<const Command> event_commands() {
  static constexpr std::array kCommands = {
      Command{"watch", "kind service", watch, Role::read},
      Command{"show.events", "kind service last", show_events, Role::read},
  };
  return kCommands;
}

}  // namespace sluice
