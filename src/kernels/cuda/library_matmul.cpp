#include "kernels/cuda/library_matmul.h"

#include <cublasLt.h>
#include <dlfcn.h>

#include <algorithm>
#include <array>
#include <map>
#include <tuple>

#include "base/result.h"
#include "kernels/cuda/slices.h"

namespace fl::cuda {
namespace {

constexpr uint64_t kExpandBytes = uint64_t{64} << 20;   // of each of two pieces
constexpr uint64_t kScratchBytes = uint64_t{32} << 20;  // the library's own
constexpr int kPieceRows = 128;  // a piece is a multiple of it: whole tiles of the product

// The functions that we use, by the header's own types.
struct Api {
  decltype(&cublasLtCreate) create = nullptr;
  decltype(&cublasLtDestroy) destroy = nullptr;
  decltype(&cublasLtGetVersion) version = nullptr;
  decltype(&cublasLtMatmul) matmul = nullptr;
  decltype(&cublasLtMatmulAlgoGetHeuristic) heuristic = nullptr;
  decltype(&cublasLtMatmulDescCreate) desc_create = nullptr;
  decltype(&cublasLtMatmulDescDestroy) desc_destroy = nullptr;
  decltype(&cublasLtMatmulDescSetAttribute) desc_set = nullptr;
  decltype(&cublasLtMatrixLayoutCreate) layout_create = nullptr;
  decltype(&cublasLtMatrixLayoutDestroy) layout_destroy = nullptr;
  decltype(&cublasLtMatmulPreferenceCreate) preference_create = nullptr;
  decltype(&cublasLtMatmulPreferenceDestroy) preference_destroy = nullptr;
  decltype(&cublasLtMatmulPreferenceSetAttribute) preference_set = nullptr;

  bool load() {
    void* library = dlopen("libcublasLt.so.13", RTLD_NOW | RTLD_LOCAL);  // stays until the process ends
    if (library == nullptr) {
      return false;
    }
    const auto find = [&](auto& function, const char* name) {
      function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(dlsym(library, name));
      return function != nullptr;
    };
    return find(create, "cublasLtCreate") && find(destroy, "cublasLtDestroy") &&
           find(version, "cublasLtGetVersion") && find(matmul, "cublasLtMatmul") &&
           find(heuristic, "cublasLtMatmulAlgoGetHeuristic") &&
           find(desc_create, "cublasLtMatmulDescCreate") && find(desc_destroy, "cublasLtMatmulDescDestroy") &&
           find(desc_set, "cublasLtMatmulDescSetAttribute") &&
           find(layout_create, "cublasLtMatrixLayoutCreate") &&
           find(layout_destroy, "cublasLtMatrixLayoutDestroy") &&
           find(preference_create, "cublasLtMatmulPreferenceCreate") &&
           find(preference_destroy, "cublasLtMatmulPreferenceDestroy") &&
           find(preference_set, "cublasLtMatmulPreferenceSetAttribute");
  }
};

void check_library(cublasStatus_t status, const char* what) {
  if (status != CUBLAS_STATUS_SUCCESS) {
    throw DeviceFailure(std::string(what) + ": cuBLASLt status " + std::to_string(static_cast<int>(status)),
                        cudaErrorUnknown);
  }
}

// One product, described once: D [n tokens][m rows] = alpha x [n][k] · W [m][k]ᵀ + beta D.
struct Plan {
  cublasLtMatmulDesc_t desc = nullptr;
  cublasLtMatrixLayout_t w = nullptr;
  cublasLtMatrixLayout_t x = nullptr;
  cublasLtMatrixLayout_t y = nullptr;
  cublasLtMatmulAlgo_t algorithm{};
};

using PlanKey = std::tuple<int, int, int, int64_t, cudaDataType, bool>;

}  // namespace

struct LibraryMatmul::Impl {
  Api api;
  cublasLtHandle_t handle = nullptr;
  std::byte* workspace = nullptr;
  uint64_t bytes = 0;
  std::map<PlanKey, Plan> plans;
  Stream side;
  std::array<Event, 2> expanded;
  std::array<Event, 2> used;
  size_t turn = 0;

