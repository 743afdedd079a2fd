#include "emulator/live_truth.h"

#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <fstream>
#include <stdexcept>
#include <thread>

#include "tests/check.h"

using namespace wattcount::emulator;

namespace {
std::string scratch(const char* name) { return "/tmp/wattcount-test-" + std::to_string(getpid()) + "-" + name; }
}  // namespace

TEST(a_reader_gets_each_point_once_and_in_order) {
  const std::string path = scratch("order");
  LiveWriter writer(path, 16);
  LiveReader reader(path);
  writer.append(10, 100);
  writer.append(20, 200);
  const auto first = reader.fresh(5);
  CHECK(first.size() == 2 && first[1].first == 20 && first[1].second == 200);
  CHECK(reader.fresh(25).empty());
  writer.append(30, 300);
  CHECK(reader.fresh(35).size() == 1);
  std::remove(path.c_str());
}

TEST(what_was_read_cannot_be_changed) {
  const std::string path = scratch("clamp");
  LiveWriter writer(path, 16);
  LiveReader reader(path);
  writer.append(10, 100);
  reader.fresh(1000);
  writer.append(500, 900);
  CHECK(writer.clamped() == 1);
  CHECK(writer.history().back().first == 1000);
  const auto fresh = reader.fresh(1100);
  CHECK(fresh.size() == 1 && fresh[0].first == 1000);
  writer.append(1200, 1);
  CHECK(writer.clamped() == 1);
  std::remove(path.c_str());
}

TEST(a_second_writer_goes_on_where_the_first_one_was) {
  const std::string path = scratch("second");
  LiveReader* reader = nullptr;
  {
    LiveWriter first(path, 16);
    reader = new LiveReader(path);
    for (int i = 1; i <= 5; ++i) {
      first.append(10 * i, i);
    }
    CHECK(reader->fresh(45).size() == 5);
  }
  LiveWriter second(path, 16);
  second.append(60, 6);
  const auto fresh = reader->fresh(70);
  CHECK(fresh.size() == 1 && fresh[0].first == 60);
  CHECK(LiveReader(path).fresh(70).size() == 6);
  second.append(40, 7);
  CHECK(second.clamped() == 1 && reader->fresh(80).back().first == 70);
  delete reader;
  std::remove(path.c_str());
}

TEST(a_reader_survives_a_writer_that_begins_anew) {
  const std::string path = scratch("anew");
  LiveWriter first(path, 16);
  LiveReader reader(path);
  for (int i = 1; i <= 9; ++i) {
    first.append(i, i);
  }
  CHECK(reader.fresh(0).size() == 9);
  LiveWriter second(path, 8);
  second.append(100, 1);
  CHECK(reader.fresh(0).size() == 1);
  std::remove(path.c_str());
}

TEST(a_reader_that_fell_behind_goes_on_with_what_is_whole) {
  const std::string path = scratch("behind");
  LiveWriter writer(path, 8);
  LiveReader reader(path);
  for (int i = 0; i < 100; ++i) {
    writer.append(i, i);
  }
  const auto points = reader.fresh(0);
  CHECK(!points.empty() && points.size() < 8);
  CHECK(points.back().first == 99);
  CHECK(writer.history().size() == 100);
  std::remove(path.c_str());
}

TEST(points_are_never_torn_while_the_writer_runs) {
  const std::string path = scratch("race");
  LiveWriter writer(path, 64);
  LiveReader reader(path);
  std::atomic<bool> done{false};
  std::thread writing([&] {
    for (int i = 1; i <= 20000; ++i) {
      writer.append(i, 7 * i);
    }
    done = true;
  });
  std::int64_t last = 0;
  bool more = true;
  while (more) {
    more = !done;
    for (const auto& [t_ns, power_mw] : reader.fresh(INT64_MIN)) {
      CHECK(power_mw == 7 * t_ns);
      CHECK(t_ns > last);
      last = t_ns;
    }
  }
  writing.join();
  CHECK(last == 20000);
  std::remove(path.c_str());
}

TEST(files_that_are_no_live_truth_are_refused) {
  CHECK_THROWS(LiveReader("/nonexistent/file"), std::runtime_error);
  const std::string path = scratch("junk");
  std::ofstream(path) << "this is a text of more than forty bytes, and no ring of points at all";
  CHECK_THROWS(LiveReader{path}, std::runtime_error);
  CHECK_THROWS(LiveWriter(path, 1), std::runtime_error);
  std::remove(path.c_str());
}
