#include "emulator/json.h"

#include <array>
#include <charconv>
#include <cstdint>
#include <cstdio>

namespace wattcount::emulator {
namespace {

std::string brief(double value) {
  std::array<char, 32> text{};
  std::snprintf(text.data(), text.size(), "%.10g", value);
  return text.data();
}

}  // namespace

class JsonParser {
 public:
  explicit JsonParser(const std::string& text) : text_(text) {}

  Json parse() {
    Json value = parse_value(0);
    skip_space();
    if (at_ != text_.size()) {
      fail("something follows the end of the document");
    }
    return value;
  }

 private:
  static constexpr int kMaxDepth = 64;

  [[noreturn]] void fail(const std::string& what) const {
    std::size_t line = 1;
    std::size_t column = 1;
    for (std::size_t i = 0; i < at_ && i < text_.size(); ++i) {
      column = text_[i] == '\n' ? 1 : column + 1;
      line += text_[i] == '\n' ? 1 : 0;
    }
    throw JsonError("line " + std::to_string(line) + ", column " + std::to_string(column) + ": " + what);
  }

  void skip_space() {
    while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\t' || text_[at_] == '\n' || text_[at_] == '\r')) {
      ++at_;
    }
  }

  bool take(char c) {
    skip_space();
    if (at_ < text_.size() && text_[at_] == c) {
      ++at_;
      return true;
    }
    return false;
  }

  void expect(char c) {
    if (!take(c)) {
      fail(std::string("'") + c + "' expected");
    }
  }

  Json parse_value(int depth) {
    if (depth > kMaxDepth) {
      fail("nested too deep");
    }
    skip_space();
    if (at_ == text_.size()) {
      fail("a value expected, the file ends");
    }
    Json value;
    const char c = text_[at_];
    if (c == '{') {
      value.value_ = parse_object(depth);
    } else if (c == '[') {
      value.value_ = parse_array(depth);
    } else if (c == '"') {
      value.value_ = parse_string();
    } else if (word("true")) {
      value.value_ = true;
    } else if (word("false")) {
      value.value_ = false;
    } else if (word("null")) {
      value.value_ = nullptr;
    } else {
      value.value_ = parse_number();
    }
    return value;
  }

  bool word(const char* literal) {
    const std::string wanted(literal);
    if (text_.compare(at_, wanted.size(), wanted) == 0) {
      at_ += wanted.size();
      return true;
    }
    return false;
  }

  Json::Object parse_object(int depth) {
    Json::Object object;
    expect('{');
    if (take('}')) {
      return object;
    }
    do {
      skip_space();
      std::string key = parse_string();
      if (object.contains(key)) {
        fail("'" + key + "' is there twice");
      }
      expect(':');
      object.append(std::move(key), parse_value(depth + 1));
    } while (take(','));
    expect('}');
    return object;
  }

  Json::Array parse_array(int depth) {
    Json::Array array;
    expect('[');
    if (take(']')) {
      return array;
    }
    do {
      array.push_back(parse_value(depth + 1));
    } while (take(','));
    expect(']');
    return array;
  }

  std::string parse_string() {
    if (at_ == text_.size() || text_[at_] != '"') {
      fail("a string expected");
    }
    ++at_;
    std::string out;
    while (true) {
      if (at_ == text_.size()) {
        fail("a string that does not end");
      }
      const char c = text_[at_++];
      if (c == '"') {
        return out;
      }
      if (static_cast<unsigned char>(c) < 0x20) {
        fail("a control character in a string");
      }
      out += c == '\\' ? escaped() : std::string(1, c);
    }
  }

  std::string escaped() {
    if (at_ == text_.size()) {
      fail("a string that does not end");
    }
    switch (text_[at_++]) {
      case '"':
        return "\"";
      case '\\':
        return "\\";
      case '/':
        return "/";
      case 'b':
        return "\b";
      case 'f':
        return "\f";
      case 'n':
        return "\n";
      case 'r':
        return "\r";
      case 't':
        return "\t";
      case 'u':
        return unicode();
      default:
        fail("an escape that JSON does not have");
    }
  }

  std::uint32_t hex4() {
    std::uint32_t code = 0;
    const char* first = text_.data() + at_;
    if (at_ + 4 > text_.size() || std::from_chars(first, first + 4, code, 16).ptr != first + 4) {
      fail("four hexadecimal digits expected");
    }
    at_ += 4;
    return code;
  }

