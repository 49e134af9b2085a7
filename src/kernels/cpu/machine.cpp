#include "kernels/cpu/machine.h"

#include <algorithm>
#include <array>
#include <chrono>

#include "kernels/cpu/matmul_table.h"
#include "kernels/cpu/pack.h"

namespace fl::cpu {
namespace {

constexpr uint64_t kReadBytes = uint64_t{256} << 20;
constexpr size_t kReadRuns = 8;
constexpr int64_t kSpinSteps = 200'000;  // of kSpinLanes accumulators: some milliseconds
constexpr int kSpinRuns = 6;

template <typename F>
double seconds_of(F&& run) {
  const auto start = std::chrono::steady_clock::now();
  run();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

template <typename F>
double best_seconds(int runs, F&& run) {
  double best = 1e9;
  for (int i = 0; i < runs; ++i) {
    best = std::min(best, seconds_of(run));
  }
  return best;
}

}  // namespace

ReadBuffer::ReadBuffer(Isa isa, ThreadPool& pool)
    : isa_(isa),
      pool_(pool),
      buffer_(kReadBytes),
      part_(static_cast<int64_t>(kReadBytes) / pool.size() / kLineBytes * kLineBytes) {
  // Pages that were never written are all the same page of zeros: write first, each by its reader.
  pool_.run([&](int thread) { std::fill_n(buffer_.data() + thread * part_, part_, uint8_t{1}); });
}

double ReadBuffer::read() const {
  const MatmulTable& kernels = matmul_table(isa_);
  return seconds_of(
      [&] { pool_.run([&](int thread) { kernels.read(buffer_.data() + thread * part_, part_); }); });
}

MachineSpeed measure_machine(Isa isa, ThreadPool& pool) {
  const MatmulTable& kernels = matmul_table(isa);
  MachineSpeed speed;
  {
    const ReadBuffer buffer(isa, pool);
    std::array<double, kReadRuns> seconds{};
    std::generate(seconds.begin(), seconds.end(), [&] { return buffer.read(); });
    std::nth_element(seconds.begin(), seconds.begin() + kReadRuns / 2, seconds.end());
    speed.read_bandwidth = static_cast<double>(buffer.bytes()) / seconds[kReadRuns / 2];
  }
  const double spins = static_cast<double>(kSpinSteps) * pool.size();
  const auto rate = [&](int64_t (*spin)(int64_t)) {
    int64_t per_step = 0;
    const double seconds = best_seconds(kSpinRuns, [&] {
      pool.run([&](int thread) {
        const int64_t ops = spin(kSpinSteps);
        if (thread == 0) {
          per_step = ops;
        }
      });
    });
    return static_cast<double>(per_step) * spins / seconds;
  };
  speed.int8_ops = rate(kernels.spin_int8);
  speed.f32_ops = rate(kernels.spin_f32);
  return speed;
}

}  // namespace fl::cpu
