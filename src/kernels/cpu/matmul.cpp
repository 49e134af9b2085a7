// The product's outer part: who owns the bytes, in which order tiles and tokens meet, and who does what.
#include "kernels/cpu/matmul.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <limits>
#include <utility>

#if defined(__SSE__)
#include <xmmintrin.h>
#endif

#include "base/result.h"
#include "kernels/cpu/matmul_impl.h"
#include "kernels/cpu/pack.h"
#include "kernels/swiglu.h"

namespace fl::cpu {
namespace {

// Bytes of weights of one work item: a stream long enough for the prefetchers, short enough to share out.
constexpr int64_t kStreamBytes = int64_t{64} << 10;
// With many tokens a run of tiles stays in the second-level cache while all tokens pass.
constexpr int64_t kCachedBytes = int64_t{256} << 10;
constexpr int64_t kItemsPerThread = 6;
// Of a matrix so large that items of kStreamBytes would be more: each ends with a locked instruction, which
// waits for what was written.
constexpr int64_t kItemsOfLargeTask = 256;
/// Tiles of gate, and as many of up, in a strip of gated_matmul: what the next product quantises together.
constexpr int64_t kPairTiles = Activations::kPartColumns / kTileRows;
static_assert(2 * kPairTiles <= kStripTiles, "sums of a strip have room");
// With fewer, SwiGLU between two strips would interrupt the stream of weights: it waits for the stream's end.
constexpr int64_t kGatedAtOnceTokens = 4;
static_assert(kMaximaRows == kTileRows);

}  // namespace

PackedMatrix::PackedMatrix() = default;
PackedMatrix::PackedMatrix(PackedMatrix&&) noexcept = default;
PackedMatrix& PackedMatrix::operator=(PackedMatrix&&) noexcept = default;
PackedMatrix::~PackedMatrix() = default;

namespace {

/// rows_of(tile, n): the first of the rows that a tile is made of; n becomes their number.
template <typename RowsOf>
void fill(PackedMatrix::Impl& p, ThreadPool& pool, const RowsOf& rows_of) {
  const PackFormat format = pack_format(p.type);
  p.tile_stride = tile_bytes(format, p.cols);
  p.bytes = WeightBytes(static_cast<uint64_t>(p.n_tiles() * p.tile_stride));
  pool.parallel_for(p.n_tiles(), 1, [&](int64_t begin, int64_t end, int) {
    std::vector<uint8_t> tile(static_cast<size_t>(p.tile_stride));
    for (int64_t i = begin; i < end; ++i) {
      int64_t n = 0;
      const std::byte* rows = rows_of(i, n);
      pack_tile(p.type, rows, n, p.cols, tile.data());
      const int64_t first = i / p.strip_tiles * p.strip_tiles;
      tile_to_strip(format, p.cols, tile.data(), i - first, p.tiles_of_strip(first),
                    p.bytes.data() + first * p.tile_stride);
    }
  });
}

}  // namespace

PackedMatrix PackedMatrix::pack(const TensorView& tensor, Isa isa, ThreadPool& pool) {
  PackedMatrix m;
  m.impl_ = std::make_unique<Impl>();
  Impl& p = *m.impl_;
  p.type = tensor.type;
  p.isa = isa;
  p.rows = tensor.rows();
  p.cols = tensor.cols();
  p.strip_tiles = cpu::strip_tiles(pack_format(p.type), p.cols);
  FL_CHECK(p.cols % dtype_info(p.type).block_elems == 0, "a row holds whole blocks");
  fill(p, pool, [&](int64_t tile, int64_t& n) {
    n = std::min(kTileRows, p.rows - tile * kTileRows);
    return tensor.row(tile * kTileRows);
  });
  return m;
}

bool PackedMatrix::can_pair(const TensorView& gate, const TensorView& up) {
  return gate.type == up.type && pack_format(gate.type).bits > 0 && gate.rows() == up.rows() &&
         gate.cols() == up.cols() && gate.rows() % Activations::kPartColumns == 0;
}

PackedMatrix PackedMatrix::pack_pair(const TensorView& gate, const TensorView& up, Isa isa,
                                     ThreadPool& pool) {
  FL_CHECK(can_pair(gate, up), "two quantised matrices of one type and shape");
  PackedMatrix m;
  m.impl_ = std::make_unique<Impl>();
  Impl& p = *m.impl_;
  p.type = gate.type;
  p.isa = isa;
  p.rows = 2 * gate.rows();
  p.cols = gate.cols();
  p.strip_tiles = 2 * kPairTiles;
  fill(p, pool, [&](int64_t tile, int64_t& n) {
    n = kTileRows;
    const int64_t in_strip = tile % p.strip_tiles;
    const int64_t row = (tile / p.strip_tiles * kPairTiles + in_strip % kPairTiles) * kTileRows;
    return in_strip < kPairTiles ? gate.row(row) : up.row(row);
  });
  return m;
}

uint64_t PackedMatrix::packed_bytes(DType type, int64_t rows, int64_t cols, Isa /*isa*/) {
  return static_cast<uint64_t>(divide_up(rows, kTileRows) * tile_bytes(pack_format(type), cols));
}

int64_t PackedMatrix::rows() const {
  return impl_->rows;
}
int64_t PackedMatrix::cols() const {
  return impl_->cols;
}
DType PackedMatrix::type() const {
  return impl_->type;
}
uint64_t PackedMatrix::bytes() const {
  return impl_->bytes.size();
}

void PackedMatrix::dequantize_row(int64_t row, std::span<float> out) const {
  FL_CHECK(row >= 0 && row < impl_->rows && static_cast<int64_t>(out.size()) == impl_->cols, "one whole row");
  const int64_t i = row / kTileRows;
  const int64_t first = i / impl_->strip_tiles * impl_->strip_tiles;
  std::vector<uint8_t> tile(static_cast<size_t>(impl_->tile_stride));
  tile_from_strip(pack_format(impl_->type), impl_->cols, impl_->strip(first), i - first,
                  impl_->tiles_of_strip(first), tile.data());
  unpack_row(impl_->type, tile.data(), row % kTileRows, out);
}

namespace {

/// The sums of one strip with some tokens: sums + tile * kTileSums is [n][kTileRows].
struct StripSums {
  float* sums;
  int64_t first_tile, n_tiles;
  int64_t token, n;
};

/// Tiles [first, last), whole strips, with all tokens, a block of tokens at a time: take(StripSums). `ahead`,
/// not null, is asked for what `thread` reads later.
template <typename Take>
void run_tiles(const PackedMatrix::Impl& w, const Activations::Impl& in, int64_t first, int64_t last,
               Ahead* ahead, int thread, const Take& take) {
  const MatmulTable& kernels = matmul_table(w.isa);
  const bool floats = pack_format(w.type).bits == 0;
  const uint8_t* x = floats ? in.floats.data() : in.quantised.data();
  alignas(64) std::array<float, kStripTiles * kTileSums> sums;
  TileCall call{};
  call.cols = w.cols;
  call.unit_stride = floats ? in.floats_stride() : in.quantised_stride();
  call.out = sums.data();
  call.tile_stride = kTileSums;
  for (int64_t token = 0; token < in.n_tokens; token += kernels.max_tokens) {
    const int64_t n = std::min<int64_t>(kernels.max_tokens, in.n_tokens - token);
    const TileFn kernel = kernels.tile_fn(w.type, static_cast<int>(n), in.unit());
    call.x = x + token / in.unit() * call.unit_stride;
    for (int64_t i = first; i < last; i += w.strip_tiles) {
      call.strip = w.strip(i);
      call.n_tiles = w.tiles_of_strip(i);
      call.ahead = ahead != nullptr ? ahead->part(thread) : nullptr;
      kernel(call);
      take(StripSums{sums.data(), i, call.n_tiles, token, n});
    }
  }
}

void drain() {
#if defined(__SSE__)
  _mm_sfence();
#endif
}

/// Rows [0, n_rows) of the sums of a tile, fewer than it has.
void put_some(const float* sums, int64_t n, int64_t n_rows, float* y, int64_t stride, bool accumulate) {
  for (int64_t t = 0; t < n; ++t, sums += kTileRows, y += stride) {
    for (int64_t r = 0; r < n_rows; ++r) {
      y[r] = accumulate ? y[r] + sums[r] : sums[r];
    }
  }
}

/// The maxima of one task's tiles on their way to it, whole lines at a time: a number a token and tile,
/// written alone, took longer than finding it.
class Maxima {
 public:
  explicit Maxima(const MatmulTask& task) : task_(task) {}
  /// Of the next tile, or of the first one with other tokens; sums as in StripSums.
  void take(const float* sums, int64_t token, int64_t n, int64_t tile) {
    if (n_tiles_ > 0 && tile != first_ + n_tiles_) {
      put();
    }
    if (n_tiles_ == 0) {
      first_ = tile;
      token_ = token;
      n_ = n;
    }
    matmul_table(task_.w->impl().isa).largest(sums, n, kLine, lines_.data() + tile % kLine);
    ++n_tiles_;
    if ((tile + 1) % kLine == 0) {
      put();
    }
  }
  void put() {
    const int64_t stride = task_.w->impl().n_tiles();
    for (int64_t t = 0; t < n_; ++t) {
      std::memcpy(task_.maxima + (token_ + t) * stride + first_, lines_.data() + t * kLine + first_ % kLine,
                  static_cast<size_t>(n_tiles_) * sizeof(float));
    }
    n_tiles_ = 0;
  }

