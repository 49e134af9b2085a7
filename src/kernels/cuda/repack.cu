// File bytes to tiles and back; activations to their stored form.
#include "base/result.h"
#include "kernels/cuda/activations.cuh"
#include "kernels/cuda/block_values.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/matmul_params.h"
#include "kernels/cuda/tile_layout.h"

namespace fl::cuda {

PackedType packed_type(DType source) {
  switch (source) {
    case DType::q4_k:
      return PackedType::q4_k;
    case DType::q5_k:
      return PackedType::q5_k;
    case DType::q6_k:
      return PackedType::q6_k;
    case DType::q8_0:
    case DType::q4_0:
    case DType::q5_0:
    case DType::iq4_nl:
      return PackedType::q8_0;
    default:
      return PackedType::f16;
  }
}

uint64_t packed_bytes(DType source, int64_t rows, int64_t cols) {
  return static_cast<uint64_t>(padded_rows(rows) / kTileRows) *
         static_cast<uint64_t>(padded_cols(cols) / kSuperblock) *
         static_cast<uint64_t>(tile_bytes(packed_type(source)));
}

PackedMatrix packed_matrix(DType source, int64_t rows, int64_t cols, const std::byte* packed) {
  return {packed_type(source),        source, static_cast<int32_t>(rows),
          static_cast<int32_t>(cols), packed, packed_bytes(source, rows, cols)};
}

namespace {

struct Source {
  const uint8_t* blocks;
  int64_t row_bytes;
  int32_t n_rows;  ///< rows at `blocks`
  int32_t n_cols;
  int32_t n_superblocks;
};

// One thread a word of a tile; a block of threads a tile.
template <DType kType>
__global__ void repack_kernel(Source s, uint8_t* tiles, int tile_size) {
  const int superblock = blockIdx.x % s.n_superblocks;
  const int row0 = static_cast<int>(blockIdx.x / s.n_superblocks) * kTileRows;
  uint8_t* to = tiles + static_cast<int64_t>(blockIdx.x) * tile_size;
  const auto row_at = [&](int row) { return s.blocks + static_cast<int64_t>(row0 + row) * s.row_bytes; };
  for (int off = static_cast<int>(threadIdx.x) * 4; off < tile_size;
       off += static_cast<int>(blockDim.x) * 4) {
    uint32_t word = 0;
    if constexpr (kType == DType::q4_k || kType == DType::q5_k || kType == DType::q6_k) {
      constexpr int kBlockBytes = kType == DType::q4_k ? 144 : kType == DType::q5_k ? 176 : 210;
      const auto byte = [&](int row, int at) -> uint8_t {
        return row0 + row < s.n_rows ? row_at(row)[superblock * kBlockBytes + at] : 0;
      };
      word = kType == DType::q4_k   ? tile::q4_word(off, byte)
             : kType == DType::q5_k ? tile::q5_word(off, byte)
                                    : tile::q6_word(off, byte);
    } else if constexpr (kType == DType::q8_0 || kType == DType::q4_0 || kType == DType::q5_0 ||
                         kType == DType::iq4_nl) {
      constexpr int kBlockBytes = kType == DType::q8_0 ? 34 : kType == DType::q5_0 ? 22 : 18;
      const auto inside = [&](int row, int column) {
        return row0 + row < s.n_rows && superblock * kSuperblock + column < s.n_cols;
      };
      const auto block_at = [&](int row, int column) {
        return row_at(row) + (superblock * kSuperblock + column) / 32 * kBlockBytes;
      };
      const auto q8 = [&](int row, int column) {
        return inside(row, column) ? signed_byte<kType>(block_at(row, column), column % 32) : 0;
      };
      const auto d = [&](int row, int block) {
        return inside(row, block * 32) ? bytes16(block_at(row, block * 32)) : 0U;
      };
      word = tile::q8_word(off, q8, d);
    } else {
      constexpr int kElems = kType == DType::q2_k || kType == DType::q3_k || kType == DType::iq4_xs ? 256
                             : kType == DType::q4_1 || kType == DType::q5_1                         ? 32
                                                                                                    : 1;
      constexpr int kBlockBytes = kType == DType::q2_k     ? 84
                                  : kType == DType::q3_k   ? 110
                                  : kType == DType::iq4_xs ? 136
                                  : kType == DType::q4_1   ? 20
                                  : kType == DType::q5_1   ? 24
                                  : kType == DType::f32    ? 4
                                                           : 2;
      const auto f16 = [&](int row, int column) -> uint32_t {
        const int at = superblock * kSuperblock + column;
        if (row0 + row >= s.n_rows || at >= s.n_cols) {
          return 0;
        }
        const uint8_t* block = row_at(row) + static_cast<int64_t>(at / kElems) * kBlockBytes;
        const float value = fminf(fmaxf(value_of<kType>(block, at % kElems), -65504.0f), 65504.0f);
        return __half_as_ushort(__float2half_rn(value));
      };
      word = tile::f16_word(off, f16);
    }
    *reinterpret_cast<uint32_t*>(to + off) = word;
  }
}

__global__ void unpack_kernel(PackedType type, const uint8_t* tiles, int tile_size, int superblock_bytes,
                              int n_rows, int n_superblocks, int64_t row_bytes, uint8_t* blocks) {
  const int superblock = blockIdx.x % n_superblocks;
  const int row0 = static_cast<int>(blockIdx.x / n_superblocks) * kTileRows;
  const uint8_t* from = tiles + static_cast<int64_t>(blockIdx.x) * tile_size;
  const auto tile_byte = [&](int off) { return from[off]; };
  for (int i = static_cast<int>(threadIdx.x); i < kTileRows * superblock_bytes;
       i += static_cast<int>(blockDim.x)) {
    const int row = i / superblock_bytes;
    const int at = i % superblock_bytes;
    const int64_t column = static_cast<int64_t>(superblock) * superblock_bytes + at;
    if (row0 + row >= n_rows || column >= row_bytes) {
      continue;
    }
    const uint8_t byte = type == PackedType::q4_k   ? tile::q4_byte(row, at, tile_byte)
                         : type == PackedType::q5_k ? tile::q5_byte(row, at, tile_byte)
                         : type == PackedType::q6_k ? tile::q6_byte(row, at, tile_byte)
                                                    : tile::q8_byte(row, at, tile_byte);
    blocks[static_cast<int64_t>(row0 + row) * row_bytes + column] = byte;
  }
}

// Four lanes 16 columns; columns beyond the real ones become zeros.
__global__ void store_activations_kernel(const float* x, int64_t stride, int cols, ActivationWriter out) {
  let_next_start();
  wait_for_previous();
  const int token = blockIdx.y;
  const int col = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x) * 4;
  if (col >= out.padded_cols) {
    return;
  }
  float4 v{0, 0, 0, 0};
  const float* from = x + token * stride + col;
  if (col + 3 < cols && (reinterpret_cast<uintptr_t>(from) & 15U) == 0) {
    v = *reinterpret_cast<const float4*>(from);
  } else {
    v.x = col < cols ? from[0] : 0.0f;
    v.y = col + 1 < cols ? from[1] : 0.0f;
    v.z = col + 2 < cols ? from[2] : 0.0f;
    v.w = col + 3 < cols ? from[3] : 0.0f;
  }
  store_activations4(out, token, col, v);
}

constexpr int kRepackThreads = 256;

template <DType kType>
void run_repack(cudaStream_t stream, const Source& source, int n_tiles, uint8_t* packed) {
  repack_kernel<kType><<<static_cast<unsigned>(n_tiles * source.n_superblocks), kRepackThreads, 0, stream>>>(
      source, packed, tile_bytes(packed_type(kType)));
  check_launch("repack");
}

}  // namespace

