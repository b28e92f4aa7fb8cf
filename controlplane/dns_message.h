// What a DNS check needs of the protocol (RFC 1035 4.1): a query of one question, and whether an answer is
// one to it.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

namespace sluice {

inline constexpr std::array<std::pair<std::string_view, uint16_t>, 10> kDnsRecords{{{"A", 1},
                                                                                    {"NS", 2},
                                                                                    {"CNAME", 5},
                                                                                    {"SOA", 6},
                                                                                    {"PTR", 12},
                                                                                    {"MX", 15},
                                                                                    {"TXT", 16},
                                                                                    {"AAAA", 28},
                                                                                    {"SRV", 33},
                                                                                    {"HTTPS", 65}}};
inline constexpr std::array<std::string_view, 11> kDnsRcodes{"NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN",
                                                             "NOTIMP",  "REFUSED", "YXDOMAIN", "YXRRSET",
                                                             "NXRRSET", "NOTAUTH", "NOTZONE"};

// A name as text ("example.net", with or without the last dot; "." is the root) in labels; nothing when it is
// none.
std::optional<std::string> dns_labels(std::string_view name);

// The query for `labels`, with recursion desired.
std::string dns_query(uint16_t id, std::string_view labels, uint16_t record);

struct DnsAnswer {
  enum class Kind : uint8_t { not_ours, malformed, answer };
  Kind kind = Kind::not_ours;  // not_ours: another id, or another question: somebody else's, or a guess
  uint8_t rcode = 0;
  uint16_t answers = 0;
};
// Reads header and question. Records are counted by the header's word.
DnsAnswer parse_dns_answer(std::string_view message, uint16_t id, std::string_view labels, uint16_t record);

std::string dns_rcode_text(uint8_t rcode);  // "NXDOMAIN", "rcode 12"

}  // namespace sluice
