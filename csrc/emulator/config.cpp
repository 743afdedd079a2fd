#include "emulator/config.h"

#include <array>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

namespace wattcount::emulator {
namespace {

using nlohmann::json;

// JSON allows a key twice, and the library takes the last one. Here it is a mistake.
json parse_without_repeats(const std::string& text) {
  std::vector<std::set<std::string>> open;  // the keys of each object that has not ended yet
  return json::parse(text, [&open](int, json::parse_event_t event, const json& parsed) {
    if (event == json::parse_event_t::object_start) {
      open.emplace_back();
    } else if (event == json::parse_event_t::object_end) {
      open.pop_back();
    } else if (event == json::parse_event_t::key && !open.back().insert(parsed.get<std::string>()).second) {
      throw ConfigError("'" + parsed.get<std::string>() + "' is there twice");
    }
    return true;
  });
}

constexpr const char* kWholeFile = "the file";  // in errors

std::string brief(double value) {
  std::array<char, 32> text{};
  std::snprintf(text.data(), text.size(), "%.10g", value);
  return text.data();
}

// The same number as a `T` from `least` to `most`, if it is one.
template <typename T>
std::optional<T> exactly(const json& value, T least, T most) {
  const auto within = [=](auto number) -> std::optional<T> {
    const bool fits = std::cmp_greater_equal(number, least) && std::cmp_less_equal(number, most);
    return fits ? std::optional(static_cast<T>(number)) : std::nullopt;
  };
  if (value.is_number_unsigned()) {
    return within(value.get<std::uint64_t>());
  }
  if (value.is_number_integer()) {
    return within(value.get<std::int64_t>());
  }
  constexpr double kExact = 9007199254740992.0;  // 2^53: above it a double skips integers
  const double written = value.is_number_float() ? value.get<double>() : std::nan("");
  const bool is_whole = std::abs(written) <= kExact && written == std::floor(written);
  return is_whole ? within(static_cast<std::int64_t>(written)) : std::nullopt;
}

template <typename T>
std::string whole_expected(T least, T most) {
  return "a whole number from " + std::to_string(least) + " to " + std::to_string(most) + " expected";
}

}  // namespace

Section Section::parse(const std::string& text, const std::set<std::string>& known) {
  try {
    return Section(std::make_shared<const json>(parse_without_repeats(text)), kWholeFile, known);
  } catch (const json::exception& error) {
    throw ConfigError(error.what());
  }
}

Section::Section(Value value, std::string name, const std::set<std::string>& known)
    : value_(std::move(value)), name_(std::move(name)) {
  if (!value_->is_object()) {
    throw ConfigError(name_ + ": an object expected");
  }
  for (const auto& [key, ignored] : value_->items()) {
    if (!known.contains(key)) {
      throw ConfigError(name_ + ": '" + key + "' is not a key here");
    }
  }
}

std::string Section::name_of(const std::string& key) const { return name_ == kWholeFile ? key : name_ + "." + key; }

const json* Section::find(const std::string& key) const {
  const auto found = value_->find(key);
  return found == value_->end() || found->is_null() ? nullptr : &*found;
}

const json& Section::need(const std::string& key) const {
  if (const json* found = find(key)) {
    return *found;
  }
  throw ConfigError(name_ + ": '" + key + "' is missing");
}

void Section::fail(const std::string& key, const std::string& what) const {
  throw ConfigError(name_of(key) + ": " + what);
}

std::string Section::text(const std::string& key) const {
  const json& value = need(key);
  if (!value.is_string()) {
    fail(key, "a string expected");
  }
  return value.get<std::string>();
}

double Section::number(const std::string& key, double least, double most) const {
  const json& value = need(key);
  const double number = value.is_number() ? value.get<double>() : std::nan("");
  if (!(number >= least && number <= most)) {
    fail(key, "a number from " + brief(least) + " to " + brief(most) + " expected");
  }
  return number;
}

template <std::integral T>
T Section::whole(const std::string& key, T least, T most) const {
  const std::optional<T> number = exactly(need(key), least, most);
  if (!number) {
    fail(key, whole_expected(least, most));
  }
  return *number;
}

template int Section::whole(const std::string&, int, int) const;
template std::int64_t Section::whole(const std::string&, std::int64_t, std::int64_t) const;
template std::uint64_t Section::whole(const std::string&, std::uint64_t, std::uint64_t) const;

const json& Section::list(const std::string& key) const {
  const json& value = need(key);
  if (!value.is_array()) {
    fail(key, "a list expected");
  }
  return value;
}

std::vector<unsigned int> Section::wholes(const std::string& key) const {
  constexpr unsigned int kMost = std::numeric_limits<unsigned int>::max();
  std::vector<unsigned int> all;
  for (const json& value : list(key)) {
    const std::optional<unsigned int> number = exactly(value, 0U, kMost);
    if (!number) {
      fail(key, whole_expected(0U, kMost));
    }
    all.push_back(*number);
  }
  return all;
}

std::vector<Section> Section::sections(const std::string& key, const std::set<std::string>& known) const {
  std::vector<Section> all;
  for (const json& value : list(key)) {
    const std::string name = name_of(key) + "[" + std::to_string(all.size()) + "]";
    all.push_back(Section(Value(value_, &value), name, known));
  }
  return all;
}

}  // namespace wattcount::emulator
