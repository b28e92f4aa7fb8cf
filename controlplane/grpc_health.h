// The messages of grpc.health.v1.Health/Check,
// https://github.com/grpc/grpc/blob/master/doc/health-checking.md: a request with one string, an answer with
// one number. In gRPC's framing of a flag and a length.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace sluice {

inline constexpr std::string_view kGrpcHealthPath = "/grpc.health.v1.Health/Check";
inline constexpr uint32_t kGrpcServiceBytesMax = 1000;
inline constexpr uint32_t kGrpcAnswerBytesMax = 4096;

// HealthCheckResponse.ServingStatus; other numbers may come.
enum class ServingStatus : uint32_t { unknown = 0, serving = 1, not_serving = 2, service_unknown = 3 };

// `service` empty: the server as a whole.
std::string grpc_health_request(std::string_view service);
// Of the DATA that a server sent; nothing when that is not one uncompressed message of this kind.
std::optional<ServingStatus> parse_grpc_health_answer(std::string_view data);
std::string text(ServingStatus status);  // "SERVING", "status 7"

}  // namespace sluice
