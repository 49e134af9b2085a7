#include "kernels/cuda/limits.h"

#include <algorithm>
#include <vector>

#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/reduce.cuh"

namespace fl::cuda {
namespace {

constexpr int kPasses = 5;
constexpr int kReadThreads = 512;
constexpr int kReadBlocksPerSm = 4;
constexpr int kReadsInFlight = 8;
constexpr int kMmaThreads = 256;
constexpr int kMmaChains = 8;
constexpr int kMmaRounds = 4096;

// The sum is stored only if it has a value that it cannot have, so that the reads stay.
__global__ void __launch_bounds__(kReadThreads) read_all(const uint4* data, int64_t n, uint4* never) {
  uint32_t sum = 0;
  const int64_t stride = static_cast<int64_t>(gridDim.x) * kReadThreads;
  int64_t i = static_cast<int64_t>(blockIdx.x) * kReadThreads + threadIdx.x;
  for (; i + (kReadsInFlight - 1) * stride < n; i += kReadsInFlight * stride) {
    uint4 v[kReadsInFlight];
#pragma unroll
    for (int j = 0; j < kReadsInFlight; ++j) {
      v[j] = __ldcs(data + i + j * stride);
    }
#pragma unroll
    for (int j = 0; j < kReadsInFlight; ++j) {
      sum |= v[j].x ^ v[j].y ^ v[j].z ^ v[j].w;
    }
  }
  for (; i < n; i += stride) {
    const uint4 v = __ldcs(data + i);
    sum |= v.x ^ v.y ^ v.z ^ v.w;
  }
  if (never != nullptr) {
    never[threadIdx.x] = make_uint4(sum, sum, sum, sum);
  }
}

__global__ void __launch_bounds__(kMmaThreads) multiply(float* never) {
  float c[kMmaChains][4] = {};
  const uint32_t a[4] = {threadIdx.x, threadIdx.x + 1, threadIdx.x + 2, threadIdx.x + 3};
  for (int i = 0; i < kMmaRounds; ++i) {
#pragma unroll
    for (int j = 0; j < kMmaChains; ++j) {
      mma_f16(c[j], a, threadIdx.x, threadIdx.x + j);
    }
  }
  if (never != nullptr) {
    for (int j = 0; j < kMmaChains; ++j) {
      never[j] = c[j][0] + c[j][1] + c[j][2] + c[j][3];
    }
  }
}

__global__ void __launch_bounds__(kMmaThreads) multiply_int8(uint32_t* never) {
  IntSums c[kMmaChains] = {};
  const uint32_t a[4] = {threadIdx.x, threadIdx.x + 1, threadIdx.x + 2, threadIdx.x + 3};
  for (int i = 0; i < kMmaRounds; ++i) {
#pragma unroll
    for (int j = 0; j < kMmaChains; ++j) {
      c[j] = mma_int8(c[j], a, threadIdx.x, threadIdx.x + j);
    }
  }
  if (never != nullptr) {
    for (int j = 0; j < kMmaChains; ++j) {
      never[j] = c[j].c[0] + c[j].c[1] + c[j].c[2] + c[j].c[3];
    }
  }
}

template <typename Start>
double best_seconds(cudaStream_t stream, Start&& start) {
  Event begin(true);
  Event end(true);
  double best = 0;
  for (int pass = 0; pass <= kPasses; ++pass) {
    begin.record(stream);
    start();
    end.record(stream);
    end.synchronize();
    const double seconds = static_cast<double>(end.ms_since(begin)) / 1e3;
    if (pass > 0 && (best == 0 || seconds < best)) {
      best = seconds;
    }
  }
  return best;
}

template <typename T>
double measure_peak(const Queue& queue, int n_sms, void (*kernel)(T*), double operations) {
  const Queue serial{queue.stream, false};
  const int blocks = 4 * n_sms;
  const double seconds = best_seconds(queue.stream, [&] {
    launch(serial, kernel, static_cast<unsigned>(blocks), kMmaThreads, 0, "multiply",
           static_cast<T*>(nullptr));
  });
  const double products = static_cast<double>(blocks) * (kMmaThreads / kWarp) * kMmaRounds * kMmaChains;
  return seconds > 0 ? products * operations / seconds : 0;
}

}  // namespace

double measure_read_bandwidth(const Queue& queue, const void* data, uint64_t bytes, int n_sms) {
  const Queue serial{queue.stream, false};
  const double seconds = best_seconds(queue.stream, [&] {
    launch(serial, read_all, static_cast<unsigned>(n_sms * kReadBlocksPerSm), kReadThreads, 0, "read_all",
           static_cast<const uint4*>(data), static_cast<int64_t>(bytes / sizeof(uint4)),
           static_cast<uint4*>(nullptr));
  });
  return seconds > 0 ? static_cast<double>(bytes) / seconds : 0;
}

double measure_matrix_peak(const Queue& queue, int n_sms) {
  return measure_peak(queue, n_sms, multiply, 2.0 * 16 * 8 * 16);
}

double measure_int8_peak(const Queue& queue, int n_sms) {
  return measure_peak(queue, n_sms, multiply_int8, 2.0 * 16 * 8 * 32);
}

}  // namespace fl::cuda
