// Arbitrary bytes as what a backend answers to a check: DNS, gRPC health, ICMP. Each parser says something
// that it may say, and reads nothing else than the input (the sanitizers watch). The first byte chooses.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>

#include "controlplane/dns_message.h"
#include "controlplane/echo_message.h"
#include "controlplane/grpc_health.h"

namespace sluice {
namespace {

void must(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "invariant broken: %s\n", what);
  std::abort();
}

void dns(std::string_view message) {
  static const std::string labels = *dns_labels("www.example.net");
  const uint16_t id = message.size() < 2 ? 0
                                         : static_cast<uint16_t>(static_cast<unsigned char>(message[0]) << 8 |
                                                                 static_cast<unsigned char>(message[1]));
  const DnsAnswer answer = parse_dns_answer(message, id, labels, kDnsRecords[0].second);
  must(answer.rcode <= 15, "an rcode has four bits");
  must(!dns_rcode_text(answer.rcode).empty(), "each rcode has a text");
  const DnsAnswer other =
      parse_dns_answer(message, static_cast<uint16_t>(id + 1), labels, kDnsRecords[0].second);
  must(other.kind == DnsAnswer::Kind::not_ours, "another id is somebody else's");
  const std::string name(message.substr(0, 300));
  if (const auto written = dns_labels(name))
    must(written->size() <= 255 && written->back() == 0, "a name ends");
}

void grpc(std::string_view data) {
  if (const auto status = parse_grpc_health_answer(data))
    must(!text(*status).empty(), "each status has a text");
}

void icmp(Family family, std::string_view packet) {
  const EchoAnswer answer = parse_echo_answer(family, packet);
  must(answer.kind != EchoAnswer::Kind::unreachable || !answer.reason.empty(), "an error has a reason");
  must(answer.kind != EchoAnswer::Kind::other || !answer.cookie, "what is not ours says nothing");
}

}  // namespace
}  // namespace sluice

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace sluice;
  if (size == 0) return 0;
  const std::string_view input(reinterpret_cast<const char*>(data) + 1, size - 1);
  switch (data[0] % 4) {
    case 0:
      dns(input);
      break;
    case 1:
      grpc(input);
      break;
    case 2:
      icmp(Family::v4, input);
      break;
    default:
      icmp(Family::v6, input);
      break;
  }
  return 0;
}
