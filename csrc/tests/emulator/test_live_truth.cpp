#include "emulator/live_truth.h"

#include <algorithm>
#include <atomic>
#include <fstream>
#include <stdexcept>
#include <thread>
#include <vector>

#include "tests/check.h"
#include "tests/scratch.h"

using namespace wattcount::emulator;

using check::scratch;

TEST(a_reader_gets_each_point_once_and_in_order) {
  const std::string path = scratch("order");
  LiveWriter writer(path, 16);
  LiveReader reader(path);
  writer.append(10, 100);
  writer.append(20, 200);
  const auto first = reader.fresh(5);
  CHECK(first.size() == 2 && first[1].t_ns == 20 && first[1].power_mw == 200);
  CHECK(reader.fresh(25).empty());
  writer.append(30, 300);
  CHECK(reader.fresh(35).size() == 1);
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
  CHECK(fresh.size() == 1 && fresh[0].t_ns == 1000);
  writer.append(1200, 1);
  CHECK(writer.clamped() == 1);
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
  LiveWriter second(path);
  second.append(60, 6);
  const auto fresh = reader->fresh(70);
  CHECK(fresh.size() == 1 && fresh[0].t_ns == 60);
  CHECK(LiveReader(path).fresh(70).size() == 6);
  second.append(40, 7);
  CHECK(second.clamped() == 1 && reader->fresh(80).back().t_ns == 70);
  delete reader;
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
  CHECK(points.back().t_ns == 99);
  CHECK(writer.history().size() == 100);
  CHECK(reader.missed() == 100 - points.size());
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
    for (const auto& [t_ns, power_mw, energy_uj] : reader.fresh(INT64_MIN)) {
      CHECK(power_mw == 7 * t_ns);
      CHECK(energy_uj >= 0);
      CHECK(t_ns > last);
      last = t_ns;
    }
  }
  writing.join();
  CHECK(last == 20000);
}

TEST(each_point_carries_the_energy_up_to_it) {
  const std::string path = scratch("energy");
  LiveWriter writer(path, 4);
  LiveReader reader(path);
  for (std::int64_t i = 0; i <= 1000; ++i) {
    writer.append(i * 86'400'000'000'123, 1'000'000);  // a thousand days at a kilowatt
  }
  const auto points = reader.fresh(0);
  const double joule = static_cast<double>(points.back().energy_uj) * 1e-6;
  CHECK_NEAR(joule / 86'400'000.000123e3, 1.0, 1e-12);
}

TEST(a_writer_takes_over_where_another_left_off) {
  const std::string path = scratch("takeover");
  LiveWriter first(path, 16);
  LiveReader reader(path);
  first.append(1'000'000'000, 2'000);
  CHECK(reader.fresh(1'500'000'000).size() == 1);
  LiveWriter second(path);
  CHECK(second.history().size() == 1);
  second.append(2'000'000'000, 3'000);
  second.append(3'000'000'000, 1'000);
  const auto points = reader.fresh(4'000'000'000);
  CHECK(points.size() == 2);
  CHECK(points[1].energy_uj == 5'000'000);  // 2 W for a second, 3 W for another
  CHECK_THROWS(first.append(5'000'000'000, 1), std::runtime_error);
  CHECK_THROWS(second.append(5'000'000'000, -1), std::invalid_argument);
}

TEST(a_new_curve_leaves_readers_of_the_old_one_alone) {
  const std::string path = scratch("anew");
  LiveWriter old(path, 16);
  old.append(10, 100);
  LiveReader reader(path);
  LiveWriter anew(path, 4);
  anew.append(20, 200);
  CHECK(reader.fresh(30).size() == 1);
  CHECK(LiveReader(path).fresh(30).at(0).t_ns == 20);
}

TEST(what_any_reader_has_read_stays_whoever_writes_meanwhile) {
  const std::string path = scratch("dekker");
  LiveWriter writer(path, 1 << 16);
  writer.append(0, 0);
  std::atomic<std::int64_t> clock{1};
  std::atomic<bool> done{false};
  // Each reader notes what the power was at the moment it read; nothing that comes later may contradict it.
  std::vector<std::pair<std::int64_t, std::int64_t>> seen[2];
  std::vector<std::thread> readers;
  for (auto& notes : seen) {
    readers.emplace_back([&notes, &path, &clock, &done] {
      LiveReader reader(path);
      std::int64_t power_mw = 0;
      while (!done) {
        const std::int64_t t_ns = clock.fetch_add(2);
        std::vector<LivePoint> ahead = reader.fresh(t_ns);
        for (const LivePoint& point : ahead) {
          power_mw = point.power_mw;
        }
        notes.emplace_back(t_ns, power_mw);
      }
    });
  }
  for (std::int64_t i = 1; i <= 20000; ++i) {
    writer.append(clock.load() - 50, i);
  }
  done = true;
  for (std::thread& reader : readers) {
    reader.join();
  }
  const auto& history = writer.history();
  int wrong = 0;
  for (const auto& notes : seen) {
    for (const auto& [t_ns, power_mw] : notes) {
      // All points up to t_ns were known at t_ns (a point at t_ns itself may have come after).
      auto after = std::lower_bound(history.begin(), history.end(), std::pair<std::int64_t, std::int64_t>{t_ns, INT64_MIN});
      wrong += std::prev(after)->second > power_mw ? 1 : 0;
    }
  }
  CHECK(wrong == 0);
  CHECK(writer.clamped() > 0);
}

TEST(files_that_are_no_live_truth_are_refused) {
  CHECK_THROWS(LiveReader("/nonexistent/file"), std::runtime_error);
  const std::string path = scratch("junk");
  std::ofstream(path) << "this is a text of more than forty bytes, and no ring of points at all";
  CHECK_THROWS(LiveReader{path}, std::runtime_error);
  CHECK_THROWS(LiveWriter(path, 1), std::runtime_error);
}
