#include "controlplane/probe_stream.h"

#include <sys/socket.h>

#include <openssl/ssl.h>
#include <openssl/x509v3.h>

namespace sluice {
namespace {

namespace asio = boost::asio;

// The name that the certificate must have: of "example.net:8443" and "[2001:db8::1]" what is no port and no
// bracket.
std::string name_to_verify(const HealthConfig& config) {
  if (!config.server_name.empty()) return config.server_name;
  const std::string& host = config.host;
  if (host.starts_with('[')) return host.substr(1, host.find(']') - 1);
  return host.substr(0, host.find(':'));
}

// What must hold of the certificate beyond its chain, and the name that is asked for.
bool set_name(SSL* connection, const HealthConfig& config) {
  const std::string name = name_to_verify(config);
  if (IpAddress::parse(name)) {
    // RFC 6066 3: an address is no server name.
    return X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(connection), name.c_str()) == 1;
  }
  return SSL_set_tlsext_host_name(connection, name.c_str()) == 1 &&
         SSL_set1_host(connection, name.c_str()) == 1;
}

}  // namespace

void StreamRun::begin() {
  if (std::string fault = prepare(stream_.socket(), target()); !fault.empty())
    return finish(CheckCode::none, std::move(fault));
  stream_.socket().async_connect(
      endpoint_of<asio::ip::tcp>(target().address, target().port),
      [me = self<StreamRun>()](const error_code& error) { me->tcp_connected(error); });
}

void StreamRun::close() {
  error_code ignored;
  if (!stream_.socket().is_open()) return;
  // Reset instead of FIN: a check leaves no TIME_WAIT socket behind, here or there.
  const linger reset = {1, 0};
  setsockopt(stream_.socket().native_handle(), SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
  stream_.socket().close(ignored);
}

ProbeRun::Verdict StreamRun::when_late() const {
  switch (step_) {
    case Step::connect:
      return {CheckCode::l4tout, "no answer to the TCP connect"};
    case Step::handshake:
      return {CheckCode::l6tout, "no end of the TLS handshake"};
    case Step::exchange:
      break;
  }
  return {CheckCode::l7tout, missing_answer()};
}

void StreamRun::tcp_connected(const error_code& error) {
  if (over()) return;
  if (error && is_local_shortage(error)) return finish(CheckCode::none, error.message());
  if (error) return finish(CheckCode::l4con, error.message());
  if (config().uses_tls()) return shake_hands();
  step_ = Step::exchange;
  connected();
}

void StreamRun::shake_hands() {
  step_ = Step::handshake;
  const Result<std::shared_ptr<asio::ssl::context>> context = tools().tls_context(config());
  if (!context) return finish(CheckCode::none, context.error().what);
  ProbeStream::Tls& tls = stream_.start_tls(*context);
  if (!set_name(tls.native_handle(), config()))
    return finish(CheckCode::none, "OpenSSL takes no such server name");
  tls.async_handshake(asio::ssl::stream_base::client,
                      [me = self<StreamRun>()](const error_code& e) { me->hands_shaken(e); });
}

void StreamRun::hands_shaken(const error_code& error) {
  if (over()) return;
  if (error) {
    SSL* connection = stream_.tls_handle();
    const long fault = SSL_get_verify_result(connection);
    if (config().verify && fault != X509_V_OK)
      return finish(CheckCode::l6rsp, std::string("certificate: ") + X509_verify_cert_error_string(fault));
    if (error == asio::error::eof || error == asio::ssl::error::stream_truncated)
      return finish(CheckCode::l6rsp, "closed during the TLS handshake");
    return finish(CheckCode::l6rsp, "TLS handshake: " + error.message());
  }
  step_ = Step::exchange;
  connected();
}

void StreamRun::connected() {
  finish(config().uses_tls() ? CheckCode::l6ok : CheckCode::l4ok, "");
}

void StreamRun::finish_broken(const error_code& error) {
  if (error == asio::error::eof || error == asio::ssl::error::stream_truncated)
    return finish(CheckCode::l7rsp, "closed without an answer");
  finish(CheckCode::l7rsp, error.message());
}

RunPtr make_stream_run(ProbeTools& tools, TargetPtr target, Probe::Handler done) {
  return std::make_shared<StreamRun>(tools, std::move(target), std::move(done));
}

}  // namespace sluice
