// The operations of Qwen3.5-27B on the device that are no products: delta rule, attention, norm, sampling.
// CSV on stdout: what, size, microseconds (median), bytes that it must move, GB/s, share of the read
// bandwidth that the same run measures, and for matrix work TFLOP/s of the operations that the plain formula
// counts.
#include <algorithm>
#include <cstdio>
#include <functional>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "core/cuda/runtime.h"
#include "kernels/cuda/attention.h"
#include "kernels/cuda/gated_delta.h"
#include "kernels/cuda/limits.h"
#include "kernels/cuda/rms_norm.h"
#include "kernels/cuda/sampling.h"

namespace {

using namespace fl;        // NOLINT
using namespace fl::cuda;  // NOLINT

constexpr int kRepeats = 15;
constexpr int kLayers = 8;  // states and caches that the repeats go round, so that they come from memory
constexpr int kVocab = 248320;
constexpr int kHidden = 5120;
const DeltaShape kDelta{16, 48, 128, 128};
const AttentionShape kAttention{24, 4, 256, 1.0F / 16};

struct Bench {
  Stream stream;
  double bandwidth = 0;

  // `work` enqueues the operation for layer i; several in a row are timed together.
  void line(const std::string& what, int64_t size, double bytes, double operations,
            const std::function<void(int)>& work) {
    Event begin(true);
    Event end(true);
    std::vector<double> us;
    for (int r = 0; r <= kRepeats; ++r) {
      begin.record(stream);
      for (int i = 0; i < kLayers; ++i) {
        work(i);
      }
      end.record(stream);
      end.synchronize();
      if (r > 0) {
        us.push_back(static_cast<double>(end.ms_since(begin)) * 1e3 / kLayers);
      }
    }
    std::sort(us.begin(), us.end());
    const double median = us[us.size() / 2];
    const double rate = bytes / median / 1e3;
    std::printf("%s,%ld,%.2f,%.0f,%.0f,%.3f,%.1f\n", what.c_str(), static_cast<long>(size), median, bytes,
                rate, rate * 1e9 / bandwidth, operations / median / 1e6);
    std::fflush(stdout);
  }
};

template <typename T>
class Array {
 public:
  explicit Array(int64_t n) : buffer_(static_cast<uint64_t>(n) * sizeof(T)) {
    check(cudaMemset(buffer_.data(), 0, buffer_.bytes()), "clear");
  }
  explicit Array(const std::vector<T>& v) : Array(static_cast<int64_t>(v.size())) {
    check(cudaMemcpy(buffer_.data(), v.data(), buffer_.bytes(), cudaMemcpyHostToDevice), "upload");
  }
  T* data() { return buffer_.as<T>(); }

