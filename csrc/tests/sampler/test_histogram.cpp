#include "sampler/histogram.h"

#include "tests/check.h"

using wattcount::Histogram;

TEST(empty_histogram_has_no_quantiles) {
  const Histogram histogram;
  CHECK(histogram.count() == 0);
  CHECK_NEAR(histogram.quantile_ns(0.5), 0, 0);
}

TEST(quantiles_are_within_a_bucket) {
  Histogram histogram;
  for (int ns = 1000; ns < 101000; ns += 10) {
    histogram.add(ns);
  }
  CHECK_NEAR(histogram.quantile_ns(0.5), 51000, 51000 * 0.06);
  CHECK_NEAR(histogram.quantile_ns(0.99), 100000, 100000 * 0.06);
  CHECK(histogram.max_ns() == 100990);
  CHECK(histogram.quantile_ns(1.0) <= 100990.0);
}

TEST(zero_negative_and_huge_durations_are_counted) {
  Histogram histogram;
  histogram.add(0);
  histogram.add(-5);
  histogram.add(INT64_MAX);
  CHECK(histogram.count() == 3);
  CHECK(histogram.quantile_ns(0.01) <= 2.0);
}
