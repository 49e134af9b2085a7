// The weights of a model as the device's kernels want them: matrices repacked, vectors as float, all in one
// buffer; token embeddings as in the file, in page-locked host memory. Nothing of the file is needed
// afterwards.
#pragma once

#include <cstdint>
#include <vector>

#include "core/cuda/runtime.h"
#include "kernels/cuda/embedding.h"
#include "kernels/cuda/matmul.h"
#include "model/runners.h"
#include "model/weights.h"

namespace fl::model {

struct CudaFeedForward {
  const float* norm = nullptr;
  cuda::PackedMatrix gate, up, down;
};

struct CudaAttention {
  const float* norm = nullptr;
  const float* q_norm = nullptr;
  const float* k_norm = nullptr;
  cuda::PackedMatrix q, k, v, out;
};

struct CudaDeltaNet {
  const float* norm = nullptr;
  const float* a = nullptr;
  const float* dt = nullptr;
  const float* o_norm = nullptr;
  const float* conv = nullptr;  ///< [conv_channels][conv_kernel], as in the file
  cuda::PackedMatrix qkv, gate, beta, alpha, out;
};

struct CudaLayer {
  LayerKind kind = LayerKind::gated_delta_net;
  CudaAttention attention;
  CudaDeltaNet delta;
  CudaFeedForward ffn;
};

class CudaWeights {
 public:
  /// Copies and repacks everything; throws cuda::DeviceFailure. `progress` is called with (bytes done, bytes
  /// in all).
  static CudaWeights load(const Weights& weights, const cuda::DeviceInfo& device, bool direct_io,
                          Progress progress, void* context);

  Config config;
  cuda::EmbeddingTable embedding;
  cuda::PackedMatrix output;
  const float* output_norm = nullptr;
  std::vector<CudaLayer> layers;

  uint64_t device_bytes() const { return arena_.bytes(); }
  uint64_t host_bytes() const { return table_.bytes(); }
  const std::byte* device_data() const { return arena_.data(); }

 private:
  cuda::DeviceBuffer arena_;
  cuda::PinnedBuffer table_;
};

/// Device bytes that load() will own.
uint64_t cuda_weight_bytes(const Weights& weights);

}  // namespace fl::model
