// Chooses the shape of an int8 product's blocks and launches it.
#include "kernels/cuda/matmul_int8.h"

#include <algorithm>

#include "base/result.h"
#include "kernels/cuda/matmul_int8_params.h"

namespace fl::cuda {
namespace {

// Time of a block of 64 tokens, where one of 128 takes 1.
constexpr double kHalfBlock = 0.6;

Int8Params describe(const Int8Product& x) {
  Int8Params p{};
  p.n_superblocks = padded_cols(x.cols) / kSuperblock;
  p.n_tokens = x.n_tokens;
  p.n_groups = (x.n_tokens + kInt8Tokens - 1) / kInt8Tokens;
  p.activations = reinterpret_cast<const uint8_t*>(x.activations);
  return p;
}

void launch_type(cudaStream_t stream, const Int8Product& x, PackedType type, int row_blocks,
                 const Int8Params& p) {
  const auto blocks = [&](int groups) { return row_blocks * ((p.n_groups + groups - 1) / groups); };
  const auto rounds = [&](int groups) { return (blocks(groups) + x.n_sms - 1) / x.n_sms; };
  const int groups = rounds(2) <= kHalfBlock * rounds(1) ? 2 : 1;
  switch (type) {
    case PackedType::q4_k:
      launch_int8_q4(stream, x.overlap, groups, blocks(groups), p);
      break;
    case PackedType::q5_k:
      launch_int8_q5(stream, x.overlap, groups, blocks(groups), p);
      break;
    case PackedType::q6_k:
      launch_int8_q6(stream, x.overlap, groups, blocks(groups), p);
      break;
    case PackedType::q8_0:
      launch_int8_q8(stream, x.overlap, groups, blocks(groups), p);
      break;
    case PackedType::f16:
      FL_CHECK(false, "f16 weights have no int8 product");
  }
}

}  // namespace

void int8_store(cudaStream_t stream, const Int8Product& x, std::span<const Matmul::Output> outputs,
                bool add) {
  Int8Params p = describe(x);
  p.add = add ? 1 : 0;
  int row_blocks = 0;
  for (const Matmul::Output& o : outputs) {
    FL_CHECK(o.w->type == outputs[0].w->type && o.w->cols == x.cols, "one type, and the activations' width");
    p.segments[p.n_segments++] = {
        reinterpret_cast<const uint8_t*>(o.w->data), nullptr, o.y, o.stride, o.w->rows, row_blocks};
    row_blocks += (o.w->rows + kInt8BlockRows - 1) / kInt8BlockRows;
  }
  launch_type(stream, x, outputs[0].w->type, row_blocks, p);
}

void int8_swiglu(cudaStream_t stream, const Int8Product& x, const PackedMatrix& gate, const PackedMatrix& up,
                 const Activations& out) {
  FL_CHECK(gate.type == up.type && gate.cols == x.cols && up.cols == x.cols && gate.rows == up.rows,
           "gate and up have one type and shape");
  Int8Params p = describe(x);
  p.segments[p.n_segments++] = {reinterpret_cast<const uint8_t*>(gate.data),
                                reinterpret_cast<const uint8_t*>(up.data),
                                nullptr,
                                0,
                                gate.rows,
                                0};
  p.out = writer(out);
  constexpr int kRows = kInt8BlockRows / 2;
  launch_type(stream, x, gate.type, (gate.rows + kRows - 1) / kRows, p);
}

}  // namespace fl::cuda
