#include "controlplane/escaped.h"

#include <cstdint>

#include <fmt/format.h>

namespace sluice {
namespace {

struct Character {
  size_t bytes;
  char32_t point;
  bool is_utf8;
};

// RFC 3629 4. `text` is not empty.
Character first_of(std::string_view text) {
  const auto at = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char lead = at(0);
  if (lead < 0x80) return {1, lead, true};
  const size_t bytes = lead < 0xc2 ? 0 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : lead < 0xf5 ? 4 : 0;
  if (bytes == 0 || text.size() < bytes) return {1, lead, false};
  char32_t point = lead & (0x7fu >> bytes);
  for (size_t i = 1; i < bytes; i++) {
    if ((at(i) & 0xc0) != 0x80) return {1, lead, false};
    point = point << 6 | (at(i) & 0x3fu);
  }
  const bool is_too_long = (bytes == 3 && point < 0x800) || (bytes == 4 && point < 0x10000);
  const bool is_surrogate = point >= 0xd800 && point < 0xe000;
  if (is_too_long || is_surrogate || point > 0x10ffff) return {1, lead, false};
  return {bytes, point, true};
}

bool is_command(char32_t point) {
  const bool is_control = point < 0x20 || (point >= 0x7f && point < 0xa0);
  const bool turns_text = (point >= 0x2028 && point <= 0x202e) || (point >= 0x2066 && point <= 0x2069);
  return (is_control && point != '\t') || turns_text;
}

// What stands for the first character.
std::string shown(const Character& character, std::string_view text) {
  if (!character.is_utf8) return fmt::format("\\x{:02x}", static_cast<uint32_t>(character.point));
  if (is_command(character.point)) return fmt::format("\\u{:04x}", static_cast<uint32_t>(character.point));
  return std::string(text.substr(0, character.bytes));
}

}  // namespace

std::string escaped(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  while (!text.empty()) {
    const Character character = first_of(text);
    out += character.point == '\n' ? "\n" : shown(character, text);
    text.remove_prefix(character.bytes);
  }
  return out;
}

std::string masked(std::string_view line) {
  std::string out;
  while (!line.empty()) {
    const Character character = first_of(line);
    const bool is_shown = character.is_utf8 && !is_command(character.point);
    out += is_shown ? line.substr(0, character.bytes) : "?";
    line.remove_prefix(character.bytes);
  }
  return out;
}

std::string quotable(std::string_view text, size_t bytes_max) {
  std::string out;
  while (!text.empty()) {
    const Character character = first_of(text);
    const std::string piece = character.point == '\n' ? "\\n" : shown(character, text);
    if (out.size() + piece.size() > bytes_max) return out + "...";
    out += piece;
    text.remove_prefix(character.bytes);
  }
  return out;
}

}  // namespace sluice
