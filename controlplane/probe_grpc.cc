// gRPC health checks: one call of grpc.health.v1.Health/Check over HTTP/2, whose framing is nghttp2's.
#include <algorithm>
#include <array>
#include <cstring>

#include <boost/asio/buffer.hpp>
#include <boost/asio/write.hpp>
#include <nghttp2/nghttp2.h>

#include "controlplane/grpc_health.h"
#include "controlplane/probe_stream.h"

namespace sluice {
namespace {

namespace asio = boost::asio;

struct SessionDeleter {
  void operator()(nghttp2_session* session) const { nghttp2_session_del(session); }
};
struct CallbacksDeleter {
  void operator()(nghttp2_session_callbacks* callbacks) const { nghttp2_session_callbacks_del(callbacks); }
};

nghttp2_nv header(std::string_view name, std::string_view value) {
  const auto bytes = [](std::string_view text) {
    return reinterpret_cast<uint8_t*>(const_cast<char*>(text.data()));  // nghttp2 copies it
  };
  return {bytes(name), bytes(value), name.size(), value.size(), NGHTTP2_NV_FLAG_NONE};
}

class GrpcRun : public StreamRun {
 public:
  using StreamRun::StreamRun;

 protected:
  void connected() override {
    if (!open_session() || !submit_call()) return finish(CheckCode::none, "nghttp2 is out of memory");
    read();
    write();
  }

  std::string missing_answer() const override {
    return settings_seen_ ? "no end of the gRPC call" : "no HTTP/2 answer";
  }

 private:
  bool open_session();
  bool submit_call();
  void read();
  void write();
  void took(std::string_view name, std::string_view value);
  void judge();
  // The server's own words for a call that failed, if it has any.
  std::string call_error() const;

