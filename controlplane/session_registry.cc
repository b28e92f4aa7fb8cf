#include "controlplane/session_registry.h"

#include <array>
#include <charconv>
#include <span>

#include <fmt/format.h>

#include "controlplane/escaped.h"
#include "controlplane/message.h"
#include "src/session_key.h"

namespace sluice {

using nlohmann::json;

namespace {

Result<uint64_t> hash_of_bytes(std::string_view key, const ServiceRecord& service, const HashSecret& secret) {
  const uint32_t count = service.key_bytes;
  std::array<uint8_t, limits::kKeyBytesMax> bytes{};
  bool is_hex = key.size() == size_t{2} * count && count <= bytes.size();
  for (uint32_t i = 0; is_hex && i < count; i++) {
    const char* const digits = key.data() + size_t{2} * i;
    const auto [end, fault] = std::from_chars(digits, digits + 2, bytes[i], 16);
    is_hex = fault == std::errc() && end == digits + 2;
  }
  if (!is_hex) {
    return Error{fmt::format("key '{}' is not {} bytes in hex", quotable(key), count),
                 fmt::format("{} digits, as they stand in the packet: {:0>{}}", 2 * count, "1f", 2 * count)};
  }
  return session_hash(payload_key(std::span(bytes).first(count), service), secret);
}

}  // namespace

Result<uint64_t> session_of_key(std::string_view key, const ServiceRecord& service,
                                const HashSecret& secret) {
  if ((service.flags & ServiceRecord::kByKey) != 0) return hash_of_bytes(key, service, secret);
  const std::optional<IpAddress> client = IpAddress::parse(key);
  if (!client)
    return Error{fmt::format("'{}' is not a client's address", quotable(key)), "198.51.100.7 or 2001:db8::7"};
  if (client->family() != service.vip.family()) {
    return Error{fmt::format("the service's VIP {} and client {} are of different IP versions",
                             service.vip.text(), client->text()),
                 ""};
  }
  return client_session(*client, service, secret);
}

// No more than a few bits of the secret: who has the text does not have that.
std::string fingerprint(const HashSecret& secret) {
  return fmt::format("{:08x}", static_cast<uint32_t>(XXH3_64bits(secret.bytes.data(), secret.bytes.size())));
}

std::string fingerprint(const ServiceRecord& service) {
  struct {
    uint64_t salt;
    uint16_t key_offset;
    uint8_t key_bytes;
    uint8_t client_bits[2];
    uint8_t zero[3];
  } naming = {service.session_salt,
              service.key_offset,
              service.key_bytes,
              {service.client_bits[0], service.client_bits[1]},
              {}};
  static_assert(sizeof naming == 16);
  return fmt::format("{:016x}", XXH3_64bits(&naming, sizeof naming));
}

json report_session(const SessionSeen& seen, const TablesView& tables, uint32_t now_s) {
  const SessionValue& session = seen.session;
  const BackendCold& cold = tables.backend_cold(session.backend);
  json out = {{"service", tables.service_cold(cold.service).name},
              {"backend", cold.name},
              {"hash", fmt::format("{:016x}", seen.hash)},
              {"kind", is_pinned(session.kind) ? "pinned" : "learnt"},
              {"age_s", age_s(session, now_s)}};
  if (!is_pinned(session.kind)) out["idle_s"] = since_s(session.last_s, now_s);
  if (session.kind == SessionKind::pinned_until) out["left_s"] = since_s(now_s, session.last_s);
  return out;
}

std::string session_text(const SessionValue& session, const TablesView& tables, uint32_t now_s) {
  const std::string name = tables.backend_cold(session.backend).name;
  switch (session.kind) {
    case SessionKind::pinned:
      return name + " (pinned)";
    case SessionKind::pinned_until:
      return fmt::format("{} (pinned for {} s)", name, since_s(now_s, session.last_s));
    default:
      return name + " (learnt)";
  }
}

bool makes_one_more(const CommandEntry& command, const std::optional<SessionValue>& there) {
  if (!there) return true;
  const bool stays = command.kind == CommandKind::import &&
                     (is_pinned(there->kind) || command.session == SessionKind::learnt);
  return !stays && there->backend != command.backend;
}

uint32_t session_now_s() {
  return static_cast<uint32_t>(monotonic_ns() / 1'000'000'000);
}

SessionRegistry::SessionRegistry(Segment flows)
    : flows_(std::move(flows)),
      lines_(session_lines(flows_.base())),
      count_(flows_.as<const FlowsHeader>().session_lines) {}

Result<SessionRegistry> SessionRegistry::open(const std::string& directory, uint64_t tables_incarnation) {
  Result<Segment> flows = Segment::open_reader(directory, kFlowsSegment);
  const Error none{"there are no sessions of this configuration: no data plane has run with it",
                   "sluice show workers"};
  if (!flows || !holds_its_tables(flows->base(), flows->size()) ||
      flows->as<const FlowsHeader>().tables_incarnation != tables_incarnation ||
      flows->as<const FlowsHeader>().session_lines == 0) {
    return none;
  }
  return SessionRegistry(std::move(*flows));
}

bool SessionRegistry::is_current(uint64_t tables_incarnation) const {
  return !flows_.is_stale() && flows_.as<const FlowsHeader>().tables_incarnation == tables_incarnation;
}

std::optional<SessionSeen> find_session(const SessionLine* lines, uint64_t count, uint64_t hash) {
  const uint64_t identity = session_identity(hash);
  std::optional<SessionSeen> found;
  // All lines where it could be: the pair of its home, and those behind it.
  const uint64_t first = session_home(identity, count) & ~uint64_t{1};
  for (uint64_t i = 0; i <= kReach && !found; i++) {
    const uint64_t at = (first + i) % count;
    each_session(lines, count, at, at + 1, [&](const SessionSeen& seen) {
      if (seen.hash == identity) found = seen;
    });
  }
  return found;
}

}  // namespace sluice
