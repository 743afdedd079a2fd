// A strict reader for small JSON files. Errors name the line and column.
#pragma once

#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <variant>
#include <vector>

namespace wattcount::emulator {

class JsonError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

class Json {
 public:
  using Array = std::vector<Json>;
  using Object = std::map<std::string, Json>;

  Json() = default;
  static Json parse(const std::string& text);  // throws JsonError

  bool is_null() const { return std::holds_alternative<std::nullptr_t>(value_); }
  // `where` names the value in errors.
  double number(const std::string& where) const;
  const std::string& text(const std::string& where) const;
  const Array& array(const std::string& where) const;
  const Object& object(const std::string& where) const;

 private:
  friend class JsonParser;
  std::variant<std::nullptr_t, bool, double, std::string, Array, Object> value_ = nullptr;
};

}  // namespace wattcount::emulator
