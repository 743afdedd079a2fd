#include "emulator/json.h"

#include <cstdint>
#include <utility>

#include "tests/check.h"

using wattcount::emulator::Json;
using wattcount::emulator::JsonError;

namespace {
std::string error_of(const std::string& text) {
  try {
    Json::parse(text);
  } catch (const JsonError& error) {
    return error.what();
  }
  return "";
}
}  // namespace

TEST(json_reads_what_it_should) {
  const Json json = Json::parse(R"({"a": [1, -2.5e3, true, null], "b": {"c": "x\"\\\u00e9\n"}})");
  const auto& root = json.object("root");
  CHECK_NEAR(root.at("a").array("a")[1].number("a[1]"), -2500, 0);
  CHECK(root.at("a").array("a")[3].is_null());
  CHECK(root.at("b").object("b").at("c").text("c") == "x\"\\\xC3\xA9\n");
}

TEST(json_errors_say_where) {
  CHECK(error_of("{\n  \"a\": }").find("line 2, column 8") != std::string::npos);
  CHECK(error_of("[1, 2").find("']' expected") != std::string::npos);
  CHECK(error_of("{\"a\": 1, \"a\": 2}").find("twice") != std::string::npos);
  CHECK(!error_of("[1] x").empty());
  CHECK(!error_of("").empty());
  CHECK(!error_of("\"abc").empty());
  CHECK(!error_of("nan").empty());
  CHECK(!error_of(std::string(1000, '[')).empty());
}

TEST(json_refuses_the_wrong_type) {
  const Json json = Json::parse("[1]");
  CHECK_THROWS(json.object("here"), JsonError);
  CHECK_THROWS(json.array("here")[0].text("here"), JsonError);
}

TEST(json_takes_its_own_numbers_only) {
  for (const char* text : {"inf", "-inf", "-nan", "nan", "infinity", "01", "-01", "1.", ".5", "-", "+1", "1e", "1e+", "0x10",
                           "1.e3", "--1", "00", "1e999", "-1e999"}) {
    CHECK(!error_of(text).empty());
    CHECK(!error_of(std::string("[") + text + "]").empty());
  }
  const std::pair<const char*, double> right[] = {{"0", 0},     {"-0", 0},      {"10", 10},      {"0.5", 0.5},
                                                  {"-0.25", -0.25}, {"1e3", 1000}, {"1E+3", 1000}, {"2.5e-1", 0.25}};
  for (const auto& [text, value] : right) {
    CHECK(Json::parse(text).number("here") == value);
  }
}

TEST(json_takes_whole_surrogate_pairs_only) {
  CHECK(Json::parse(R"("\ud83d\ude00")").text("here") == "\xF0\x9F\x98\x80");
  for (const char* text : {R"("\ud83d")", R"("\ud83dx")", R"("\ud83d\n")", R"("\ud83dA")", R"("\ud83d\u0041")",
                           R"("\ud83d\ud83d")", R"("\ude00")", R"("\ud83d\u12")"}) {
    CHECK(!error_of(text).empty());
  }
}

TEST(json_numbers_are_asked_for_with_their_range) {
  const auto json = [](const char* text) { return Json::parse(text); };
  CHECK(json("255").whole<unsigned char>("here") == 255);
  CHECK(json("9007199254740992").whole<std::uint64_t>("here") == 9007199254740992U);
  for (const char* text : {"-1", "256", "1.5", "1e300", "-1e300"}) {
    CHECK_THROWS(json(text).whole<unsigned char>("here"), JsonError);
  }
  CHECK_THROWS(json("-1").whole<std::uint64_t>("here"), JsonError);
  CHECK_THROWS(json("18446744073709551616").whole<std::uint64_t>("here"), JsonError);
  CHECK_THROWS(json("2").number("here", 0.0, 1.0), JsonError);
}

TEST(json_objects_keep_the_order_of_the_file) {
  const Json json = Json::parse(R"({"b": 1, "a": {"c": 2}})");
  const auto& root = json.object("root");
  CHECK(root.begin()->first == "b");
  CHECK(root.at("a").object("a").at("c").number("c") == 2.0);
  CHECK(root.find("c") == nullptr);
  CHECK_THROWS(root.at("c"), JsonError);
}