 private:
  DeviceBuffer buffer_;
};

Array<float> random_array(int64_t n, float low, float high) {
  static std::mt19937 random(1);
  std::uniform_real_distribution<float> draw(low, high);
  std::vector<float> v(static_cast<size_t>(std::min<int64_t>(n, 1 << 22)));
  std::generate(v.begin(), v.end(), [&] { return draw(random); });
  std::vector<float> all(static_cast<size_t>(n));
  for (size_t i = 0; i < all.size(); ++i) {
    all[i] = v[i % v.size()];
  }
  return Array<float>(all);
}

void delta(Bench& bench, bool overlap) {
  constexpr int kKernel = 4;
  const Queue queue{bench.stream.get(), overlap};
  const int64_t n_tokens = 2048;
  const int64_t state_floats = kDelta.n_value_heads * 128 * 128;
  const int64_t row = state_floats + kKernel * kDelta.conv_channels();
  constexpr int kRows = 32;
  Array<float> state(int64_t{kLayers} * kRows * row);
  Array<float> conv = random_array(kDelta.conv_channels() * kKernel, -0.5F, 0.5F);
  Array<float> a = random_array(kDelta.n_value_heads, -4.0F, -0.1F);
  Array<float> dt = random_array(kDelta.n_value_heads, -1.0F, 1.0F);
  Array<float> norm = random_array(kDelta.value_dim, 0.5F, 1.5F);
  Array<float> qkv = random_array(n_tokens * kDelta.conv_channels(), -1.0F, 1.0F);
  Array<float> z = random_array(n_tokens * kDelta.v_channels(), -1.0F, 1.0F);
  Array<float> gates = random_array(n_tokens * kDelta.n_value_heads, -2.0F, 2.0F);
  Array<float> mixed(n_tokens * kDelta.conv_channels());
  Array<float> spare(n_tokens * kDelta.conv_channels());
  const auto out_cols = static_cast<int32_t>(kDelta.v_channels());
  Array<std::byte> out(static_cast<int64_t>(activation_bytes(static_cast<int32_t>(n_tokens), out_cols)));
  const DeltaWeights weights{conv.data(), a.data(), dt.data(), norm.data(), kKernel, 1e-6F};
  const DeltaProjections in{qkv.data(), z.data(), gates.data(), gates.data(), kDelta.n_value_heads};
  const auto layer = [&](int i) {
    return DeltaState{state.data() + i * int64_t{kRows} * row, row, state_floats};
  };
  for (const int n : {1, 2, 4, 8, 16, 32}) {
    std::vector<DeltaRun> runs;
    for (int i = 0; i < n; ++i) {
      runs.push_back({i, 1, 100, i});
    }
    Array<DeltaRun> d_runs(runs);
    const DeltaOutput to{nullptr, {out.data(), n, out_cols}};
    bench.line("gated_delta_step", n, n * 2.0 * static_cast<double>(state_floats) * 4, 0,
               [&](int i) { gated_delta_step(queue, kDelta, weights, layer(i), in, d_runs.data(), n, to); });
  }
  for (const int n : {128, 512, 1024, 2048}) {
    std::vector<DeltaRun> chunks;
    for (int at = 0; at < n; at += 64) {
      chunks.push_back({at, 64, at, 0});
    }
    Array<DeltaRun> whole(std::vector<DeltaRun>{{0, n, 0, 0}});
    Array<DeltaRun> d_chunks(chunks);
    Array<int32_t> begin(std::vector<int32_t>{0, n / 64});
    const DeltaOutput to{nullptr, {out.data(), n, out_cols}};
    const double width = static_cast<double>(n) * kDelta.conv_channels() * 4;
    bench.line("delta_convolve", n, 2 * width, 0, [&](int i) {
      delta_convolve(queue, kDelta, weights, layer(i), qkv.data(), whole.data(), 1, n, mixed.data());
    });
    bench.line("delta_chunked", n, 3 * width, 0.38e9 / 48 * n, [&](int i) {
      delta_chunked(queue, kDelta, weights, layer(i), in, d_chunks.data(), n / 64, begin.data(), 1,
                    mixed.data(), spare.data());
    });
    // What a layer does with a prompt, one after the other: chunks leave `mixed` in their own form.
    bench.line("delta_prompt", n, 3 * width, 0.38e9 / 48 * n, [&](int i) {
      delta_convolve(queue, kDelta, weights, layer(i), qkv.data(), whole.data(), 1, n, mixed.data());
      delta_chunked(queue, kDelta, weights, layer(i), in, d_chunks.data(), n / 64, begin.data(), 1,
                    mixed.data(), spare.data());
      delta_norm(queue, kDelta, weights, mixed.data(), z.data(), whole.data(), 1, n, to);
    });
    bench.line("delta_norm", n, static_cast<double>(n) * kDelta.v_channels() * 10, 0, [&](int) {
      delta_norm(queue, kDelta, weights, mixed.data(), z.data(), whole.data(), 1, n, to);
    });
  }
}

void attention(Bench& bench, bool overlap, DType type) {
  const Queue queue{bench.stream.get(), overlap};
  const std::string name(dtype_info(type).name);
  constexpr int kLongest = 131072;
  constexpr int kBlocks = kLongest / 64;
  const int64_t head_bytes = kv_head_bytes(type, 256);
  // Two layers' worth is larger than any cache of the chip from 32 768 tokens on.
  constexpr int kCaches = 2;
  Array<std::byte> keys(int64_t{kCaches} * kBlocks * 4 * head_bytes);
  Array<std::byte> values(int64_t{kCaches} * kBlocks * 4 * head_bytes);
  std::vector<int32_t> blocks(kBlocks);
  std::iota(blocks.begin(), blocks.end(), 0);
  Array<int32_t> d_blocks(blocks);
  constexpr int64_t kTokens = 2048;
  Array<float> q = random_array(kTokens * 24 * 512, -1.0F, 1.0F);
  const AttentionQueries queries{q.data(), 24 * 512};
  constexpr int kPairs = 32;
  Array<float> kv = random_array(kTokens * 4 * 256, -1.0F, 1.0F);
  Array<float> norm = random_array(256, 0.5F, 2.0F);
  Array<float> angles = random_array(kTokens * 2 * kPairs, -0.7F, 0.7F);
  PrepareAttention in;
  in.queries = queries;
  in.k = kv.data();
  in.v = kv.data();
  in.kv_stride = 4 * 256;
  in.q_norm = norm.data();
  in.k_norm = norm.data();
  in.eps = 1e-6F;
  in.cos_sin = angles.data();
  in.pairs = kPairs;
  Array<std::byte> out(static_cast<int64_t>(activation_bytes(kTokens, 24 * 256)));
  Array<float> partial(attention_partial_floats(kAttention, 32));
  Array<int32_t> arrived(int64_t{32} * 4);
  const auto cache = [&](int i) {
    const int64_t at = (i % kCaches) * int64_t{kBlocks} * 4 * head_bytes;
    return KvCache{keys.data() + at, values.data() + at, type, type};
  };
  for (const int n_chats : {1, 4, 32}) {
    for (const int n : {64, 1024, 4096, 32768, 122880}) {
      if (n_chats > 1 && int64_t{n} * n_chats > kLongest) {
        continue;
      }
      std::vector<AttentionTile> tiles;
      for (int chat = 0; chat < n_chats; ++chat) {
        tiles.push_back({chat, 1, n - 1, chat * (n / 64)});
      }
      Array<AttentionTile> d_tiles(tiles);
      const double bytes = n_chats * static_cast<double>(n / 64) * 4 * 2 * static_cast<double>(head_bytes);
      bench.line("attention_decode " + name + " x " + std::to_string(n_chats), n, bytes,
                 n_chats * 24.0 * 256 * 4 * n, [&](int i) {
                   attention_decode(queue, kAttention, cache(i), in, d_tiles.data(), n_chats, d_blocks.data(),
                                    {partial.data(), arrived.data()}, {out.data(), n_chats, 24 * 256});
                 });
    }
  }
  for (const auto& [n, depth] :
       {std::pair<int32_t, int64_t>{2048, 0}, {1024, 3072}, {1024, 7168}, {2048, 30720}}) {
    std::vector<AttentionTile> tiles;
    for (int32_t at = n - 64; at >= 0; at -= 64) {
      tiles.push_back({at, 64, static_cast<int32_t>(depth) + at, 0});
    }
    Array<AttentionTile> d_tiles(tiles);
    const double pairs = static_cast<double>(n) * (static_cast<double>(depth) + n / 2.0);
    bench.line("attention_prefill " + name + " " + std::to_string(n) + " at depth", depth, 0,
               pairs * 24 * 256 * 4, [&](int i) {
                 attention_prefill(queue, kAttention, cache(i), queries, d_tiles.data(),
                                   static_cast<int>(tiles.size()), d_blocks.data(),
                                   {out.data(), n, 24 * 256});
               });
  }
}

void rows(Bench& bench, bool overlap) {
  const Queue queue{bench.stream.get(), overlap};
  Array<float> x = random_array(int64_t{2048} * kHidden, -1.0F, 1.0F);
  Array<std::byte> out(static_cast<int64_t>(activation_bytes(2048, kHidden)));
  for (const int n : {1, 2048}) {
    bench.line("rms_norm", n, static_cast<double>(n) * kHidden * 6, 0, [&](int) {
      rms_norm(queue, x.data(), kHidden, x.data(), 1e-6F, {out.data(), n, kHidden});
    });
  }
  Array<float> logits = random_array(int64_t{32} * kVocab, -10.0F, 10.0F);
  Array<SamplingCandidate> scratch(sampling_scratch(32));
  Array<int32_t> sampled(32);
  for (const int k : {1, 20, 128}) {
    for (const int n : {1, 32}) {
      std::vector<SamplingRow> r;
      for (int i = 0; i < n; ++i) {
        r.push_back({i, k, 0.95F, 0.0F, 0.6F, 0.5F});
      }
      Array<SamplingRow> d_rows(r);
      bench.line("sample top_k " + std::to_string(k), n, static_cast<double>(n) * kVocab * 4, 0, [&](int) {
        sample(queue, logits.data(), kVocab, d_rows.data(), n, scratch.data(), sampled.data());
      });
    }
  }
}

}  // namespace

