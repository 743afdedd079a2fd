// The sensors of one GPU over a true power curve, in virtual time. Every question names its moment. The same question
// always has the same answer.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "emulator/profile.h"
#include "emulator/truth.h"

namespace wattcount::emulator {

// What differs between two boards of one model, and between two starts of the driver.
struct Board {
  std::uint64_t seed = 0;
  double gain = 1.0;
  double offset_w = 0.0;
  // Phases of the grids, as shares (0..1) of their periods. The seed decides those that are not given.
  std::optional<double> counter_phase;
  std::optional<double> power_phase;
  std::optional<double> ring_phase;
};

struct RingSample {
  std::int64_t slot;      // number on the ring's grid; a number that is missing is a lost slot
  std::int64_t stamp_ns;  // when the sample was taken, on the clock of the truth
  double power_w;
};

class Sensors {
 public:
  Sensors(const Profile& profile, const Board& board);

  Truth& truth() { return truth_; }
  const Truth& truth() const { return truth_; }
  const Profile& profile() const { return profile_; }

  // The counter at `t_ns`: [J] since the truth began.
  double counter_j(std::int64_t t_ns) const;
  double average_w(std::int64_t t_ns) const { return power_w(profile_.average, 1, shown_[0], t_ns); }
  double instant_w(std::int64_t t_ns) const { return power_w(profile_.instant, 2, shown_[1], t_ns); }
  double usage_w(std::int64_t t_ns) const { return power_w(profile_.usage, 1, shown_[2], t_ns); }
  // How long the `number`-th read of the counter blocks when it starts at `t_ns`.
  double counter_call_ms(std::int64_t t_ns, std::uint64_t number, bool busy) const;
  // The samples in the ring at `t_ns` whose stamp is above `after_ns`, oldest first.
  std::vector<RingSample> ring(std::int64_t t_ns, std::int64_t after_ns) const;
  // All samples with a stamp in [start, end), oldest first, also more than the ring holds.
  std::vector<RingSample> samples(std::int64_t start_ns, std::int64_t end_ns) const;

 private:
  struct Shown {
    std::int64_t tick = INT64_MIN;
    double power_w = 0.0;
  };
  double power_w(const PowerSource& source, std::uint64_t stream, Shown& shown, std::int64_t t_ns) const;
  double shown_w(double true_w, double noise_w, std::uint64_t stream, std::int64_t tick) const;
  // A slot of the driver's sampling grid.
  struct Slot {
    std::int64_t number = INT64_MIN;
    double late_ns = 0.0;
    std::int64_t stamp_ns = 0;
    bool lost = false;
    bool active = false;  // the power steps around it
  };
  std::int64_t counter_published_ns(std::int64_t tick) const;
  double ring_period_ns() const { return profile_.ring_period_ms * 1e6 * stretch_; }
  struct Delay {
    double late_ns;
    bool active;
  };
  Delay delay_of(std::int64_t slot) const;
  const Slot& slot(std::int64_t number) const;
  double mean_of_samples_w(const PowerSource& source, std::uint64_t stream, std::int64_t tick, std::int64_t t_ns) const;
  RingSample ring_sample(const Slot& slot) const;
  double sampled_energy_j(std::int64_t t_ns) const;
  double uniform(std::uint64_t stream, std::int64_t tick) const;  // 0..1
  double normal(std::uint64_t stream, std::int64_t tick) const;

  Profile profile_;
  Board board_;
  Truth truth_;
  double stretch_;  // rate of the sensor's clock against the true one
  double counter_phase_ns_;
  double power_phase_ns_;
  double ring_phase_ns_;
  mutable std::vector<Slot> slots_;  // by slot number modulo its size
  mutable Shown shown_[3];           // the latest of each source
  mutable std::int64_t summed_steps_ = 0;
  mutable double summed_j_ = 0.0;
};

}  // namespace wattcount::emulator
