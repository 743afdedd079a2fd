// A strict reader for small JSON files. Errors name the line and column.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>
#include <utility>
#include <variant>
#include <vector>

namespace wattcount::emulator {

class JsonError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

class Json;

// Keys and values in the order of the file. A vector, as the standard allows it of a type that is not complete yet.
class JsonObject {
 public:
  const Json* find(const std::string& key) const;  // null where there is no such key
  bool contains(const std::string& key) const { return find(key) != nullptr; }
  const Json& at(const std::string& key) const;  // throws JsonError
  void append(std::string key, Json value);
  auto begin() const { return entries_.begin(); }
  auto end() const { return entries_.end(); }

 private:
  std::vector<std::pair<std::string, Json>> entries_;
};

class Json {
 public:
  using Array = std::vector<Json>;
  using Object = JsonObject;

  Json() = default;
  static Json parse(const std::string& text);  // throws JsonError

  bool is_null() const { return std::holds_alternative<std::nullptr_t>(value_); }
  // `where` names the value in errors.
  double number(const std::string& where) const;
  double number(const std::string& where, double least, double most) const;
  // One without a fraction that `T` can hold, and a double without rounding.
  template <typename T>
  T whole(const std::string& where) const {
    constexpr double kExact = 9007199254740992.0;  // 2^53
    const double least = std::max(static_cast<double>(std::numeric_limits<T>::min()), -kExact);
    const double most = std::min(static_cast<double>(std::numeric_limits<T>::max()), kExact);
    const double value = number(where, least, most);
    if (value != std::floor(value)) {
      throw JsonError(where + ": a whole number expected");
    }
    return static_cast<T>(value);
  }
  const std::string& text(const std::string& where) const;
  const Array& array(const std::string& where) const;
  const Object& object(const std::string& where) const;

 private:
  friend class JsonParser;
  std::variant<std::nullptr_t, bool, double, std::string, Array, Object> value_ = nullptr;
};

}  // namespace wattcount::emulator
