#include "controlplane/protocol.h"

#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <optional>
#include <set>
#include <utility>

#include <boost/asio/buffer.hpp>
#include <boost/asio/local/stream_protocol.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/read_until.hpp>
#include <boost/asio/steady_timer.hpp>

#include "src/segment.h"

namespace sluice {
namespace {

namespace asio = boost::asio;
using asio::local::stream_protocol;
using boost::system::error_code;
using nlohmann::json;
using Clock = std::chrono::steady_clock;

constexpr std::chrono::milliseconds kAcceptRetry{100};
// Of a request: a service's definition needs eight. What is nested is copied, written and destroyed
// recursively.
constexpr size_t kRequestDepthMax = 64;

// Counts brackets outside of strings; whether they match is the parser's business.
bool nests_too_deep(std::string_view line) {
  size_t depth = 0;
  bool in_text = false;
  for (size_t at = 0; at < line.size(); at++) {
    const char c = line[at];
    if (in_text) {
      if (c == '\\') at++;
      if (c == '"') in_text = false;
    } else if (c == '"') {
      in_text = true;
    } else if (c == '[' || c == '{') {
      if (++depth > kRequestDepthMax) return true;
    } else if ((c == ']' || c == '}') && depth > 0) {
      depth--;
    }
  }
  return false;
}

}  // namespace

ParsedRequest parse_request(std::string_view line) {
  ParsedRequest parsed;
  if (nests_too_deep(line)) {
    parsed.refusal =
        error_response(kCodeBadRequest,
                       {"the request is nested more than " + std::to_string(kRequestDepthMax) + " deep", ""});
    return parsed;
  }
  parsed.request = json::parse(line, nullptr, /*allow_exceptions=*/false);
  if (!parsed.request.is_object()) {
    parsed.refusal = error_response(kCodeBadRequest, {"the request is not a JSON object on one line", ""});
    return parsed;
  }
  const auto version = parsed.request.find("v");
  if (version == parsed.request.end() || *version != kProtocolVersion) {
    parsed.refusal = error_response(
        kCodeBadRequest, {"the request is not of protocol version " + std::to_string(kProtocolVersion),
                          "use the sluice command of this sluiced: " SLUICE_VERSION});
    return parsed;
  }
  const auto command = parsed.request.find("cmd");
  if (command == parsed.request.end() || !command->is_string()) {
    parsed.refusal = error_response(kCodeBadRequest, {"the request has no \"cmd\"", ""});
  }
  return parsed;
}

// Sessions may outlive the server by a handler or two: what they need of it.
struct ProtocolServer::Shared {
  Handler handler;
  Options options;
  std::set<Session*> sessions;

  bool make_room(Role role, uid_t uid);
};

struct ProtocolServer::Impl {
  Impl(asio::io_context& io, std::string socket_path, Handler request_handler, Options server_options)
      : path(std::move(socket_path)), acceptor(io), retry(io) {
    shared->handler = std::move(request_handler);
    shared->options = std::move(server_options);
  }

  void accept();
  void admit(stream_protocol::socket socket);

  const std::string path;
  stream_protocol::acceptor acceptor;
  asio::steady_timer retry;
  bool fault_told = false;
  std::shared_ptr<Shared> shared = std::make_shared<Shared>();
};

// One connection. Alive while an operation of it is under way or its answer is being worked out.
class ProtocolServer::Session : public Reply::Channel, public std::enable_shared_from_this<Session> {
 public:
  Session(stream_protocol::socket socket, Credentials peer, std::shared_ptr<Shared> shared)
      : socket_(std::move(socket)),
        deadline_(socket_.get_executor()),
        peer_(std::move(peer)),
        shared_(std::move(shared)) {
    shared_->sessions.insert(this);
  }
  ~Session() override { shared_->sessions.erase(this); }

  uid_t uid() const { return peer_.uid; }
  Role role() const { return shared_->options.access.role_of(peer_); }
  // When it began to wait for a request; nothing while one is at work.
  std::optional<Clock::time_point> waits_since() const { return waits_since_; }

  void read() {
    set_deadline();
    waits_since_ = Clock::now();
    line_bytes_max_ = role() == Role::admin ? kAdminLineBytesMax : kLineBytesMax;
    // One byte more than a line may have: a buffer full without a newline is an oversized line.
    asio::async_read_until(
        socket_, asio::dynamic_buffer(input_, std::max(line_bytes_max_ + 1, input_.size())), '\n',
        [self = shared_from_this()](error_code error, size_t length) { self->received(error, length); });
  }

  void refuse(const json& response) {
    then_close_ = true;
    is_answered_ = false;
    answer(response);
  }

