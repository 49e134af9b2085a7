// The weights of a model as the host kernels want them: matrices packed, vectors as float, nothing of the
// file needed.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "kernels/cpu/matmul.h"
#include "model/runners.h"
#include "model/weights.h"

namespace fl::model {

struct CpuFeedForward {
  std::vector<float> norm;
  bool paired = false;
  cpu::PackedMatrix gate_up;   ///< when paired
  cpu::PackedMatrix gate, up;  ///< when not: types differ, or are floats
  cpu::PackedMatrix down;
};

struct CpuAttention {
  std::vector<float> norm, q_norm, k_norm;
  cpu::PackedMatrix q, k, v, out;
};

struct CpuDeltaNet {
  std::vector<float> norm, a, dt, o_norm;
  std::vector<float> conv;  ///< [conv_kernel][conv_channels]: transposed, lanes run over channels
  cpu::PackedMatrix qkv, gate, beta, alpha, out;
};

struct CpuLayer {
  LayerKind kind = LayerKind::gated_delta_net;
  CpuAttention attention;
  CpuDeltaNet delta;
  CpuFeedForward ffn;
};

/// Kept for speculation; the trunk does not read it.
struct CpuMtpBlock {
  std::vector<float> e_norm, h_norm, head_norm;
  cpu::PackedMatrix eh_proj;
  CpuAttention attention;
  CpuFeedForward ffn;
};

struct CpuWeights {
  Config config;
  cpu::PackedMatrix output;          ///< also the embedding table when tied
  std::vector<std::byte> embedding;  ///< rows as in the file, when not tied
  TensorView token_embd;             ///< over `embedding`
  std::vector<float> output_norm;
  std::vector<CpuLayer> layers;
  std::optional<CpuMtpBlock> mtp;

  /// Packs everything; throws std::bad_alloc.
  static CpuWeights pack(const Weights& weights, cpu::Isa isa, cpu::ThreadPool& pool, Progress progress,
                         void* context);
};

struct CpuWeightBytes {
  uint64_t trunk = 0;
  uint64_t mtp = 0;
};
/// What pack() will own.
CpuWeightBytes cpu_weight_bytes(const Weights& weights, cpu::Isa isa);
/// What it owns.
CpuWeightBytes cpu_weight_bytes(const CpuWeights& weights);

}  // namespace fl::model
