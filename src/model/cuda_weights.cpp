#include "model/cuda_weights.h"

#include <algorithm>
#include <array>
#include <cstring>

namespace fl::model {
namespace {

constexpr uint64_t kAlign = 256;
constexpr uint64_t kStagingBytes = uint64_t{64} << 20;
constexpr int kStagings = 2;

uint64_t align(uint64_t bytes) {
  return (bytes + kAlign - 1) / kAlign * kAlign;
}

uint64_t placed_bytes(const TensorView& tensor, bool matrix) {
  return align(matrix ? cuda::packed_bytes(tensor.type, tensor.rows(), tensor.cols()) : tensor.bytes());
}

/// Calls matrix(view, to) and vector(view, to) for every tensor on the device, in the order of execution.
template <typename Matrix, typename Vector>
void for_each_tensor(const Weights& w, std::vector<CudaLayer>& layers, cuda::PackedMatrix& output,
                     const float*& output_norm, Matrix&& matrix, Vector&& vector) {
  for (size_t i = 0; i < w.layers.size(); ++i) {
    const Layer& from = w.layers[i];
    CudaLayer& to = layers[i];
    to.kind = from.kind;
    if (from.kind == LayerKind::full_attention) {
      vector(from.attention.norm, to.attention.norm);
      vector(from.attention.q_norm, to.attention.q_norm);
      vector(from.attention.k_norm, to.attention.k_norm);
      matrix(from.attention.q, to.attention.q);
      matrix(from.attention.k, to.attention.k);
      matrix(from.attention.v, to.attention.v);
      matrix(from.attention.out, to.attention.out);
    } else {
      vector(from.delta.norm, to.delta.norm);
      vector(from.delta.a, to.delta.a);
      vector(from.delta.dt, to.delta.dt);
      vector(from.delta.o_norm, to.delta.o_norm);
      vector(from.delta.conv, to.delta.conv);
      matrix(from.delta.qkv, to.delta.qkv);
      matrix(from.delta.gate, to.delta.gate);
      matrix(from.delta.alpha, to.delta.alpha);
      matrix(from.delta.beta, to.delta.beta);
      matrix(from.delta.out, to.delta.out);
    }
    vector(from.ffn.norm, to.ffn.norm);
    matrix(from.ffn.gate, to.ffn.gate);
    matrix(from.ffn.up, to.ffn.up);
    matrix(from.ffn.down, to.ffn.down);
  }
  vector(w.output_norm, output_norm);
  matrix(w.output, output);
}

/// Host bytes to a place on the device, through page-locked staging: while one piece is copied the next is
/// read.
class Loader {
 public:
  Loader(Progress progress, void* context, uint64_t total)
      : progress_(progress), context_(context), total_(total) {
    for (Staging& s : stagings_) {
      s.host = cuda::PinnedBuffer(kStagingBytes);
      s.device = cuda::DeviceBuffer(kStagingBytes);
    }
  }
  ~Loader() { cudaStreamSynchronize(stream_.get()); }
  Loader(const Loader&) = delete;
  Loader& operator=(const Loader&) = delete;

  cuda::PackedMatrix matrix(const TensorView& t, std::byte* to) {
    const uint64_t row = row_bytes(t.type, static_cast<uint64_t>(t.cols()));
    FL_CHECK(row * cuda::kTileRows <= kStagingBytes, "a row of a matrix larger than the staging buffer");
    const auto each = static_cast<int64_t>(kStagingBytes / row) / cuda::kTileRows * cuda::kTileRows;
    cuda::PackedMatrix packed;
    for (int64_t first = 0; first < t.rows(); first += each) {
      const int64_t n = std::min(each, t.rows() - first);
      Staging& s = stage(t.row(first), static_cast<uint64_t>(n) * row);
      packed = cuda::repack(stream_, t.type, t.rows(), t.cols(), s.device.data(), first, n, to);
      s.free.record(stream_);
    }
    return packed;
  }

  void bytes(const TensorView& t, std::byte* to) {
    for (uint64_t at = 0; at < t.bytes(); at += kStagingBytes) {
      const uint64_t n = std::min(kStagingBytes, t.bytes() - at);
      Staging& s = stage(t.data + at, n);
      cuda::check(cudaMemcpyAsync(to + at, s.device.data(), n, cudaMemcpyDeviceToDevice, stream_),
                  "copy of a tensor");
      s.free.record(stream_);
    }
  }

  void finish() { stream_.synchronize(); }

 private:
  struct Staging {
    cuda::PinnedBuffer host;
    cuda::DeviceBuffer device;
    cuda::Event free;
    bool used = false;
  };

  Staging& stage(const std::byte* from, uint64_t n) {
    Staging& s = stagings_[next_++ % kStagings];
    if (s.used) {
      s.free.synchronize();
    }
    s.used = true;
    std::memcpy(s.host.data(), from, n);
    cuda::check(cudaMemcpyAsync(s.device.data(), s.host.data(), n, cudaMemcpyHostToDevice, stream_),
                "upload of weights");
    done_ += n;
    if (progress_ != nullptr) {
      progress_(context_, done_, total_);
    }
    return s;
  }

  std::array<Staging, kStagings> stagings_;
  cuda::Stream stream_;
  Progress progress_;
  void* context_;
  uint64_t total_;
  uint64_t done_ = 0;
  size_t next_ = 0;
};

}  // namespace

uint64_t cuda_weight_bytes(const Weights& weights) {
  uint64_t total = 0;
  std::vector<CudaLayer> layers(weights.layers.size());
  cuda::PackedMatrix output;
  const float* norm = nullptr;
  for_each_tensor(
      weights, layers, output, norm,
      [&](const TensorView& t, cuda::PackedMatrix&) { total += placed_bytes(t, true); },
      [&](const TensorView& t, const float*&) { total += placed_bytes(t, false); });
  return total;
}

CudaWeights CudaWeights::load(const Weights& weights, const cuda::DeviceInfo& /*device*/, Progress progress,
                              void* context) {
  CudaWeights to;
  to.config = weights.config;
  to.layers.resize(weights.layers.size());
  to.arena_ = cuda::DeviceBuffer(cuda_weight_bytes(weights));
  to.table_ = cuda::PinnedBuffer(weights.token_embd.bytes());
  Loader loader(progress, context, weights.bytes());
  std::byte* next = to.arena_.data();
  for_each_tensor(
      weights, to.layers, to.output, to.output_norm,
      [&](const TensorView& t, cuda::PackedMatrix& matrix) {
        matrix = loader.matrix(t, next);
        next += placed_bytes(t, true);
      },
      [&](const TensorView& t, const float*& vector) {
        FL_CHECK(t.type == DType::f32, "vectors are f32 (checked when they are bound)");
        loader.bytes(t, next);
        vector = reinterpret_cast<const float*>(next);
        next += placed_bytes(t, false);
      });
  std::memcpy(to.table_.data(), weights.token_embd.data, weights.token_embd.bytes());
  loader.finish();
  to.embedding = {to.table_.data(), weights.token_embd.type, weights.config.n_vocab, weights.config.n_embd};
  return to;
}

}  // namespace fl::model
