// ICMP echo requests of all checks, through one raw socket a family, and whose the answers are.
//
// One socket, because each raw ICMP socket of a host gets a copy of every ICMP packet that comes in.
// An answer is ours when its identifier and sequence number are of a request under way and the 64 bits behind
// them are what that request carried, and it comes from where that went; an ICMP error when it quotes them.
// Owner: sluiced's one thread. At most 65,536 requests at a time.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>

#include <boost/asio/io_context.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>

#include "controlplane/echo_message.h"
#include "src/address.h"

namespace sluice {

class Pinger {
 public:
  enum class Outcome : uint8_t { answered, unreachable, impossible };  // impossible: this host cannot
  // At most once, from the loop; not after forget().
  using Handler = std::function<void(Outcome, const std::string& detail)>;
  explicit Pinger(boost::asio::io_context& io);

  struct Request {
    IpAddress to;
    IpAddress source;  // unset: the kernel's choice
    uint32_t mark = 0;
  };
  // The number to forget() it by; or nothing, and why in `fault`: `unreachable` or `impossible`, as it says.
  struct Fault {
    Outcome outcome = Outcome::impossible;
    std::string detail;
  };
  std::optional<uint16_t> send(const Request& request, uint64_t cookie, Handler handler, Fault& fault);
  void forget(uint16_t number);

 private:
  struct Pending {
    IpAddress to;
    uint64_t cookie;
    Handler handler;
  };
  struct Socket {
    explicit Socket(boost::asio::io_context& io) : descriptor(io) {}
    boost::asio::posix::stream_descriptor descriptor;
  };

  Socket* socket_of(Family family, std::string& fault);
  void wait(Family family);
  void receive(Family family);
  void took(const EchoAnswer& answer, const IpAddress& from);

  boost::asio::io_context& io_;
  const uint16_t identifier_;
  uint16_t last_number_ = 0;
  std::unique_ptr<Socket> v4_, v6_;
  std::unordered_map<uint16_t, Pending> pending_;  // by sequence number
};

}  // namespace sluice