 private:
  static constexpr int64_t kLine = 16;
  const MatmulTask& task_;
  alignas(64) std::array<float, kMaxTileTokens * kLine> lines_;  ///< [token][tile % kLine]
  int64_t first_ = 0;
  int64_t n_tiles_ = 0;
  int64_t token_ = 0;
  int64_t n_ = 0;
};

void put_sums(const MatmulTask& task, const StripSums& strip, Maxima& maxima) {
  constexpr uintptr_t kLine = kTileRows * sizeof(float);
  const PackedMatrix::Impl& w = task.w->impl();
  const MatmulTable& kernels = matmul_table(w.isa);
  const bool past_caches = task.maxima != nullptr && !task.accumulate &&
                           reinterpret_cast<uintptr_t>(task.y) % kLine == 0 &&
                           static_cast<uintptr_t>(task.stride) % kTileRows == 0;
  for (int64_t i = 0; i < strip.n_tiles; ++i) {
    const int64_t tile = strip.first_tile + i;
    const int64_t n_rows = std::min(kTileRows, w.rows - tile * kTileRows);
    float* sums = strip.sums + i * kTileSums;
    float* y = task.y + strip.token * task.stride + tile * kTileRows;
    if (n_rows < kTileRows) {
      put_some(sums, strip.n, n_rows, y, task.stride, task.accumulate);
    } else if (past_caches) {
      kernels.put_past_caches(sums, strip.n, y, task.stride);
    } else {
      kernels.put(sums, strip.n, y, task.stride, task.accumulate);
    }
    if (task.maxima != nullptr) {
      for (int64_t t = 0; t < strip.n && n_rows < kTileRows; ++t) {  // rows that are not there are no maximum
        std::fill(sums + t * kTileRows + n_rows, sums + (t + 1) * kTileRows,
                  -std::numeric_limits<float>::infinity());
      }
      maxima.take(sums, strip.token, strip.n, tile);
    }
  }
}

/// The sums of a strip of gate and up, to rows of `stride`.
void put_pair(const StripSums& strip, float* gate, float* up, int64_t stride) {
  const int64_t column = strip.first_tile / 2 * kTileRows;
  for (int64_t i = 0; i < strip.n_tiles; ++i) {
    float* y = (i < kPairTiles ? gate : up) + column + i % kPairTiles * kTileRows;
    for (int64_t t = 0; t < strip.n; ++t) {
      std::memcpy(y + (strip.token + t) * stride, strip.sums + i * kTileSums + t * kTileRows,
                  static_cast<size_t>(kTileRows) * sizeof(float));
    }
  }
}

/// The form that the next product reads, from the sums of a strip of gate and up. Where it is the quantised
/// one, h [.][stride] stays as it is: its lines would come from the other threads, which write them between.
void put_gated(Isa isa, const StripSums& strip, float* h, int64_t stride, const Activations& next) {
  const int64_t column = strip.first_tile / 2 * kTileRows;
  const MatmulTable& kernels = matmul_table(isa);
  Activations::Impl& in = next.mutable_impl();
  for (int64_t i = 0; i < kPairTiles; ++i) {
    float* gate = strip.sums + i * kTileSums;
    swiglu(isa, gate, gate + kPairTiles * kTileSums, strip.n * kTileRows, gate);
    if (in.has_floats) {
      kernels.put(gate, strip.n, h + strip.token * stride + column + i * kTileRows, stride, false);
    }
  }
  if (in.has_floats) {
    next.make_part(strip.token, strip.token + strip.n, column, column + kPairTiles * kTileRows);
    return;
  }
  for (int64_t t = 0; t < strip.n; t += in.unit()) {
    in.quantise_sums(kernels, (strip.token + t) / in.unit(), column, strip.sums + t * kTileRows);
  }
}

/// The work items of one region: whole tiles of one matrix each, matrix after matrix.
class Items {
 public:
  Items(int64_t total_bytes, int64_t n_tokens, int threads)
      : bytes_(std::min(n_tokens <= kMaxTileTokens
                            ? std::max(kStreamBytes, total_bytes / (kItemsOfLargeTask * threads))
                            : kCachedBytes,
                        total_bytes / (kItemsPerThread * threads))) {}
  /// Of an item of w: whole strips.
  int64_t tiles(const PackedMatrix::Impl& w) const {
    const int64_t strip = w.strip_tiles;
    return std::max<int64_t>(1, bytes_ / (strip * w.tile_stride)) * strip;
  }
  int64_t count(const PackedMatrix::Impl& w) const { return divide_up(w.n_tiles(), tiles(w)); }

