// HTTP/1.1 checks: one request, its status, and where a pattern is given the body.
#include <algorithm>

#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http/buffer_body.hpp>
#include <boost/beast/http/empty_body.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/read.hpp>
#include <boost/beast/http/write.hpp>
#include <re2/re2.h>

#include "controlplane/probe_stream.h"

namespace sluice {
namespace {

namespace http = boost::beast::http;

class HttpRun : public StreamRun {
 public:
  using StreamRun::StreamRun;

 protected:
  void connected() override {
    request_.method_string(config().method);
    request_.version(11);
    request_.target(config().path);
    request_.set(http::field::host, config().host);
    request_.set(http::field::user_agent, "sluice/" SLUICE_VERSION " (health check)");
    request_.set(http::field::accept, "*/*");
    for (const auto& [name, value] : config().headers)
      request_.set(name, value);
    request_.keep_alive(false);
    parser_.header_limit(kResponseHeaderBytesMax);
    parser_.body_limit(boost::none);  // it is read as far as it is wanted
    parser_.skip(config().method == "HEAD");
    http::async_write(stream_, request_,
                      [me = self<HttpRun>()](const error_code& e, size_t) { me->written(e); });
  }

  std::string missing_answer() const override {
    return parser_.is_header_done() ? "no end of the HTTP response's body"
                                    : "no complete HTTP response header";
  }

 private:
  void written(const error_code& error) {
    if (over()) return;
    if (error) return failed(error);
    http::async_read_header(stream_, buffer_, parser_,
                            [me = self<HttpRun>()](const error_code& e, size_t) { me->answered(e); });
  }

  void answered(const error_code& error) {
    if (over()) return;
    if (error) return failed(error);
    const unsigned status = parser_.get().result_int();
    const auto contains = [status](const StatusRange& range) { return range.contains(status); };
    if (std::none_of(config().status.begin(), config().status.end(), contains))
      return finish(CheckCode::l7sts, status_text());
    if (config().body.empty()) return finish(CheckCode::l7ok, status_text());
    body_.resize(kResponseBodyBytesMax);
    read_body();
  }

  void read_body() {
    if (parser_.is_done() || body_bytes_ == body_.size()) return judge_body();
    http::buffer_body::value_type& room = parser_.get().body();
    room.data = body_.data() + body_bytes_;
    room.size = body_.size() - body_bytes_;
    http::async_read_some(stream_, buffer_, parser_, [me = self<HttpRun>()](const error_code& e, size_t) {
      if (!me->over()) me->took_body(e);
    });
  }

  void took_body(const error_code& error) {
    body_bytes_ = body_.size() - parser_.get().body().size;
    // Many servers end TLS as if it were TCP; where the body's length is known Beast sees what is missing.
    const bool ended = error == http::error::end_of_stream ||
                       (error == boost::asio::ssl::error::stream_truncated && parser_.need_eof());
    if (ended) return judge_body();
    if (error && error != http::error::need_buffer) return failed(error);
    read_body();
  }

  void judge_body() {
    const re2::StringPiece text(body_.data(), body_bytes_);
    if (RE2::PartialMatch(text, tools().pattern(config().body)))
      return finish(CheckCode::l7ok, status_text());
    finish(CheckCode::l7rsp, status_text() + ", but its body does not match");
  }

  std::string status_text() const { return "HTTP status " + std::to_string(parser_.get().result_int()); }

  void failed(const error_code& error) {
    if (error == http::error::end_of_stream) return finish(CheckCode::l7rsp, "closed without an answer");
    if (error.category() == http::make_error_code(http::error::end_of_stream).category())
      return finish(CheckCode::l7rsp, "not an HTTP response: " + error.message());
    finish_broken(error);
  }

  http::request<http::empty_body> request_;
  http::response_parser<http::buffer_body> parser_;
  boost::beast::flat_buffer buffer_{kResponseHeaderBytesMax};
  std::string body_;  // as much room as it may have
  size_t body_bytes_ = 0;
};

}  // namespace

RunPtr make_http_run(ProbeTools& tools, TargetPtr target, Probe::Handler done) {
  return std::make_shared<HttpRun>(tools, std::move(target), std::move(done));
}

}  // namespace sluice