  std::string unicode() {
    std::uint32_t code = hex4();
    if (code >= 0xDC00 && code < 0xE000) {
      fail("the second half of a surrogate pair without the first");
    }
    if (code >= 0xD800 && code < 0xDC00) {
      const bool more = text_.compare(at_, 2, "\\u") == 0;
      at_ += more ? 2 : 0;
      const std::uint32_t second = more ? hex4() : 0;
      if (second < 0xDC00 || second >= 0xE000) {
        fail("the first half of a surrogate pair without the second");
      }
      code = 0x10000 + ((code - 0xD800) << 10U) + (second - 0xDC00);
    }
    std::string out;
    const auto add = [&out](std::uint32_t byte) { out += static_cast<char>(byte); };
    if (code < 0x80) {
      add(code);
    } else if (code < 0x800) {
      add(0xC0 | (code >> 6U));
      add(0x80 | (code & 0x3FU));
    } else if (code < 0x10000) {
      add(0xE0 | (code >> 12U));
      add(0x80 | ((code >> 6U) & 0x3FU));
      add(0x80 | (code & 0x3FU));
    } else {
      add(0xF0 | (code >> 18U));
      add(0x80 | ((code >> 12U) & 0x3FU));
      add(0x80 | ((code >> 6U) & 0x3FU));
      add(0x80 | (code & 0x3FU));
    }
    return out;
  }

  std::size_t digits() {
    const std::size_t from = at_;
    while (at_ < text_.size() && text_[at_] >= '0' && text_[at_] <= '9') {
      ++at_;
    }
    return at_ - from;
  }

  // JSON's own form, which is narrower than what std::from_chars takes: no inf or nan, no 01, no 1.
  double parse_number() {
    const std::size_t from = at_;
    const auto refuse = [&] {
      at_ = from;
      fail("a value expected");
    };
    at_ += text_[at_] == '-' ? 1 : 0;
    const bool zero = at_ < text_.size() && text_[at_] == '0';
    const std::size_t whole = digits();
    if (whole == 0 || (zero && whole > 1)) {
      refuse();
    }
    if (at_ < text_.size() && text_[at_] == '.') {
      ++at_;
      if (digits() == 0) {
        refuse();
      }
    }
    if (at_ < text_.size() && (text_[at_] == 'e' || text_[at_] == 'E')) {
      ++at_;
      at_ += at_ < text_.size() && (text_[at_] == '+' || text_[at_] == '-') ? 1 : 0;
      if (digits() == 0) {
        refuse();
      }
    }
    double number = 0.0;
    if (std::from_chars(text_.data() + from, text_.data() + at_, number).ec != std::errc()) {
      at_ = from;
      fail("a number that a double cannot hold");
    }
    return number;
  }

  const std::string& text_;
  std::size_t at_ = 0;
};

const Json* JsonObject::find(const std::string& key) const {
  for (const auto& [name, value] : entries_) {
    if (name == key) {
      return &value;
    }
  }
  return nullptr;
}

const Json& JsonObject::at(const std::string& key) const {
  if (const Json* found = find(key)) {
    return *found;
  }
  throw JsonError("'" + key + "' is missing");
}

void JsonObject::append(std::string key, Json value) { entries_.emplace_back(std::move(key), std::move(value)); }

Json Json::parse(const std::string& text) { return JsonParser(text).parse(); }

double Json::number(const std::string& where) const {
  if (const auto* value = std::get_if<double>(&value_)) {
    return *value;
  }
  throw JsonError(where + ": a number expected");
}

double Json::number(const std::string& where, double least, double most) const {
  const double value = number(where);
  if (!(value >= least && value <= most)) {
    throw JsonError(where + ": a number from " + brief(least) + " to " + brief(most) + " expected");
  }
  return value;
}

const std::string& Json::text(const std::string& where) const {
  if (const auto* value = std::get_if<std::string>(&value_)) {
    return *value;
  }
  throw JsonError(where + ": a string expected");
}

const Json::Array& Json::array(const std::string& where) const {
  if (const auto* value = std::get_if<Array>(&value_)) {
    return *value;
  }
  throw JsonError(where + ": a list expected");
}

const Json::Object& Json::object(const std::string& where) const {
  if (const auto* value = std::get_if<Object>(&value_)) {
    return *value;
  }
  throw JsonError(where + ": an object expected");
}

}  // namespace wattcount::emulator
