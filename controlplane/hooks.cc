#include "controlplane/hooks.h"

#include <algorithm>
#include <deque>
#include <optional>
#include <utility>

#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <fmt/format.h>

#include "controlplane/child_process.h"
#include "controlplane/message.h"

namespace sluice {
namespace {

using Clock = std::chrono::steady_clock;

constexpr size_t kOutputMax = 1 << 20;

struct Job {
  Event event;
  uint64_t coalesced = 0;  // earlier events that it stands for
};

std::vector<std::string> environment_of(const Job& job, const nlohmann::json& line) {
  return {"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
          "SLUICE_EVENT_KIND=" + job.event.kind,
          std::string("SLUICE_EVENT_LEVEL=") + text(job.event.level),
          "SLUICE_EVENT_TEXT=" + job.event.text,
          fmt::format("SLUICE_EVENT_NUMBER={}", job.event.number),
          "SLUICE_EVENT_TIME=" + line.at("time").get<std::string>(),
          "SLUICE_SERVICE=" + job.event.service,
          "SLUICE_BACKEND=" + job.event.backend,
          fmt::format("SLUICE_COALESCED={}", job.coalesced)};
}

}  // namespace

class Hooks::Hook : public std::enable_shared_from_this<Hook> {
 public:
  Hook(boost::asio::io_context& io, Events& events, const HookConfig& config)
      : io_(io), events_(events), config_(config), limit_(io), refill_(io), tokens_(config.burst) {}

  const HookConfig& config() const { return config_; }

  void end() {
    is_ended_ = true;
    limit_.cancel();
    refill_.cancel();
    child_.reset();
  }

  bool wants(const Event& event) const {
    return std::any_of(config_.events.begin(), config_.events.end(),
                       [&](const std::string& pattern) { return matches(pattern, event.kind); });
  }

  // Called by the events: starts nothing itself.
  void offer(const Event& event) {
    refill();
    if (!late_ && tokens_ >= 1 && queue_.size() < config_.burst) {
      tokens_ -= 1;
      queue_.push_back({event, 0});
      return boost::asio::post(io_, [self = shared_from_this()] { self->run_next(); });
    }
    late_ = Job{event, late_ ? late_->coalesced + 1 : 0};
    wait_for_token();
  }

 private:
  void refill() {
    const Clock::time_point now = Clock::now();
    const double periods = std::chrono::duration<double>(now - refilled_) / config_.per;
    tokens_ = std::min<double>(config_.burst, tokens_ + periods * config_.burst);
    refilled_ = now;
  }

  void wait_for_token() {
    if (std::exchange(waits_, true)) return;
    refill_.expires_after(config_.per / config_.burst + std::chrono::milliseconds(1));
    refill_.async_wait([self = shared_from_this()](const boost::system::error_code& error) {
      if (error || self->is_ended_) return;
      self->waits_ = false;
      self->refill();
      if (self->tokens_ < 1 || self->queue_.size() >= self->config_.burst) return self->wait_for_token();
      self->tokens_ -= 1;
      self->queue_.push_back(*std::exchange(self->late_, std::nullopt));
      self->run_next();
    });
  }

  void run_next() {
    if (is_ended_ || child_ || queue_.empty()) return;
    const Job job = std::move(queue_.front());
    queue_.pop_front();
    nlohmann::json line = to_json(job.event);
    line["coalesced"] = job.coalesced;
    Result<std::unique_ptr<ChildProcess>> child =
        ChildProcess::start(io_, {config_.command, environment_of(job, line), kOutputMax, to_line(line)},
                            [weak = weak_from_this(), kind = job.event.kind](const ChildProcess::Exit& exit) {
                              if (const auto self = weak.lock()) self->ended(exit, kind);
                            });
    if (!child) {
      tell(job.event.kind, child.error().text());
      return boost::asio::post(io_, [self = shared_from_this()] { self->run_next(); });
    }
    child_ = std::move(*child);
    is_late_ = false;
    limit_.expires_after(config_.timeout);
    limit_.async_wait([weak = weak_from_this()](const boost::system::error_code& error) {
      const auto self = weak.lock();
      if (error || !self || !self->child_) return;
      self->is_late_ = true;
      self->child_->kill();
    });
  }

  void ended(const ChildProcess::Exit& exit, const std::string& kind) {
    limit_.cancel();
    child_.reset();
    const std::string said = exit.output.substr(0, exit.output.find('\n'));
    if (is_late_) {
      tell(kind, fmt::format("did not end within {} ms and was killed", config_.timeout.count()));
    } else if (exit.too_long) {
      tell(kind, fmt::format("printed more than {} bytes and was killed", kOutputMax));
    } else if (exit.signal != 0) {
      tell(kind, fmt::format("was ended by signal {}", exit.signal));
    } else if (exit.status != 0) {
      tell(kind, fmt::format("ended with status {}{}{}", exit.status, said.empty() ? "" : ": ", said));
    }
    run_next();
  }

  void tell(const std::string& kind, const std::string& what) {
    if (is_ended_) return;
    Event event;
    event.level = Event::Level::warning;
    event.kind = "hook_failed";
    event.text = fmt::format("hook {} for {}: {}", config_.command.front(), kind, what);
    event.details = {{"command", config_.command}, {"event", kind}, {"fault", what}};
    events_.add(std::move(event));
  }

  boost::asio::io_context& io_;
  Events& events_;
  const HookConfig config_;
  boost::asio::steady_timer limit_;
  boost::asio::steady_timer refill_;
  std::deque<Job> queue_;    // each has its token
  std::optional<Job> late_;  // waits for one
  double tokens_;
  Clock::time_point refilled_ = Clock::now();
  bool waits_ = false;  // for a token
  std::unique_ptr<ChildProcess> child_;
  bool is_late_ = false;
  bool is_ended_ = false;
};

Hooks::Hooks(boost::asio::io_context& io, Events& events) : io_(io), events_(events) {}

Hooks::~Hooks() {
  follow({});
}

void Hooks::follow(const std::vector<HookConfig>& configs) {
  std::vector<std::shared_ptr<Hook>> before = std::exchange(hooks_, {});
  for (const HookConfig& config : configs) {
    const auto same = std::find_if(before.begin(), before.end(), [&](const std::shared_ptr<Hook>& hook) {
      return hook && hook->config() == config;
    });
    hooks_.push_back(same != before.end() ? std::exchange(*same, nullptr)
                                          : std::make_shared<Hook>(io_, events_, config));
  }
  for (const std::shared_ptr<Hook>& gone : before) {
    if (gone) gone->end();
  }
  if (hooks_.empty() == (listener_ == 0)) return;
  if (hooks_.empty()) return events_.unlisten(std::exchange(listener_, 0));
  listener_ = events_.listen([this](const Event& event) {
    if (event.kind.starts_with("hook_")) return;
    for (const std::shared_ptr<Hook>& hook : hooks_) {
      if (hook->wants(event)) hook->offer(event);
    }
  });
}

}  // namespace sluice
