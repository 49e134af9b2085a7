#include "model/cuda_forward.h"

#include <algorithm>
#include <array>

#include "kernels/cuda/rms_norm.h"
#include "kernels/cuda/sampling.h"
#include "model/shapes.h"

namespace fl::model {

using cuda::Activations;
using cuda::check;

namespace {

constexpr uint64_t kAlign = 256;

// Decode steps are padded to one of these numbers of tokens.
constexpr std::array<int32_t, 19> kBuckets{1,  2,  3,  4,  5,  6,  7,  8,  10, 12,
                                           14, 16, 20, 24, 28, 32, 40, 48, 64};
static_assert(kBuckets.back() == cuda::kMaxColumns);

/// Decode steps of at most so many sequences run as graphs.
int32_t largest_bucket(const RunnerOptions& o) {
  const int32_t most = std::min(o.max_slices, kBuckets.back());
  return *std::lower_bound(kBuckets.begin(), kBuckets.end(), most);
}

int32_t table_tokens(const RunnerOptions& o) {
  return std::max(o.max_tokens, largest_bucket(o));
}

uint64_t align(uint64_t bytes) {
  return (bytes + kAlign - 1) / kAlign * kAlign;
}

// Bytes of activations for any number of tokens up to n: the two forms differ in size.
uint64_t any_activations(int32_t n, int64_t cols) {
  return align(std::max(cuda::activation_bytes(n, cols),
                        cuda::activation_bytes(std::min(n, cuda::kMaxColumns), cols)));
}

int64_t widest_mixer_output(const Config& c) {
  return std::max(int64_t{c.v_channels()}, int64_t{c.n_heads} * c.head_dim);
}
int64_t widest_product_input(const Config& c) {
  return std::max(int64_t{c.n_ff}, widest_mixer_output(c));
}

}  // namespace

// Offsets into the buffer of activations. What a DeltaNet mixer, an attention mixer and a feed-forward
// network need for themselves shares one region: none of it outlives them.
struct CudaForward::Work {
  explicit Work(const Config& c, const RunnerOptions& o) {
    const int64_t n = table_tokens(o);
    const auto take = [this](uint64_t bytes) {
      const uint64_t start = bytes_;
      bytes_ += align(bytes);
      return start;
    };
    const auto floats = [&](int64_t count) { return take(static_cast<uint64_t>(count) * sizeof(float)); };
    x = floats(n * c.n_embd);
    narrow = take(any_activations(static_cast<int32_t>(n), c.n_embd));
    mixer = take(any_activations(static_cast<int32_t>(n), widest_mixer_output(c)));
    sums = floats(int64_t{cuda::kMaxColumns} * cuda::rms_partials(c.n_embd));
    angles = floats(n * c.rope_dims);
    frequency = floats(c.rope_dims / 2);
    axis = take(static_cast<uint64_t>(c.rope_dims / 2));
    candidates = take(static_cast<uint64_t>(cuda::sampling_scratch(std::max(o.max_rows, largest_bucket(o)))) *
                      sizeof(cuda::SamplingCandidate));
    sampled = take(static_cast<uint64_t>(std::max(o.max_rows, largest_bucket(o))) * sizeof(int32_t));

    const uint64_t shared = bytes_;
    qkv = floats(n * c.conv_channels());
    z = floats(n * c.v_channels());
    alpha = floats(n * c.n_value_heads);
    beta = floats(n * c.n_value_heads);
    mixed = floats(n * c.conv_channels());
    if (!cuda::delta_fuses(delta_shape(c))) {
      y = floats(n * c.v_channels());
    }
    const uint64_t delta_end = bytes_;
    bytes_ = shared;
    q = floats(n * c.n_heads * 2 * c.head_dim);
    k = floats(n * c.kv_width());
    v = floats(n * c.kv_width());
    KvCache cache;
    cache.type_k = o.kv_type_k;
    cache.type_v = o.kv_type_v;
    if (!cuda::attention_fuses(attention_shape(c), cache)) {
      attended = floats(n * c.n_heads * c.head_dim);
    }
    const uint64_t attention_end = bytes_;
    bytes_ = shared;
    gathered = floats(int64_t{o.max_rows} * c.n_embd);
    hidden = take(any_activations(static_cast<int32_t>(n), c.n_ff));
    bytes_ = std::max({bytes_, delta_end, attention_end});
  }