PackedMatrix repack(cudaStream_t stream, DType type, int64_t rows, int64_t cols, const std::byte* blocks,
                    int64_t row0, int64_t n_rows, std::byte* packed) {
  FL_CHECK(row0 % kTileRows == 0 && row0 + n_rows <= rows, "a piece of a matrix starts at a whole tile");
  FL_CHECK(n_rows % kTileRows == 0 || row0 + n_rows == rows, "only the last piece ends inside a tile");
  const PackedMatrix matrix = packed_matrix(type, rows, cols, packed);
  Source source;
  source.blocks = reinterpret_cast<const uint8_t*>(blocks);
  source.row_bytes = static_cast<int64_t>(row_bytes(type, static_cast<uint64_t>(cols)));
  source.n_rows = static_cast<int32_t>(n_rows);
  source.n_cols = static_cast<int32_t>(cols);
  source.n_superblocks = padded_cols(cols) / kSuperblock;
  const int n_tiles = padded_rows(n_rows) / kTileRows;
  uint8_t* to = reinterpret_cast<uint8_t*>(packed) +
                row0 / kTileRows * source.n_superblocks * static_cast<int64_t>(tile_bytes(matrix.type));
  switch (type) {
    case DType::f32:
      run_repack<DType::f32>(stream, source, n_tiles, to);
      break;
    case DType::f16:
      run_repack<DType::f16>(stream, source, n_tiles, to);
      break;
    case DType::bf16:
      run_repack<DType::bf16>(stream, source, n_tiles, to);
      break;
    case DType::q4_0:
      run_repack<DType::q4_0>(stream, source, n_tiles, to);
      break;
    case DType::q4_1:
      run_repack<DType::q4_1>(stream, source, n_tiles, to);
      break;
    case DType::q5_0:
      run_repack<DType::q5_0>(stream, source, n_tiles, to);
      break;
    case DType::q5_1:
      run_repack<DType::q5_1>(stream, source, n_tiles, to);
      break;
    case DType::q8_0:
      run_repack<DType::q8_0>(stream, source, n_tiles, to);
      break;
    case DType::q2_k:
      run_repack<DType::q2_k>(stream, source, n_tiles, to);
      break;
    case DType::q3_k:
      run_repack<DType::q3_k>(stream, source, n_tiles, to);
      break;
    case DType::q4_k:
      run_repack<DType::q4_k>(stream, source, n_tiles, to);
      break;
    case DType::q5_k:
      run_repack<DType::q5_k>(stream, source, n_tiles, to);
      break;
    case DType::q6_k:
      run_repack<DType::q6_k>(stream, source, n_tiles, to);
      break;
    case DType::iq4_nl:
      run_repack<DType::iq4_nl>(stream, source, n_tiles, to);
      break;
    case DType::iq4_xs:
      run_repack<DType::iq4_xs>(stream, source, n_tiles, to);
      break;
  }
  return matrix;
}

