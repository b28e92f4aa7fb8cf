#include "controlplane/json_tree.h"

#include <algorithm>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

namespace sluice {
namespace {

using nlohmann::json;

// Our schema is five deep; a tree is destroyed recursively.
constexpr size_t kDepthMax = 32;

// Where reading is: an iterator over the text that counts lines and columns as it goes. The parser copies
// iterators, so the count is kept outside.
struct Cursor {
  Position at{1, 0};
  Position previous{1, 0};

  void pass(char c) {
    previous = at;
    if (c == '\n') {
      at = {at.line + 1, 0};
    } else if ((static_cast<unsigned char>(c) & 0xc0) != 0x80) {  // UTF-8, RFC 3629 3
      at.column++;
    }
  }
};

class CountingIterator {
 public:
  using difference_type = std::ptrdiff_t;
  using value_type = char;
  using pointer = const char*;
  using reference = const char&;
  using iterator_category = std::input_iterator_tag;

  CountingIterator(const char* at, Cursor& cursor) : at_(at), cursor_(&cursor) {}
  reference operator*() const { return *at_; }
  CountingIterator& operator++() {
    cursor_->pass(*at_);
    at_++;
    return *this;
  }
  CountingIterator operator++(int) {
    CountingIterator before = *this;
    ++*this;
    return before;
  }
  bool operator==(const CountingIterator& other) const { return at_ == other.at_; }

 private:
  const char* at_;
  Cursor* cursor_;
};

// Builds the tree as values come. Containers are put in place first and filled there, so that nodes stay
// where they are.
class Builder : public nlohmann::json_sax<json> {
 public:
  Builder(toml::table& root, DiagnosticSink& sink, const Cursor& cursor)
      : root_(root), sink_(sink), cursor_(cursor) {}

  bool null() override { return fail("null is no value here: leave the key out"); }
  bool boolean(bool value) override { return add(value, value ? 4 : 5, false); }
  bool number_integer(number_integer_t value) override { return add(int64_t{value}, digits(value), true); }
  bool number_unsigned(number_unsigned_t value) override {
    if (value > INT64_MAX) return fail("a number above " + std::to_string(INT64_MAX));
    return add(static_cast<int64_t>(value), digits(value), true);
  }
  bool number_float(number_float_t value, const string_t& text) override {
    return add(double{value}, text.size(), true);
  }
  bool string(string_t& value) override { return add(value, value.size() + 2, false); }
  bool binary(binary_t&) override { return fail("binary is no value here"); }

  bool start_object(size_t) override {
    if (open_.empty()) {
      if (started_) return fail("more than one value");
      started_ = true;
      open_.push_back(&root_);
      sink_.set_place(root_, cursor_.at);
      return true;
    }
    return open(toml::table());
  }
  bool start_array(size_t) override { return open(toml::array()); }
  bool end_object() override { return close(); }
  bool end_array() override { return close(); }
  bool key(string_t& name) override {
    if (open_.back()->as_table()->contains(name)) return fail("the key '" + name + "' stands here twice");
    key_ = name;
    return true;
  }
  bool parse_error(size_t, const std::string&, const json::exception& error) override {
    // "[json.exception.parse_error.101] parse error at line 1, column 2: syntax error while ..."
    const std::string_view what = error.what();
    const size_t colon = what.find(": ");
    return fail("not JSON: " + std::string(colon == what.npos ? what : what.substr(colon + 2)));
  }

 private:
  template <typename Number>
  static size_t digits(Number value) {
    return std::to_string(value).size();
  }

  bool fail(std::string message) {
    if (!failed_) sink_.syntax_error({cursor_.at.line, std::max(1u, cursor_.at.column)}, std::move(message));
    failed_ = true;
    return false;
  }

  // Where the value that was just read begins; numbers end only at the character after them. Escapes in a
  // string make it longer than its value: its place is then off by as much, on its line.
  Position begin_of(size_t characters, bool one_ahead) const {
    const Position end = one_ahead ? cursor_.previous : cursor_.at;
    const auto length = static_cast<uint32_t>(std::min<size_t>(characters, end.column));
    return {end.line, std::max(1u, end.column + 1 - std::max(1u, length))};
  }

  template <typename Value>
  toml::node* put(Value&& value) {
    if (open_.empty()) return nullptr;
    if (toml::table* table = open_.back()->as_table())
      return &table->insert_or_assign(key_, std::forward<Value>(value)).first->second;
    toml::array* array = open_.back()->as_array();
    array->push_back(std::forward<Value>(value));
    return &array->back();
  }

  template <typename Value>
  bool add(Value&& value, size_t characters, bool one_ahead) {
    toml::node* node = put(std::forward<Value>(value));
    if (node == nullptr) return fail("the top level is not an object");
    sink_.set_place(*node, begin_of(characters, one_ahead));
    return true;
  }

  template <typename Container>
  bool open(Container&& container) {
    if (open_.size() >= kDepthMax) return fail("nested more than " + std::to_string(kDepthMax) + " deep");
    toml::node* node = put(std::forward<Container>(container));
    if (node == nullptr) return fail("the top level is not an object");
    sink_.set_place(*node, cursor_.at);
    open_.push_back(node);
    return true;
  }

  bool close() {
    open_.pop_back();
    return true;
  }

  toml::table& root_;
  DiagnosticSink& sink_;
  const Cursor& cursor_;
  std::vector<toml::node*> open_;
  std::string key_;
  bool started_ = false;
  bool failed_ = false;
};

}  // namespace

void read_json(std::string_view text, toml::table& root, DiagnosticSink& sink) {
  Cursor cursor;
  Builder builder(root, sink, cursor);
  json::sax_parse(CountingIterator(text.data(), cursor), CountingIterator(text.data() + text.size(), cursor),
                  &builder);
}

}  // namespace sluice
