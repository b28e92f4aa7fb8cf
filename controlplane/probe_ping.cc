// ICMP echo checks.
#include <optional>

#include "controlplane/probe_run.h"

namespace sluice {
namespace {

class PingRun : public ProbeRun {
 public:
  PingRun(ProbeTools& tools, TargetPtr target, Probe::Handler done)
      : ProbeRun(tools, std::move(target), std::move(done)) {}

 protected:
  void begin() override {
    Pinger::Fault fault;
    number_ = tools().pinger().send(
        {target().address, config().source, target().mark}, tools().random(),
        [me = self<PingRun>()](Pinger::Outcome outcome, const std::string& detail) {
          me->number_.reset();
          if (!me->over()) me->ended(outcome, detail);
        },
        fault);
    if (!number_) ended(fault.outcome, fault.detail);
  }

  void close() override {
    if (number_) tools().pinger().forget(*number_);
    number_.reset();
  }

  Verdict when_late() const override { return {CheckCode::l4tout, "no echo reply"}; }

 private:
  void ended(Pinger::Outcome outcome, const std::string& detail) {
    switch (outcome) {
      case Pinger::Outcome::answered:
        return finish(CheckCode::l4ok, "");
      case Pinger::Outcome::unreachable:
        return finish(CheckCode::l4con, detail);
      case Pinger::Outcome::impossible:
        return finish(CheckCode::none, detail);
    }
  }

  std::optional<uint16_t> number_;  // of the request, while it is under way
};

}  // namespace

RunPtr make_ping_run(ProbeTools& tools, TargetPtr target, Probe::Handler done) {
  return std::make_shared<PingRun>(tools, std::move(target), std::move(done));
}

}  // namespace sluice