void unpack(cudaStream_t stream, const PackedMatrix& w, std::byte* blocks) {
  FL_CHECK(w.source == DType::q4_k || w.source == DType::q5_k || w.source == DType::q6_k ||
               w.source == DType::q8_0,
           "only tiles that are permutations of the file's bytes can be unpacked");
  const int size = tile_bytes(w.type);
  const int n_superblocks = padded_cols(w.cols) / kSuperblock;
  const int n_tiles = padded_rows(w.rows) / kTileRows;
  unpack_kernel<<<static_cast<unsigned>(n_tiles * n_superblocks), kRepackThreads, 0, stream>>>(
      w.type, reinterpret_cast<const uint8_t*>(w.data), size, size / kTileRows, w.rows, n_superblocks,
      static_cast<int64_t>(row_bytes(w.source, static_cast<uint64_t>(w.cols))),
      reinterpret_cast<uint8_t*>(blocks));
  check_launch("unpack");
}

uint64_t activation_bytes(int32_t n_tokens, int64_t cols) {
  const auto padded = static_cast<uint64_t>(padded_cols(cols));
  const auto n = static_cast<uint64_t>(n_tokens);
  return n_tokens <= kMaxColumns ? padded / kSuperblock * n * 576 : padded * n * 2;
}

void store_activations(cudaStream_t stream, bool overlap, const float* x, int64_t stride,
                       const Activations& out) {
  constexpr unsigned kThreads = 128;
  const unsigned lanes = static_cast<unsigned>(padded_cols(out.cols)) / 4;
  launch(store_activations_kernel,
         {dim3((lanes + kThreads - 1) / kThreads, static_cast<unsigned>(out.n_tokens)), dim3(kThreads), 0},
         stream, overlap, "store activations", x, stride, out.cols, writer(out));
}

}  // namespace fl::cuda
