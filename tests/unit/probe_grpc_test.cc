// gRPC health checks against an HTTP/2 server that says what it is told to.
#include <array>
#include <cstring>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include <boost/asio/buffer.hpp>
#include <nghttp2/nghttp2.h>

#include "controlplane/grpc_health.h"
#include "tests/unit/probe_fixture.h"

namespace sluice {
namespace {

using GrpcTest = ProbeFixture;
using namespace std::string_literals;

struct GrpcAnswer {
  std::string http_status = "200";
  std::string grpc_status = "0";  // empty: no trailers
  std::string grpc_message;
  std::string data = "\0\0\0\0\2\x08\1"s;  // SERVING
};

nghttp2_nv nv(std::string_view name, std::string_view value) {
  const auto bytes = [](std::string_view text) {
    return reinterpret_cast<uint8_t*>(const_cast<char*>(text.data()));
  };
  return {bytes(name), bytes(value), name.size(), value.size(), NGHTTP2_NV_FLAG_NONE};
}

class GrpcServer {
 public:
  GrpcServer(asio::io_context& io, GrpcAnswer answer)
      : acceptor_(io, tcp::endpoint(asio::ip::address_v4::loopback(), 0)), answer_(std::move(answer)) {
    accept();
  }
  uint16_t port() const { return acceptor_.local_endpoint().port(); }
  const std::string& path() const { return path_; }
  const std::string& request() const { return request_; }

 private:
  struct Client : std::enable_shared_from_this<Client> {
    Client(GrpcServer& s, tcp::socket c) : server(s), socket(std::move(c)) {
      nghttp2_session_callbacks* callbacks = nullptr;
      nghttp2_session_callbacks_new(&callbacks);
      nghttp2_session_callbacks_set_on_header_callback(
          callbacks, [](nghttp2_session*, const nghttp2_frame*, const uint8_t* name, size_t name_bytes,
                        const uint8_t* value, size_t value_bytes, uint8_t, void* me) {
            if (std::string(name, name + name_bytes) == ":path")
              static_cast<Client*>(me)->server.path_.assign(value, value + value_bytes);
            return 0;
          });
      nghttp2_session_callbacks_set_on_data_chunk_recv_callback(
          callbacks, [](nghttp2_session*, uint8_t, int32_t, const uint8_t* data, size_t bytes, void* me) {
            static_cast<Client*>(me)->server.request_.assign(data, data + bytes);
            return 0;
          });
      nghttp2_session_callbacks_set_on_frame_recv_callback(
          callbacks, [](nghttp2_session*, const nghttp2_frame* frame, void* me) {
            if ((frame->hd.flags & NGHTTP2_FLAG_END_STREAM) != 0)
              static_cast<Client*>(me)->answer(frame->hd.stream_id);
            return 0;
          });
      nghttp2_session_server_new(&session, callbacks, this);
      nghttp2_session_callbacks_del(callbacks);
      nghttp2_submit_settings(session, NGHTTP2_FLAG_NONE, nullptr, 0);
    }
    ~Client() { nghttp2_session_del(session); }

    void answer(int32_t stream) {
      const GrpcAnswer& says = server.answer_;
      const std::array headers{nv(":status", says.http_status), nv("content-type", "application/grpc")};
      nghttp2_data_provider body;
      body.source.ptr = this;
      body.read_callback = [](nghttp2_session* s, int32_t id, uint8_t* out, size_t room, uint32_t* flags,
                              nghttp2_data_source* source, void*) -> ssize_t {
        Client& me = *static_cast<Client*>(source->ptr);
        const GrpcAnswer& answer = me.server.answer_;
        const size_t bytes = std::min(room, answer.data.size() - me.sent);
        std::memcpy(out, answer.data.data() + me.sent, bytes);
        me.sent += bytes;
        if (me.sent < answer.data.size()) return static_cast<ssize_t>(bytes);
        *flags |= NGHTTP2_DATA_FLAG_EOF;
        if (!answer.grpc_status.empty()) {
          *flags |= NGHTTP2_DATA_FLAG_NO_END_STREAM;
          std::vector<nghttp2_nv> trailers{nv("grpc-status", answer.grpc_status)};
          if (!answer.grpc_message.empty()) trailers.push_back(nv("grpc-message", answer.grpc_message));
          nghttp2_submit_trailer(s, id, trailers.data(), trailers.size());
        }
        return static_cast<ssize_t>(bytes);
      };
      nghttp2_submit_response(session, stream, headers.data(), headers.size(), &body);
    }

    void go_on() {
      const uint8_t* piece = nullptr;
      for (ssize_t bytes; (bytes = nghttp2_session_mem_send(session, &piece)) > 0;) {
        error_code ignored;
        asio::write(socket, asio::buffer(piece, static_cast<size_t>(bytes)), ignored);
      }
      socket.async_read_some(asio::buffer(input),
                             [self = shared_from_this()](error_code error, size_t bytes) {
                               if (error) return;
                               nghttp2_session_mem_recv(self->session, self->input.data(), bytes);
                               self->go_on();
                             });
    }

