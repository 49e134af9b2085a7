#include "kernels/cpu/machine.h"

#include <algorithm>
#include <chrono>

#include "kernels/cpu/aligned_bytes.h"
#include "kernels/cpu/matmul_table.h"
#include "kernels/cpu/pack.h"

namespace fl::cpu {
namespace {

constexpr uint64_t kReadBytes = uint64_t{256}
                                << 20;  // several times the last cache of a large machine's core complex
constexpr int kReadRuns = 8;
constexpr int64_t kSpinSteps = 200'000;  // of kSpinLanes accumulators: some milliseconds
constexpr int kSpinRuns = 6;

template <typename F>
double best_seconds(int runs, F&& run) {
  double best = 1e9;
  for (int i = 0; i < runs; ++i) {
    const auto start = std::chrono::steady_clock::now();
    run();
    best = std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  return best;
}

}  // namespace

MachineSpeed measure_machine(Isa isa, ThreadPool& pool) {
  const MatmulTable& kernels = matmul_table(isa);
  MachineSpeed speed;
  {
    const AlignedBytes buffer(kReadBytes);
    const int64_t part = static_cast<int64_t>(kReadBytes) / pool.size() / kLineBytes * kLineBytes;
    // Pages that were never written are all the same page of zeros: write first, each by its reader.
    pool.run([&](int thread) { std::fill_n(buffer.data() + thread * part, part, uint8_t{1}); });
    const double seconds = best_seconds(
        kReadRuns, [&] { pool.run([&](int thread) { kernels.read(buffer.data() + thread * part, part); }); });
    speed.read_bandwidth = static_cast<double>(part * pool.size()) / seconds;
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
