#include "controlplane/dns_message.h"

#include <algorithm>

namespace sluice {
namespace {

constexpr size_t kHeaderBytes = 12;
constexpr size_t kLabelBytesMax = 63;  // RFC 1035 2.3.4, as is the next
constexpr size_t kNameBytesMax = 255;
constexpr uint16_t kRecursionDesired = 1 << 8;
constexpr uint16_t kResponse = 1 << 15;
constexpr uint16_t kClassInternet = 1;

void put16(std::string& out, uint16_t value) {
  out += static_cast<char>(value >> 8);
  out += static_cast<char>(value);
}

uint16_t get16(std::string_view in, size_t at) {
  return static_cast<uint16_t>(static_cast<unsigned char>(in[at]) << 8 |
                               static_cast<unsigned char>(in[at + 1]));
}

char lower(char c) {
  return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
}

// Names are equal whatever their case (RFC 4343). Length bytes are below 'A', so they are compared as they
// are.
bool same_name(std::string_view a, std::string_view b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [](char x, char y) { return lower(x) == lower(y); });
}

}  // namespace

std::optional<std::string> dns_labels(std::string_view name) {
  if (name.ends_with('.')) name.remove_suffix(1);
  std::string labels;
  while (!name.empty()) {
    const std::string_view label = name.substr(0, name.find('.'));
    if (label.empty() || label.size() > kLabelBytesMax) return std::nullopt;
    const bool printable =
        std::all_of(label.begin(), label.end(), [](char c) { return c > 0x20 && c < 0x7f; });
    if (!printable) return std::nullopt;
    labels += static_cast<char>(label.size());
    labels += label;
    if (label.size() == name.size()) break;
    name.remove_prefix(label.size() + 1);
    if (name.empty()) return std::nullopt;  // two dots at the end
  }
  labels += '\0';
  if (labels.size() > kNameBytesMax) return std::nullopt;
  return labels;
}

std::string dns_query(uint16_t id, std::string_view labels, uint16_t record) {
  std::string query;
  put16(query, id);
  put16(query, kRecursionDesired);
  for (const uint16_t count : {1, 0, 0, 0})
    put16(query, count);
  query += labels;
  put16(query, record);
  put16(query, kClassInternet);
  return query;
}

DnsAnswer parse_dns_answer(std::string_view message, uint16_t id, std::string_view labels, uint16_t record) {
  DnsAnswer answer;
  if (message.size() < 2 || get16(message, 0) != id) return answer;
  answer.kind = DnsAnswer::Kind::malformed;
  if (message.size() < kHeaderBytes) return answer;
  const uint16_t flags = get16(message, 2);
  if ((flags & kResponse) == 0) return answer;
  answer.rcode = flags & 0xf;
  answer.answers = get16(message, 6);
  const uint16_t questions = get16(message, 4);
  // A server that understood nothing of the question may leave it out.
  if (questions == 0 && answer.rcode != 0) {
    answer.kind = DnsAnswer::Kind::answer;
    return answer;
  }
  if (questions != 1 || message.size() < kHeaderBytes + labels.size() + 4) return answer;
  const size_t behind_name = kHeaderBytes + labels.size();
  const bool ours = same_name(message.substr(kHeaderBytes, labels.size()), labels) &&
                    get16(message, behind_name) == record &&
                    get16(message, behind_name + 2) == kClassInternet;
  answer.kind = ours ? DnsAnswer::Kind::answer : DnsAnswer::Kind::not_ours;
  return answer;
}

std::string dns_rcode_text(uint8_t rcode) {
  return rcode < kDnsRcodes.size() ? std::string(kDnsRcodes[rcode]) : "rcode " + std::to_string(rcode);
}

}  // namespace sluice
