#include "model/cpu_weights.h"

#include <cstring>

namespace fl::model {
namespace {

/// Packs tensors one by one and tells how far it is.
class Packer {
 public:
  Packer(cpu::Isa isa, cpu::ThreadPool& pool, uint64_t total, Progress progress, void* context)
      : isa_(isa), pool_(pool), total_(total), progress_(progress), context_(context) {}

  cpu::PackedMatrix matrix(const TensorView& view) {
    cpu::PackedMatrix packed = cpu::PackedMatrix::pack(view, isa_, pool_);
    advance(view);
    return packed;
  }
  std::vector<float> floats(const TensorView& view) {
    std::vector<float> values(static_cast<size_t>(view.cols() * view.rows()));
    std::memcpy(values.data(), view.data, values.size() * sizeof(float));
    advance(view);
    return values;
  }
  std::vector<std::byte> bytes(const TensorView& view) {
    std::vector<std::byte> copy(view.data, view.data + view.bytes());
    advance(view);
    return copy;
  }
  /// [kernel, channels] with the taps of a channel together becomes [kernel][channels].
  std::vector<float> conv(const TensorView& view) {
    const std::vector<float> values = floats(view);
    const auto kernel = static_cast<size_t>(view.cols());
    const auto channels = static_cast<size_t>(view.rows());
    std::vector<float> transposed(values.size());
    for (size_t c = 0; c < channels; ++c) {
      for (size_t j = 0; j < kernel; ++j) {
        transposed[j * channels + c] = values[c * kernel + j];
      }
    }
    return transposed;
  }
  CpuFeedForward ffn(const FeedForward& f) {
    CpuFeedForward packed;
    packed.norm = floats(f.norm);
    packed.paired = cpu::PackedMatrix::can_pair(f.gate, f.up);
    if (packed.paired) {
      packed.gate_up = cpu::PackedMatrix::pack_pair(f.gate, f.up, isa_, pool_);
      advance(f.gate);
      advance(f.up);
    } else {
      packed.gate = matrix(f.gate);
      packed.up = matrix(f.up);
    }
    packed.down = matrix(f.down);
    return packed;
  }
  CpuAttention attention(const FullAttention& a) {
    return {floats(a.norm), floats(a.q_norm), floats(a.k_norm), matrix(a.q),
            matrix(a.k),    matrix(a.v),      matrix(a.out)};
  }
  CpuDeltaNet delta(const DeltaNet& d) {
    return {floats(d.norm), floats(d.a),    floats(d.dt),   floats(d.o_norm), conv(d.conv),
            matrix(d.qkv),  matrix(d.gate), matrix(d.beta), matrix(d.alpha),  matrix(d.out)};
  }

 private:
  void advance(const TensorView& view) {
    done_ += view.bytes();
    if (progress_ != nullptr) {
      progress_(context_, done_ < total_ ? done_ : total_, total_);
    }
  }

