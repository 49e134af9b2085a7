// The portable product: rows stay as the file has them, a row is decoded once and meets all tokens in float.
#include "kernels/cpu/matmul.h"

#include <cstdlib>
#include <vector>

#include "core/quants.h"

namespace fl::cpu {
namespace {

constexpr int64_t kRowsPerItem = 16;
constexpr int64_t kLanes = 16;
constexpr size_t kWidestInput = 1 << 15;

/// Sixteen partial sums, then their sum: one order for any number of tokens.
float dot(const float* a, const float* b, int64_t n) {
  float lanes[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (int64_t j = 0; j < kLanes; ++j) {
      lanes[j] += a[i + j] * b[i + j];
    }
  }
  float sum = 0;
  for (; i < n; ++i) {
    sum += a[i] * b[i];
  }
  for (const float lane : lanes) {
    sum += lane;
  }
  return sum;
}

}  // namespace

std::string_view isa_name(Isa isa) {
  switch (isa) {
    case Isa::avx512_vnni:
      return "avx512-vnni";
    case Isa::avx2:
      return "avx2";
    default:
      return "portable";
  }
}

Isa best_isa() {
  Isa best = Isa::portable;
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    best = Isa::avx2;
  }
  if (best == Isa::avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vnni")) {
    best = Isa::avx512_vnni;
  }
#endif
  if (const char* wanted = std::getenv("FREELUNCH_ISA")) {
    for (const Isa isa : {Isa::portable, Isa::avx2}) {
      if (isa < best && (isa == Isa::portable ? "portable" : "avx2") == std::string_view(wanted)) {
        return isa;
      }
    }
  }
  return best;
}

struct PackedMatrix::Impl {
  TensorView view;
  std::vector<std::byte> bytes;
};

PackedMatrix::PackedMatrix() = default;
PackedMatrix::PackedMatrix(PackedMatrix&&) noexcept = default;
PackedMatrix& PackedMatrix::operator=(PackedMatrix&&) noexcept = default;
PackedMatrix::~PackedMatrix() = default;

PackedMatrix PackedMatrix::pack(const TensorView& tensor, Isa /*isa*/, ThreadPool& /*pool*/) {
  PackedMatrix m;
  m.impl_ = std::make_unique<Impl>();
  m.impl_->view = tensor;
  m.impl_->bytes.assign(tensor.data, tensor.data + tensor.bytes());
  m.impl_->view.data = m.impl_->bytes.data();
  m.impl_->view.name = {};
  return m;
}

uint64_t PackedMatrix::packed_bytes(DType type, int64_t rows, int64_t cols, Isa /*isa*/) {
  return row_bytes(type, static_cast<uint64_t>(cols)) * static_cast<uint64_t>(rows);
}

int64_t PackedMatrix::rows() const {
  return impl_->view.rows();
}
int64_t PackedMatrix::cols() const {
  return impl_->view.cols();
}
DType PackedMatrix::type() const {
  return impl_->view.type;
}
uint64_t PackedMatrix::bytes() const {
  return impl_->bytes.size();
}

void PackedMatrix::dequantize_row(int64_t row, std::span<float> out) const {
  fl::dequantize_row(impl_->view.type, impl_->view.row(row), out);
}

struct Activations::Impl {
  const float* x = nullptr;
  int64_t n_tokens = 0;
  int64_t cols = 0;
  int64_t stride = 0;
};

Activations::Activations() : impl_(std::make_unique<Impl>()) {}
Activations::~Activations() = default;
Activations::Activations(Activations&&) noexcept = default;

void Activations::reserve(int64_t /*max_tokens*/, int64_t /*max_cols*/) {}
uint64_t Activations::reserved_bytes(int64_t /*max_tokens*/, int64_t /*max_cols*/) {
  return 0;
}
uint64_t Activations::bytes() const {
  return 0;
}

void Activations::set(ThreadPool& /*pool*/, const float* x, int64_t n_tokens, int64_t cols, int64_t stride) {
  *impl_ = {x, n_tokens, cols, stride};
}

void matmul(ThreadPool& pool, const Activations& x, std::span<const MatmulTask> tasks) {
  const Activations::Impl& in = x.impl();
  for (const MatmulTask& task : tasks) {
    pool.parallel_for(task.w->rows(), kRowsPerItem, [&](int64_t begin, int64_t end, int) {
      static thread_local std::vector<float> row;  // grows to the widest input once
      row.reserve(kWidestInput);
      row.resize(static_cast<size_t>(in.cols));
      for (int64_t r = begin; r < end; ++r) {
        task.w->dequantize_row(r, row);
        for (int64_t t = 0; t < in.n_tokens; ++t) {
          const float sum = dot(row.data(), in.x + t * in.stride, in.cols);
          float& y = task.y[t * task.stride + r];
          y = task.accumulate ? y + sum : sum;
        }
      }
    });
  }
}

}  // namespace fl::cpu
