// TLS and HTTPS checks against a server with certificates of every kind.
#include <sys/stat.h>

#include <cstdlib>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include <boost/asio/ssl/stream.hpp>

#include "tests/unit/certificates.h"
#include "tests/unit/probe_fixture.h"

namespace sluice {
namespace {

namespace ssl = asio::ssl;
using Type = HealthConfig::Type;

// Shakes hands, answers one request with HTTP, and notes which name and which protocols were asked for.
class TlsServer {
 public:
  TlsServer(asio::io_context& io, const Identity& identity)
      : acceptor_(io, tcp::endpoint(asio::ip::address_v4::loopback(), 0)),
        context_(ssl::context::tls_server) {
    identity.serve(context_);
    SSL_CTX_set_tlsext_servername_callback(context_.native_handle(), note_name);
    SSL_CTX_set_tlsext_servername_arg(context_.native_handle(), this);
    SSL_CTX_set_alpn_select_cb(context_.native_handle(), note_protocols, this);
    accept();
  }
  uint16_t port() const { return acceptor_.local_endpoint().port(); }
  const std::string& asked_name() const { return asked_name_; }
  // ALPN's list, RFC 7301 3.1: each with its length before it; empty if there was none.
  const std::string& asked_protocols() const { return asked_protocols_; }

 private:
  struct Client {
    Client(tcp::socket s, ssl::context& context) : stream(std::move(s), context) {}
    ssl::stream<tcp::socket> stream;
    std::string input;
    std::string output = "HTTP/1.1 200 OK\r\n\r\nover TLS";
  };

  // When the ClientHello is read, with a name in it or without.
  static int note_name(SSL* connection, int*, void* me) {
    const char* name = SSL_get_servername(connection, TLSEXT_NAMETYPE_host_name);
    static_cast<TlsServer*>(me)->asked_name_ = name != nullptr ? name : "";
    return SSL_TLSEXT_ERR_OK;
  }
  static int note_protocols(SSL*, const unsigned char** chosen, unsigned char* chosen_bytes,
                            const unsigned char* offered, unsigned bytes, void* me) {
    static_cast<TlsServer*>(me)->asked_protocols_.assign(offered, offered + bytes);
    *chosen = offered + 1;
    *chosen_bytes = offered[0];
    return SSL_TLSEXT_ERR_OK;
  }

  void accept() {
    acceptor_.async_accept([this](error_code error, tcp::socket socket) {
      if (error) return;
      auto client = std::make_shared<Client>(std::move(socket), context_);
      client->stream.async_handshake(ssl::stream_base::server, [this, client](error_code e) {
        if (!e) answer(client);
      });
      accept();
    });
  }
  void answer(const std::shared_ptr<Client>& client) {
    asio::async_read_until(
        client->stream, asio::dynamic_buffer(client->input), "\r\n\r\n", [client](error_code error, size_t) {
          if (error) return;
          asio::async_write(client->stream, asio::buffer(client->output), [client](error_code, size_t) {
            error_code ignored;  // no close_notify: as many servers do
            client->stream.lowest_layer().shutdown(tcp::socket::shutdown_send, ignored);
          });
        });
  }

  tcp::acceptor acceptor_;
  ssl::context context_;
  std::string asked_name_;
  std::string asked_protocols_;
};

class TlsTest : public ProbeFixture {
 protected:
  TlsTest() {
    char name[] = "/tmp/sluice-tls-XXXXXX";
    folder_ = mkdtemp(name);
    ca_file_ = folder_ / "ca.pem";
    authority_.write_certificate(ca_file_);
  }
  ~TlsTest() override { std::filesystem::remove_all(folder_); }

  CheckTarget tls_target(uint16_t port, Type type = Type::tls) const {
    CheckTarget wanted = target(port, type);
    wanted.config.host = "web.example";
    wanted.config.ca_file = ca_file_;
    wanted.config.timeout = Milliseconds(2000);
    wanted.config.tls = type == Type::grpc;
    return wanted;
  }
  Identity issue(const std::string& names, long valid_for_s = 3600) const {
    return Identity::make("web", names, &authority_, valid_for_s);
  }

