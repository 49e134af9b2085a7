// Products of the shapes of Qwen3.5-0.8B, as a share of the limits measured just before: weights come from
// memory (copies of a matrix larger than the caches take turns), so few tokens are held against the read
// bandwidth and many against the integer peak.
//
//   bench_cpu_matmul --benchmark_filter=Q4_K --benchmark_format=csv
#include <benchmark/benchmark.h>

#include <algorithm>
#include <random>
#include <string>
#include <vector>

#include "kernels/cpu/machine.h"
#include "kernels/cpu/matmul.h"

namespace fl {
namespace {

using cpu::Activations;
using cpu::PackedMatrix;

constexpr int64_t kCycledBytes = int64_t{192} << 20;  // several times the last-level cache

struct Shape {
  const char* name;
  int64_t rows, cols;
};
constexpr Shape kShapes[] = {{"gate_up", 3584, 1024}, {"down", 1024, 3584}, {"qkv", 6144, 1024}};

cpu::ThreadPool& pool() {
  static cpu::ThreadPool threads;
  return threads;
}
void product(benchmark::State& state, DType type, Shape shape, int64_t n_tokens) {
  std::mt19937 random(1);
  const auto bytes = static_cast<size_t>(row_bytes(type, static_cast<uint64_t>(shape.cols))) *
                     static_cast<size_t>(shape.rows);
  std::vector<std::byte> file(bytes);
  for (std::byte& b : file) {
    b = static_cast<std::byte>(random() & 0xBBU);  // no infinity among the scales
  }
  TensorView view;
  view.data = file.data();
  view.type = type;
  view.ne = {shape.cols, shape.rows, 1, 1};
  std::vector<PackedMatrix> copies;
  for (int64_t total = 0; total < kCycledBytes; total += static_cast<int64_t>(copies.back().bytes())) {
    copies.push_back(PackedMatrix::pack(view, cpu::best_isa(), pool()));
  }
  std::vector<float> x(static_cast<size_t>(n_tokens * shape.cols));
  for (float& v : x) {
    v = static_cast<float>(random() % 2001) * 1e-3F - 1;
  }
  std::vector<float> y(static_cast<size_t>(n_tokens * shape.rows));
  Activations in;
  in.reserve(n_tokens, shape.cols);
  // Just before the clock starts: on a shared machine the limits move.
  const cpu::MachineSpeed limits = cpu::measure_machine(cpu::best_isa(), pool());
  size_t next = 0;
  for (auto _ : state) {
    in.set(x.data(), n_tokens, shape.cols, shape.cols);
    const cpu::MatmulTask task{&copies[next], y.data(), shape.rows, false};
    cpu::matmul(pool(), in, {&task, 1});
    next = (next + 1) % copies.size();
  }
  const auto runs = static_cast<double>(state.iterations());
  const auto rate = benchmark::Counter::kIsRate;
  const double moved = static_cast<double>(copies[0].bytes()) * runs;
  const double ops = 2.0 * static_cast<double>(shape.rows * shape.cols * n_tokens) * runs;
  state.counters["GB/s"] = benchmark::Counter(moved * 1e-9, rate);
  state.counters["GOPS"] = benchmark::Counter(ops * 1e-9, rate);
  state.counters["limit_GB/s"] = limits.read_bandwidth * 1e-9;
  state.counters["limit_GOPS"] = limits.int8_ops * 1e-9;
  state.counters["of_bandwidth"] = benchmark::Counter(moved / limits.read_bandwidth, rate);
  state.counters["of_peak"] = benchmark::Counter(ops / limits.int8_ops, rate);
}

void register_all() {
  for (const DType type : {DType::q4_k, DType::q5_k, DType::q6_k, DType::q8_0, DType::q4_0, DType::q4_1,
                           DType::q5_0, DType::q5_1, DType::q2_k, DType::q3_k, DType::iq4_nl, DType::iq4_xs,
                           DType::f32, DType::f16, DType::bf16}) {
    for (const Shape& shape : kShapes) {
      const bool main_type = type == DType::q4_k || type == DType::q6_k;
      if (!main_type && &shape != &kShapes[0]) {
        continue;
      }
      for (const int64_t n : {1, 2, 4, 8, 12, 64, 512}) {
        if (!main_type && n != 1 && n != 8 && n != 512) {
          continue;
        }
        const std::string name =
            std::string(dtype_info(type).name) + "/" + shape.name + "/tokens:" + std::to_string(n);
        benchmark::RegisterBenchmark(name.c_str(),
                                     [=](benchmark::State& state) { product(state, type, shape, n); })
            ->UseRealTime()
            ->Unit(benchmark::kMicrosecond);
      }
    }
  }
}

}  // namespace
}  // namespace fl

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  benchmark::AddCustomContext("isa", std::string(fl::cpu::isa_name(fl::cpu::best_isa())));
  benchmark::AddCustomContext("threads", std::to_string(fl::pool().size()));
  fl::register_all();
  benchmark::RunSpecifiedBenchmarks();
}
