#include "kernels/cuda/sampling.h"

#include "kernels/cuda/reduce.cuh"

namespace fl::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kDigitBits = 8;
constexpr int kBins = 1 << kDigitBits;
constexpr int kKeyBits = 64;
/// A row with a NaN: larger than every pair that a number makes.
constexpr uint64_t kNotANumber = ~uint64_t{0};
/// Per part: its candidates, then their number.
constexpr int kPartSlots = kMaxTopK + 1;

// Larger pairs are better candidates: larger logit first, then lower id. No two are equal.
__device__ __forceinline__ uint64_t make_pair(float logit, int id) {
  const uint32_t bits = __float_as_uint(logit == 0.0F ? 0.0F : logit);  // -0 is 0
  const uint32_t ordered = (bits & 0x80000000U) != 0 ? ~bits : bits | 0x80000000U;
  return static_cast<uint64_t>(ordered) << 32 | ~static_cast<uint32_t>(id);
}
__device__ __forceinline__ float pair_logit(uint64_t pair) {
  const auto ordered = static_cast<uint32_t>(pair >> 32);
  return __uint_as_float((ordered & 0x80000000U) != 0 ? ordered & 0x7FFFFFFFU : ~ordered);
}
__device__ __forceinline__ int pair_id(uint64_t pair) {
  return static_cast<int>(~static_cast<uint32_t>(pair));
}

/// The biases of one part of a row, in the order in which they were given.
struct PartBias {
  int n;
  SamplingBias of[kMaxSamplingBias];

  // By the first warp; `row` is in global memory.
  __device__ void take(const SamplingRow& row, int first, int size) {
    static_assert(kMaxSamplingBias <= kWarp);
    const auto lane = static_cast<int>(threadIdx.x);
    SamplingBias mine{};
    bool here = false;
    if (lane < row.n_bias) {
      mine = row.bias[lane];
      here = mine.token >= first && mine.token < first + size;
    }
    const uint32_t all = __ballot_sync(0xFFFFFFFFU, here);
    if (here) {
      of[__popc(all & ((1U << lane) - 1))] = mine;
    }
    if (lane == 0) {
      n = __popc(all);
    }
  }
  __device__ float apply(float logit, int token) const {
    for (int i = 0; i < n; ++i) {
      if (of[i].token == token) {
        // Not fminf and fmaxf: a NaN must stay one.
        const float sum = logit + of[i].add;
        const float most = logit < kLargestLogit ? kLargestLogit : logit;
        logit = most < sum ? most : sum;
      }
    }
    return logit;
  }
};

struct SelectShared {
  int bins[kBins];
  uint64_t prefix;
  int need;
  int shift;  // pairs with (pair >> shift) >= prefix are the chosen ones, once `done`
  int done;
  int count;
};

// Chooses the k largest of pair(0 .. n - 1), k <= n, and gives each once to take(position, pair), in any
// order. Digit by digit from the top: count, find the digit in which the k-th lies, go on among those.
template <typename Pair, typename Take>
__device__ void select_largest(SelectShared& s, int n, int k, Pair&& pair, Take&& take) {
  const int thread = static_cast<int>(threadIdx.x);
  if (thread == 0) {
    s.prefix = 0;
    s.need = k;
    s.shift = kKeyBits;
    s.done = k == n ? 1 : 0;
    s.count = 0;
  }
  __syncthreads();
  while (s.done == 0) {
    const int shift = s.shift - kDigitBits;
    const uint64_t prefix = s.prefix;
    const int need = s.need;
    s.bins[thread] = 0;
    __syncthreads();
    for (int i = thread; i < n; i += kThreads) {
      const uint64_t p = pair(i);
      if (shift + kDigitBits == kKeyBits || p >> (shift + kDigitBits) == prefix) {
        atomicAdd(&s.bins[p >> shift & (kBins - 1)], 1);
      }
    }
    __syncthreads();
    if (thread < kWarp) {
      // Lane l has bins 8l .. 8l + 7; the k-th largest lies in the highest bin with `need` elements at or
      // above it.
      int own[kBins / kWarp];
      int sum = 0;
      for (int i = kBins / kWarp - 1; i >= 0; --i) {
        own[i] = s.bins[thread * (kBins / kWarp) + i];
        sum += own[i];
      }
      int above = sum;
      for (int step = 1; step < kWarp; step *= 2) {
        const int other = __shfl_down_sync(0xFFFFFFFFU, above, step);
        above += thread + step < kWarp ? other : 0;
      }
      above -= sum;  // in the bins of higher lanes
      for (int i = kBins / kWarp - 1; i >= 0; --i) {
        if (above < need && above + own[i] >= need) {
          s.prefix = prefix << kDigitBits | static_cast<uint64_t>(thread * (kBins / kWarp) + i);
          s.need = need - above;
          s.shift = shift;
          s.done = own[i] == need - above ? 1 : 0;
        }
        above += own[i];
      }
    }
    __syncthreads();
  }
  const int shift = s.shift;
  const uint64_t prefix = s.prefix;
  for (int i = thread; i < n; i += kThreads) {
    const uint64_t p = pair(i);
    if (shift == kKeyBits || p >> shift >= prefix) {
      take(atomicAdd(&s.count, 1), p);
    }
  }
  __syncthreads();
}

