#include "model/weights.h"

#include <optional>
#include <string>
#include <unordered_map>

#include <fmt/format.h>

#include "gguf/gguf.h"

namespace fl::model {
namespace {

/// Finds tensors by name and checks their shape; the first error is kept.
class Binder {
 public:
  explicit Binder(const gguf::File& file) : file_(file) {}

  std::optional<Error> error;

  bool has(const std::string& name) const { return file_.find(name) != nullptr; }

  /// A matrix [cols, rows] of any supported type.
  TensorView matrix(const std::string& name, int64_t cols, int64_t rows) {
    return find(name, cols, rows, false);
  }
  /// A vector or small table that the kernels read as float.
  TensorView floats(const std::string& name, int64_t cols, int64_t rows = 1) {
    return find(name, cols, rows, true);
  }

 private:
  TensorView find(const std::string& name, int64_t cols, int64_t rows, bool only_f32) {
    const gguf::Tensor* tensor = file_.find(name);
    if (tensor == nullptr) {
      refuse(ErrorCode::bad_file,
             fmt::format("{}: the tensor is missing, expected [{}, {}]", name, cols, rows));
      return {};
    }
    const TensorView& view = tensor->view;
    if (view.cols() != cols || view.rows() != rows) {
      refuse(ErrorCode::bad_file, fmt::format("{}: expected [{}, {}], found [{}, {}, {}, {}]", name, cols,
                                              rows, view.ne[0], view.ne[1], view.ne[2], view.ne[3]));
      return {};
    }
    if (only_f32 && view.type != DType::f32) {
      refuse(ErrorCode::unsupported,
             fmt::format("{}: expected type F32, found {}", name, dtype_info(view.type).name));
      return {};
    }
    const std::string stem = name.ends_with(".weight") ? name.substr(0, name.size() - 7) : name;
    if (has(stem + ".scale")) {
      refuse(ErrorCode::unsupported, fmt::format("{}.scale: scaled tensors (NVFP4) are not supported", stem));
    }
    return view;
  }

  void refuse(ErrorCode code, std::string message) {
    if (!error) {
      error = Error{code, std::move(message)};
    }
  }

