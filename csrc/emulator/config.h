// Reading of a configuration in JSON. Every error names the key, or the line and column.
#pragma once

#include <concepts>
#include <limits>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <set>
#include <stdexcept>
#include <string>
#include <vector>

namespace wattcount::emulator {

class ConfigError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// One object of the file. A key whose value is null counts as left out. All methods throw ConfigError.
class Section {
 public:
  // The whole file. `known`: the keys that it may have.
  static Section parse(const std::string& text, const std::set<std::string>& known);

  bool has(const std::string& key) const { return find(key) != nullptr; }
  std::string text(const std::string& key) const;
  double number(const std::string& key, double least, double most) const;
  // A number without a fraction. `T`: int or a 64-bit integer.
  template <std::integral T>
  T whole(const std::string& key, T least = std::numeric_limits<T>::min(), T most = std::numeric_limits<T>::max()) const;
  std::vector<unsigned int> wholes(const std::string& key) const;  // a list
  std::vector<Section> sections(const std::string& key, const std::set<std::string>& known) const;  // a list

  // As those above, but with a value for a key that is left out.
  std::string text_or(const std::string& key, const std::string& otherwise) const {
    return has(key) ? text(key) : otherwise;
  }
  double number_or(const std::string& key, double otherwise, double least, double most) const {
    return has(key) ? number(key, least, most) : otherwise;
  }
  template <std::integral T>
  T whole_or(const std::string& key, T otherwise, T least = std::numeric_limits<T>::min(),
             T most = std::numeric_limits<T>::max()) const {
    return has(key) ? whole<T>(key, least, most) : otherwise;
  }

  [[noreturn]] void fail(const std::string& key, const std::string& what) const;

 private:
  using Value = std::shared_ptr<const nlohmann::json>;  // keeps the whole file alive

  Section(Value value, std::string name, const std::set<std::string>& known);
  std::string name_of(const std::string& key) const;
  const nlohmann::json* find(const std::string& key) const;  // nullptr: left out
  const nlohmann::json& need(const std::string& key) const;
  const nlohmann::json& list(const std::string& key) const;

  Value value_;
  std::string name_;  // in errors, as in "gpus[0]"
};

}  // namespace wattcount::emulator
