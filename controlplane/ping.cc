#include "controlplane/ping.h"

#include <errno.h>
#include <linux/icmp.h>
#include <netinet/icmp6.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <cstring>
#include <random>
#include <utility>

namespace sluice {
namespace {

constexpr int kReceiveBufferBytes = 1 << 20;  // a thousand answers at once
constexpr uint32_t kPacketsPerTurn = 64;

IpAddress address_of(const sockaddr_storage& from) {
  if (from.ss_family == AF_INET)
    return IpAddress::v4(reinterpret_cast<const sockaddr_in&>(from).sin_addr.s_addr);
  return IpAddress::v6(&reinterpret_cast<const sockaddr_in6&>(from).sin6_addr);
}

socklen_t to_sockaddr(const IpAddress& address, sockaddr_storage& out) {
  out = {};
  if (address.is_v4()) {
    auto& v4 = reinterpret_cast<sockaddr_in&>(out);
    v4.sin_family = AF_INET;
    v4.sin_addr.s_addr = address.v4_network_order();
    return sizeof v4;
  }
  auto& v6 = reinterpret_cast<sockaddr_in6&>(out);
  v6.sin6_family = AF_INET6;
  std::memcpy(&v6.sin6_addr, address.bytes.data(), address.bytes.size());
  return sizeof v6;
}

// What sendmsg is to know of one packet beside its destination.
class Ancillary {
 public:
  explicit Ancillary(msghdr& message) : message_(message) {
    message_.msg_control = buffer_;
    message_.msg_controllen = sizeof buffer_;
    next_ = CMSG_FIRSTHDR(&message_);
  }
  template <typename Value>
  void add(int level, int type, const Value& value) {
    next_->cmsg_level = level;
    next_->cmsg_type = type;
    next_->cmsg_len = CMSG_LEN(sizeof value);
    std::memcpy(CMSG_DATA(next_), &value, sizeof value);
    used_ += CMSG_SPACE(sizeof value);
    next_ = reinterpret_cast<cmsghdr*>(buffer_ + used_);
  }
  void finish() {
    message_.msg_controllen = used_;
    if (used_ == 0) message_.msg_control = nullptr;
  }

