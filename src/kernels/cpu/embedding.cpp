#include "kernels/embedding.h"

#include "core/quants.h"

namespace fl::cpu {

void embed(ThreadPool& pool, const TensorView& table, std::span<const int32_t> tokens, float* out) {
  const int64_t n = table.cols();
  pool.parallel_for(static_cast<int64_t>(tokens.size()), 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t) {
      dequantize_row(table.type, table.row(tokens[static_cast<size_t>(t)]),
                     std::span<float>(out + t * n, static_cast<size_t>(n)));
    }
  });
}

void embed(ThreadPool& pool, const PackedMatrix& table, std::span<const int32_t> tokens, float* out) {
  const int64_t n = table.cols();
  pool.parallel_for(static_cast<int64_t>(tokens.size()), 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t) {
      table.dequantize_row(tokens[static_cast<size_t>(t)],
                           std::span<float>(out + t * n, static_cast<size_t>(n)));
    }
  });
}

}  // namespace fl::cpu