struct Args {
  const float* logits;
  int n_vocab;
  const SamplingRow* rows;
  uint64_t* scratch;
  int32_t* sampled;
};

// Grid: parts, rows. The candidates of one part of a row.
__global__ void __launch_bounds__(kThreads) select_part(const Args a) {
  __shared__ SelectShared s;
  __shared__ int not_a_number;
  __shared__ PartBias bias;
  let_next_start();
  wait_for_previous();
  const SamplingRow& row = a.rows[blockIdx.y];
  const int top_k = row.top_k;
  if (top_k == 0) {
    return;
  }
  const int part = static_cast<int>(blockIdx.x);
  const int each = (a.n_vocab + kSamplingParts - 1) / kSamplingParts;
  const int first = min(part * each, a.n_vocab);
  const int n = min(each, a.n_vocab - first);
  const float* logits = a.logits + static_cast<int64_t>(row.logits_row) * a.n_vocab + first;
  uint64_t* out = a.scratch + (static_cast<int64_t>(blockIdx.y) * kSamplingParts + part) * kPartSlots;
  const int thread = static_cast<int>(threadIdx.x);
  if (thread < kWarp) {
    bias.take(row, first, n);
  }
  if (thread == 0) {
    not_a_number = 0;
  }
  __syncthreads();
  uint64_t best = 0;
  for (int i = thread; i < n; i += kThreads) {
    const float logit = bias.apply(logits[i], first + i);
    if (logit != logit) {
      not_a_number = 1;
    }
    const uint64_t p = make_pair(logit, first + i);
    best = p > best ? p : best;
  }
  __syncthreads();
  if (not_a_number != 0) {
    if (thread == 0) {
      out[0] = kNotANumber;
      out[kMaxTopK] = 1;
    }
    return;
  }
  const int k = min(top_k, n);
  if (k <= 1) {
    __shared__ uint64_t warp_best[kThreads / kWarp];
    for (int mask = kWarp / 2; mask > 0; mask /= 2) {
      const uint64_t other = __shfl_xor_sync(0xFFFFFFFFU, best, mask);
      best = other > best ? other : best;
    }
    if (thread % kWarp == 0) {
      warp_best[thread / kWarp] = best;
    }
    __syncthreads();
    if (thread == 0) {
      for (int w = 0; w < kThreads / kWarp; ++w) {
        best = warp_best[w] > best ? warp_best[w] : best;
      }
      out[0] = best;
      out[kMaxTopK] = static_cast<uint64_t>(k);
    }
    return;
  }
  select_largest(
      s, n, k, [&](int i) { return make_pair(bias.apply(logits[i], first + i), first + i); },
      [&](int at, uint64_t p) { out[at] = p; });
  if (thread == 0) {
    out[kMaxTopK] = static_cast<uint64_t>(k);
  }
}