  uint64_t bytes() const { return bytes_; }

  uint64_t x, narrow, mixer, sums, angles, frequency, axis, candidates, sampled;
  uint64_t qkv, z, alpha, beta, mixed, y = 0;
  uint64_t q, k, v, attended = 0;
  uint64_t gathered, hidden;

 private:
  uint64_t bytes_ = 0;
};

namespace {

cuda::MatmulOptions matmul_options(const RunnerOptions& o) {
  cuda::MatmulOptions options;
  switch (o.prompt_products) {
    case PromptProducts::automatic:
      break;
    case PromptProducts::f16:
      options.prompt = cuda::PromptProducts::f16;
      break;
    case PromptProducts::int8:
      options.prompt = cuda::PromptProducts::int8;
      break;
  }
  return options;
}

struct WorkspaceSizes {
  uint64_t products = 0;
  uint64_t partial = 0;
  uint64_t arrived = 0;
};

WorkspaceSizes workspace_sizes(const Config& c, const RunnerOptions& o) {
  const int64_t most_cols = std::max(int64_t{c.n_embd}, widest_product_input(c));
  WorkspaceSizes sizes;
  sizes.products =
      align(cuda::Matmul::workspace_bytes(table_tokens(o), c.n_ff, most_cols, matmul_options(o)));
  const int32_t sequences = std::max(o.max_slices, largest_bucket(o));
  sizes.partial = align(static_cast<uint64_t>(cuda::attention_partial_floats(attention_shape(c), sequences)) *
                        sizeof(float));
  sizes.arrived =
      align(static_cast<uint64_t>(sequences) * static_cast<uint64_t>(c.n_kv_heads) * sizeof(int32_t));
  return sizes;
}

uint64_t table_bytes(const RunnerOptions& o) {
  return align(max_table_bytes(table_tokens(o), std::max(o.max_slices, largest_bucket(o)),
                               std::max(o.max_rows, largest_bucket(o)), o.n_blocks));
}

}  // namespace

CudaMemoryPlan plan_cuda_memory(const Config& c, const RunnerOptions& o) {
  CudaMemoryPlan plan;
  plan.kv_cache =
      static_cast<uint64_t>(c.n_full_layers()) * static_cast<uint64_t>(o.n_blocks) *
      static_cast<uint64_t>(c.n_kv_heads) *
      static_cast<uint64_t>(kv_head_bytes(o.kv_type_k, c.head_dim) + kv_head_bytes(o.kv_type_v, c.head_dim));
  plan.state = cuda_state_row_bytes(c) * static_cast<uint64_t>(o.n_state_rows);
  plan.spare_state = cuda_state_row_bytes(c) * static_cast<uint64_t>(o.n_spare_rows);
  plan.activations = CudaForward::Work(c, o).bytes();
  const auto rows = static_cast<uint64_t>(std::max(o.max_rows, largest_bucket(o)));
  const uint64_t row = static_cast<uint64_t>(c.n_vocab) * sizeof(float);
  plan.logits = rows * row;
  const WorkspaceSizes sizes = workspace_sizes(c, o);
  plan.workspace = sizes.products + sizes.partial + sizes.arrived;
  plan.tables = table_bytes(o);
  plan.host =
      kCudaInFlight * (plan.tables + rows * sizeof(int32_t) + static_cast<uint64_t>(o.max_rows) * row);
  return plan;
}

namespace {

/// What the product of a layer's projections reads.
cuda::NextProduct projections(const CudaLayer& layer) {
  if (layer.kind == LayerKind::full_attention) {
    return {&layer.attention.q, &layer.attention.k, &layer.attention.v};
  }
  return {&layer.delta.qkv, &layer.delta.gate, &layer.delta.alpha, &layer.delta.beta};
}

/// The product behind a mixer. States and keys of many tokens would push its weights out of L2 again.
cuda::NextProduct behind_mixer(const cuda::PackedMatrix& out, int32_t n_tokens) {
  constexpr int32_t kMost = 3;  // as measured on an H100 (docs/decisions/0066)
  return n_tokens <= kMost ? cuda::NextProduct{&out} : cuda::NextProduct{};
}

}  // namespace

CudaForward::CudaForward(const CudaWeights& weights, const RunnerOptions& options,
                         const cuda::DeviceInfo& device)
    : weights_(weights),
      config_(weights.config),
      options_(options),
      plan_(plan_cuda_memory(config_, options)),
      delta_shape_(delta_shape(config_)),
      attention_shape_(attention_shape(config_)),
      chunked_(cuda::delta_chunked_supported(delta_shape_)),
      rope_(make_rope_table(config_.rope_dims / 2, config_.rope_base, config_.rope_sections,
                            config_.rope_scaling_factor, config_.rope_original_ctx)),
      state_(config_, options.n_state_rows, options.n_spare_rows),
      kv_(plan_.kv_cache),
      buffers_(plan_.activations),
      logits_(plan_.logits),
      workspace_(plan_.workspace),
      tables_(plan_.tables),
      work_(std::make_unique<Work>(config_, options)) {
  const auto rows = static_cast<uint64_t>(std::max(options.max_rows, largest_bucket(options)));
  table_stride_ = plan_.tables;
  host_tables_ = cuda::PinnedBuffer(kCudaInFlight * table_stride_);
  host_tokens_ = cuda::PinnedBuffer(kCudaInFlight * rows * sizeof(int32_t));
  host_logits_ = cuda::PinnedBuffer(kCudaInFlight * static_cast<uint64_t>(options.max_rows) *
                                    static_cast<uint64_t>(config_.n_vocab) * sizeof(float));
  const WorkspaceSizes sizes = workspace_sizes(config_, options);
  matmul_ =
      std::make_unique<cuda::Matmul>(device, workspace_.data(), sizes.products, matmul_options(options));
  overlap_ = matmul_->overlap();
  check(cudaMemsetAsync(workspace_.data() + sizes.products + sizes.partial, 0, sizes.arrived, stream_),
        "clearing the counters of attention");
  // Attention reads whole blocks and drops what was never written: it shall read zeros, not what lay there.
  check(cudaMemsetAsync(kv_.data(), 0, plan_.kv_cache, stream_), "clearing the KV cache");
  std::byte* const base = buffers_.data();
  check(cudaMemcpyAsync(base + work_->frequency, rope_.frequency.data(),
                        rope_.frequency.size() * sizeof(float), cudaMemcpyHostToDevice, stream_),
        "copy of the rotary frequencies");
  check(cudaMemcpyAsync(base + work_->axis, rope_.axis.data(), rope_.axis.size(), cudaMemcpyHostToDevice,
                        stream_),
        "copy of the rotary axes");
  stream_.synchronize();

  std::byte* next = kv_.data();
  const int64_t block_heads = int64_t{options.n_blocks} * config_.n_kv_heads;
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
  decode_stores_ = !caches_.empty() && cuda::attention_fuses(attention_shape_, caches_.front());
  for (int i = 0; i < kCudaInFlight; ++i) {
    done_.emplace_back();
  }
  record_graphs();
}

CudaForward::~CudaForward() {
  // Work in flight uses the buffers; a lost device has none, and a destructor can only go on.
  cudaStreamSynchronize(stream_.get());
}

void CudaForward::record_graphs() {
  for (const int32_t bucket : kBuckets) {
    if (bucket > largest_bucket(options_)) {
      break;
    }
    StepCounts counts;
    counts.n_tokens = bucket;
    counts.n_decode = bucket;
    counts.n_rows = bucket;
    const StepTable table = StepTable::at(tables_.data(), counts);
    graphs_.emplace(bucket, cuda::Graph::capture(stream_, [&] { launches(counts, table); }));
  }
}

void CudaForward::enqueue(const Batch& batch, int slot) {
  const bool decode =
      std::none_of(batch.slices.begin(), batch.slices.end(), [](const Slice& s) { return s.prompt; }) &&
      batch.rows.size() <= batch.tokens.size() && batch.n_tokens() <= largest_bucket(options_);
  const int32_t bucket = decode ? *std::lower_bound(kBuckets.begin(), kBuckets.end(), batch.n_tokens()) : 0;
  const StepCounts counts = count_step(batch, chunked_, bucket);
  std::byte* const host = host_tables_.data() + static_cast<uint64_t>(slot) * table_stride_;
  uint64_t bytes = 0;
  fill_step(batch, chunked_, decode_stores_, bucket, counts, StepTable::at(host, counts, &bytes));
  check(cudaMemcpyAsync(tables_.data(), host, bytes, cudaMemcpyHostToDevice, stream_),
        "copy of the step's table");
  state_.begin_step(batch.slices);
  if (decode) {
    state_.wait_all(stream_);
    graphs_.at(bucket).launch(stream_);
  } else {
    launches(counts, StepTable::at(tables_.data(), counts));
  }
  state_.end_step();

  const auto rows = static_cast<uint64_t>(std::max(options_.max_rows, largest_bucket(options_)));
  if (!batch.rows.empty()) {
    check(cudaMemcpyAsync(host_tokens_.as<int32_t>() + static_cast<uint64_t>(slot) * rows,
                          buffers_.data() + work_->sampled, batch.rows.size() * sizeof(int32_t),
                          cudaMemcpyDeviceToHost, stream_),
          "copy of the sampled tokens");
  }
  const auto width = static_cast<uint64_t>(config_.n_vocab);
  float* to = host_logits_.as<float>() +
              static_cast<uint64_t>(slot) * static_cast<uint64_t>(options_.max_rows) * width;
  for (size_t i = 0; i < batch.rows.size(); ++i) {
    if (batch.rows[i].logits_to_host) {
      const auto row = decode ? static_cast<uint64_t>(batch.rows[i].token) : i;
      check(cudaMemcpyAsync(to, logits_.as<float>() + row * width, width * sizeof(float),
                            cudaMemcpyDeviceToHost, stream_),
            "copy of the logits");
      to += width;
    }
  }
  done_[static_cast<size_t>(slot)].record(stream_);
}

void CudaForward::wait(int slot) {
  done_[static_cast<size_t>(slot)].synchronize();
}

int32_t CudaForward::token(int slot, int32_t row) const {
  const int32_t rows = std::max(options_.max_rows, largest_bucket(options_));
  return host_tokens_.as<int32_t>()[int64_t{slot} * rows + row];
}

std::span<const float> CudaForward::logits(int slot, int32_t i) const {
  const auto width = static_cast<size_t>(config_.n_vocab);
  const size_t row =
      static_cast<size_t>(slot) * static_cast<size_t>(options_.max_rows) + static_cast<size_t>(i);
  return {host_logits_.as<float>() + row * width, width};
}

Activations CudaForward::activations(std::byte* data, int32_t n_tokens, int64_t cols, bool prompt) const {
  return {data, n_tokens, static_cast<int32_t>(cols), matmul_->most_records(), prompt};
}

CudaForward::Normed CudaForward::norm(const float* x, const float* w, int32_t n_tokens, bool prompt) {
  const Activations out = activations(buffers_.data() + work_->narrow, n_tokens, config_.n_embd, prompt);
  cuda::rms_norm(queue(), x, config_.n_embd, w, config_.rms_eps, out);
  return {out, {}};
}

CudaForward::Normed CudaForward::add_and_norm(const Activations& in, const cuda::PackedMatrix& matrix,
                                              float* x, const float* w, const cuda::NextProduct& next) {
  if (in.prompt || !matmul_->finishes_norm(in.n_tokens) || config_.n_embd % cuda::kSuperblock != 0) {
    matmul_->add(stream_, in, matrix, x, config_.n_embd);
    return norm(x, w, in.n_tokens, in.prompt);
  }
  auto* const sums = reinterpret_cast<float*>(buffers_.data() + work_->sums);
  const Activations out = activations(buffers_.data() + work_->narrow, in.n_tokens, config_.n_embd, false);
  matmul_->add_and_norm(stream_, in, matrix, x, config_.n_embd, w, out, sums, next);
  return {out, {sums, cuda::rms_partials(config_.n_embd), config_.n_embd, config_.rms_eps}};
}

void CudaForward::launches(const StepCounts& counts, const StepTable& table) {
  std::byte* const base = buffers_.data();
  auto* x = reinterpret_cast<float*>(base + work_->x);
  auto* const sampled = reinterpret_cast<int32_t*>(base + work_->sampled);
  cuda::embed({stream_.get(), false}, weights_.embedding, {table.ids, table.feedback, sampled},
              counts.n_tokens, x);
  cuda::rope_angles(queue(), reinterpret_cast<float*>(base + work_->frequency),
                    reinterpret_cast<uint8_t*>(base + work_->axis), rope_.magnitude, config_.rope_dims / 2,
                    table.positions, counts.n_tokens, reinterpret_cast<float*>(base + work_->angles));

  const auto norm_of = [](const CudaLayer& layer) {
    return layer.kind == LayerKind::full_attention ? layer.attention.norm : layer.delta.norm;
  };
  const auto& layers = weights_.layers;
  // A step that holds a prompt has products whose bits do not depend on the number of tokens.
  const bool prompt = counts.n_runs > 0;
  Normed in = norm(x, norm_of(layers.front()), counts.n_tokens, prompt);
  int64_t delta_index = 0;
  int64_t attention_index = 0;
  const bool gather = counts.n_gathered > 0 || counts.n_rows == 0;
  for (size_t i = 0; i < layers.size(); ++i) {
    const CudaLayer& layer = layers[i];
    const bool last = i + 1 == layers.size();
    const bool full = layer.kind == LayerKind::full_attention;
    const Activations mixed =
        activations(base + work_->mixer, counts.n_tokens,
                    full ? int64_t{config_.n_heads} * config_.head_dim : config_.v_channels(), prompt);
    if (full) {
      attention_layer(layer.attention, attention_index++, in, counts, table, mixed);
    } else {
      delta_layer(layer.delta, delta_index++, in, counts, table, mixed);
    }
    const cuda::PackedMatrix& out = full ? layer.attention.out : layer.delta.out;
    if (last && gather) {
      // Nothing after the last mixer mixes tokens: only the rows that are asked for go on.
      if (counts.n_rows == 0) {
        return;
      }
      matmul_->add(stream_, mixed, out, x, config_.n_embd);
      auto* const rows = reinterpret_cast<float*>(base + work_->gathered);
      cuda::gather_rows(queue(), x, table.gathered, counts.n_gathered, config_.n_embd, rows);
      x = rows;
      in = norm(x, layer.ffn.norm, counts.n_gathered, prompt);
    } else {
      in = add_and_norm(mixed, out, x, layer.ffn.norm,
                        cuda::NextProduct::gate_and_up(layer.ffn.gate, layer.ffn.up));
    }
    const Activations hidden =
        activations(base + work_->hidden, in.activations.n_tokens, config_.n_ff, prompt);
    matmul_->swiglu(stream_, in.activations, layer.ffn.gate, layer.ffn.up, hidden, in.scale,
                    {&layer.ffn.down});
    in = last ? add_and_norm(hidden, layer.ffn.down, x, weights_.output_norm, {&weights_.output})
              : add_and_norm(hidden, layer.ffn.down, x, norm_of(layers[i + 1]), projections(layers[i + 1]));
  }
  const std::array<cuda::Matmul::Output, 1> output{
      {{&weights_.output, logits_.as<float>(), config_.n_vocab}}};
  // A step that follows, most likely with as many tokens, begins with the first layer.
  matmul_->store(stream_, in.activations, output, in.scale, projections(layers.front()));
  cuda::sample(queue(), logits_.as<float>(), config_.n_vocab, table.rows, counts.n_rows,
               reinterpret_cast<cuda::SamplingCandidate*>(base + work_->candidates), sampled);
}

void CudaForward::delta_layer(const CudaDeltaNet& w, int64_t index, const Normed& in,
                              const StepCounts& counts, const StepTable& table, const Activations& out) {
  const auto floats = [this](uint64_t at) { return reinterpret_cast<float*>(buffers_.data() + at); };
  float* const qkv = floats(work_->qkv);
  float* const z = floats(work_->z);
  float* const alpha = floats(work_->alpha);
  float* const beta = floats(work_->beta);
  float* const mixed = floats(work_->mixed);
  const int64_t n_heads = config_.n_value_heads;
  const std::array<cuda::Matmul::Output, 4> inputs{{{&w.qkv, qkv, config_.conv_channels()},
                                                    {&w.gate, z, config_.v_channels()},
                                                    {&w.alpha, alpha, n_heads},
                                                    {&w.beta, beta, n_heads}}};
  matmul_->store(stream_, in.activations, inputs, in.scale, behind_mixer(w.out, counts.n_tokens));

  const cuda::DeltaWeights weights{w.conv, w.a, w.dt, w.o_norm, config_.conv_kernel, config_.rms_eps};
  const bool waits = state_.wait_layer(stream_, index);
  const cuda::DeltaState state = state_.layer(index);
  const cuda::DeltaProjections projections{qkv, z, alpha, beta, n_heads};
  const bool fuses = cuda::delta_fuses(delta_shape_);
  const cuda::DeltaOutput to{fuses ? nullptr : floats(work_->y), out};
  const cuda::Queue q{stream_.get(), overlap_ && !waits};
  cuda::gated_delta_step(q, delta_shape_, weights, state, projections, table.decode_runs, counts.n_decode,
                         to);
  if (counts.n_runs > 0) {
    cuda::delta_convolve(q, delta_shape_, weights, state, qkv, table.runs, counts.n_runs, counts.max_run,
                         mixed);
    cuda::delta_recurrent(q, delta_shape_, weights, state, projections, table.heads, counts.n_runs, mixed);
    if (counts.n_chunks > 0) {
      cuda::delta_chunked(q, delta_shape_, weights, state, projections, table.chunks, counts.n_chunks,
                          table.sequence_begin, counts.n_runs, mixed, qkv);
      cuda::delta_recurrent(q, delta_shape_, weights, state, projections, table.tails, counts.n_runs, mixed);
    }
    cuda::delta_norm(q, delta_shape_, weights, mixed, z, table.runs, counts.n_runs, counts.max_run, to);
  }
  if (!fuses) {
    cuda::store_activations(stream_, overlap_, to.y, config_.v_channels(), out);
  }
}

void CudaForward::attention_layer(const CudaAttention& w, int64_t index, const Normed& in,
                                  const StepCounts& counts, const StepTable& table, const Activations& out) {
  const auto floats = [this](uint64_t at) { return reinterpret_cast<float*>(buffers_.data() + at); };
  const int64_t q_stride = int64_t{config_.n_heads} * 2 * config_.head_dim;
  const int64_t kv_stride = config_.kv_width();
  float* const q = floats(work_->q);
  float* const k = floats(work_->k);
  float* const v = floats(work_->v);
  const std::array<cuda::Matmul::Output, 3> inputs{
      {{&w.q, q, q_stride}, {&w.k, k, kv_stride}, {&w.v, v, kv_stride}}};
  matmul_->store(stream_, in.activations, inputs, in.scale, behind_mixer(w.out, counts.n_tokens));

  const KvCache& cache = caches_[static_cast<size_t>(index)];
  const cuda::Queue queue = this->queue();
  const cuda::AttentionQueries queries{q, q_stride};
  cuda::PrepareAttention prepare;
  prepare.queries = queries;
  prepare.k = k;
  prepare.v = v;
  prepare.kv_stride = kv_stride;
  prepare.q_norm = w.q_norm;
  prepare.k_norm = w.k_norm;
  prepare.eps = config_.rms_eps;
  prepare.cos_sin = floats(work_->angles);
  prepare.pairs = config_.rope_dims / 2;
  prepare.tokens = table.tokens;
  prepare.n_tokens = counts.n_tokens;
  if (!decode_stores_ || counts.n_runs > 0) {
    cuda::prepare_attention(queue, attention_shape_, cache, prepare);
  }
  if (!decode_stores_) {
    float* const attended = floats(work_->attended);
    cuda::attention_general(queue, attention_shape_, cache, queries, table.decode_tiles, counts.n_decode,
                            table.blocks, attended);
    cuda::attention_general(queue, attention_shape_, cache, queries, table.tiles, counts.n_tiles,
                            table.blocks, attended);
    cuda::store_activations(stream_, overlap_, attended, int64_t{config_.n_heads} * config_.head_dim, out);
    return;
  }
  const WorkspaceSizes sizes = workspace_sizes(config_, options_);
  const cuda::AttentionScratch scratch{
      reinterpret_cast<float*>(workspace_.data() + sizes.products),
      reinterpret_cast<int32_t*>(workspace_.data() + sizes.products + sizes.partial)};
  cuda::attention_decode(queue, attention_shape_, cache, prepare, table.decode_tiles, counts.n_decode,
                         table.blocks, scratch, out);
  cuda::attention_prefill(queue, attention_shape_, cache, queries, table.tiles, counts.n_tiles, table.blocks,
                          out);
}

}  // namespace fl::model