// Arguments: what to time (delta, attention, rows), or everything.
int main(int argc, char** argv) {
  const std::vector<std::string> wanted(argv + 1, argv + argc);
  const auto want = [&](const char* name) {
    return wanted.empty() || std::find(wanted.begin(), wanted.end(), name) != wanted.end();
  };
  if (device_count() == 0) {
    std::fprintf(stderr, "bench_cuda_ops: no CUDA device\n");
    return 5;
  }
  const DeviceInfo device = use_device(0);
  const bool overlap = device.arch >= 90;
  Bench bench;
  {
    DeviceBuffer big(uint64_t{1} << 30);
    check(cudaMemset(big.data(), 1, big.bytes()), "fill");
    bench.bandwidth =
        measure_read_bandwidth({bench.stream.get(), false}, big.data(), big.bytes(), device.n_sms);
  }
  std::printf("# %s, sm_%d, %d SMs; read bandwidth %.0f GB/s; f16 products by mma.sync %.0f TFLOP/s\n",
              device.name.c_str(), device.arch, device.n_sms, bench.bandwidth / 1e9,
              measure_matrix_peak({bench.stream.get(), false}, device.n_sms) / 1e12);
  std::printf("what,size,us,bytes,GB/s,share of read bandwidth,TFLOP/s\n");
  if (want("delta")) {
    delta(bench, overlap);
  }
  if (want("attention")) {
    attention(bench, overlap, DType::q8_0);
    attention(bench, overlap, DType::f16);
  }
  if (want("rows")) {
    rows(bench, overlap);
  }
  return 0;
}
