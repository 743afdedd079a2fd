#include "emulator/json.h"

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