  std::filesystem::path folder_;
  std::string ca_file_;
  const Identity authority_ = Identity::make("authority", "", nullptr);
};

TEST_F(TlsTest, ARightCertificateIsGoodAndItsNameIsAskedFor) {
  TlsServer server(io_, issue("DNS:web.example,DNS:*.pool.example,IP:203.0.113.10"));
  const CheckResult result = check(tls_target(server.port()));
  EXPECT_EQ(result.code, CheckCode::l6ok) << result.detail;
  EXPECT_EQ(server.asked_name(), "web.example");
  CheckTarget other = tls_target(server.port());
  other.config.server_name = "b1.pool.example";
  EXPECT_EQ(check(other).code, CheckCode::l6ok);
  EXPECT_EQ(server.asked_name(), "b1.pool.example");
  // A port behind the host's name is none of it; an address is verified and not asked for.
  other.config.server_name = "";
  other.config.host = "web.example:8443";
  EXPECT_EQ(check(other).code, CheckCode::l6ok);
  other.config.host = "203.0.113.10";
  EXPECT_EQ(check(other).code, CheckCode::l6ok);
  EXPECT_EQ(server.asked_name(), "");
}

TEST_F(TlsTest, HttpsIsHttpOverIt) {
  TlsServer server(io_, issue("DNS:web.example"));
  CheckTarget wanted = tls_target(server.port(), Type::https);
  wanted.config.body = "over TLS$";
  const CheckResult result = check(wanted);
  EXPECT_EQ(result.code, CheckCode::l7ok) << result.detail;
  wanted.config.status = {{204, 204}};
  EXPECT_EQ(check(wanted).code, CheckCode::l7sts);
}

// A gRPC server refuses who does not ask for HTTP/2 by ALPN. Against a real one: tests/system/test_health.py.
TEST_F(TlsTest, GrpcAsksForHttp2AndTheOthersDoNot) {
  TlsServer server(io_, issue("DNS:web.example"));
  const CheckResult result = check(tls_target(server.port(), Type::grpc));
  EXPECT_EQ(server.asked_protocols(), "\2h2");
  EXPECT_EQ(server.asked_name(), "web.example");
  EXPECT_EQ(result.code, CheckCode::l7rsp) << "it answers with HTTP/1: " << result.detail;
  TlsServer other(io_, issue("DNS:web.example"));
  EXPECT_EQ(check(tls_target(other.port(), Type::https)).code, CheckCode::l7ok);
  EXPECT_EQ(check(tls_target(other.port(), Type::tls)).code, CheckCode::l6ok);
  EXPECT_EQ(other.asked_protocols(), "");
}

TEST_F(TlsTest, ACertificateThatIsNotRightIsNamed) {
  const Identity stranger = Identity::make("web", "DNS:web.example", nullptr);
  const Identity other_name = issue("DNS:other.example");
  const Identity expired = issue("DNS:web.example", -3600);
  const struct {
    const Identity& identity;
    const char* detail;
  } cases[] = {{stranger, "certificate: self-signed certificate"},
               {other_name, "certificate: hostname mismatch"},
               {expired, "certificate: certificate has expired"}};
  for (const auto& c : cases) {
    TlsServer server(io_, c.identity);
    for (const Type type : {Type::tls, Type::https, Type::grpc}) {
      const CheckResult result = check(tls_target(server.port(), type));
      EXPECT_EQ(result.code, CheckCode::l6rsp);
      EXPECT_EQ(result.detail, c.detail);
    }
    CheckTarget unverified = tls_target(server.port());
    unverified.config.verify = false;
    EXPECT_EQ(check(unverified).code, CheckCode::l6ok);
  }
  // Of somebody whom the system does not trust either.
  TlsServer server(io_, issue("DNS:web.example"));
  CheckTarget wanted = tls_target(server.port());
  wanted.config.ca_file = "";
  EXPECT_EQ(check(wanted).code, CheckCode::l6rsp);
}

TEST_F(TlsTest, WhatIsNoTlsAndWhatIsSilentAreToldApart) {
  Server plain(io_, Server::Kind::answers, "HTTP/1.1 400 Bad Request\r\n\r\n");
  plain.set_request_end("web.example");  // in the ClientHello
  const CheckResult no_tls = check(tls_target(plain.port()));
  EXPECT_EQ(no_tls.code, CheckCode::l6rsp) << no_tls.detail;
  Server closing(io_, Server::Kind::closes);
  EXPECT_EQ(check(tls_target(closing.port())).code, CheckCode::l6rsp);
  Server silent(io_, Server::Kind::says_nothing);
  CheckTarget wanted = tls_target(silent.port(), Type::https);
  wanted.config.timeout = Milliseconds(100);
  EXPECT_EQ(check(wanted).code, CheckCode::l6tout);
  EXPECT_EQ(check(tls_target(refusing_port())).code, CheckCode::l4con);
}

TEST_F(TlsTest, ACaFileIsReadAgainWhenItIsAnotherOne) {
  TlsServer server(io_, issue("DNS:web.example"));
  const CheckTarget wanted = tls_target(server.port());
  EXPECT_EQ(check(wanted).code, CheckCode::l6ok);
  const Identity other = Identity::make("other authority", "", nullptr);
  other.write_certificate(ca_file_ + ".new");
  std::filesystem::rename(ca_file_ + ".new", ca_file_);
  EXPECT_EQ(check(wanted).code, CheckCode::l6rsp);
  // Neither of these is the backend's fault.
  std::ofstream(ca_file_ + ".new") << "nonsense";
  std::filesystem::rename(ca_file_ + ".new", ca_file_);
  const CheckResult nonsense = check(wanted);
  EXPECT_EQ(nonsense.code, CheckCode::none);
  EXPECT_NE(nonsense.detail.find("holds no certificate"), std::string::npos) << nonsense.detail;
  std::filesystem::remove(ca_file_);
  EXPECT_EQ(check(wanted).code, CheckCode::none);
  authority_.write_certificate(ca_file_);
  EXPECT_EQ(check(wanted).code, CheckCode::l6ok);
}

}  // namespace
}  // namespace sluice
