// A small test framework. A failed CHECK prints its place and the test goes on. The program then exits with 1.
#pragma once

#include <cmath>
#include <cstdio>
#include <functional>
#include <string>
#include <vector>

namespace check {

struct Test {
  const char* name;
  std::function<void()> body;
};

inline std::vector<Test>& tests() {
  static std::vector<Test> all;
  return all;
}
inline int& failures() {
  static int count = 0;
  return count;
}

struct Register {
  Register(const char* name, std::function<void()> body) { tests().push_back({name, std::move(body)}); }
};

inline void fail(const char* file, int line, const std::string& what) {
  std::printf("%s:%d: %s\n", file, line, what.c_str());
  ++failures();
}

inline int run_all() {
  for (const Test& test : tests()) {
    const int before = failures();
    test.body();
    std::printf("%s %s\n", failures() == before ? "ok  " : "FAIL", test.name);
  }
  std::printf("%zu tests, %d failures\n", tests().size(), failures());
  return failures() == 0 ? 0 : 1;
}

}  // namespace check

#define TEST(name)                                            \
  static void test_##name();                                  \
  static const check::Register register_##name(#name, test_##name); \
  static void test_##name()

#define CHECK(condition)                          \
  do {                                            \
    if (!(condition)) {                           \
      check::fail(__FILE__, __LINE__, #condition); \
    }                                             \
  } while (false)

#define CHECK_NEAR(actual, expected, tolerance)                                                              \
  do {                                                                                                       \
    const double actual_value = static_cast<double>(actual);                                                 \
    const double expected_value = static_cast<double>(expected);                                             \
    if (!(std::abs(actual_value - expected_value) <= (tolerance))) {                                         \
      check::fail(__FILE__, __LINE__,                                                                        \
                  std::string(#actual) + " is " + std::to_string(actual_value) + ", expected " +             \
                      std::to_string(expected_value));                                                       \
    }                                                                                                        \
  } while (false)

#define CHECK_THROWS(expression, type)                                            \
  do {                                                                            \
    bool thrown = false;                                                          \
    try {                                                                         \
      static_cast<void>(expression);                                              \
    } catch (const type&) {                                                       \
      thrown = true;                                                              \
    }                                                                             \
    if (!thrown) {                                                                \
      check::fail(__FILE__, __LINE__, #expression " did not throw " #type);       \
    }                                                                             \
  } while (false)
