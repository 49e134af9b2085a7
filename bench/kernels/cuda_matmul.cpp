// The weight products of Qwen3.5-27B (Q4_K_M recipe, random weights) on the device: each of the five shapes
// alone, and the sweep of all 257 launches of a step as one graph, by number of tokens; long prompts with and
// without the library. CSV on stdout: what, tokens, kernel, milliseconds (median), bytes of weights, GB/s,
// share of the read bandwidth that the same run measures, TFLOP/s.
//
// usage: bench_cuda_matmul [sweep|batch|shapes|prompt|prompt_shapes]... [--layers N] [--plain TOKENS]
// --plain: one sweep without graph and overlap, for a profiler
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "core/cuda/runtime.h"
#include "kernels/cuda/limits.h"
#include "kernels/cuda/matmul.h"

namespace {

using namespace fl;        // NOLINT
using namespace fl::cuda;  // NOLINT

constexpr int kHidden = 5120;
constexpr int kInner = 6144;
constexpr int kFf = 17408;
constexpr int kVocab = 248320;

// Where the recipe spends its Q6_K.
bool more(int i, int n) {
  return i < n / 8 || i >= 7 * n / 8 || (i - n / 8) % 3 == 2;
}

struct Layer {
  std::vector<PackedMatrix> in;  ///< one launch
  PackedMatrix out, gate, up, down;
};

struct Model {
  DeviceBuffer arena;
  std::vector<Layer> layers;
  PackedMatrix head;
  uint64_t bytes = 0;
};

class Builder {
 public:
  Builder() : staging_(kPiece) {
    std::mt19937_64 rng(1);
    host_.resize(kPiece / 8);
    for (uint64_t& v : host_) {
      v = rng();
    }
  }
  // Random blocks with small scales, in pieces of whole tiles.
  PackedMatrix matrix(DType type, int rows, int cols, std::byte* to) {
    fill_scales(type);
    const uint64_t stride = row_bytes(type, static_cast<uint64_t>(cols));
    const int64_t most = static_cast<int64_t>(kPiece / stride) / kTileRows * kTileRows;
    PackedMatrix packed;
    for (int64_t row = 0; row < rows; row += most) {
      packed =
          repack(nullptr, type, rows, cols, staging_.data(), row, std::min<int64_t>(most, rows - row), to);
    }
    check(cudaDeviceSynchronize(), "repack");
    return packed;
  }