  // Cut off, whatever is under way.
  void end() {
    shared_->sessions.erase(this);
    is_gone_ = true;
    error_code ignored;
    socket_.close(ignored);
    deadline_.cancel();
    after_sent_ = nullptr;
    if (const auto closed = std::exchange(on_close_, nullptr)) closed();
  }

  // ---- Reply::Channel ----
  void answer(const json& response) override {
    if (is_answered_) return;
    is_answered_ = true;
    on_close_ = nullptr;
    after_sent_ = nullptr;
    enqueue(response);
  }
  bool part(const json& line) override {
    if (is_gone_ || is_answered_ || waiting_.size() + (output_.size() - sent_) > kStreamBytesMax)
      return false;
    enqueue(line);
    return true;
  }
  void on_close(std::function<void()> closed) override {
    on_close_ = std::move(closed);
    // Completes when the peer has closed for good, not when it only shut down its sending side. Keeps nobody
    // alive.
    socket_.async_wait(stream_protocol::socket::wait_error, [weak = weak_from_this()](error_code error) {
      const auto self = weak.lock();
      if (!error && self) self->end();
    });
  }
  void after_sent(std::function<void()> sent) override {
    after_sent_ = std::move(sent);
    if (!writes_) asio::post(socket_.get_executor(), [self = shared_from_this()] { self->all_sent(); });
  }

 private:
  void received(error_code error, size_t length) {
    deadline_.cancel();
    waits_since_.reset();
    is_answered_ = false;
    if (error == asio::error::not_found || (!error && length - 1 > line_bytes_max_)) return refuse_line();
    // A client that shuts down its side right after the last request may leave the newline out.
    const bool last_line = error == asio::error::eof && !input_.empty();
    if (error && !last_line) return;  // closed, reset or timed out: the last reference goes, and the socket
    const uint64_t received_ns = monotonic_ns();
    const ParsedRequest parsed =
        parse_request(std::string_view(input_).substr(0, last_line ? input_.size() : length - 1));
    input_.erase(0, last_line ? input_.size() : length);
    if (input_.empty()) input_.shrink_to_fit();  // after a configuration of megabytes
    const Client client{role(), peer_};
    if (client.role == Role::none) {
      return refuse(error_response(kCodeDenied, shared_->options.access.refusal(client, Role::read)));
    }
    if (!parsed.refusal.is_null()) return answer(parsed.refusal);
    shared_->handler(parsed.request, received_ns, Reply(client, shared_from_this()));
  }

  void refuse_line() {
    const std::string remedy = line_bytes_max_ < kAdminLineBytesMax
                                   ? "the role admin may send " + std::to_string(kAdminLineBytesMax)
                                   : "";
    refuse(
        error_response(kCodeBadRequest,
                       {"the request is longer than " + std::to_string(line_bytes_max_) + " bytes", remedy}));
  }

  void enqueue(const json& line) {
    if (is_gone_) return;
    waiting_ += to_line(line);
    if (!writes_) begin_writing();
  }

  void begin_writing() {
    writes_ = true;
    output_ = std::exchange(waiting_, std::string());
    sent_ = 0;
    write_some();
  }

  void write_some() {
    set_deadline();  // anew for each piece that is taken: slow is not dead
    socket_.async_write_some(asio::buffer(output_.data() + sent_, output_.size() - sent_),
                             [self = shared_from_this()](error_code error, size_t bytes) {
                               self->deadline_.cancel();
                               if (error || self->is_gone_) return self->end();
                               self->sent_ += bytes;
                               if (self->sent_ < self->output_.size()) return self->write_some();
                               if (!self->waiting_.empty()) return self->begin_writing();
                               self->writes_ = false;
                               self->all_sent();
                             });
  }

  void all_sent() {
    if (writes_ || is_gone_) return;
    if (!is_answered_) {
      if (const auto sent = std::exchange(after_sent_, nullptr)) sent();
      return;
    }
    if (then_close_) return close();
    if (!waits_since_) read();
  }

  // Shut down before close: unread input would turn the close into a reset and lose the response.
  void close() {
    error_code ignored;
    socket_.shutdown(stream_protocol::socket::shutdown_send, ignored);
    char rest[4096];
    socket_.non_blocking(true, ignored);
    for (size_t bytes = 0; !ignored && bytes < kAdminLineBytesMax;) {
      const size_t got = socket_.read_some(asio::buffer(rest), ignored);
      if (got == 0) break;
      bytes += got;
    }
    socket_.close(ignored);
  }

  void set_deadline() {
    deadline_.expires_after(shared_->options.idle_timeout);
    deadline_.async_wait([weak = weak_from_this()](error_code error) {
      const auto self = weak.lock();
      if (!error && self) self->end();
    });
  }

