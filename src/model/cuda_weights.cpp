#include "model/cuda_weights.h"

#include <algorithm>

#include "model/cuda_upload.h"

namespace fl::model {
namespace {

constexpr uint64_t kAlign = 256;

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

void add_matrix(CudaUpload& upload, const TensorView& t, std::byte* to) {
  const uint64_t row = row_bytes(t.type, static_cast<uint64_t>(t.cols()));
  FL_CHECK(row * cuda::kTileRows <= CudaUpload::kPieceBytes, "16 rows of a matrix fit a piece");
  const auto each = static_cast<int64_t>(CudaUpload::kPieceBytes / row) / cuda::kTileRows * cuda::kTileRows;
  for (int64_t first = 0; first < t.rows(); first += each) {
    const int64_t n = std::min(each, t.rows() - first);
    upload.to_device(t.row(first), static_cast<uint64_t>(n) * row,
                     [t, first, n, to](cudaStream_t stream, const std::byte* device) {
                       cuda::repack(stream, t.type, t.rows(), t.cols(), device, first, n, to);
                     });
  }
}

void add_vector(CudaUpload& upload, const TensorView& t, std::byte* to) {
  for (uint64_t at = 0; at < t.bytes(); at += CudaUpload::kPieceBytes) {
    const uint64_t n = std::min(CudaUpload::kPieceBytes, t.bytes() - at);
    upload.to_device(t.data + at, n, [n, to = to + at](cudaStream_t stream, const std::byte* device) {
      cuda::check(cudaMemcpyAsync(to, device, n, cudaMemcpyDeviceToDevice, stream), "copy of a tensor");
    });
  }
}

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

CudaWeights CudaWeights::load(const Weights& weights, const cuda::DeviceInfo& device, bool direct_io,
                              Progress progress, void* context) {
  CudaWeights to;
  to.config = weights.config;
  to.layers.resize(weights.layers.size());
  to.arena_ = cuda::DeviceBuffer(cuda_weight_bytes(weights));
  to.table_ = cuda::PinnedBuffer(weights.token_embd.bytes());
  CudaUpload upload;
  std::byte* next = to.arena_.data();
  for_each_tensor(
      weights, to.layers, to.output, to.output_norm,
      [&](const TensorView& t, cuda::PackedMatrix& matrix) {
        matrix = cuda::packed_matrix(t.type, t.rows(), t.cols(), next);
        add_matrix(upload, t, next);
        next += placed_bytes(t, true);
      },
      [&](const TensorView& t, const float*& vector) {
        FL_CHECK(t.type == DType::f32, "vectors are f32 (checked when they are bound)");
        add_vector(upload, t, next);
        vector = reinterpret_cast<const float*>(next);
        next += placed_bytes(t, false);
      });
  upload.to_host(weights.token_embd.data, weights.token_embd.bytes(), to.table_.data());
  upload.run(device, WeightReader(weights.sources, direct_io), progress, context);
  to.embedding = {to.table_.data(), weights.token_embd.type, weights.config.n_vocab, weights.config.n_embd};
  return to;
}

}  // namespace fl::model