 private:
  static constexpr uint64_t kPiece = uint64_t{32} << 20;
  void fill_scales(DType type) {
    if (type == type_) {
      return;
    }
    type_ = type;
    std::vector<uint8_t> bytes(kPiece);
    std::memcpy(bytes.data(), host_.data(), kPiece);
    const uint64_t block = dtype_info(type).block_bytes;
    const uint16_t d = 0x0C00;  // 2^-12
    for (uint64_t at = 0; at + block <= kPiece; at += block) {
      std::memcpy(bytes.data() + at + (type == DType::q6_k ? 208 : 0), &d, 2);
      if (type != DType::q6_k) {
        std::memcpy(bytes.data() + at + 2, &d, 2);
      }
    }
    check(cudaMemcpy(staging_.data(), bytes.data(), kPiece, cudaMemcpyHostToDevice), "upload");
  }
  DeviceBuffer staging_;
  std::vector<uint64_t> host_;
  DType type_ = DType::f32;
};

Model build(int n_layers) {
  struct Want {
    DType type;
    int rows, cols;
    PackedMatrix* to;
  };
  Model model;
  model.layers.resize(static_cast<size_t>(n_layers));
  std::vector<Want> wants;
  for (int i = 0; i < n_layers; ++i) {
    Layer& layer = model.layers[static_cast<size_t>(i)];
    const DType mixed = more(i, n_layers) ? DType::q6_k : DType::q4_k;
    const bool attention = i % 4 == 3;
    layer.in.resize(attention ? 3 : 4);
    if (attention) {
      wants.push_back({DType::q4_k, 12288, kHidden, &layer.in[0]});
      wants.push_back({DType::q4_k, 1024, kHidden, &layer.in[1]});
      wants.push_back({mixed, 1024, kHidden, &layer.in[2]});
    } else {
      wants.push_back({mixed, 10240, kHidden, &layer.in[0]});
      wants.push_back({DType::q4_k, kInner, kHidden, &layer.in[1]});
      wants.push_back({DType::q4_k, 48, kHidden, &layer.in[2]});
      wants.push_back({DType::q4_k, 48, kHidden, &layer.in[3]});
    }
    wants.push_back({DType::q4_k, kHidden, kInner, &layer.out});
    wants.push_back({DType::q4_k, kFf, kHidden, &layer.gate});
    wants.push_back({DType::q4_k, kFf, kHidden, &layer.up});
    wants.push_back({mixed, kHidden, kFf, &layer.down});
  }
  wants.push_back({DType::q6_k, kVocab, kHidden, &model.head});
  for (const Want& w : wants) {
    model.bytes += packed_bytes(w.type, w.rows, w.cols);
  }
  model.arena = DeviceBuffer(model.bytes + wants.size() * 256);
  Builder builder;
  std::byte* at = model.arena.data();
  for (const Want& w : wants) {
    *w.to = builder.matrix(w.type, w.rows, w.cols, at);
    at += (w.to->bytes + 255) / 256 * 256;
  }
  return model;
}

struct State {
  int n;
  DeviceBuffer normed, inner, hidden, residual, squares, projections, logits, norm;
  Activations x, a, h;
  explicit State(int tokens, int32_t most_records = kMaxColumns, bool prompt = false) : n(tokens) {
    const auto un = static_cast<uint64_t>(n);
    normed = DeviceBuffer(activation_bytes(n, kHidden));
    inner = DeviceBuffer(activation_bytes(n, kInner));
    hidden = DeviceBuffer(activation_bytes(n, kFf));
    residual = DeviceBuffer(un * kHidden * 4);
    squares = DeviceBuffer(un * rms_partials(kHidden) * 4);
    projections = DeviceBuffer(un * 16480 * 4);
    logits = DeviceBuffer(std::min<uint64_t>(un, kMaxColumns) * kVocab * 4);
    norm = DeviceBuffer(kHidden * 4);
    x = {normed.data(), n, kHidden, most_records, prompt};
    a = {inner.data(), n, kInner, most_records, prompt};
    h = {hidden.data(), n, kFf, most_records, prompt};
    std::mt19937 rng(3);
    std::normal_distribution<float> normal;
    std::vector<float> values(un * kInner);
    for (float& v : values) {
      v = normal(rng);
    }
    const DeviceBuffer device(values.size() * 4);
    check(cudaMemcpy(device.data(), values.data(), values.size() * 4, cudaMemcpyHostToDevice), "upload");
    store_activations(nullptr, false, device.as<float>(), kInner, a);
    store_activations(nullptr, false, device.as<float>(), kHidden, x);
    check(cudaMemcpy(residual.data(), values.data(), residual.bytes(), cudaMemcpyHostToDevice), "upload");
    std::fill(values.begin(), values.begin() + kHidden, 1.0F);
    check(cudaMemcpy(norm.data(), values.data(), kHidden * 4, cudaMemcpyHostToDevice), "upload");
    check(cudaMemset(squares.data(), 0, squares.bytes()), "clear");
    check(cudaDeviceSynchronize(), "inputs");
  }
  RmsScale scale() const { return {squares.as<float>(), rms_partials(kHidden), kHidden, 1e-6F}; }
};

NextProduct projections(const Layer& layer) {
  NextProduct next;
  for (const PackedMatrix& w : layer.in) {
    next.w[static_cast<size_t>(next.n++)] = &w;
  }
  return next;
}
void project(Matmul& m, cudaStream_t stream, const Layer& layer, State& s, bool scaled,
             const NextProduct& next = {}) {
  std::vector<Matmul::Output> outputs;
  float* y = s.projections.as<float>();
  for (const PackedMatrix& w : layer.in) {
    outputs.push_back({&w, y, w.rows});
    y += static_cast<int64_t>(s.n) * w.rows;
  }
  m.store(stream, s.x, outputs, scaled ? s.scale() : RmsScale{}, next);
}
void join(Matmul& m, cudaStream_t stream, const Activations& x, const PackedMatrix& w, State& s,
          const NextProduct& next = {}) {
  if (!x.prompt && m.finishes_norm(x.n_tokens)) {
    m.add_and_norm(stream, x, w, s.residual.as<float>(), kHidden, s.norm.as<float>(), s.x,
                   s.squares.as<float>(), next);
  } else {
    m.add(stream, x, w, s.residual.as<float>(), kHidden);
  }
}
void sweep(Matmul& m, cudaStream_t stream, const Model& model, State& s, bool head) {
  const bool scaled = !s.x.prompt && m.finishes_norm(s.n);
  for (size_t i = 0; i < model.layers.size(); ++i) {
    const Layer& layer = model.layers[i];
    const bool last = i + 1 == model.layers.size();
    project(m, stream, layer, s, scaled, {&layer.out});
    join(m, stream, s.a, layer.out, s, NextProduct::gate_and_up(layer.gate, layer.up));
    m.swiglu(stream, s.x, layer.gate, layer.up, s.h, scaled ? s.scale() : RmsScale{}, {&layer.down});
    join(m, stream, s.h, layer.down, s, last ? NextProduct{&model.head} : projections(model.layers[i + 1]));
  }
  if (head) {
    const Matmul::Output output{&model.head, s.logits.as<float>(), kVocab};
    m.store(stream, s.x, {&output, 1}, s.scale());
  }
}

float median_ms(Stream& stream, int runs, const std::function<void()>& run) {
  Event start(true);
  Event end(true);
  run();
  stream.synchronize();
  std::vector<float> ms;
  for (int i = 0; i < runs; ++i) {
    start.record(stream);
    run();
    end.record(stream);
    stream.synchronize();
    ms.push_back(end.ms_since(start));
  }
  std::sort(ms.begin(), ms.end());
  return ms[ms.size() / 2];
}

double ceiling = 0;

void line(const char* what, int n, const char* kernel, double ms, uint64_t bytes, double flops) {
  const double rate = static_cast<double>(bytes) / (ms * 1e-3);
  std::printf("%s,%d,%s,%.4f,%llu,%.0f,%.3f,%.1f\n", what, n, kernel, ms,
              static_cast<unsigned long long>(bytes), rate * 1e-9, rate / ceiling,
              flops / (ms * 1e-3) * 1e-12);
  std::fflush(stdout);
}

void run_sweep(const DeviceInfo& device, const Model& model, std::byte* workspace, uint64_t bytes) {
  struct Variant {
    const char* name;
    MatmulOptions options;
  };
  for (const Variant& v :
       {Variant{"automatic", {.prompt_kernel = false, .library = false}},
        {"L2", {.prompt_kernel = false, .library = false, .placement = ActivationPlacement::l2}},
        {"staged", {.prompt_kernel = false, .library = false, .placement = ActivationPlacement::staged}},
        {"no overlap", {.prompt_kernel = false, .library = false, .overlap = false}}}) {
    Matmul m(device, workspace, bytes, v.options);
    for (const int n : {1, 2, 3, 4, 5, 6, 8, 12, 16, 24, 32, 48, 64}) {
      if (v.options.placement != ActivationPlacement::automatic && n > 8) {
        break;
      }
      if (!v.options.overlap && n != 1 && n != 4) {
        continue;
      }
      State s(n);
      Stream stream;
      const Graph graph = Graph::capture(stream, [&] { sweep(m, stream, model, s, true); });
      const float ms = median_ms(stream, 9, [&] { graph.launch(stream); });
      line("sweep", n, v.name, ms, model.bytes, 51.2e9 * n);
    }
  }
}

// Steps of 9 to 64 tokens on sm_90, without the head and with it.
void run_batch(const DeviceInfo& device, const Model& model, std::byte* workspace, uint64_t bytes) {
  Matmul m(device, workspace, bytes, {});
  if (!m.finishes_norm(kMaxColumns) || m.most_records() >= kMaxColumns) {
    return;
  }
  for (const int n : {9, 12, 16, 24, 32, 48, 64}) {
    State s(n, m.most_records());
    Stream stream;
    for (const bool head : {false, true}) {
      const Graph graph = Graph::capture(stream, [&] { sweep(m, stream, model, s, head); });
      line("batch", n, head ? "with head" : "layers", median_ms(stream, 9, [&] { graph.launch(stream); }),
           head ? model.bytes : model.bytes - model.head.bytes, (head ? 51.2e9 : 48.7e9) * n);
    }
  }
}

void run_shapes(const DeviceInfo& device, const Model& model, std::byte* workspace, uint64_t bytes) {
  Matmul m(device, workspace, bytes, {.library = false});
  for (const int n : {1, 4, 8, 16, 32, 64}) {
    State s(n, m.most_records());
    Stream stream;
    struct Shape {
      const char* name;
      int kind;
    };
    for (const Shape shape :
         {Shape{"gdn_in", 0}, {"attention_in", 1}, {"out", 2}, {"gate_up", 3}, {"down", 4}, {"head", 5}}) {
      uint64_t read = 0;
      int launches = 0;
      const Graph graph = Graph::capture(stream, [&] {
        for (size_t i = 0; i < model.layers.size(); ++i) {
          const Layer& layer = model.layers[i];
          const bool attention = i % 4 == 3;
          if (shape.kind < 2 && attention == (shape.kind == 1)) {
            project(m, stream, layer, s, true);
            for (const PackedMatrix& w : layer.in) {
              read += w.bytes;
            }
          } else if (shape.kind == 2) {
            join(m, stream, s.a, layer.out, s);
            read += layer.out.bytes;
          } else if (shape.kind == 3) {
            m.swiglu(stream, s.x, layer.gate, layer.up, s.h, s.scale());
            read += layer.gate.bytes + layer.up.bytes;
          } else if (shape.kind == 4) {
            join(m, stream, s.h, layer.down, s);
            read += layer.down.bytes;
          } else if (shape.kind == 5 && i < 2) {
            const Matmul::Output output{&model.head, s.logits.as<float>(), kVocab};
            m.store(stream, s.x, {&output, 1}, s.scale());
            read += model.head.bytes;
          } else {
            continue;
          }
          ++launches;
        }
      });
      const float ms = median_ms(stream, 5, [&] { graph.launch(stream); });
      line(shape.name, n, "mean of a launch", static_cast<double>(ms) / launches,
           read / static_cast<uint64_t>(launches), 0);
    }
  }
}

void run_prompt(const DeviceInfo& device, const Model& model, std::byte* workspace, uint64_t bytes) {
  double weights = 0;
  for (const Layer& layer : model.layers) {
    for (const PackedMatrix& w : layer.in) {
      weights += static_cast<double>(w.rows) * w.cols;
    }
    weights += static_cast<double>(kHidden) * kInner + 3.0 * kFf * kHidden;
  }
  struct Variant {
    MatmulOptions options;
    int most;
  };
  for (const Variant& v : {Variant{{.library_from_tokens = 65}, 4096},
                           {{.prompt_kernel = false, .library_from_tokens = 65}, 4096},
                           {{.prompt_kernel = false, .library = false}, 256},
                           {{.library = false, .prompt = PromptProducts::int8}, 4096}}) {
    Matmul m(device, workspace, bytes, v.options);
    for (const int n : {12, 16, 20, 24, 32, 40, 48, 64, 65, 96, 128, 192, 256, 384, 512, 1024, 2048, 4096}) {
      if (n > v.most) {
        break;
      }
      State s(n, kMaxColumns, true);
      Stream stream;
      const float ms = median_ms(stream, 3, [&] { sweep(m, stream, model, s, false); });
      line("prompt", n, m.describe().c_str(), ms, model.bytes - model.head.bytes, 2 * weights * n);
    }
  }
}

// Each shape of a prompt alone: all layers of it, one after the other.
void run_prompt_shapes(const DeviceInfo& device, const Model& model, std::byte* workspace, uint64_t bytes,
                       PromptProducts products) {
  Matmul m(device, workspace, bytes, {.library = false, .prompt = products});
  const std::string kernel = m.describe() + ", mean of a launch";
  for (const int n : {64, 128, 512, 2048}) {
    State s(n, kMaxColumns, true);
    Stream stream;
    const auto time = [&](const char* name,
                          const std::function<std::vector<const PackedMatrix*>(size_t)>& run) {
      double weights = 0;
      uint64_t read = 0;
      int launches = 0;
      const auto all = [&] {
        weights = 0, read = 0, launches = 0;
        for (size_t i = 0; i < model.layers.size(); ++i) {
          const std::vector<const PackedMatrix*> used = run(i);
          launches += used.empty() ? 0 : 1;
          for (const PackedMatrix* w : used) {
            weights += static_cast<double>(w->rows) * w->cols;
            read += w->bytes;
          }
        }
      };
      const float ms = median_ms(stream, 5, all);
      if (launches > 0) {
        line(name, n, kernel.c_str(), static_cast<double>(ms) / launches,
             read / static_cast<uint64_t>(launches), 2 * weights / launches * n);
      }
    };
    using Used = std::vector<const PackedMatrix*>;
    time("gdn_in", [&](size_t i) {
      const Layer& layer = model.layers[i];
      if (i % 4 == 3) {
        return Used{};
      }
      project(m, stream, layer, s, false);
      return Used{&layer.in[0], &layer.in[1], &layer.in[2], &layer.in[3]};
    });
    time("gate_up", [&](size_t i) {
      m.swiglu(stream, s.x, model.layers[i].gate, model.layers[i].up, s.h, {});
      return Used{&model.layers[i].gate, &model.layers[i].up};
    });
    for (const PackedType type : {PackedType::q4_k, PackedType::q6_k}) {
      time(type == PackedType::q4_k ? "down q4_k" : "down q6_k", [&](size_t i) {
        if (model.layers[i].down.type != type) {
          return Used{};
        }
        join(m, stream, s.h, model.layers[i].down, s);
        return Used{&model.layers[i].down};
      });
    }
    time("out", [&](size_t i) {
      join(m, stream, s.a, model.layers[i].out, s);
      return Used{&model.layers[i].out};
    });
  }
}

}  // namespace

