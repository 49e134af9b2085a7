#include "model/cpu_forward.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "kernels/causal_conv.h"
#include "kernels/embedding.h"
#include "kernels/rms_norm.h"
#include "kernels/swiglu.h"
#include "model/shapes.h"

namespace fl::model {
namespace {

constexpr int64_t kAlignFloats = 16;   // 64 bytes
constexpr int64_t kConvColumns = 256;  // channels of one work item of the convolution

int64_t align(int64_t floats) {
  return (floats + kAlignFloats - 1) / kAlignFloats * kAlignFloats;
}

/// Floats a token needs between the two norms of a layer: the widest of its three parts.
int64_t work_floats(const Config& c) {
  const int64_t delta =
      int64_t{c.conv_channels()} + 2 * int64_t{c.v_channels()} + 2 * int64_t{c.n_value_heads};
  const int64_t attention = int64_t{c.n_heads} * 3 * c.head_dim + 2 * int64_t{c.kv_width()};
  const int64_t ffn = 2 * int64_t{c.n_ff};
  return std::max({delta, attention, ffn});
}

int64_t scratch_floats(const Config& c) {
  return align(
      std::max(cpu::gated_delta_scratch(delta_shape(c)), cpu::attention_scratch(attention_shape(c))));
}

int64_t state_stride(const Config& c) {
  return align(c.state_floats()) + align(c.conv_floats());
}

int64_t maxima_of(const Config& c) {
  static_assert(cpu::kMaximaRows == kLogitBlock);
  return (c.n_vocab + kLogitBlock - 1) / kLogitBlock;
}

/// y = norm of x, row by row, for Activations::set_made.
struct NormRows {
  cpu::Isa isa;
  const float* x;
  const float* w;
  float eps;
  int64_t n;
  float* y;
  void operator()(int64_t token, int64_t end_token, int64_t /*column*/, int64_t /*end_column*/) const {
    for (; token < end_token; ++token) {
      cpu::rms_norm(isa, x + token * n, w, eps, n, y + token * n);
    }
  }
};

struct BufferPlan {
  int64_t x, normed, work, angles, scratch, total;
};
BufferPlan plan_buffers(const Config& c, int64_t max_tokens, int64_t n_threads) {
  BufferPlan plan{};
  int64_t at = 0;
  const auto take = [&at](int64_t floats) {
    const int64_t start = at;
    at += align(floats);
    return start;
  };
  plan.x = take(max_tokens * c.n_embd);
  plan.normed = take(max_tokens * c.n_embd);
  plan.work = take(max_tokens * work_floats(c));
  plan.angles = take(max_tokens * c.rope_dims);
  plan.scratch = take(n_threads * scratch_floats(c));
  plan.total = at;
  return plan;
}

/// Of all products but the feed-forward block's second.
int64_t widest_input(const Config& c) {
  return std::max({int64_t{c.n_embd}, int64_t{c.v_channels()}, int64_t{c.n_heads} * c.head_dim});
}

}  // namespace

CpuMemoryPlan plan_cpu_memory(const Config& c, const RunnerOptions& options, int n_threads) {
  CpuMemoryPlan plan;
  const auto token_heads = static_cast<uint64_t>(c.n_full_layers()) *
                           static_cast<uint64_t>(options.n_blocks) * static_cast<uint64_t>(c.n_kv_heads);
  plan.kv_cache = token_heads * static_cast<uint64_t>(kv_head_bytes(options.kv_type_k, c.head_dim) +
                                                      kv_head_bytes(options.kv_type_v, c.head_dim));
  const uint64_t row =
      static_cast<uint64_t>(state_stride(c)) * sizeof(float) * static_cast<uint64_t>(c.n_delta_layers());
  plan.state = row * static_cast<uint64_t>(options.n_state_rows);
  plan.spare_state = row * static_cast<uint64_t>(options.n_spare_rows);
  plan.activations =
      static_cast<uint64_t>(plan_buffers(c, options.max_tokens, n_threads).total) * sizeof(float) +
      cpu::Activations::reserved_bytes(options.max_tokens, widest_input(c)) +
      cpu::Activations::reserved_bytes(options.max_tokens, c.n_ff);
  plan.logits = static_cast<uint64_t>(options.max_rows) * static_cast<uint64_t>(c.n_vocab + maxima_of(c)) *
                sizeof(float);
  return plan;
}

CpuForward::CpuForward(const CpuWeights& weights, const RunnerOptions& options, cpu::Isa isa,
                       cpu::ThreadPool& pool)
    : weights_(weights),
      config_(weights.config),
      options_(options),
      isa_(isa),
      pool_(pool),
      delta_shape_(delta_shape(config_)),
      attention_shape_(attention_shape(config_)),
      rope_(make_rope_table(config_.rope_dims / 2, config_.rope_base, config_.rope_sections,
                            config_.rope_scaling_factor, config_.rope_original_ctx)),
      ahead_(pool.size()) {
  const CpuMemoryPlan plan = plan_cpu_memory(config_, options, pool.size());
  kv_ = HostBuffer(plan.kv_cache);
  state_ = HostBuffer(plan.state + plan.spare_state);
  logits_ = HostBuffer(plan.logits);
  const BufferPlan at = plan_buffers(config_, options.max_tokens, pool.size());
  buffers_ = HostBuffer(static_cast<uint64_t>(at.total) * sizeof(float));
  x_ = buffers_.floats() + at.x;
  normed_ = buffers_.floats() + at.normed;
  work_ = buffers_.floats() + at.work;
  angles_ = buffers_.floats() + at.angles;
  scratch_ = buffers_.floats() + at.scratch;
  scratch_stride_ = scratch_floats(config_);
  activations_.reserve(options.max_tokens, widest_input(config_));
  hidden_.reserve(options.max_tokens, config_.n_ff);

  const int64_t block_heads = int64_t{options.n_blocks} * config_.n_kv_heads;
  std::byte* next = kv_.data();
  for (int32_t i = 0; i < config_.n_full_layers(); ++i) {
    KvCache cache;
    cache.type_k = options.kv_type_k;
    cache.type_v = options.kv_type_v;
    cache.k = next;
    next += block_heads * kv_head_bytes(cache.type_k, config_.head_dim);
    cache.v = next;
    next += block_heads * kv_head_bytes(cache.type_v, config_.head_dim);
    caches_.push_back(cache);
  }
  token_slice_.resize(static_cast<size_t>(options.max_tokens));
  tiles_.reserve(static_cast<size_t>(options.max_tokens));
  row_tokens_.reserve(static_cast<size_t>(options.max_rows));
}

CpuMemoryPlan CpuForward::reserved() const {
  const uint64_t rows =
      static_cast<uint64_t>(options_.n_state_rows) + static_cast<uint64_t>(options_.n_spare_rows);
  const uint64_t steps = state_.bytes() / rows * static_cast<uint64_t>(options_.n_state_rows);
  return {kv_.bytes(), steps, state_.bytes() - steps,
          buffers_.bytes() + activations_.bytes() + hidden_.bytes(), logits_.bytes()};
}

float* CpuForward::state_of(int32_t row, int64_t delta_index) const {
  return state_.floats() + (int64_t{row} * config_.n_delta_layers() + delta_index) * state_stride(config_);
}

void CpuForward::copy_state(int32_t from_row, int32_t to_row) {
  const int64_t floats = config_.n_delta_layers() * state_stride(config_);
  if (from_row != to_row) {
    std::memcpy(state_of(to_row, 0), state_of(from_row, 0), static_cast<size_t>(floats) * sizeof(float));
  }
}

std::span<const float> CpuForward::logits(int32_t i) const {
  const auto n = static_cast<size_t>(config_.n_vocab);
  return {logits_.floats() + static_cast<size_t>(i) * n, n};
}

std::span<const float> CpuForward::maxima(int32_t i) const {
  const int64_t n = maxima_of(config_);
  return {logits_.floats() + int64_t{options_.max_rows} * config_.n_vocab + i * n, static_cast<size_t>(n)};
}

void CpuForward::run(const Batch& batch) {
  plan_step(batch);
  embed(batch);
  int64_t delta_index = 0;
  const auto next_states = [&](const CpuLayer& next) {
    return next.kind == LayerKind::full_attention ? nullptr : states_ahead(batch, delta_index);
  };
  cpu::Ahead* ahead = next_states(weights_.layers.front());
  int64_t attention_index = 0;
  for (const CpuLayer& layer : weights_.layers) {
    if (layer.kind == LayerKind::full_attention) {
      attention_layer(batch, layer.attention, attention_index++);
    } else {
      delta_layer(batch, layer.delta, delta_index++, ahead);
    }
    if (&layer != &weights_.layers.back()) {
      ahead = next_states((&layer)[1]);
      feed_forward(layer.ffn, batch.n_tokens(), ahead);
    }
  }
  // Nothing after the last mixer mixes tokens: only the rows that are asked for go on.
  keep_rows();
  feed_forward(weights_.layers.back().ffn, static_cast<int64_t>(row_tokens_.size()), nullptr);
  output_rows();
}

void CpuForward::keep_rows() {
  const int64_t n = config_.n_embd;
  const auto bytes = static_cast<size_t>(n) * sizeof(float);
  for (size_t i = 0; i < row_tokens_.size(); ++i) {
    std::memcpy(normed_ + static_cast<int64_t>(i) * n, x_ + int64_t{row_tokens_[i]} * n, bytes);
  }
  std::memcpy(x_, normed_, row_tokens_.size() * bytes);
}

void CpuForward::plan_step(const Batch& batch) {
  tiles_.clear();
  row_tokens_.clear();
  for (size_t s = 0; s < batch.slices.size(); ++s) {
    const Slice& slice = batch.slices[s];
    std::fill_n(token_slice_.begin() + slice.first, slice.n_tokens, static_cast<int32_t>(s));
    for (int32_t first = 0; first < slice.n_tokens; first += static_cast<int32_t>(cpu::kQueryTile)) {
      const int32_t n = std::min(slice.n_tokens - first, static_cast<int32_t>(cpu::kQueryTile));
      tiles_.push_back({static_cast<int32_t>(s), first, n});
    }
    if (slice.n_cached == 0) {
      std::memset(state_of(slice.state_row, 0), 0,
                  static_cast<size_t>(config_.n_delta_layers() * state_stride(config_)) * sizeof(float));
    }
  }
  for (const Row& row : batch.rows) {
    if (row.logits_to_host) {
      row_tokens_.push_back(row.token);
    }
  }
  for (int64_t t = 0; t < batch.n_tokens(); ++t) {
    const Position& p = batch.positions[static_cast<size_t>(t)];
    cpu::rope_angles(rope_, {p.t, p.y, p.x}, angles_ + t * config_.rope_dims);
  }
}

void CpuForward::embed(const Batch& batch) {
  if (config_.tied_embeddings) {
    cpu::embed(pool_, weights_.output, batch.tokens, x_);
  } else {
    cpu::embed(pool_, weights_.token_embd, batch.tokens, x_);
  }
}

cpu::Ahead* CpuForward::states_ahead(const Batch& batch, int64_t delta_index) {
  const auto n_sequences = static_cast<int64_t>(batch.slices.size());
  if (n_sequences < batch.n_tokens() || n_sequences < cpu::kAheadTokens) {
    return nullptr;
  }
  ahead_.clear();
  const int64_t n_heads = config_.n_value_heads;
  const int64_t head = config_.key_dim * config_.value_dim;
  for (int thread = 0; thread < pool_.size(); ++thread) {
    const int64_t last = pool_.first_of(n_sequences * n_heads, thread + 1);
    for (int64_t item = pool_.first_of(n_sequences * n_heads, thread); item < last;) {
      const int64_t n = std::min(last, (item / n_heads + 1) * n_heads) - item;
      const Slice& slice = batch.slices[static_cast<size_t>(item / n_heads)];
      ahead_.add(thread, state_of(slice.state_row, delta_index) + item % n_heads * head,
                 n * head * static_cast<int64_t>(sizeof(float)));
      item += n;
    }
  }
  return &ahead_;
}

void CpuForward::delta_layer(const Batch& batch, const CpuDeltaNet& w, int64_t delta_index,
                             cpu::Ahead* ahead) {
  const int64_t n_tokens = batch.n_tokens();
  const int64_t channels = config_.conv_channels();
  const int64_t v_channels = config_.v_channels();
  const int64_t n_heads = config_.n_value_heads;
  float* qkv = work_;
  float* z = qkv + n_tokens * channels;
  float* y = z + n_tokens * v_channels;
  float* alpha = y + n_tokens * v_channels;
  float* beta = alpha + n_tokens * n_heads;

  NormRows norm{isa_, x_, w.norm.data(), config_.rms_eps, config_.n_embd, normed_};
  activations_.set_made(normed_, n_tokens, config_.n_embd, config_.n_embd, true, norm);
  const std::array<cpu::MatmulTask, 4> inputs{{{&w.qkv, qkv, channels, false},
                                               {&w.gate, z, v_channels, false},
                                               {&w.alpha, alpha, n_heads, false},
                                               {&w.beta, beta, n_heads, false}}};
  cpu::matmul(pool_, activations_, inputs, ahead);

  const auto n_slices = static_cast<int64_t>(batch.slices.size());
  const int64_t pieces = (channels + kConvColumns - 1) / kConvColumns;
  pool_.parallel_for(n_slices * pieces, 4, [&](int64_t begin, int64_t end, int) {
    for (int64_t item = begin; item < end; ++item) {
      const Slice& slice = batch.slices[static_cast<size_t>(item / pieces)];
      const int64_t first = item % pieces * kConvColumns;
      float* window = state_of(slice.state_row, delta_index) + align(config_.state_floats());
      cpu::causal_conv_silu(isa_, qkv + slice.first * channels, channels, slice.n_tokens, w.conv.data(),
                            window, config_.conv_kernel, channels, first,
                            std::min(first + kConvColumns, channels));
    }
  });

  const int64_t dv = config_.value_dim;
  const bool in_parts = dv % cpu::Activations::kPartColumns == 0;
  if (in_parts) {
    activations_.set_in_parts(y, n_tokens, v_channels, v_channels, w.out);
  } else {
    activations_.set(y, n_tokens, v_channels, v_channels);
  }
  pool_.parallel_for(n_slices * n_heads, 1, [&](int64_t begin, int64_t end, int thread) {
    for (int64_t item = begin; item < end; ++item) {
      const Slice& slice = batch.slices[static_cast<size_t>(item / n_heads)];
      DeltaInput<float> in;
      in.qkv = qkv + slice.first * channels;
      in.qkv_stride = channels;
      in.z = z + slice.first * v_channels;
      in.alpha = alpha + slice.first * n_heads;
      in.beta = beta + slice.first * n_heads;
      in.a = w.a.data();
      in.dt = w.dt.data();
      in.norm = w.o_norm.data();
      in.eps = config_.rms_eps;
      in.n_tokens = slice.n_tokens;
      in.first_position = slice.n_cached;
      const int64_t h = item % n_heads;
      cpu::gated_delta(isa_, delta_shape_, in, h, state_of(slice.state_row, delta_index),
                       y + slice.first * v_channels, scratch_ + thread * scratch_stride_);
      if (in_parts) {
        activations_.make_part(slice.first, slice.first + slice.n_tokens, h * dv, (h + 1) * dv);
      }
    }
  });

  const std::array<cpu::MatmulTask, 1> output{{{&w.out, x_, config_.n_embd, true}}};
  cpu::matmul(pool_, activations_, output);
}

void CpuForward::attention_layer(const Batch& batch, const CpuAttention& w, int64_t attention_index) {
  const int64_t n_tokens = batch.n_tokens();
  const int64_t hd = config_.head_dim;
  const int64_t q_stride = int64_t{config_.n_heads} * 2 * hd;
  const int64_t kv_stride = config_.kv_width();
  const int64_t out_stride = int64_t{config_.n_heads} * hd;
  const KvCache& cache = caches_[static_cast<size_t>(attention_index)];
  float* q = work_;  // per head: q, then its gate
  float* k = q + n_tokens * q_stride;
  float* v = k + n_tokens * kv_stride;
  float* out = v + n_tokens * kv_stride;

  NormRows norm{isa_, x_, w.norm.data(), config_.rms_eps, config_.n_embd, normed_};
  activations_.set_made(normed_, n_tokens, config_.n_embd, config_.n_embd, true, norm);
  const std::array<cpu::MatmulTask, 3> inputs{
      {{&w.q, q, q_stride, false}, {&w.k, k, kv_stride, false}, {&w.v, v, kv_stride, false}}};
  cpu::matmul(pool_, activations_, inputs);

  // A token's KV head with its group of query heads: norms, rotation, and the cache's write.
  const int64_t pairs = config_.rope_dims / 2;
  const auto prepare = [&](int64_t t, int64_t kv_head) {
    const float* angles = angles_ + t * config_.rope_dims;
    const auto rotate = [&](float* head, const std::vector<float>& head_norm) {
      cpu::rms_norm(isa_, head, head_norm.data(), config_.rms_eps, hd, head);
      cpu::rope(isa_, angles, pairs, head);
    };
    const int64_t group = attention_shape_.group();
    for (int64_t h = kv_head * group; h < (kv_head + 1) * group; ++h) {
      rotate(q + t * q_stride + h * 2 * hd, w.q_norm);
    }
    float* key = k + t * kv_stride + kv_head * hd;
    rotate(key, w.k_norm);
    const Slice& slice = batch.slices[static_cast<size_t>(token_slice_[static_cast<size_t>(t)])];
    cpu::kv_store(isa_, attention_shape_, cache, slice.blocks, slice.n_cached + t - slice.first, kv_head, key,
                  v + t * kv_stride + kv_head * hd);
  };
  // Where sequences have one token each, what a tile needs of this step is its own: no region in between.
  const bool own = static_cast<size_t>(n_tokens) == batch.slices.size();
  if (!own) {
    const int64_t n_kv_heads = config_.n_kv_heads;
    pool_.parallel_for(n_tokens * n_kv_heads, n_kv_heads, [&](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end; ++i) {
        prepare(i / n_kv_heads, i % n_kv_heads);
      }
    });
  }

