#include "emulator/json.h"

#include <cctype>
#include <charconv>
#include <cstdint>

namespace wattcount::emulator {

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
      object.emplace(std::move(key), parse_value(depth + 1));
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
    if (code >= 0xD800 && code < 0xDC00 && text_.compare(at_, 2, "\\u") == 0) {
      at_ += 2;
      code = 0x10000 + ((code - 0xD800) << 10U) + (hex4() - 0xDC00);
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

  double parse_number() {
    double number = 0.0;
    const char* first = text_.data() + at_;
    const char* last = text_.data() + text_.size();
    const auto [end, error] = std::from_chars(first, last, number);
    if (error != std::errc() || (*first != '-' && std::isdigit(static_cast<unsigned char>(*first)) == 0)) {
      fail("a value expected");
    }
    at_ += static_cast<std::size_t>(end - first);
    return number;
  }

  const std::string& text_;
  std::size_t at_ = 0;
};

Json Json::parse(const std::string& text) { return JsonParser(text).parse(); }

double Json::number(const std::string& where) const {
  if (const auto* value = std::get_if<double>(&value_)) {
    return *value;
  }
  throw JsonError(where + ": a number expected");
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