  // [scratch of the library, gate and up: used in stream order, shared with other products][pieces: the side
  // stream's]
  std::byte* piece(size_t i) const { return workspace + bytes - (2 - i) * kExpandBytes; }
  std::byte* gate_up() const { return workspace + kScratchBytes; }
  uint64_t gate_up_bytes() const { return bytes - kScratchBytes - 2 * kExpandBytes; }

  ~Impl() {
    for (auto& [key, plan] : plans) {
      api.layout_destroy(plan.w);
      api.layout_destroy(plan.x);
      api.layout_destroy(plan.y);
      api.desc_destroy(plan.desc);
    }
    if (handle != nullptr) {
      api.destroy(handle);
    }
  }

  const Plan& plan(int m, int n, int k, int64_t stride, cudaDataType type, bool add) {
    const PlanKey key{m, n, k, stride, type, add};
    if (const auto it = plans.find(key); it != plans.end()) {
      return it->second;
    }
    Plan p;
    check_library(api.desc_create(&p.desc, CUBLAS_COMPUTE_32F, CUDA_R_32F), "matmul description");
    const cublasOperation_t transposed = CUBLAS_OP_T;
    check_library(api.desc_set(p.desc, CUBLASLT_MATMUL_DESC_TRANSA, &transposed, sizeof(transposed)),
                  "transposition");
    const auto um = static_cast<uint64_t>(m);
    const auto un = static_cast<uint64_t>(n);
    const auto uk = static_cast<uint64_t>(k);
    check_library(api.layout_create(&p.w, CUDA_R_16F, uk, um, k), "layout of weights");
    check_library(api.layout_create(&p.x, CUDA_R_16F, uk, un, k), "layout of activations");
    check_library(api.layout_create(&p.y, type, um, un, stride), "layout of outputs");
    cublasLtMatmulPreference_t preference = nullptr;
    check_library(api.preference_create(&preference), "preference");
    const size_t limit = kScratchBytes;
    check_library(
        api.preference_set(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &limit, sizeof(limit)),
        "preference");
    cublasLtMatmulHeuristicResult_t found{};
    int count = 0;
    const cublasStatus_t status =
        api.heuristic(handle, p.desc, p.w, p.x, p.y, p.y, preference, 1, &found, &count);
    api.preference_destroy(preference);
    check_library(count > 0 ? status : CUBLAS_STATUS_NOT_SUPPORTED, "choice of an algorithm");
    p.algorithm = found.algo;
    return plans.emplace(key, p).first->second;
  }

  void gemm(cudaStream_t stream, const Plan& p, const void* w, const void* x, void* y, float alpha,
            bool add) {
    const float beta = add ? 1.0f : 0.0f;
    check_library(api.matmul(handle, p.desc, &alpha, w, p.w, x, p.x, &beta, y, p.y, y, p.y, &p.algorithm,
                             workspace, kScratchBytes, stream),
                  "product");
  }