  stream_protocol::socket socket_;
  asio::steady_timer deadline_;
  const Credentials peer_;
  const std::shared_ptr<Shared> shared_;
  std::optional<Clock::time_point> waits_since_;
  size_t line_bytes_max_ = kLineBytesMax;
  std::string input_;
  std::string output_;   // being written,
  size_t sent_ = 0;      //   so far
  std::string waiting_;  // goes next
  bool writes_ = false;
  bool is_answered_ = true;  // no request is at work
  bool then_close_ = false;
  bool is_gone_ = false;
  std::function<void()> on_close_;
  std::function<void()> after_sent_;
};

bool ProtocolServer::Shared::make_room(Role role, uid_t uid) {
  const size_t readers = static_cast<size_t>(std::count_if(
      sessions.begin(), sessions.end(), [](const Session* s) { return s->role() != Role::admin; }));
  const size_t readers_max = std::max<size_t>(options.clients_max / 2, 1);
  const bool only_readers = role != Role::admin && readers >= readers_max;
  std::map<uid_t, size_t> count;
  for (const Session* session : sessions)
    count[session->uid()]++;
  // Watches never give way: one reader must not have them in all places.
  if (role != Role::admin && count[uid] >= readers_max - readers_max / 4) return false;
  if (!only_readers && sessions.size() < options.clients_max) return true;
  const Clock::time_point safe_since = Clock::now() - options.seat_safe;
  Session* victim = nullptr;
  for (Session* session : sessions) {
    const auto since = session->waits_since();
    if (!since || *since > safe_since || (only_readers && session->role() == Role::admin)) continue;
    const auto safer = [&](const Session* s) {
      return std::pair(UINT64_MAX - count[s->uid()], *s->waits_since());
    };
    if (victim == nullptr || safer(session) < safer(victim)) victim = session;
  }
  if (victim == nullptr) return false;
  victim->end();
  return true;
}

void ProtocolServer::Impl::admit(stream_protocol::socket socket) {
  const Result<Credentials> peer = peer_credentials(socket.native_handle());
  if (!peer) return;  // gone already
  const Client client{shared->options.access.role_of(*peer), *peer};
  const bool has_room = client.role != Role::none && shared->make_room(client.role, peer->uid);
  const auto session = std::make_shared<Session>(std::move(socket), *peer, shared);
  if (has_room) return session->read();
  shared->sessions.erase(session.get());
  if (client.role == Role::none)
    return session->refuse(error_response(kCodeDenied, shared->options.access.refusal(client, Role::read)));
  session->refuse(error_response(
      kCodeBusy, {"sluiced serves " + std::to_string(shared->sessions.size()) + " clients already",
                  "try again in a moment"}));
}

void ProtocolServer::Impl::accept() {
  acceptor.async_accept([this](error_code error, stream_protocol::socket socket) {
    if (error == asio::error::operation_aborted) return;
    if (error) {
      // Out of descriptors, most likely: others will be closed in a moment.
      if (!std::exchange(fault_told, true))
        shared->options.on_fault("nobody can connect to the control socket: " + error.message());
      retry.expires_after(kAcceptRetry);
      retry.async_wait([this](error_code timer_error) {
        if (!timer_error) accept();
      });
      return;
    }
    fault_told = false;
    admit(std::move(socket));
    accept();
  });
}

Result<std::unique_ptr<ProtocolServer>> ProtocolServer::listen(asio::io_context& io, const std::string& path,
                                                               Handler handler, Options options) {
  if (path.size() >= sizeof(sockaddr_un::sun_path)) {
    return Error{"the path of the control socket is too long: " + path, "use a shorter --dir"};
  }
  unlink(path.c_str());
  auto impl = std::make_unique<Impl>(io, path, std::move(handler), std::move(options));
  error_code error;
  impl->acceptor.open(stream_protocol(), error);
  if (!error) {
    // From its first moment nobody but who may has access.
    const mode_t previous = umask(0777 & ~impl->shared->options.access.socket_mode());
    impl->acceptor.bind(stream_protocol::endpoint(path), error);
    umask(previous);
  }
  if (!error) impl->acceptor.listen(asio::socket_base::max_listen_connections, error);
  if (error) return Error{"cannot listen on " + path + ": " + error.message(), ""};
  impl->accept();
  return std::unique_ptr<ProtocolServer>(new ProtocolServer(std::move(impl)));
}

ProtocolServer::ProtocolServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

Result<Done> ProtocolServer::set_access(const Access& access) {
  impl_->shared->options.access = access;
  if (chmod(impl_->path.c_str(), access.socket_mode()) == 0) return Done{};
  return Error{"cannot set the mode of " + impl_->path + ": " + std::strerror(errno), ""};
}

const Access& ProtocolServer::access() const {
  return impl_->shared->options.access;
}

size_t ProtocolServer::clients() const {
  return impl_->shared->sessions.size();
}

ProtocolServer::~ProtocolServer() {
  unlink(impl_->path.c_str());
}

}  // namespace sluice