__device__ int choose(const SamplingRow& row, const uint64_t* sorted, int k, double* weight) {
  const float best = pair_logit(sorted[0]);
  const int thread = static_cast<int>(threadIdx.x);
  __shared__ int kept;
  if (thread < k) {
    weight[thread] = exp(static_cast<double>(pair_logit(sorted[thread])) - static_cast<double>(best));
  }
  __syncthreads();
  if (thread == 0) {
    int n = k;
    if (row.top_p < 1.0F) {
      double total = 0;
      for (int i = 0; i < k; ++i) {
        total += weight[i];
      }
      double sum = 0;
      for (n = 0; n < k;) {
        sum += weight[n++];
        if (sum >= static_cast<double>(row.top_p) * total) {
          break;
        }
      }
    }
    if (row.min_p > 0.0F) {
      const float least = best + logf(row.min_p);
      while (n > 1 && pair_logit(sorted[n - 1]) < least) {
        --n;
      }
    }
    kept = n;
  }
  __syncthreads();
  const int n = kept;
  if (thread < n) {
    weight[thread] = exp((static_cast<double>(pair_logit(sorted[thread])) - static_cast<double>(best)) /
                         static_cast<double>(row.temperature));
  }
  __syncthreads();
  int chosen = 0;
  if (thread == 0) {
    double total = 0;
    for (int i = 0; i < n; ++i) {
      total += weight[i];
    }
    const double target = static_cast<double>(row.uniform) * total;
    double sum = 0;
    for (int i = 0; i < n; ++i) {
      sum += weight[i];
      if (weight[i] > 0) {
        chosen = i;
      }
      if (sum > target) {
        break;
      }
    }
  }
  return chosen;
}

// Grid: rows. The best of all parts, in order, and the draw.
__global__ void __launch_bounds__(kThreads) choose_token(const Args a) {
  extern __shared__ __align__(16) uint64_t all[];  // [kSamplingParts * kMaxTopK]
  __shared__ SelectShared s;
  __shared__ uint64_t sorted[kMaxTopK];
  __shared__ double weight[kMaxTopK];
  __shared__ int offset[kSamplingParts + 1];
  let_next_start();
  wait_for_previous();
  const SamplingRow& row = a.rows[blockIdx.x];
  const int thread = static_cast<int>(threadIdx.x);
  if (row.top_k == 0) {
    if (thread == 0) {
      a.sampled[blockIdx.x] = -1;
    }
    return;
  }
  const uint64_t* parts = a.scratch + static_cast<int64_t>(blockIdx.x) * kSamplingParts * kPartSlots;
  if (thread == 0) {
    offset[0] = 0;
    for (int i = 0; i < kSamplingParts; ++i) {
      offset[i + 1] = offset[i] + static_cast<int>(parts[i * kPartSlots + kMaxTopK]);
    }
  }
  if (thread < kMaxTopK) {
    sorted[thread] = 0;
  }
  __syncthreads();
  for (int part = thread / kWarp; part < kSamplingParts; part += kThreads / kWarp) {
    for (int i = thread % kWarp; i < offset[part + 1] - offset[part]; i += kWarp) {
      all[offset[part] + i] = parts[part * kPartSlots + i];
    }
  }
  __syncthreads();
  const int n = offset[kSamplingParts];
  const int k = min(row.top_k, n);
  select_largest(
      s, n, k, [&](int i) { return all[i]; }, [&](int at, uint64_t p) { sorted[at] = p; });
  // Bitonic, descending; the zeros at the end are smaller than every pair.
  for (int size = 2; size <= kMaxTopK; size *= 2) {
    for (int step = size / 2; step > 0; step /= 2) {
      if (thread < kMaxTopK) {
        const int other = thread ^ step;
        if (other > thread) {
          const bool descending = (thread & size) == 0;
          if ((sorted[thread] < sorted[other]) == descending) {
            const uint64_t swap = sorted[thread];
            sorted[thread] = sorted[other];
            sorted[other] = swap;
          }
        }
      }
      __syncthreads();
    }
  }
  const uint64_t best = sorted[0];
  if (best == kNotANumber || !isfinite(pair_logit(best))) {
    if (thread == 0) {
      a.sampled[blockIdx.x] = -1;
    }
    return;
  }
  const int chosen = choose(row, sorted, k, weight);
  if (thread == 0) {
    a.sampled[blockIdx.x] = pair_id(sorted[chosen]);
  }
}

}  // namespace

int64_t sampling_scratch(int n_rows) {
  return static_cast<int64_t>(n_rows) * kSamplingParts * kPartSlots;
}

void sample(const Queue& queue, const float* logits, int n_vocab, const SamplingRow* rows, int n_rows,
            SamplingCandidate* scratch, int32_t* sampled) {
  if (n_rows == 0) {
    return;
  }
  const Args args{logits, n_vocab, rows, scratch, sampled};
  launch(queue, select_part, dim3(kSamplingParts, static_cast<unsigned>(n_rows)), kThreads, 0, "select_part",
         args);
  launch(queue, choose_token, static_cast<unsigned>(n_rows), kThreads,
         static_cast<size_t>(kSamplingParts) * kMaxTopK * sizeof(uint64_t), "choose_token", args);
}

}  // namespace fl::cuda