int main(int argc, char** argv) {
  int n_layers = 64;
  int plain = 0;
  std::vector<std::string> what;
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--plain") == 0 && i + 1 < argc) {
      plain = std::atoi(argv[++i]);
    } else if (std::strcmp(argv[i], "--layers") == 0 && i + 1 < argc) {
      n_layers = std::atoi(argv[++i]);
    } else {
      what.emplace_back(argv[i]);
    }
  }
  if (device_count() == 0) {
    std::fprintf(stderr, "no CUDA device\n");
    return 5;
  }
  const auto wanted = [&](const char* name) {
    return what.empty() || std::find(what.begin(), what.end(), name) != what.end();
  };
  try {
    const DeviceInfo device = use_device(0);
    const Model model = build(n_layers);
    const uint64_t bytes =
        std::max({Matmul::workspace_bytes(4096, kFf, kFf),
                  Matmul::workspace_bytes(4096, kFf, kFf, {.prompt_kernel = false}),
                  Matmul::workspace_bytes(4096, kFf, kFf, {.prompt = PromptProducts::int8})});
    const DeviceBuffer workspace(bytes);
    Stream stream;
    const Queue queue{stream, false};
    ceiling = measure_read_bandwidth(queue, model.arena.data(),
                                     std::min<uint64_t>(model.bytes, uint64_t{4} << 30), device.n_sms);
    std::printf(
        "# %s, sm_%d, %d SMs; read bandwidth %.0f GB/s; products by mma.sync: f16 %.0f TFLOP/s, int8 %.0f "
        "TOP/s; weights %.3f "
        "GB\n",
        device.name.c_str(), device.arch, device.n_sms, ceiling * 1e-9,
        measure_matrix_peak(queue, device.n_sms) * 1e-12, measure_int8_peak(queue, device.n_sms) * 1e-12,
        static_cast<double>(model.bytes) * 1e-9);
    std::printf("what,tokens,kernel,ms,bytes,GB/s,share of read bandwidth,TFLOP/s\n");
    if (plain > 0) {  // for a profiler
      Matmul m(device, workspace.data(), bytes, {.prompt_kernel = false, .library = false, .overlap = false});
      State s(plain);
      sweep(m, stream, model, s, true);
      stream.synchronize();
      return 0;
    }
    if (wanted("sweep")) {
      run_sweep(device, model, workspace.data(), bytes);
    }
    if (wanted("batch")) {
      run_batch(device, model, workspace.data(), bytes);
    }
    if (wanted("shapes")) {
      run_shapes(device, model, workspace.data(), bytes);
    }
    if (wanted("prompt")) {
      run_prompt(device, model, workspace.data(), bytes);
    }
    if (wanted("prompt_shapes")) {
      run_prompt_shapes(device, model, workspace.data(), bytes, PromptProducts::automatic);
      run_prompt_shapes(device, model, workspace.data(), bytes, PromptProducts::int8);
    }
  } catch (const DeviceFailure& failure) {
    std::fprintf(stderr, "%s\n", failure.what());
    return 5;
  }
  return 0;
}
