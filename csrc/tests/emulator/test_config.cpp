#include "emulator/config.h"

#include <cstdint>
#include <utility>

#include "tests/check.h"

using wattcount::emulator::ConfigError;
using wattcount::emulator::Section;

namespace {

Section read(const std::string& text) { return Section::parse(text, {"a", "b"}); }
Section of(const std::string& value) { return read("{\"a\": " + value + "}"); }

template <typename Read>
std::string error_of(Read reading) {
  try {
    reading();
  } catch (const ConfigError& error) {
    return error.what();
  }
  return "";
}

std::string error_in(const std::string& text) {
  return error_of([&] { read(text); });
}

bool says(const std::string& error, const std::string& part) { return error.find(part) != std::string::npos; }

}  // namespace

TEST(config_reads_what_it_should) {
  const Section root = read(R"({"a": [{"x": "\"\\\u00e9\n\ud83d\ude00", "y": -2.5e3, "z": [1, 2]}, {}], "b": null})");
  const auto list = root.sections("a", {"x", "y", "z"});
  CHECK(list.size() == 2);
  CHECK(list[0].text("x") == "\"\\\xC3\xA9\n\xF0\x9F\x98\x80");
  CHECK(list[0].number("y", -1e4, 0.0) == -2500.0);
  CHECK(list[0].wholes("z") == std::vector<unsigned int>({1, 2}));
  CHECK(!list[1].has("x"));
  CHECK(list[1].text_or("x", "other") == "other");
  CHECK(list[1].number_or("y", 7.0, 0.0, 1.0) == 7.0);
  CHECK(list[1].whole_or("y", 7) == 7);
  CHECK(!root.has("b"));  // null is left out
}

TEST(config_errors_say_where) {
  CHECK(says(error_in("{\n  \"a\": }"), "line 2, column 8"));
  CHECK(says(error_in(R"({"a": 1, "b": {"c": 1, "c": 2}})"), "'c' is there twice"));
  CHECK(error_in(R"({"a": {"a": 1}, "b": [{"a": 1}, {"a": 2}]})").empty());
  CHECK(says(error_in(R"({"colour": 1})"), "the file: 'colour' is not a key here"));
  CHECK(says(error_in("[1]"), "the file: an object expected"));
  CHECK(says(error_of([] { of("[{}, {\"d\": 1}]").sections("a", {"c"}); }), "a[1]: 'd' is not a key here"));
  CHECK(says(error_of([] { of("[1]").sections("a", {}); }), "a[0]: an object expected"));
  CHECK(says(error_of([] { of("[{}]").sections("a", {"c"})[0].text("c"); }), "a[0]: 'c' is missing"));
  CHECK(says(error_of([] { of("[{\"c\": 1}]").sections("a", {"c"})[0].text("c"); }), "a[0].c: a string expected"));
  CHECK(says(error_of([] { of("null").text("a"); }), "'a' is missing"));
}

TEST(config_refuses_what_is_not_json) {
  for (const char* text : {"", "{", "{} x", "{\"a\": \"abc", "{\"a\": [1, 2}", "\xFF{}", "{\"a\": \"\xFF\"}"}) {
    CHECK(!error_in(text).empty());
  }
  CHECK(!error_in(std::string(100'000, '[')).empty());
  for (const char* number : {"inf", "-inf", "-nan", "nan", "NaN", "Infinity", "01", "-01", "1.", ".5", "-", "+1", "1e", "1e+",
                             "0x10", "1.e3", "--1", "00", "1e999", "-1e999"}) {
    CHECK(!error_in(std::string("{\"a\": ") + number + "}").empty());
  }
  for (const char* surrogates : {R"("\ud83d")", R"("\ud83dx")", R"("\ud83d\u0041")", R"("\ud83d\ud83d")", R"("\ude00")"}) {
    CHECK(!error_in(std::string("{\"a\": ") + surrogates + "}").empty());
  }
}

TEST(config_refuses_the_wrong_type) {
  for (const char* value : {"\"1\"", "true", "[1]", "{}"}) {
    CHECK(says(error_of([&] { of(value).number("a", 0.0, 1.0); }), "a: a number from 0 to 1 expected"));
    CHECK(says(error_of([&] { of(value).whole<int>("a"); }), "a: a whole number from -2147483648 to 2147483647 expected"));
  }
  CHECK(says(error_of([] { of("1").text("a"); }), "a: a string expected"));
  CHECK(says(error_of([] { of("{}").sections("a", {}); }), "a: a list expected"));
  CHECK(says(error_of([] { of("[\"1\"]").wholes("a"); }), "a: a whole number from 0 to 4294967295 expected"));
}

TEST(config_numbers_are_asked_for_with_their_range) {
  CHECK(of("1e3").whole<int>("a") == 1000);
  CHECK(of("18446744073709551615").whole<std::uint64_t>("a") == UINT64_MAX);
  CHECK(of("-9223372036854775808").whole<std::int64_t>("a") == INT64_MIN);
  for (const char* value : {"-2147483649", "2147483648", "1.5", "1e300", "-1e300"}) {
    CHECK_THROWS(of(value).whole<int>("a"), ConfigError);
  }
  for (const char* value : {"-1", "18446744073709551616", "1e19"}) {
    CHECK_THROWS(of(value).whole<std::uint64_t>("a"), ConfigError);
  }
  CHECK_THROWS(of("3").whole("a", 0, 2), ConfigError);
  for (const char* value : {"2", "-1", "1.0000001"}) {
    CHECK_THROWS(of(value).number("a", 0.0, 1.0), ConfigError);
  }
}