  cpu::Isa isa_;
  cpu::ThreadPool& pool_;
  uint64_t total_;
  uint64_t done_ = 0;
  Progress progress_;
  void* context_;
};

uint64_t float_bytes(const TensorView& view) {
  return view.bytes();
}
uint64_t float_bytes(const std::vector<float>& values) {
  return values.size() * sizeof(float);
}
uint64_t matrix_bytes(const TensorView& view, cpu::Isa isa) {
  return cpu::PackedMatrix::packed_bytes(view.type, view.rows(), view.cols(), isa);
}
uint64_t matrix_bytes(const cpu::PackedMatrix& matrix, cpu::Isa) {
  return matrix.bytes();
}

// The same sums over the file's views (before) and over the packed weights (after).
uint64_t gate_up_bytes(const FeedForward& f, cpu::Isa isa) {
  return matrix_bytes(f.gate, isa) + matrix_bytes(f.up, isa);
}
uint64_t gate_up_bytes(const CpuFeedForward& f, cpu::Isa) {
  return f.paired ? f.gate_up.bytes() : f.gate.bytes() + f.up.bytes();
}
template <typename FeedForwardLike>
uint64_t ffn_bytes(const FeedForwardLike& f, cpu::Isa isa) {
  return float_bytes(f.norm) + gate_up_bytes(f, isa) + matrix_bytes(f.down, isa);
}
template <typename AttentionLike>
uint64_t attention_bytes(const AttentionLike& a, cpu::Isa isa) {
  return float_bytes(a.norm) + float_bytes(a.q_norm) + float_bytes(a.k_norm) + matrix_bytes(a.q, isa) +
         matrix_bytes(a.k, isa) + matrix_bytes(a.v, isa) + matrix_bytes(a.out, isa);
}
template <typename DeltaLike>
uint64_t delta_bytes(const DeltaLike& d, cpu::Isa isa) {
  return float_bytes(d.norm) + float_bytes(d.a) + float_bytes(d.dt) + float_bytes(d.o_norm) +
         float_bytes(d.conv) + matrix_bytes(d.qkv, isa) + matrix_bytes(d.gate, isa) +
         matrix_bytes(d.beta, isa) + matrix_bytes(d.alpha, isa) + matrix_bytes(d.out, isa);
}
template <typename WeightsLike>
CpuWeightBytes sum_bytes(const WeightsLike& w, cpu::Isa isa, uint64_t embedding) {
  CpuWeightBytes bytes;
  bytes.trunk = embedding + matrix_bytes(w.output, isa) + float_bytes(w.output_norm);
  for (const auto& layer : w.layers) {
    bytes.trunk += layer.kind == LayerKind::full_attention ? attention_bytes(layer.attention, isa)
                                                           : delta_bytes(layer.delta, isa);
    bytes.trunk += ffn_bytes(layer.ffn, isa);
  }
  if (w.mtp) {
    bytes.mtp = float_bytes(w.mtp->e_norm) + float_bytes(w.mtp->h_norm) + float_bytes(w.mtp->head_norm) +
                matrix_bytes(w.mtp->eh_proj, isa) + attention_bytes(w.mtp->attention, isa) +
                ffn_bytes(w.mtp->ffn, isa);
  }
  return bytes;
}

}  // namespace

CpuWeightBytes cpu_weight_bytes(const Weights& weights, cpu::Isa isa) {
  return sum_bytes(weights, isa, weights.config.tied_embeddings ? 0 : weights.token_embd.bytes());
}

CpuWeightBytes cpu_weight_bytes(const CpuWeights& weights) {
  return sum_bytes(weights, cpu::Isa::portable, weights.embedding.size());
}

CpuWeights CpuWeights::pack(const Weights& weights, cpu::Isa isa, cpu::ThreadPool& pool, Progress progress,
                            void* context) {
  Packer packer(isa, pool, weights.bytes(), progress, context);
  CpuWeights w;
  w.config = weights.config;
  w.output = packer.matrix(weights.output);
  w.output_norm = packer.floats(weights.output_norm);
  if (!w.config.tied_embeddings) {
    w.embedding = packer.bytes(weights.token_embd);
    w.token_embd = weights.token_embd;
    w.token_embd.data = w.embedding.data();
    w.token_embd.name = "token_embd.weight";  // the file's text may be unmapped
  }
  for (const Layer& layer : weights.layers) {
    CpuLayer packed;
    packed.kind = layer.kind;
    if (layer.kind == LayerKind::full_attention) {
      packed.attention = packer.attention(layer.attention);
    } else {
      packed.delta = packer.delta(layer.delta);
    }
    packed.ffn = packer.ffn(layer.ffn);
    w.layers.push_back(std::move(packed));
  }
  if (weights.mtp) {
    w.mtp = CpuMtpBlock{packer.floats(weights.mtp->e_norm),       packer.floats(weights.mtp->h_norm),
                        packer.floats(weights.mtp->head_norm),    packer.matrix(weights.mtp->eh_proj),
                        packer.attention(weights.mtp->attention), packer.ffn(weights.mtp->ffn)};
  }
  return w;
}

}  // namespace fl::model