  const auto n_tiles = static_cast<int64_t>(tiles_.size());
  const int64_t group_columns = attention_shape_.group() * hd;
  const bool in_parts = group_columns % cpu::Activations::kPartColumns == 0;
  if (in_parts) {
    activations_.set_in_parts(out, n_tokens, out_stride, out_stride, w.out);
  } else {
    activations_.set(out, n_tokens, out_stride, out_stride);
  }
  pool_.parallel_for(n_tiles * config_.n_kv_heads, 1, [&](int64_t begin, int64_t end, int thread) {
    for (int64_t item = begin; item < end; ++item) {
      // Late tiles see the most keys: they go first.
      const Tile& tile = tiles_[static_cast<size_t>(n_tiles - 1 - item / config_.n_kv_heads)];
      const Slice& slice = batch.slices[static_cast<size_t>(tile.slice)];
      AttentionInput in;
      in.q = q + slice.first * q_stride;
      in.gate = in.q + hd;
      in.stride = q_stride;
      in.head_stride = 2 * hd;
      in.n_tokens = slice.n_tokens;
      in.first_index = slice.n_cached;
      in.blocks = slice.blocks;
      const int64_t kv_head = item % config_.n_kv_heads;
      if (own) {
        prepare(slice.first, kv_head);
      }
      cpu::attention(isa_, attention_shape_, cache, in, kv_head, tile.first, tile.n,
                     out + slice.first * out_stride, out_stride, scratch_ + thread * scratch_stride_);
      if (in_parts) {
        const int64_t token = slice.first + tile.first;
        activations_.make_part(token, token + tile.n, kv_head * group_columns, (kv_head + 1) * group_columns);
      }
    }
  });

