// One health check of one backend: a TCP connect, or a connect and an HTTP/1.1 GET of which only the header
// is read.
//
// Runs on sluiced's event loop and never blocks it: one socket and one timer while it runs. `done` is called
// exactly once, from the loop, never from inside start(); after the destruction of the Probe it is not called
// at all. What it keeps of an answer is bounded: kResponseHeaderBytesMax.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include <boost/asio/io_context.hpp>

#include "controlplane/config.h"
#include "src/address.h"

namespace sluice {

inline constexpr uint32_t kResponseHeaderBytesMax = 8 * 1024;

// HAProxy's names: the layer that decided, and how. `none`: no verdict, this host could not even try (out of
// descriptors, ports or memory) or did not look in time ("sluiced was busy"), which says nothing about the
// backend.
enum class CheckCode : uint8_t { none, l4ok, l4tout, l4con, l7ok, l7sts, l7rsp, l7tout };
const char* text(CheckCode code);  // "L4OK", ...; "" for none

struct CheckResult {
  CheckCode code = CheckCode::none;
  std::string detail;  // "Connection refused", "HTTP status 503"
  uint64_t duration_us = 0;

  bool is_good() const { return code == CheckCode::l4ok || code == CheckCode::l7ok; }
};

struct CheckTarget {
  IpAddress address;
  uint16_t port = 0;
  HealthConfig config;  // its `host` filled in; `port` is ignored
  bool operator==(const CheckTarget&) const = default;
};

class Probe {
 public:
  using Handler = std::function<void(const CheckResult&)>;
  static std::unique_ptr<Probe> start(boost::asio::io_context& io, const CheckTarget& target, Handler done);
  ~Probe();

 private:
  class Run;
  explicit Probe(std::shared_ptr<Run> run) : run_(std::move(run)) {}
  std::shared_ptr<Run> run_;
};

}  // namespace sluice