    GrpcServer& server;
    tcp::socket socket;
    nghttp2_session* session = nullptr;
    size_t sent = 0;
    std::array<uint8_t, 4096> input;
  };

  void accept() {
    acceptor_.async_accept([this](error_code error, tcp::socket socket) {
      if (error) return;
      std::make_shared<Client>(*this, std::move(socket))->go_on();
      accept();
    });
  }

  tcp::acceptor acceptor_;
  const GrpcAnswer answer_;
  std::string path_, request_;
};

TEST_F(GrpcTest, ServingIsGood) {
  GrpcServer server(io_, {});
  CheckTarget wanted = target(server.port(), HealthConfig::Type::grpc);
  wanted.config.timeout = Milliseconds(2000);
  const CheckResult result = check(wanted);
  EXPECT_EQ(result.code, CheckCode::l7ok);
  EXPECT_EQ(result.detail, "SERVING");
  EXPECT_EQ(server.path(), "/grpc.health.v1.Health/Check");
  EXPECT_EQ(server.request(), "\0\0\0\0\0"s);
  wanted.config.grpc_service = "shop.v1.Cart";
  EXPECT_EQ(check(wanted).code, CheckCode::l7ok);
  EXPECT_EQ(server.request(), "\0\0\0\0\x0e\x0a\x0cshop.v1.Cart"s);
}

TEST_F(GrpcTest, EverythingElseIsNotAndIsNamed) {
  const struct {
    GrpcAnswer answer;
    CheckCode code;
    const char* detail;
  } cases[] = {
      {{.data = "\0\0\0\0\2\x08\2"s}, CheckCode::l7sts, "NOT_SERVING"},
      {{.data = "\0\0\0\0\0"s}, CheckCode::l7sts, "UNKNOWN"},
      {{.data = "\0\0\0\0\2\x08\x09"s}, CheckCode::l7sts, "status 9"},
      {{.grpc_status = "5", .grpc_message = "unknown service", .data = ""},
       CheckCode::l7sts,
       "gRPC status 5: unknown service"},
      {{.grpc_status = "12", .data = ""}, CheckCode::l7sts, "gRPC status 12"},
      {{.http_status = "503"}, CheckCode::l7sts, "HTTP status 503"},
      {{.grpc_status = ""}, CheckCode::l7rsp, "an HTTP/2 answer, but not of gRPC"},
      {{.data = "hello"}, CheckCode::l7rsp, "not an answer of grpc.health.v1"},
      {{.data = std::string(100'000, 'x')}, CheckCode::l7rsp, "not an answer of grpc.health.v1"},
  };
  for (const auto& c : cases) {
    GrpcServer server(io_, c.answer);
    CheckTarget wanted = target(server.port(), HealthConfig::Type::grpc);
    wanted.config.timeout = Milliseconds(2000);
    const CheckResult result = check(wanted);
    EXPECT_EQ(result.code, c.code) << result.detail;
    EXPECT_EQ(result.detail, c.detail);
  }
}

TEST_F(GrpcTest, WhatDoesNotSpeakHttp2IsAnInvalidAnswer) {
  Server http1(io_, Server::Kind::answers, "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
  const CheckResult result = check(target(http1.port(), HealthConfig::Type::grpc));
  EXPECT_EQ(result.code, CheckCode::l7rsp) << result.detail;
  Server closing(io_, Server::Kind::closes);
  EXPECT_EQ(check(target(closing.port(), HealthConfig::Type::grpc)).code, CheckCode::l7rsp);
  Server silent(io_, Server::Kind::says_nothing);
  const CheckResult late = check(target(silent.port(), HealthConfig::Type::grpc));
  EXPECT_EQ(late.code, CheckCode::l7tout);
  EXPECT_EQ(late.detail, "no HTTP/2 answer");
  EXPECT_EQ(check(target(refusing_port(), HealthConfig::Type::grpc)).code, CheckCode::l4con);
}

// Fields that a later version adds are passed over; what is cut off or lies about its length is refused.
TEST(GrpcHealthMessageTest, AnswersAreReadWhole) {
  const auto framed = [](const std::string& message) {
    return "\0\0\0\0"s + static_cast<char>(message.size()) + message;
  };
  EXPECT_EQ(parse_grpc_health_answer(framed("\x12\3abc\x08\1\x1d\0\0\0\0\x21\0\0\0\0\0\0\0\0\x28\xff\1"s)),
            ServingStatus::serving);
  for (const std::string& wrong :
       {""s, "\0\0\0\0"s, "\0\0\0\0\2\x08"s, "\0\0\0\0\1\x08\1"s, "\1\0\0\0\2\x08\1"s, framed("\x08"s),
        framed("\x08\xff"s),
        framed("\x12\x05"
               "abc"s),
        framed("\x0b\1"s), framed("\x0a\1x"s), framed("\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\1"s)}) {
    EXPECT_FALSE(parse_grpc_health_answer(wrong)) << wrong.size();
  }
}

}  // namespace
}  // namespace sluice