 private:
  msghdr& message_;
  alignas(cmsghdr) char buffer_[128] = {};
  cmsghdr* next_;
  size_t used_ = 0;
};

void add_source(Ancillary& ancillary, const IpAddress& source) {
  if (!source.is_set()) return;
  if (source.is_v4()) {
    in_pktinfo info = {};
    info.ipi_spec_dst.s_addr = source.v4_network_order();
    ancillary.add(IPPROTO_IP, IP_PKTINFO, info);
  } else {
    in6_pktinfo info = {};
    std::memcpy(&info.ipi6_addr, source.bytes.data(), source.bytes.size());
    ancillary.add(IPPROTO_IPV6, IPV6_PKTINFO, info);
  }
}

// The kernel hands us echo replies and errors only.
void set_filter(int descriptor, Family family) {
  if (family == Family::v4) {
    icmp_filter filter = {~(1u << ICMP_ECHOREPLY | 1u << ICMP_DEST_UNREACH | 1u << ICMP_TIME_EXCEEDED)};
    setsockopt(descriptor, SOL_RAW, ICMP_FILTER, &filter, sizeof filter);
  } else {
    icmp6_filter filter;
    ICMP6_FILTER_SETBLOCKALL(&filter);
    ICMP6_FILTER_SETPASS(ICMP6_ECHO_REPLY, &filter);
    ICMP6_FILTER_SETPASS(ICMP6_DST_UNREACH, &filter);
    ICMP6_FILTER_SETPASS(ICMP6_TIME_EXCEEDED, &filter);
    setsockopt(descriptor, IPPROTO_ICMPV6, ICMP6_FILTER, &filter, sizeof filter);
  }
}

}  // namespace

Pinger::Pinger(boost::asio::io_context& io)
    : io_(io), identifier_(static_cast<uint16_t>(std::random_device()())) {}

Pinger::Socket* Pinger::socket_of(Family family, std::string& fault) {
  std::unique_ptr<Socket>& known = family == Family::v4 ? v4_ : v6_;
  if (known) return known.get();
  const bool v4 = family == Family::v4;
  const int descriptor = socket(v4 ? AF_INET : AF_INET6, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC,
                                v4 ? static_cast<int>(IPPROTO_ICMP) : static_cast<int>(IPPROTO_ICMPV6));
  if (descriptor < 0) {
    fault = std::string("no raw ICMP socket: ") + std::strerror(errno) +
            (errno == EPERM ? " (sluiced needs CAP_NET_RAW)" : "");
    return nullptr;
  }
  set_filter(descriptor, family);
  setsockopt(descriptor, SOL_SOCKET, SO_RCVBUF, &kReceiveBufferBytes, sizeof kReceiveBufferBytes);
  known = std::make_unique<Socket>(io_);
  known->descriptor.assign(descriptor);
  wait(family);
  return known.get();
}

std::optional<uint16_t> Pinger::send(const Request& request, uint64_t cookie, Handler handler, Fault& fault) {
  if (pending_.size() > UINT16_MAX) {
    fault.detail = "too many echo requests at a time";
    return std::nullopt;
  }
  const Family family = request.to.family();
  Socket* socket = socket_of(family, fault.detail);
  if (socket == nullptr) return std::nullopt;
  do {
    last_number_++;
  } while (pending_.count(last_number_) != 0);

  const std::string packet = echo_request(family, identifier_, last_number_, cookie);
  iovec data = {const_cast<char*>(packet.data()), packet.size()};
  sockaddr_storage to;
  msghdr message = {};
  message.msg_namelen = to_sockaddr(request.to, to);
  message.msg_name = &to;
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  Ancillary ancillary(message);
  add_source(ancillary, request.source);
  if (request.mark != 0) ancillary.add(SOL_SOCKET, SO_MARK, request.mark);
  ancillary.finish();
  if (sendmsg(socket->descriptor.native_handle(), &message, 0) < 0) {
    const bool of_the_way = errno == EHOSTUNREACH || errno == ENETUNREACH || errno == EHOSTDOWN;
    fault = {of_the_way ? Outcome::unreachable : Outcome::impossible, std::strerror(errno)};
    return std::nullopt;
  }
  pending_.emplace(last_number_, Pending{request.to, cookie, std::move(handler)});
  return last_number_;
}

void Pinger::forget(uint16_t number) {
  pending_.erase(number);
}

void Pinger::wait(Family family) {
  Socket& socket = *(family == Family::v4 ? v4_ : v6_);
  socket.descriptor.async_wait(boost::asio::posix::stream_descriptor::wait_read,
                               [this, family](const boost::system::error_code& error) {
                                 if (error) return;
                                 receive(family);
                                 wait(family);
                               });
}

void Pinger::receive(Family family) {
  const int descriptor = (family == Family::v4 ? v4_ : v6_)->descriptor.native_handle();
  for (uint32_t i = 0; i < kPacketsPerTurn; i++) {
    char packet[2048];
    sockaddr_storage from = {};
    socklen_t from_bytes = sizeof from;
    const ssize_t bytes =
        recvfrom(descriptor, packet, sizeof packet, 0, reinterpret_cast<sockaddr*>(&from), &from_bytes);
    if (bytes < 0) return;
    took(parse_echo_answer(family, {packet, static_cast<size_t>(bytes)}), address_of(from));
  }
}

void Pinger::took(const EchoAnswer& answer, const IpAddress& from) {
  if (answer.kind == EchoAnswer::Kind::other || answer.identifier != identifier_) return;
  const auto found = pending_.find(answer.sequence);
  if (found == pending_.end()) return;
  const bool is_reply = answer.kind == EchoAnswer::Kind::reply;
  if (is_reply && (from != found->second.to || answer.cookie != found->second.cookie)) return;
  if (answer.cookie && *answer.cookie != found->second.cookie) return;
  const Handler handler = std::move(found->second.handler);
  pending_.erase(found);
  handler(is_reply ? Outcome::answered : Outcome::unreachable, answer.reason);
}

}  // namespace sluice