 private:
  int64_t bytes_;
};

}  // namespace

void matmul(ThreadPool& pool, const Activations& x, std::span<const MatmulTask> tasks, Ahead* ahead) {
  Activations::Impl& in = x.mutable_impl();
  int64_t total_bytes = 0;
  for (const MatmulTask& task : tasks) {
    in.make_form_for(pool, task.w->impl());
    total_bytes += static_cast<int64_t>(task.w->bytes());
  }
  const Items items(total_bytes, in.n_tokens, pool.size());
  int64_t n_items = 0;
  for (const MatmulTask& task : tasks) {
    n_items += items.count(task.w->impl());
  }
  pool.parallel_for(n_items, 1, [&](int64_t begin, int64_t end, int thread) {
    for (int64_t item = begin; item < end; ++item) {
      int64_t at = item;
      for (const MatmulTask& task : tasks) {
        const PackedMatrix::Impl& w = task.w->impl();
        if (at < items.count(w)) {
          const int64_t first = at * items.tiles(w);
          Maxima maxima(task);
          run_tiles(w, in, first, std::min(first + items.tiles(w), w.n_tiles()), ahead, thread,
                    [&](const StripSums& strip) { put_sums(task, strip, maxima); });
          if (task.maxima != nullptr) {
            maxima.put();
            drain();
          }
          break;
        }
        at -= items.count(w);
      }
    }
  });
}

void gated_matmul(ThreadPool& pool, const Activations& x, const PackedMatrix& gate_up, float* h, float* up,
                  const Activations& next, Ahead* ahead) {
  Activations::Impl& in = x.mutable_impl();
  const PackedMatrix::Impl& w = gate_up.impl();
  const int64_t rows = w.rows / 2;
  in.make_form_for(pool, w);
  const Items items(static_cast<int64_t>(w.bytes.size()), in.n_tokens, pool.size());
  const bool at_once = in.n_tokens >= kGatedAtOnceTokens;
  const auto gate = [&](int64_t first_tile, int64_t last_tile) {
    const int64_t first = first_tile / 2 * kTileRows;
    const int64_t last = last_tile / 2 * kTileRows;
    for (int64_t t = 0; t < in.n_tokens; ++t) {
      float* at = h + t * rows + first;
      swiglu(w.isa, at, up + t * rows + first, last - first, at);
    }
    next.make_part(0, in.n_tokens, first, last);
  };
  pool.parallel_items(items.count(w), 1, [&](ThreadPool::Items& work, int thread) {
    // Tiles whose sums wait for SwiGLU: what this thread did last, one range.
    int64_t waiting = 0;
    int64_t done = 0;
    int64_t begin = 0;
    int64_t end = 0;
    while (work.next(begin, end)) {
      const int64_t first = begin * items.tiles(w);
      if (first != done) {
        gate(waiting, done);
        waiting = first;
      }
      done = std::min(end * items.tiles(w), w.n_tiles());
      run_tiles(w, in, first, done, ahead, thread, [&](const StripSums& strip) {
        if (at_once) {
          put_gated(w.isa, strip, h, rows, next);
        } else {
          put_pair(strip, h, up, rows);
        }
      });
      if (at_once) {
        waiting = done;
      }
    }
    gate(waiting, done);
  });
}

}  // namespace fl::cpu
