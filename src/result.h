// Errors of operation as values: what is wrong, and the command that mends it. Programming errors assert
// instead.
#pragma once

#include <string>
#include <utility>
#include <variant>

namespace sluice {

struct Error {
  std::string what;    // one line: the object (file:line:col, segment, interface) and what is wrong with it
  std::string remedy;  // one line: the command that mends it; may be empty

  std::string text() const { return remedy.empty() ? what : what + "\n  try: " + remedy; }
};

template <typename T>
class [[nodiscard]] Result {
 public:
  Result(T value) : value_(std::in_place_index<0>, std::move(value)) {}
  Result(Error error) : value_(std::in_place_index<1>, std::move(error)) {}

  explicit operator bool() const { return value_.index() == 0; }
  T& operator*() { return std::get<0>(value_); }
  const T& operator*() const { return std::get<0>(value_); }
  T* operator->() { return &std::get<0>(value_); }
  const T* operator->() const { return &std::get<0>(value_); }
  const Error& error() const { return std::get<1>(value_); }

 private:
  std::variant<T, Error> value_;
};

struct Done {};  // for operations that yield nothing

}  // namespace sluice
