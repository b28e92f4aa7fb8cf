// The control file: how the driver program (pktgen.py) asks the generator for trials, and what comes back.
//
// A file on a tmpfs, made by the driver, mapped by both. It has two letter boxes with one writer each, and a
// line of live counters. A letter is a JSON object (trial.h says what is in it) with its length; the number
// in front of it is stored last, with release, so whoever sees a new number with acquire sees the whole
// letter:
//
//   request   written by the driver only, when the generator has answered the request before
//   answer    written by the generator only, one for each request
//   progress  written by the generator only, once a burst: rough figures while a trial runs
//
// Text keeps both sides free of a binary layout to agree on beyond the constants below, which control.py
// repeats; `version` guards them. Cost: nothing in a trial but the stores of the progress line.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "src/result.h"

namespace sluice::pktgen {

inline constexpr uint64_t kControlVersion = 1;
inline constexpr size_t kLetterBytesMax = 4 << 20;  // 16,384 backends with counters fit

struct Letter {
  alignas(64) std::atomic<uint64_t> number;
  std::atomic<uint64_t> bytes;
  alignas(64) char text[kLetterBytesMax];
};

struct Progress {
  alignas(64) std::atomic<uint64_t> sent;  // all relaxed: they inform, nothing is ordered by them
  std::atomic<uint64_t> received;
  std::atomic<uint64_t> moved;
};

struct ControlBlock {
  std::atomic<uint64_t> version;            // kControlVersion; written by the driver when it makes the file
  std::atomic<uint64_t> stop;               // not 0: the driver ends the running trial early
  alignas(64) std::atomic<uint64_t> ready;  // the generator's: 1 from when it waits for requests on
  Progress progress;
  Letter request;
  Letter answer;
};
static_assert(offsetof(ControlBlock, stop) == 8 && offsetof(ControlBlock, ready) == 64);
static_assert(offsetof(ControlBlock, progress) == 128 && offsetof(ControlBlock, request) == 192);
static_assert(offsetof(Letter, text) == 64 && sizeof(Letter) == 64 + kLetterBytesMax);

class Control {
 public:
  // Maps the driver's file; stays mapped until the process ends.
  static Result<Control> open(const std::string& path);
  explicit Control(ControlBlock* block) : block_(block) {}

  void tell_ready() { block_->ready.store(1, std::memory_order_release); }
  // The newest request's number; when it is another than the last answered one, its text.
  uint64_t requested() const { return block_->request.number.load(std::memory_order_acquire); }
  std::string_view request() const;
  void answer(uint64_t number, const std::string& text);

  bool stop_asked() const { return block_->stop.load(std::memory_order_relaxed) != 0; }
  Progress& progress() { return block_->progress; }

 private:
  ControlBlock* block_;
};

}  // namespace sluice::pktgen
