// The delta rule on the device against ref/: step by step, by chunks, and that both see one state.
#include <bit>
#include <numeric>

#include "kernels/causal_conv.h"
#include "kernels/cuda/gated_delta.h"
#include "tests/support/cases.h"
#include "tests/support/guarded.h"
#include "tests/support/guarded_activations.h"
#include "tests/support/tolerances.h"

namespace fl {
namespace {

using cuda::DeltaRun;
using test::DeviceActivations;
using test::DeviceArray;
using test::random_floats;

constexpr int kKernel = 4;
constexpr float kEps = 1e-6F;

// One layer with random weights, and sequences of random projections; in double beside it.
struct World {
  World(const DeltaShape& s, int32_t n_rows, int64_t n_tokens, uint32_t seed)
      : shape(s),
        random(seed),
        ring_offset((s.n_value_heads * s.key_dim * s.value_dim + 3) / 4 * 4),
        row_stride((ring_offset + kKernel * s.conv_channels() + 3) / 4 * 4),
        conv(random_floats(random, s.conv_channels() * kKernel, -0.7F, 0.7F)),
        a(random_floats(random, s.n_value_heads, -4.0F, -0.01F)),
        dt(random_floats(random, s.n_value_heads, -2.0F, 1.0F)),
        norm(random_floats(random, s.value_dim, 0.5F, 1.5F)),
        qkv(random_floats(random, n_tokens * s.conv_channels(), -2.0F, 2.0F)),
        z(random_floats(random, n_tokens * s.v_channels(), -2.0F, 2.0F)),
        alpha(random_floats(random, n_tokens * s.n_value_heads, -3.0F, 3.0F)),
        beta(random_floats(random, n_tokens * s.n_value_heads, -3.0F, 3.0F)),
        state(n_rows * row_stride),
        d_conv(conv),
        d_a(a),
        d_dt(dt),
        d_norm(norm),
        d_qkv(qkv),
        d_z(z),
        d_alpha(alpha),
        d_beta(beta) {}

  cuda::DeltaWeights weights() {
    return {d_conv.data(), d_a.data(), d_dt.data(), d_norm.data(), kKernel, kEps};
  }
  cuda::DeltaState device_state() { return {state.data(), row_stride, ring_offset}; }
  cuda::DeltaProjections projections() {
    return {d_qkv.data(), d_z.data(), d_alpha.data(), d_beta.data(), shape.n_value_heads};
  }

  // y of tokens [first, first + n) of one whole sequence, and the state after it.
  std::vector<double> reference(int64_t first, int64_t n, std::vector<double>& s) const {
    const int64_t width = shape.conv_channels();
    std::vector<double> u = test::to_double(
        std::vector<float>(qkv.begin() + first * width, qkv.begin() + (first + n) * width), n * width);
    std::vector<double> w(static_cast<size_t>(kKernel * width));
    for (int64_t c = 0; c < width; ++c) {
      for (int64_t j = 0; j < kKernel; ++j) {
        w[static_cast<size_t>(j * width + c)] = conv[static_cast<size_t>(c * kKernel + j)];
      }
    }
    std::vector<double> window(static_cast<size_t>((kKernel - 1) * width), 0.0);
    std::vector<double> mixed(u.size());
    ref::causal_conv_silu(u.data(), w.data(), kKernel, n, width, window.data(), mixed.data());
    const auto piece = [&](const std::vector<float>& v, int64_t stride) {
      return test::to_double(std::vector<float>(v.begin() + first * stride, v.begin() + (first + n) * stride),
                             n * stride);
    };
    const auto zd = piece(z, shape.v_channels());
    const auto alphad = piece(alpha, shape.n_value_heads);
    const auto betad = piece(beta, shape.n_value_heads);
    const auto ad = test::to_double(a, shape.n_value_heads);
    const auto dtd = test::to_double(dt, shape.n_value_heads);
    const auto normd = test::to_double(norm, shape.value_dim);
    DeltaInput<double> in;
    in.qkv = mixed.data();
    in.qkv_stride = width;
    in.z = zd.data();
    in.alpha = alphad.data();
    in.beta = betad.data();
    in.a = ad.data();
    in.dt = dtd.data();
    in.norm = normd.data();
    in.eps = kEps;
    in.n_tokens = n;
    s.assign(static_cast<size_t>(shape.n_value_heads * shape.key_dim * shape.value_dim), 0.0);
    std::vector<double> y(static_cast<size_t>(n * shape.v_channels()));
    ref::gated_delta(shape, in, s.data(), y.data());
    return y;
  }

