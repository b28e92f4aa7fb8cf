#include "controlplane/probe.h"

#include <errno.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <algorithm>
#include <chrono>
#include <cstring>

#include <boost/asio/post.hpp>

#include "controlplane/probe_run.h"
#include "src/segment.h"

namespace sluice {
namespace {

namespace asio = boost::asio;

// How much later than its deadline a check may learn of its end and still blame the backend. Above this the
// loop stood still for so long (a big publish) that the backend's answer may lie unread, and with it those of
// all backends checked at that time: none of them may go down for it. Every timer is a little late, by the
// handlers before it: that is no stall, hence the floor.
uint64_t late_max_ns(std::chrono::nanoseconds timeout) {
  constexpr std::chrono::nanoseconds kFloor = std::chrono::milliseconds(20);
  return static_cast<uint64_t>(std::max(timeout / 2, kFloor).count());
}

// A detail goes into logs and tables, whatever a backend put into it.
std::string one_line(std::string text) {
  text.resize(std::min<size_t>(text.size(), kCheckDetailBytesMax));
  std::replace_if(
      text.begin(), text.end(), [](unsigned char c) { return c < 0x20 || c >= 0x7f; }, '?');
  return text;
}

RunPtr make_run(ProbeTools& tools, TargetPtr target, Probe::Handler done) {
  using Type = HealthConfig::Type;
  switch (target->config.type) {
    case Type::http:
    case Type::https:
      return make_http_run(tools, std::move(target), std::move(done));
    case Type::grpc:
      return make_grpc_run(tools, std::move(target), std::move(done));
    case Type::udp:
      return make_udp_run(tools, std::move(target), std::move(done));
    case Type::dns:
      return make_dns_run(tools, std::move(target), std::move(done));
    case Type::icmp:
      return make_ping_run(tools, std::move(target), std::move(done));
    case Type::command:
      return make_command_run(tools, std::move(target), std::move(done));
    case Type::none:
    case Type::tcp:
    case Type::tls:
      break;
  }
  return make_stream_run(tools, std::move(target), std::move(done));
}

template <typename Socket>
std::string open_and_prepare(Socket& socket, const CheckTarget& target) {
  error_code error;
  using Protocol = typename Socket::protocol_type;
  socket.open(target.address.is_v4() ? Protocol::v4() : Protocol::v6(), error);
  if (error) return error.message();
  if (std::string fault = set_origin(socket.native_handle(), target); !fault.empty()) return fault;
  if (!target.config.source.is_set()) return "";
  socket.bind(endpoint_of<Protocol>(target.config.source, 0), error);
  return error ? "source " + target.config.source.text() + ": " + error.message() : "";
}

}  // namespace

const char* text(CheckCode code) {
  static constexpr const char* kTexts[] = {"",       "L4OK",   "L4TOUT",  "L4CON",   "L6OK",
                                           "L6TOUT", "L6RSP",  "L7OK",    "L7TOUT",  "L7RSP",
                                           "L7STS",  "PROCOK", "PROCERR", "PROCTOUT"};
  static_assert(std::size(kTexts) == static_cast<size_t>(CheckCode::proctout) + 1);
  return kTexts[static_cast<size_t>(code)];
}

bool is_local_shortage(const error_code& error) {
  namespace errc = boost::system::errc;
  return error == errc::too_many_files_open || error == errc::too_many_files_open_in_system ||
         error == errc::no_buffer_space || error == errc::not_enough_memory ||
         error == errc::address_not_available;
}

std::string set_origin(int descriptor, const CheckTarget& target) {
  if (target.mark != 0 && setsockopt(descriptor, SOL_SOCKET, SO_MARK, &target.mark, sizeof target.mark) != 0)
    return std::string("cannot mark packets: ") + std::strerror(errno) + " (sluiced needs CAP_NET_ADMIN)";
  // The port is chosen by the connect, which knows the destination: more than one check can use each.
  const int on = 1;
  if (target.config.source.is_set())
    setsockopt(descriptor, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on);
  return "";
}

std::string prepare(asio::ip::tcp::socket& socket, const CheckTarget& target) {
  return open_and_prepare(socket, target);
}
std::string prepare(asio::ip::udp::socket& socket, const CheckTarget& target) {
  return open_and_prepare(socket, target);
}

// ---- ProbeRun ---------------------------------------------------------------------------------------------

ProbeRun::ProbeRun(ProbeTools& tools, std::shared_ptr<const CheckTarget> target, Probe::Handler done)
    : tools_(tools),
      target_(std::move(target)),
      done_(std::move(done)),
      timer_(tools.io()),
      started_ns_(monotonic_ns()) {}

void ProbeRun::start() {
  starting_ = true;
  if (!target_->impossible.empty()) {
    finish(CheckCode::none, target_->impossible);
    starting_ = false;
    return;
  }
  timer_.expires_after(config().timeout);
  timer_.async_wait([self = shared_from_this()](const error_code& error) {
    if (!error && !self->over()) self->deadline();
  });
  begin();
  starting_ = false;
}

void ProbeRun::cancel() {
  done_ = nullptr;
  if (over_) return;
  over_ = true;
  timer_.cancel();
  close();
}

void ProbeRun::deadline() {
  const std::chrono::nanoseconds timeout = config().timeout;
  const uint64_t deadline_ns = started_ns_ + static_cast<uint64_t>(timeout.count());
  if (monotonic_ns() > deadline_ns + late_max_ns(timeout)) return finish(CheckCode::none, "sluiced was busy");
  Verdict verdict = when_late();
  finish(verdict.code, std::move(verdict.detail));
}

void ProbeRun::finish(CheckCode code, std::string detail) {
  if (over_) return;
  over_ = true;
  timer_.cancel();
  close();
  if (!starting_) return report(code, std::move(detail));
  boost::asio::post(tools_.io(), [self = shared_from_this(), code, detail = std::move(detail)]() mutable {
    self->report(code, std::move(detail));
  });
}

void ProbeRun::report(CheckCode code, std::string detail) {
  if (!done_) return;
  const Probe::Handler done = std::move(done_);
  done_ = nullptr;
  done({code, one_line(std::move(detail)), (monotonic_ns() - started_ns_) / 1000});
}

// ---- Probe ------------------------------------------------------------------------------------------------

std::unique_ptr<Probe> Probe::start(ProbeTools& tools, std::shared_ptr<const CheckTarget> target,
                                    Handler done) {
  const RunPtr run = make_run(tools, std::move(target), std::move(done));
  run->start();
  return std::unique_ptr<Probe>(new Probe(run));
}

Probe::~Probe() {
  run_->cancel();
}

}  // namespace sluice