  const gguf::File& file_;
};

/// Rows [first, first + n) of a matrix.
TensorView rows_of(const TensorView& view, int64_t first, int64_t n) {
  TensorView part = view;
  part.data = view.row(first);
  part.ne = {view.cols(), n, 1, 1};
  return part;
}

FeedForward bind_ffn(Binder& bind, const Config& c, const std::string& block) {
  FeedForward ffn;
  ffn.norm = bind.floats(block + "post_attention_norm.weight", c.n_embd);
  ffn.gate = bind.matrix(block + "ffn_gate.weight", c.n_embd, c.n_ff);
  ffn.up = bind.matrix(block + "ffn_up.weight", c.n_embd, c.n_ff);
  ffn.down = bind.matrix(block + "ffn_down.weight", c.n_ff, c.n_embd);
  return ffn;
}

FullAttention bind_attention(Binder& bind, const Config& c, const std::string& block) {
  FullAttention a;
  const int64_t q_rows = int64_t{c.n_heads} * 2 * c.head_dim;
  a.norm = bind.floats(block + "attn_norm.weight", c.n_embd);
  if (!bind.has(block + "attn_q.weight") && bind.has(block + "attn_qkv.weight")) {
    // Some files fuse the three: rows of q with its gates, then k, then v.
    const TensorView fused =
        bind.matrix(block + "attn_qkv.weight", c.n_embd, q_rows + 2 * int64_t{c.kv_width()});
    if (!bind.error) {
      a.q = rows_of(fused, 0, q_rows);
      a.k = rows_of(fused, q_rows, c.kv_width());
      a.v = rows_of(fused, q_rows + c.kv_width(), c.kv_width());
    }
  } else {
    a.q = bind.matrix(block + "attn_q.weight", c.n_embd, q_rows);
    a.k = bind.matrix(block + "attn_k.weight", c.n_embd, c.kv_width());
    a.v = bind.matrix(block + "attn_v.weight", c.n_embd, c.kv_width());
  }
  a.q_norm = bind.floats(block + "attn_q_norm.weight", c.head_dim);
  a.k_norm = bind.floats(block + "attn_k_norm.weight", c.head_dim);
  a.out = bind.matrix(block + "attn_output.weight", int64_t{c.n_heads} * c.head_dim, c.n_embd);
  return a;
}

DeltaNet bind_delta(Binder& bind, const Config& c, const std::string& block) {
  DeltaNet d;
  d.norm = bind.floats(block + "attn_norm.weight", c.n_embd);
  d.qkv = bind.matrix(block + "attn_qkv.weight", c.n_embd, c.conv_channels());
  d.gate = bind.matrix(block + "attn_gate.weight", c.n_embd, c.v_channels());
  d.beta = bind.matrix(block + "ssm_beta.weight", c.n_embd, c.n_value_heads);
  d.alpha = bind.matrix(block + "ssm_alpha.weight", c.n_embd, c.n_value_heads);
  d.a = bind.floats(block + "ssm_a", c.n_value_heads);
  // Files of another packager drop the suffix.
  const bool bare = !bind.has(block + "ssm_dt.bias") && bind.has(block + "ssm_dt");
  d.dt = bind.floats(block + (bare ? "ssm_dt" : "ssm_dt.bias"), c.n_value_heads);
  d.conv = bind.floats(block + "ssm_conv1d.weight", c.conv_kernel, c.conv_channels());
  d.o_norm = bind.floats(block + "ssm_norm.weight", c.value_dim);
  d.out = bind.matrix(block + "ssm_out.weight", c.v_channels(), c.n_embd);
  return d;
}

MtpBlock bind_mtp(Binder& bind, const Config& c, const TensorView& output_norm) {
  const std::string block = fmt::format("blk.{}.", c.n_layers);
  const std::string next = block + "nextn.";
  MtpBlock m;
  m.e_norm = bind.floats(next + "enorm.weight", c.n_embd);
  m.h_norm = bind.floats(next + "hnorm.weight", c.n_embd);
  m.eh_proj = bind.matrix(next + "eh_proj.weight", 2 * int64_t{c.n_embd}, c.n_embd);
  const std::string head_norm = next + "shared_head_norm.weight";
  m.head_norm = bind.has(head_norm) ? bind.floats(head_norm, c.n_embd) : output_norm;
  if (bind.has(next + "embed_tokens.weight")) {
    m.token_embd = bind.matrix(next + "embed_tokens.weight", c.n_embd, c.n_vocab);
  }
  if (bind.has(next + "shared_head_head.weight")) {
    m.output = bind.matrix(next + "shared_head_head.weight", c.n_embd, c.n_vocab);
  }
  m.attention = bind_attention(bind, c, block);
  m.ffn = bind_ffn(bind, c, block);
  return m;
}

/// Adds up bytes of views, each stretch of the file once.
class ByteCount {
 public:
  void add(const TensorView& view) {
    if (view.data != nullptr) {
      seen_[view.data] = view.bytes();
    }
  }
  void add(const FeedForward& f) {
    for (const TensorView* view : {&f.norm, &f.gate, &f.up, &f.down}) {
      add(*view);
    }
  }
  void add(const FullAttention& a) {
    for (const TensorView* view : {&a.norm, &a.q, &a.k, &a.v, &a.q_norm, &a.k_norm, &a.out}) {
      add(*view);
    }
  }
  void add(const DeltaNet& d) {
    for (const TensorView* view :
         {&d.norm, &d.qkv, &d.gate, &d.beta, &d.alpha, &d.a, &d.dt, &d.conv, &d.o_norm, &d.out}) {
      add(*view);
    }
  }
  uint64_t total() const {
    uint64_t sum = 0;
    for (const auto& [data, bytes] : seen_) {
      sum += bytes;
    }
    return sum;
  }

 private:
  std::unordered_map<const std::byte*, uint64_t> seen_;
};

}  // namespace

Result<Weights> Weights::bind(const gguf::File& file) {
  Weights w;
  FL_ASSIGN(w.config, Config::from_gguf(file));
  const Config& c = w.config;
  Binder bind(file);
  w.token_embd = bind.matrix("token_embd.weight", c.n_embd, c.n_vocab);
  w.output_norm = bind.floats("output_norm.weight", c.n_embd);
  w.output = c.tied_embeddings ? w.token_embd : bind.matrix("output.weight", c.n_embd, c.n_vocab);
  for (int32_t i = 0; i < c.n_layers && !bind.error; ++i) {
    const std::string block = fmt::format("blk.{}.", i);
    Layer layer;
    layer.kind = c.layers[static_cast<size_t>(i)];
    if (layer.kind == LayerKind::full_attention) {
      layer.attention = bind_attention(bind, c, block);
    } else {
      layer.delta = bind_delta(bind, c, block);
    }
    layer.ffn = bind_ffn(bind, c, block);
    w.layers.push_back(layer);
  }
  if (c.n_mtp_layers > 0) {
    w.mtp = bind_mtp(bind, c, w.output_norm);
  }
  if (bind.error) {
    return tl::unexpected(*bind.error);
  }
  for (const gguf::File::Mapping& mapping : file.mappings()) {
    w.sources.push_back({mapping.path.string(), mapping.bytes});
  }
  return w;
}

uint64_t Weights::bytes() const {
  ByteCount count;
  count.add(token_embd);
  count.add(output_norm);
  count.add(output);
  for (const Layer& layer : layers) {
    count.add(layer.attention);
    count.add(layer.delta);
    count.add(layer.ffn);
  }
  if (mtp) {
    for (const TensorView* view :
         {&mtp->e_norm, &mtp->h_norm, &mtp->eh_proj, &mtp->head_norm, &mtp->token_embd, &mtp->output}) {
      count.add(*view);
    }
    count.add(mtp->attention);
    count.add(mtp->ffn);
  }
  return count.total();
}

}  // namespace fl::model