  const std::array<cpu::MatmulTask, 1> output{{{&w.out, x_, config_.n_embd, true}}};
  cpu::matmul(pool_, activations_, output);
}

void CpuForward::feed_forward(const CpuFeedForward& w, int64_t n_tokens, cpu::Ahead* ahead) {
  if (n_tokens == 0) {
    return;
  }
  const int64_t n = config_.n_ff;
  float* gate = work_;
  float* up = gate + n_tokens * n;
  NormRows norm{isa_, x_, w.norm.data(), config_.rms_eps, config_.n_embd, normed_};
  activations_.set_made(normed_, n_tokens, config_.n_embd, config_.n_embd, true, norm);
  auto product = [&](int64_t token, int64_t end_token, int64_t column, int64_t end_column) {
    for (; token < end_token; ++token) {
      const int64_t at = token * n + column;
      cpu::swiglu(isa_, gate + at, up + at, std::min(end_column, n) - column, gate + at);
    }
  };
  if (w.paired) {
    hidden_.set_in_parts(gate, n_tokens, n, n, w.down);
    cpu::gated_matmul(pool_, activations_, w.gate_up, gate, up, hidden_, ahead);
  } else {
    const std::array<cpu::MatmulTask, 2> inputs{{{&w.gate, gate, n, false}, {&w.up, up, n, false}}};
    cpu::matmul(pool_, activations_, inputs, ahead);
    hidden_.set_made(gate, n_tokens, n, n, false, product);
  }
  const std::array<cpu::MatmulTask, 1> output{{{&w.down, x_, config_.n_embd, true}}};
  cpu::matmul(pool_, hidden_, output, ahead);
}

void CpuForward::output_rows() {
  const auto n_rows = static_cast<int64_t>(row_tokens_.size());
  if (n_rows == 0) {
    return;
  }
  NormRows norm{isa_, x_, weights_.output_norm.data(), config_.rms_eps, config_.n_embd, normed_};
  activations_.set_made(normed_, n_rows, config_.n_embd, config_.n_embd, true, norm);
  float* maxima = logits_.floats() + int64_t{options_.max_rows} * config_.n_vocab;
  const std::array<cpu::MatmulTask, 1> output{
      {{&weights_.output, logits_.floats(), config_.n_vocab, false, maxima}}};
  cpu::matmul(pool_, activations_, output);
}

}  // namespace fl::model
