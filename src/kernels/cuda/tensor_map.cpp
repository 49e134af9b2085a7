#include "kernels/cuda/tensor_map.h"

#include <cudaTypedefs.h>

#include <array>

#include "base/result.h"

namespace fl::cuda {
namespace {

// The driver's function, without linking the driver.
PFN_cuTensorMapEncodeTiled_v12000 encoder() {
  static const auto function = [] {
    void* found = nullptr;
    cudaDriverEntryPointQueryResult status{};
    check(
        cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &found, 12000, cudaEnableDefault, &status),
        "cuTensorMapEncodeTiled");
    FL_CHECK(status == cudaDriverEntryPointSuccess, "a driver of sm_90 has tensor maps");
    return reinterpret_cast<PFN_cuTensorMapEncodeTiled_v12000>(found);
  }();
  return function;
}

}  // namespace

CUtensorMap rows_map(const Activations& x, int box_tokens) {
  CUtensorMap map{};
  const auto cols = static_cast<cuuint64_t>(padded_cols(x.cols));
  const std::array<cuuint64_t, 2> size{cols, static_cast<cuuint64_t>(x.n_tokens)};
  const std::array<cuuint64_t, 1> stride{cols * 2};
  const std::array<cuuint32_t, 2> box{kBoxColumns, static_cast<cuuint32_t>(box_tokens)};
  const std::array<cuuint32_t, 2> step{1, 1};
  const CUresult result =
      encoder()(&map, CU_TENSOR_MAP_DATA_TYPE_FLOAT16, 2, x.data, size.data(), stride.data(), box.data(),
                step.data(), CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                CU_TENSOR_MAP_L2_PROMOTION_L2_128B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  FL_CHECK(result == CUDA_SUCCESS, "activation rows are 16-byte aligned and a multiple of 256 long");
  return map;
}

}  // namespace fl::cuda