  DeltaShape shape;
  std::mt19937 random;
  int64_t ring_offset, row_stride;
  std::vector<float> conv, a, dt, norm, qkv, z, alpha, beta;
  DeviceArray<float> state, d_conv, d_a, d_dt, d_norm, d_qkv, d_z, d_alpha, d_beta;
};

// What the kernels wrote: from the activations where they fuse, else from y.
struct Output {
  Output(const World& w, int32_t n)
      : y(int64_t{n} * w.shape.v_channels()), activations(n, static_cast<int32_t>(w.shape.v_channels())) {}
  cuda::DeltaOutput to(const DeltaShape& shape) {
    return {cuda::delta_fuses(shape) ? nullptr : y.data(), activations.value()};
  }
  std::vector<float> rows(const DeltaShape& shape) {
    if (!cuda::delta_fuses(shape)) {
      return y.download();
    }
    const std::vector<float> padded = activations.download();
    const int64_t stride = cuda::padded_cols(shape.v_channels());
    std::vector<float> out;
    for (int64_t t = 0; t < activations.value().n_tokens; ++t) {
      out.insert(out.end(), padded.begin() + t * stride, padded.begin() + t * stride + shape.v_channels());
      for (int64_t c = shape.v_channels(); c < stride; ++c) {
        EXPECT_EQ(padded[static_cast<size_t>(t * stride + c)], 0.0F) << "padding column " << c;
      }
    }
    return out;
  }
  DeviceArray<float> y;
  DeviceActivations activations;
};

class CudaGatedDelta : public test::DeviceTest {
 protected:
  static void expect_state(World& w, int32_t row, const std::vector<double>& want, const std::string& where) {
    const std::vector<float> all = w.state.download();
    const std::vector<float> got(all.begin() + row * w.row_stride,
                                 all.begin() + row * w.row_stride + static_cast<int64_t>(want.size()));
    EXPECT_LT(test::relative_error(got, want, static_cast<int64_t>(want.size())), test::kFloatDelta) << where;
    EXPECT_TRUE(w.state.intact()) << where;
  }
};

std::vector<DeltaShape> shapes() {
  return test::cases<DeltaShape>(
      {{2, 2, 16, 16}, {2, 6, 32, 64}, {1, 3, 128, 128}, {2, 6, 128, 128}, {16, 48, 128, 128}},
      {{2, 2, 16, 16}, {2, 6, 32, 64}, {2, 6, 128, 128}});
}

// Tokens of one sequence, one after another, through `step`; or prompts through the other kernels.
TEST_F(CudaGatedDelta, StepsAgreeWithTheReference) {
  for (const DeltaShape& shape : shapes()) {
    // with 48 heads more states than 132 SMs take at once in registers (kernels/cuda/gated_delta_step.cu)
    const int32_t n_sequences = shape.n_value_heads == 48 ? 8 : 3;
    const int64_t n = test::few_cases() ? 3 : 9;
    World w(shape, n_sequences + 1, n_sequences * n, 5);
    std::vector<std::vector<float>> got(n_sequences);
    for (int32_t t = 0; t < n; ++t) {
      // Sequence i at step t has token i * n + t; rows are scattered and a padding run is among them.
      Output out(w, static_cast<int32_t>(n_sequences * n));
      std::vector<DeltaRun> runs;
      for (int32_t i = 0; i < n_sequences; ++i) {
        runs.push_back({static_cast<int32_t>(i * n + t), 1, t, n_sequences - i});
      }
      runs.insert(runs.begin() + 1, DeltaRun{});
      DeviceArray<DeltaRun> d_runs(runs);
      cuda::gated_delta_step({}, shape, w.weights(), w.device_state(), w.projections(), d_runs.data(),
                             static_cast<int>(runs.size()), out.to(shape));
      const std::vector<float> rows =
          cuda::delta_fuses(shape) ? out.activations.download() : out.y.download();
      const int64_t stride =
          cuda::delta_fuses(shape) ? cuda::padded_cols(shape.v_channels()) : shape.v_channels();
      for (int32_t i = 0; i < n_sequences; ++i) {
        const auto begin = rows.begin() + (i * n + t) * stride;
        got[static_cast<size_t>(i)].insert(got[static_cast<size_t>(i)].end(), begin,
                                           begin + shape.v_channels());
      }
      EXPECT_TRUE(out.y.intact() && out.activations.intact());
    }
    for (int32_t i = 0; i < n_sequences; ++i) {
      std::vector<double> state;
      const std::vector<double> want = w.reference(i * n, n, state);
      const std::string where = "dims " + std::to_string(shape.key_dim) + " x " +
                                std::to_string(shape.value_dim) + ", sequence " + std::to_string(i);
      EXPECT_LT(test::relative_error(got[static_cast<size_t>(i)], want, n * shape.v_channels()),
                test::kHalfActivations)
          << where;
      expect_state(w, n_sequences - i, state, where);
    }
  }
}

// Sequences with a past, a fresh one and a padding run; more heads than the device takes at once in registers
// are the step's own choice of shared memory, fewer are asked to go there.
TEST_F(CudaGatedDelta, StatesInSharedMemoryGiveTheSameBits) {
  const DeltaShape shape{2, 6, 128, 128};
  const int32_t n = 5;
  const auto run = [&](cuda::DeltaStates states) {
    World w(shape, n + 1, 2 * n, 15);
    std::vector<uint32_t> bits;  // what no step has written is not a number, and equal all the same
    const auto keep = [&](const std::vector<float>& values) {
      for (const float v : values) {
        bits.push_back(std::bit_cast<uint32_t>(v));
      }
    };
    for (int32_t t = 0; t < 2; ++t) {
      Output out(w, 2 * n);
      std::vector<DeltaRun> runs;
      for (int32_t i = 0; i < n; ++i) {
        runs.push_back({2 * i + t, 1, i == 1 ? 0 : t, n - i});
      }
      runs.insert(runs.begin() + 2, DeltaRun{});
      DeviceArray<DeltaRun> d_runs(runs);
      cuda::gated_delta_step({}, shape, w.weights(), w.device_state(), w.projections(), d_runs.data(),
                             static_cast<int>(runs.size()), out.to(shape), states);
      EXPECT_TRUE(out.activations.intact());
      keep(out.activations.download());
    }
    EXPECT_TRUE(w.state.intact());
    keep(w.state.download());
    return bits;
  };
  EXPECT_EQ(run(cuda::DeltaStates::best), run(cuda::DeltaStates::in_shared_memory));
  EXPECT_EQ(run(cuda::DeltaStates::best), run(cuda::DeltaStates::by_staying_blocks));
}

void prompt(World& w, int32_t n_before, int32_t n, int32_t row, bool chunked, DeviceArray<float>& mixed,
            Output& out, cuda::DeltaScan scan = cuda::DeltaScan::best) {
  // The whole piece [n_before, n_before + n) of the sequence as one slice, cut as the runner cuts it.
  const DeltaRun whole{n_before, n, n_before, row};
  const int32_t first = std::min(64 - n_before % 64, n);
  const int32_t head = !chunked ? n : first < kDeltaMinChunk ? first : 0;
  int32_t tail = n;
  if (chunked && first < n && (n - first) % 64 < kDeltaMinChunk) {
    tail = n - (n - first) % 64;
  }
  std::vector<DeltaRun> chunks;
  for (int32_t at = head; at < tail;) {
    const int32_t end = std::min(at + 64 - (n_before + at) % 64, tail);
    chunks.push_back({n_before + at, end - at, n_before + at, row});
    at = end;
  }
  DeviceArray<DeltaRun> d_whole(std::vector<DeltaRun>{whole});
  DeviceArray<DeltaRun> d_head(std::vector<DeltaRun>{{n_before, head, n_before, row}});
  DeviceArray<DeltaRun> d_tail(std::vector<DeltaRun>{{n_before + tail, n - tail, n_before + tail, row}});
  DeviceArray<int32_t> begin(std::vector<int32_t>{0, static_cast<int32_t>(chunks.size())});
  chunks.push_back({});
  DeviceArray<DeltaRun> d_chunks(chunks);
  DeviceArray<float> spare(w.d_qkv.size());
  cuda::delta_convolve({}, w.shape, w.weights(), w.device_state(), w.d_qkv.data(), d_whole.data(), 1, n,
                       mixed.data());
  cuda::delta_recurrent({}, w.shape, w.weights(), w.device_state(), w.projections(), d_head.data(), 1,
                        mixed.data());
  cuda::delta_chunked({}, w.shape, w.weights(), w.device_state(), w.projections(), d_chunks.data(),
                      static_cast<int>(chunks.size()) - 1, begin.data(), 1, mixed.data(), spare.data(), scan);
  cuda::delta_recurrent({}, w.shape, w.weights(), w.device_state(), w.projections(), d_tail.data(), 1,
                        mixed.data());
  cuda::delta_norm({}, w.shape, w.weights(), mixed.data(), w.d_z.data(), d_whole.data(), 1, n,
                   out.to(w.shape));
  cuda::check(cudaDeviceSynchronize(), "prompt");
  EXPECT_TRUE(spare.intact() && mixed.intact());
}

TEST_F(CudaGatedDelta, PromptsAgreeWithTheReference) {
  for (const DeltaShape& shape : shapes()) {
    const bool chunked = cuda::delta_chunked_supported(shape);
    for (const int32_t n : test::cases({1, 2, 15, 16, 17, 63, 64, 65, 79, 80, 130, 257}, {2, 130})) {
      World w(shape, 2, n, static_cast<uint32_t>(n));
      DeviceArray<float> mixed(w.d_qkv.size());
      Output out(w, n);
      prompt(w, 0, n, 1, chunked, mixed, out);
      std::vector<double> state;
      const std::vector<double> want = w.reference(0, n, state);
      const std::string where = "dims " + std::to_string(shape.key_dim) + " x " +
                                std::to_string(shape.value_dim) + ", " + std::to_string(shape.n_value_heads) +
                                " heads, prompt of " + std::to_string(n);
      EXPECT_LT(test::relative_error(out.rows(shape), want, n * shape.v_channels()), test::kHalfActivations)
          << where;
      expect_state(w, 1, state, where);
      EXPECT_TRUE(out.y.intact() && out.activations.intact());
    }
  }
}

// The way through the chunks that devices without warpgroup products take.
TEST_F(CudaGatedDelta, ThePortableScanAgreesWithTheReference) {
  const DeltaShape shape{2, 6, 128, 128};
  for (const int32_t n : {16, 17, 64, 80, 257}) {
    World w(shape, 2, n, static_cast<uint32_t>(n));
    DeviceArray<float> mixed(w.d_qkv.size());
    Output out(w, n);
    prompt(w, 0, n, 1, true, mixed, out, cuda::DeltaScan::portable);
    std::vector<double> state;
    const std::vector<double> want = w.reference(0, n, state);
    const std::string where = "prompt of " + std::to_string(n);
    EXPECT_LT(test::relative_error(out.rows(shape), want, n * shape.v_channels()), test::kHalfActivations)
        << where;
    expect_state(w, 1, state, where);
  }
}

TEST_F(CudaGatedDelta, PiecesContinueOneAnother) {
  // A prompt cut at 70 and 128, then two steps, is the whole; a cut on the grid changes no bit.
  const DeltaShape shape{2, 6, 128, 128};
  World w(shape, 3, 200, 3);
  DeviceArray<float> mixed(w.d_qkv.size());
  Output out(w, 200);
  prompt(w, 0, 70, 1, true, mixed, out);
  prompt(w, 70, 58, 1, true, mixed, out);
  prompt(w, 128, 70, 1, true, mixed, out);
  for (int32_t t = 198; t < 200; ++t) {
    DeviceArray<DeltaRun> run(std::vector<DeltaRun>{{t, 1, t, 1}});
    cuda::gated_delta_step({}, shape, w.weights(), w.device_state(), w.projections(), run.data(), 1,
                           out.to(shape));
  }
  std::vector<double> state;
  const std::vector<double> want = w.reference(0, 200, state);
  EXPECT_LT(test::relative_error(out.rows(shape), want, 200 * shape.v_channels()), test::kHalfActivations);
  expect_state(w, 1, state, "pieces");

  DeviceArray<float> mixed_cut(w.d_qkv.size());
  Output cut(w, 200);
  prompt(w, 0, 64, 0, true, mixed_cut, cut);
  prompt(w, 64, 136, 0, true, mixed_cut, cut);
  Output whole(w, 200);
  prompt(w, 0, 200, 2, true, mixed, whole);
  EXPECT_EQ(cut.rows(shape), whole.rows(shape));
  const std::vector<float> all = w.state.download();
  EXPECT_TRUE(std::equal(all.begin(), all.begin() + w.ring_offset, all.begin() + 2 * w.row_stride));
}

}  // namespace
}  // namespace fl
