#include "controlplane/grpc_health.h"

namespace sluice {
namespace {

// Protocol buffers: a field's key is its number and wire type, a number's groups of seven bits come lowest
// first.
enum class WireType : uint32_t { varint = 0, fixed64 = 1, bytes = 2, fixed32 = 5 };
constexpr uint32_t kServiceKey = 1 << 3 | static_cast<uint32_t>(WireType::bytes);
constexpr uint64_t kStatusField = 1;
constexpr size_t kFrameHeaderBytes = 5;

void put_varint(std::string& out, uint64_t value) {
  for (; value >= 0x80; value >>= 7)
    out += static_cast<char>(0x80 | (value & 0x7f));
  out += static_cast<char>(value);
}

std::optional<uint64_t> take_varint(std::string_view& in) {
  uint64_t value = 0;
  for (uint32_t shift = 0; shift < 64 && !in.empty(); shift += 7) {
    const auto byte = static_cast<unsigned char>(in.front());
    in.remove_prefix(1);
    value |= uint64_t{byte & 0x7fu} << shift;
    if (byte < 0x80) return value;
  }
  return std::nullopt;
}

bool skip(std::string_view& in, uint64_t bytes) {
  if (bytes > in.size()) return false;
  in.remove_prefix(bytes);
  return true;
}

bool skip_field(std::string_view& in, WireType type) {
  switch (type) {
    case WireType::varint:
      return take_varint(in).has_value();
    case WireType::fixed64:
      return skip(in, 8);
    case WireType::fixed32:
      return skip(in, 4);
    case WireType::bytes:
      break;
  }
  if (type != WireType::bytes) return false;
  const std::optional<uint64_t> length = take_varint(in);
  return length && skip(in, *length);
}

}  // namespace

std::string grpc_health_request(std::string_view service) {
  std::string message;
  if (!service.empty()) {
    put_varint(message, kServiceKey);
    put_varint(message, service.size());
    message += service;
  }
  std::string frame(kFrameHeaderBytes, '\0');  // not compressed
  for (size_t i = 1; i < kFrameHeaderBytes; i++)
    frame[i] = static_cast<char>(message.size() >> 8 * (kFrameHeaderBytes - 1 - i));
  return frame + message;
}

std::optional<ServingStatus> parse_grpc_health_answer(std::string_view data) {
  if (data.size() < kFrameHeaderBytes || data[0] != 0) return std::nullopt;
  uint64_t length = 0;
  for (size_t i = 1; i < kFrameHeaderBytes; i++)
    length = length << 8 | static_cast<unsigned char>(data[i]);
  data.remove_prefix(kFrameHeaderBytes);
  if (length != data.size()) return std::nullopt;
  auto status = ServingStatus::unknown;  // an absent field is zero
  while (!data.empty()) {
    const std::optional<uint64_t> key = take_varint(data);
    if (!key) return std::nullopt;
    const auto type = static_cast<WireType>(*key & 7);
    if (*key >> 3 != kStatusField) {
      if (!skip_field(data, type)) return std::nullopt;
      continue;
    }
    const std::optional<uint64_t> value = type == WireType::varint ? take_varint(data) : std::nullopt;
    if (!value) return std::nullopt;
    status = static_cast<ServingStatus>(*value);
  }
  return status;
}

std::string text(ServingStatus status) {
  switch (status) {
    case ServingStatus::unknown:
      return "UNKNOWN";
    case ServingStatus::serving:
      return "SERVING";
    case ServingStatus::not_serving:
      return "NOT_SERVING";
    case ServingStatus::service_unknown:
      return "SERVICE_UNKNOWN";
  }
  return "status " + std::to_string(static_cast<uint32_t>(status));
}

}  // namespace sluice
