// UDP and DNS checks: one datagram there, and what comes back. The socket is connected: the kernel takes
// nothing from others, and tells of ICMP errors.
#include <array>

#include <boost/asio/buffer.hpp>

#include "controlplane/dns_message.h"
#include "controlplane/probe_run.h"

namespace sluice {
namespace {

namespace asio = boost::asio;
using asio::ip::udp;

class DatagramRun : public ProbeRun {
 public:
  DatagramRun(ProbeTools& tools, TargetPtr target, Probe::Handler done)
      : ProbeRun(tools, std::move(target), std::move(done)), socket_(this->tools().io()) {}

 protected:
  void begin() override {
    if (std::string fault = prepare(socket_, target()); !fault.empty())
      return finish(CheckCode::none, std::move(fault));
    error_code error;
    socket_.connect(endpoint_of<udp>(target().address, target().port), error);
    if (!error) {
      question_ = question();
      socket_.send(asio::buffer(question_), 0, error);
    }
    if (error) return failed(error);
    receive();
  }

  void close() override {
    error_code ignored;
    socket_.close(ignored);
  }

  virtual std::string question() = 0;
  // Judges one datagram, or leaves it be and waits for the next.
  virtual void answered(std::string_view answer) = 0;

 private:
  void receive() {
    socket_.async_receive(asio::buffer(input_),
                          [me = self<DatagramRun>()](const error_code& error, size_t bytes) {
                            if (me->over()) return;
                            if (error) return me->failed(error);
                            me->answered({me->input_.data(), bytes});
                            if (!me->over()) me->receive();
                          });
  }

  void failed(const error_code& error) {
    if (is_local_shortage(error)) return finish(CheckCode::none, error.message());
    finish(CheckCode::l4con, error == asio::error::connection_refused ? "port closed (ICMP port unreachable)"
                                                                      : error.message());
  }

  udp::socket socket_;
  std::string question_;
  std::array<char, 4096> input_;
};

class UdpRun : public DatagramRun {
 public:
  using DatagramRun::DatagramRun;

 protected:
  std::string question() override { return config().send; }
  void answered(std::string_view answer) override {
    const std::string size = std::to_string(answer.size()) + " bytes";
    if (answer.find(config().expect) != std::string_view::npos) return finish(CheckCode::l7ok, size);
    finish(CheckCode::l7rsp, size + ", but not what is expected");
  }
  Verdict when_late() const override {
    if (config().expect.empty()) return {CheckCode::l4ok, "no answer, and no ICMP error"};
    return {CheckCode::l7tout, "no answer"};
  }
};

class DnsRun : public DatagramRun {
 public:
  using DatagramRun::DatagramRun;

 protected:
  std::string question() override {
    id_ = static_cast<uint16_t>(tools().random());
    labels_ = dns_labels(config().query).value_or(std::string(1, '\0'));
    return dns_query(id_, labels_, config().record);
  }
  void answered(std::string_view message) override {
    const DnsAnswer answer = parse_dns_answer(message, id_, labels_, config().record);
    if (answer.kind == DnsAnswer::Kind::not_ours) return;
    if (answer.kind == DnsAnswer::Kind::malformed) return finish(CheckCode::l7rsp, "not a DNS answer");
    const bool expected = config().rcode == kAnyRcode || config().rcode == answer.rcode;
    finish(expected ? CheckCode::l7ok : CheckCode::l7sts,
           dns_rcode_text(answer.rcode) + ", " + std::to_string(answer.answers) + " answers");
  }
  Verdict when_late() const override { return {CheckCode::l7tout, "no DNS answer"}; }

 private:
  uint16_t id_ = 0;
  std::string labels_;
};

}  // namespace

RunPtr make_udp_run(ProbeTools& tools, TargetPtr target, Probe::Handler done) {
  return std::make_shared<UdpRun>(tools, std::move(target), std::move(done));
}
RunPtr make_dns_run(ProbeTools& tools, TargetPtr target, Probe::Handler done) {
  return std::make_shared<DnsRun>(tools, std::move(target), std::move(done));
}

}  // namespace sluice
