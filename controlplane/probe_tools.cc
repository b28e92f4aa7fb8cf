#include "controlplane/probe_tools.h"

#include <errno.h>

#include <cstring>

#include <openssl/err.h>
#include <openssl/ssl.h>

#include "controlplane/pattern.h"

namespace sluice {
namespace {

namespace ssl = boost::asio::ssl;

std::string last_openssl_error() {
  char text[256];
  ERR_error_string_n(ERR_peek_last_error(), text, sizeof text);
  return text;
}

bool same_time(const timespec& a, const timespec& b) {
  return a.tv_sec == b.tv_sec && a.tv_nsec == b.tv_nsec;
}

Result<std::shared_ptr<ssl::context>> make_context(const HealthConfig& config) {
  ERR_clear_error();
  auto context = std::make_shared<ssl::context>(ssl::context::tls_client);
  boost::system::error_code error;
  context->set_verify_mode(config.verify ? ssl::verify_peer : ssl::verify_none, error);
  if (config.verify && config.ca_file.empty()) {
    context->set_default_verify_paths(error);
  } else if (config.verify) {
    context->load_verify_file(config.ca_file, error);
    if (error)
      return Error{"ca_file " + config.ca_file + " holds no certificate: " + last_openssl_error(),
                   "openssl x509 -in " + config.ca_file + " -noout -subject"};
  }
  if (error) return Error{"OpenSSL: " + error.message(), ""};
  if (config.type == HealthConfig::Type::grpc) {
    static constexpr unsigned char kHttp2[] = {2, 'h', '2'};  // RFC 9113 3.2
    SSL_CTX_set_alpn_protos(context->native_handle(), kHttp2, sizeof kHttp2);
  }
  return context;
}

}  // namespace

Result<std::shared_ptr<ssl::context>> ProbeTools::tls_context(const HealthConfig& config) {
  std::string key = config.type == HealthConfig::Type::grpc ? "h2 " : "";
  struct stat file = {};
  if (config.verify) {
    key += "verify " + config.ca_file;
    if (!config.ca_file.empty() && stat(config.ca_file.c_str(), &file) != 0)
      return Error{"ca_file " + config.ca_file + ": " + std::strerror(errno), "ls -l " + config.ca_file};
  }
  TlsContext& known = tls_[key];
  if (!known.context || known.inode != file.st_ino || !same_time(known.changed, file.st_mtim)) {
    Result<std::shared_ptr<ssl::context>> made = make_context(config);
    if (!made) return made.error();
    known = {*made, file.st_mtim, file.st_ino};
  }
  return known.context;
}

const RE2& ProbeTools::pattern(const std::string& text) {
  std::unique_ptr<RE2>& known = patterns_[text];
  if (!known) known = std::make_unique<RE2>(text, pattern_options());
  return *known;
}

Pinger& ProbeTools::pinger() {
  if (!pinger_) pinger_ = std::make_unique<Pinger>(io_);
  return *pinger_;
}

}  // namespace sluice