  std::unique_ptr<nghttp2_session, SessionDeleter> session_;
  std::string request_;
  size_t request_sent_ = 0;
  std::string output_;
  std::array<uint8_t, 4096> input_;
  bool writing_ = false;
  // The answer
  bool settings_seen_ = false;
  bool call_over_ = false;
  uint32_t reset_code_ = NGHTTP2_NO_ERROR;
  std::string http_status_, grpc_status_, grpc_message_, data_;
};

bool GrpcRun::open_session() {
  nghttp2_session_callbacks* made = nullptr;
  if (nghttp2_session_callbacks_new(&made) != 0) return false;
  const std::unique_ptr<nghttp2_session_callbacks, CallbacksDeleter> callbacks(made);
  nghttp2_session_callbacks_set_on_header_callback(
      made, [](nghttp2_session*, const nghttp2_frame*, const uint8_t* name, size_t name_bytes,
               const uint8_t* value, size_t value_bytes, uint8_t, void* me) {
        static_cast<GrpcRun*>(me)->took({reinterpret_cast<const char*>(name), name_bytes},
                                        {reinterpret_cast<const char*>(value), value_bytes});
        return 0;
      });
  nghttp2_session_callbacks_set_on_data_chunk_recv_callback(
      made, [](nghttp2_session*, uint8_t, int32_t, const uint8_t* data, size_t bytes, void* me) {
        std::string& all = static_cast<GrpcRun*>(me)->data_;
        // What is beyond the limit makes the length in the message wrong, which is what it is.
        all.append(reinterpret_cast<const char*>(data), std::min(bytes, kGrpcAnswerBytesMax - all.size()));
        return 0;
      });
  nghttp2_session_callbacks_set_on_frame_recv_callback(
      made, [](nghttp2_session*, const nghttp2_frame* frame, void* me) {
        if (frame->hd.type == NGHTTP2_SETTINGS) static_cast<GrpcRun*>(me)->settings_seen_ = true;
        return 0;
      });
  nghttp2_session_callbacks_set_on_stream_close_callback(
      made, [](nghttp2_session*, int32_t, uint32_t code, void* me) {
        static_cast<GrpcRun*>(me)->call_over_ = true;
        static_cast<GrpcRun*>(me)->reset_code_ = code;
        return 0;
      });
  nghttp2_session* session = nullptr;
  if (nghttp2_session_client_new(&session, made, this) != 0) return false;
  session_.reset(session);
  // RFC 9113 8.4: a check wants nothing that it did not ask for.
  const nghttp2_settings_entry settings[] = {{NGHTTP2_SETTINGS_ENABLE_PUSH, 0}};
  return nghttp2_submit_settings(session, NGHTTP2_FLAG_NONE, settings, std::size(settings)) == 0;
}

bool GrpcRun::submit_call() {
  request_ = grpc_health_request(config().grpc_service);
  const nghttp2_nv headers[] = {
      header(":method", "POST"),
      header(":scheme", config().tls ? "https" : "http"),
      header(":path", kGrpcHealthPath),
      header(":authority", config().host),
      header("content-type", "application/grpc"),
      header("te", "trailers"),
      header("user-agent", "sluice/" SLUICE_VERSION " (health check)"),
  };
  nghttp2_data_provider body;
  body.source.ptr = this;
  body.read_callback = [](nghttp2_session*, int32_t, uint8_t* out, size_t room, uint32_t* flags,
                          nghttp2_data_source* source, void*) -> ssize_t {
    GrpcRun& me = *static_cast<GrpcRun*>(source->ptr);
    const size_t bytes = std::min(room, me.request_.size() - me.request_sent_);
    std::memcpy(out, me.request_.data() + me.request_sent_, bytes);
    me.request_sent_ += bytes;
    if (me.request_sent_ == me.request_.size()) *flags |= NGHTTP2_DATA_FLAG_EOF;
    return static_cast<ssize_t>(bytes);
  };
  return nghttp2_submit_request(session_.get(), nullptr, headers, std::size(headers), &body, nullptr) >= 0;
}

void GrpcRun::write() {
  if (writing_) return;
  output_.clear();
  const uint8_t* piece = nullptr;
  for (ssize_t bytes; (bytes = nghttp2_session_mem_send(session_.get(), &piece)) > 0;)
    output_.append(reinterpret_cast<const char*>(piece), static_cast<size_t>(bytes));
  if (output_.empty()) return;
  writing_ = true;
  asio::async_write(stream_, asio::buffer(output_), [me = self<GrpcRun>()](const error_code& error, size_t) {
    me->writing_ = false;
    if (me->over()) return;
    // What the server said before it closed is read all the same, and says more than this error.
    if (!error) me->write();
  });
}

void GrpcRun::read() {
  stream_.async_read_some(
      asio::buffer(input_), [me = self<GrpcRun>()](const error_code& error, size_t bytes) {
        if (me->over()) return;
        if (error) return me->finish_broken(error);
        const ssize_t used = nghttp2_session_mem_recv(me->session_.get(), me->input_.data(), bytes);
        if (used < 0)
          return me->finish(CheckCode::l7rsp,
                            std::string("not HTTP/2: ") + nghttp2_strerror(static_cast<int>(used)));
        if (me->call_over_) return me->judge();
        me->write();  // acknowledgements
        // The session has ended itself by a GOAWAY: what came breaks the protocol.
        if (nghttp2_session_want_read(me->session_.get()) == 0)
          return me->finish(CheckCode::l7rsp, "not HTTP/2");
        me->read();
      });
}

void GrpcRun::took(std::string_view name, std::string_view value) {
  value = value.substr(0, kCheckDetailBytesMax);
  if (name == ":status") http_status_ = value;
  if (name == "grpc-status") grpc_status_ = value;
  if (name == "grpc-message") grpc_message_ = value;
}

std::string GrpcRun::call_error() const {
  return "gRPC status " + grpc_status_ + (grpc_message_.empty() ? "" : ": " + grpc_message_);
}

void GrpcRun::judge() {
  if (http_status_.empty())
    return finish(CheckCode::l7rsp,
                  std::string("the call was reset: ") + nghttp2_http2_strerror(reset_code_));
  if (http_status_ != "200") return finish(CheckCode::l7sts, "HTTP status " + http_status_);
  if (grpc_status_.empty()) return finish(CheckCode::l7rsp, "an HTTP/2 answer, but not of gRPC");
  if (grpc_status_ != "0") return finish(CheckCode::l7sts, call_error());
  const std::optional<ServingStatus> status = parse_grpc_health_answer(data_);
  if (!status) return finish(CheckCode::l7rsp, "not an answer of grpc.health.v1");
  finish(*status == ServingStatus::serving ? CheckCode::l7ok : CheckCode::l7sts, text(*status));
}

}  // namespace

RunPtr make_grpc_run(ProbeTools& tools, TargetPtr target, Probe::Handler done) {
  return std::make_shared<GrpcRun>(tools, std::move(target), std::move(done));
}

}  // namespace sluice
