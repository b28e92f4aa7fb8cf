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

constexpr size_t kEchoHeaderBytes = 8;  // RFC 792, RFC 4443 4.1
constexpr size_t kCookieBytes = 8;
constexpr size_t kIpv4HeaderBytes = 20;
constexpr size_t kIpv6HeaderBytes = 40;
constexpr int kReceiveBufferBytes = 1 << 20;  // a thousand answers at once
constexpr uint32_t kPacketsPerTurn = 64;

uint8_t byte_at(std::string_view packet, size_t at) {
  return static_cast<uint8_t>(packet[at]);
}

uint16_t get16(std::string_view packet, size_t at) {
  return static_cast<uint16_t>(byte_at(packet, at) << 8 | byte_at(packet, at + 1));
}

void put16(std::string& packet, size_t at, uint16_t value) {
  packet[at] = static_cast<char>(value >> 8);
  packet[at + 1] = static_cast<char>(value);
}

// Behind the IPv4 header; empty when there is no whole one.
std::string_view ipv4_payload(std::string_view packet) {
  if (packet.size() < kIpv4HeaderBytes || byte_at(packet, 0) >> 4 != 4) return {};
  const size_t header_bytes = (byte_at(packet, 0) & 0xfu) * 4;
  if (header_bytes < kIpv4HeaderBytes || header_bytes > packet.size()) return {};
  return packet.substr(header_bytes);
}

// The ICMP packet that an error quotes.
std::string_view quoted(Family family, std::string_view icmp) {
  icmp.remove_prefix(kEchoHeaderBytes);
  if (family == Family::v4) return ipv4_payload(icmp);
  return icmp.size() < kIpv6HeaderBytes ? std::string_view() : icmp.substr(kIpv6HeaderBytes);
}

std::string reason_text(Family family, uint8_t type, uint8_t code) {
  if (type == (family == Family::v4 ? ICMP_TIME_EXCEEDED : ICMP6_TIME_EXCEEDED))
    return "time to live exceeded on the way (ICMP)";
  static constexpr std::pair<uint8_t, const char*> kV4[] = {
      {ICMP_NET_UNREACH, "network"}, {ICMP_HOST_UNREACH, "host"}, {ICMP_PROT_UNREACH, "protocol"}};
  static constexpr std::pair<uint8_t, const char*> kV6[] = {{ICMP6_DST_UNREACH_NOROUTE, "network"},
                                                            {ICMP6_DST_UNREACH_ADDR, "host"}};
  const auto named = [code](const auto& all) {
    for (const auto& [value, name] : all) {
      if (value == code) return std::string(name) + " unreachable (ICMP)";
    }
    return "unreachable (ICMP code " + std::to_string(code) + ")";
  };
  return family == Family::v4 ? named(kV4) : named(kV6);
}

void fill_numbers(EchoAnswer& answer, std::string_view echo) {
  answer.identifier = get16(echo, 4);
  answer.sequence = get16(echo, 6);
  if (echo.size() < kEchoHeaderBytes + kCookieBytes) return;
  uint64_t cookie = 0;
  std::memcpy(&cookie, echo.data() + kEchoHeaderBytes, sizeof cookie);
  answer.cookie = cookie;
}

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

EchoAnswer parse_echo_answer(Family family, std::string_view packet) {
  EchoAnswer answer;
  const bool v4 = family == Family::v4;
  const std::string_view icmp = v4 ? ipv4_payload(packet) : packet;
  if (icmp.size() < kEchoHeaderBytes) return answer;
  const uint8_t type = byte_at(icmp, 0);
  if (type == (v4 ? ICMP_ECHOREPLY : ICMP6_ECHO_REPLY)) {
    answer.kind = EchoAnswer::Kind::reply;
    fill_numbers(answer, icmp);
    return answer;
  }
  const bool is_error = type == (v4 ? ICMP_DEST_UNREACH : ICMP6_DST_UNREACH) ||
                        type == (v4 ? ICMP_TIME_EXCEEDED : ICMP6_TIME_EXCEEDED);
  const std::string_view request = is_error ? quoted(family, icmp) : std::string_view();
  if (request.size() < kEchoHeaderBytes || byte_at(request, 0) != (v4 ? ICMP_ECHO : ICMP6_ECHO_REQUEST))
    return answer;
  answer.kind = EchoAnswer::Kind::unreachable;
  answer.reason = reason_text(family, type, byte_at(icmp, 1));
  fill_numbers(answer, request);
  return answer;
}

std::string echo_request(Family family, uint16_t identifier, uint16_t sequence, uint64_t cookie) {
  std::string packet(kEchoHeaderBytes + kCookieBytes, '\0');
  packet[0] = static_cast<char>(family == Family::v4 ? ICMP_ECHO : ICMP6_ECHO_REQUEST);
  put16(packet, 4, identifier);
  put16(packet, 6, sequence);
  std::memcpy(packet.data() + kEchoHeaderBytes, &cookie, sizeof cookie);
  if (family == Family::v4) {
    uint32_t sum = 0;  // RFC 1071
    for (size_t at = 0; at < packet.size(); at += 2)
      sum += get16(packet, at);
    while (sum >> 16 != 0)
      sum = (sum & 0xffff) + (sum >> 16);
    put16(packet, 2, static_cast<uint16_t>(~sum));
  }
  return packet;
}

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