  // Calls expand(side stream, buffer) and then multiply(buffer). Weights never change, so an expansion waits
  // only for the product that used its buffer before: it runs beside whatever the caller's stream does.
  template <typename Expand, typename Multiply>
  void pipelined(cudaStream_t stream, const Expand& expand, const Multiply& multiply) {
    const size_t i = turn;
    turn = 1 - turn;
    side.wait(used[i]);  // no wait before its first record
    expand(side.get(), piece(i));
    expanded[i].record(side);
    check(cudaStreamWaitEvent(stream, expanded[i].get(), 0), "wait for an expansion");
    multiply(piece(i));
    used[i].record(stream);
  }
};

LibraryMatmul::LibraryMatmul(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
LibraryMatmul::~LibraryMatmul() = default;

uint64_t LibraryMatmul::workspace_bytes(int32_t max_tokens, uint64_t beside) {
  // gate and up of a piece, f16: half of the piece's rows each
  constexpr uint64_t kRows = kExpandBytes / 2 / 2048;
  const uint64_t gate_up = std::min(static_cast<uint64_t>(max_tokens) * kRows * 2, kExpandBytes);
  return (std::max(kScratchBytes + gate_up, beside) + 255) / 256 * 256 + 2 * kExpandBytes;
}

std::unique_ptr<LibraryMatmul> LibraryMatmul::open(const DeviceInfo& /*device*/, std::byte* workspace,
                                                   uint64_t bytes) {
  auto impl = std::make_unique<Impl>();
  if (bytes <= kScratchBytes + 2 * kExpandBytes || !impl->api.load()) {
    return nullptr;
  }
  check_library(impl->api.create(&impl->handle), "cublasLtCreate");
  impl->workspace = workspace;
  impl->bytes = bytes / 256 * 256;
  return std::unique_ptr<LibraryMatmul>(new LibraryMatmul(std::move(impl)));
}

std::string LibraryMatmul::describe() const {
  const size_t v = impl_->api.version();
  return "cuBLASLt " + std::to_string(v / 10000) + "." + std::to_string(v % 10000 / 100);
}

void LibraryMatmul::multiply(cudaStream_t stream, const Activations& x, const PackedMatrix& w, float* y,
                             int64_t stride, bool add) {
  Impl& impl = *impl_;
  const int k = padded_cols(x.cols);
  const auto most =
      static_cast<int32_t>(kExpandBytes / 2 / static_cast<uint64_t>(k)) / kPieceRows * kPieceRows;
  FL_CHECK(most > 0, "a piece holds 128 rows");
  const int32_t n_pieces = (w.rows + most - 1) / most;
  const int32_t even = ((w.rows + n_pieces - 1) / n_pieces + kPieceRows - 1) / kPieceRows * kPieceRows;
  for (int32_t row = 0; row < w.rows; row += even) {
    const int32_t rows = std::min(even, w.rows - row);
    const Plan& plan = impl.plan(rows, x.n_tokens, k, stride, CUDA_R_32F, add);
    impl.pipelined(
        stream, [&](cudaStream_t side, std::byte* piece) { expand_f16(side, w, row, rows, piece); },
        [&](std::byte* piece) {
          impl.gemm(stream, plan, piece, x.data, y + row, 1.0f / kActivationScale, add);
        });
  }
}

void LibraryMatmul::swiglu(cudaStream_t stream, const Activations& x, const PackedMatrix& gate,
                           const PackedMatrix& up, const Activations& out) {
  Impl& impl = *impl_;
  const int k = padded_cols(x.cols);
  const uint64_t by_expansion = kExpandBytes / 4 / static_cast<uint64_t>(k);
  const uint64_t by_result = impl.gate_up_bytes() / 4 / static_cast<uint64_t>(x.n_tokens);
  const auto most = static_cast<int32_t>(std::min(by_expansion, by_result)) / kPieceRows * kPieceRows;
  FL_CHECK(most > 0, "a piece holds 128 rows of gate and up");
  const int32_t n_pieces = (gate.rows + most - 1) / most;
  const int32_t even = ((gate.rows + n_pieces - 1) / n_pieces + kPieceRows - 1) / kPieceRows * kPieceRows;
  for (int32_t row = 0; row < gate.rows; row += even) {
    const int32_t rows = std::min(even, gate.rows - row);
    const Plan& plan = impl.plan(2 * rows, x.n_tokens, k, 2 * rows, CUDA_R_16F, false);
    impl.pipelined(
        stream,
        [&](cudaStream_t side, std::byte* piece) {
          expand_f16(side, gate, row, rows, piece);
          expand_f16(side, up, row, rows, piece + static_cast<int64_t>(rows) * k * 2);
        },
        [&](std::byte* piece) {
          impl.gemm(stream, plan, piece, x.data, impl.gate_up(), 1.0f, false);
          swiglu_f16(stream, impl.gate_up(), rows, row, out);
        });
  }
}

}  // namespace fl::cuda
