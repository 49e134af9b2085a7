// Attention on the device against ref/: norm, rotation and cache writes included, alone and in company.
#include <algorithm>
#include <numeric>

#include "kernels/cuda/attention.h"
#include "kernels/rms_norm.h"
#include "kernels/rope.h"
#include "tests/support/cases.h"
#include "tests/support/guarded.h"
#include "tests/support/guarded_activations.h"
#include "tests/support/tolerances.h"

namespace fl {
namespace {

using cuda::AttentionTile;
using cuda::AttentionToken;
using test::DeviceActivations;
using test::DeviceArray;
using test::random_floats;

constexpr float kEps = 1e-6F;

struct Case {
  AttentionShape shape;
  DType type_k, type_v;
};

std::string describe(const Case& c, int64_t n) {
  return std::to_string(c.shape.n_heads) + "/" + std::to_string(c.shape.n_kv_heads) + " heads of " +
         std::to_string(c.shape.head_dim) + ", " + std::string(dtype_info(c.type_k).name) + "/" +
         std::string(dtype_info(c.type_v).name) + ", " + std::to_string(n) + " tokens";
}

/// What the cache's type costs: of one stored key or value, relative L2.
double cache_tolerance(DType type) {
  return type == DType::q8_0 ? test::kQ8Kv : type == DType::bf16 ? test::kBfloatKv : test::kHalfKv;
}

/// Given what the cache holds, queries, probabilities and the result are f16 in all kernels but the general
/// one.
constexpr double kTolerance = test::kHalfKv + test::kHalfActivations;

/// What a head of a block says about a token: the layout of kernels/cuda/attention.h in plain words.
std::vector<double> cached(const std::vector<std::byte>& cache, DType type, int64_t head_dim, int64_t at,
                           int64_t token, bool keys) {
  std::vector<double> out;
  for (int64_t d = 0; d < head_dim; ++d) {
    const int64_t i = keys ? token * head_dim + d : d * kKvBlock + token;
    const auto half = [&](int64_t byte) {
      uint16_t bits = 0;
      std::memcpy(&bits, cache.data() + at + byte, sizeof bits);
      return bits;
    };
    if (type == DType::f32) {
      float value = 0;
      std::memcpy(&value, cache.data() + at + 4 * i, sizeof value);
      out.push_back(static_cast<double>(value));
    } else if (type == DType::f16) {
      out.push_back(static_cast<double>(f16_to_float(half(2 * i))));
    } else if (type == DType::bf16) {
      out.push_back(static_cast<double>(bf16_to_float(half(2 * i))));
    } else {
      // 64 dims of a key: 8 of the first 32, the same 8 of the second, then the next 8 of each.
      const int64_t place = head_dim % 64 != 0 ? d : d / 64 * 64 + d % 32 / 8 * 16 + d % 64 / 32 * 8 + d % 8;
      const int64_t byte = keys ? token * head_dim + place : i;
      const int64_t scale = keys ? token * (head_dim / 32) + d / 32 : d / 32 * kKvBlock + token;
      const auto q = static_cast<int8_t>(cache[static_cast<size_t>(at + byte)]);
      out.push_back(q * static_cast<double>(f16_to_float(half(kKvBlock * head_dim + 2 * scale))));
    }
  }
  return out;
}

// One sequence of random tokens: its projections on the device, its blocks scattered over a cache full of
// NaN, and what attention should answer for each token.
struct World {
  World(const Case& c, int32_t n, uint32_t seed)
      : shape(c.shape),
        n_tokens(n),
        random(seed),
        q_width(2 * shape.n_heads * shape.head_dim),
        kv_width(shape.n_kv_heads * shape.head_dim),
        q(random_floats(random, n * q_width, -1.5F, 1.5F)),
        k(random_floats(random, n * kv_width, -1.5F, 1.5F)),
        v(random_floats(random, n * kv_width, -1.5F, 1.5F)),
        q_norm(random_floats(random, shape.head_dim, 0.5F, 2.0F)),
        k_norm(random_floats(random, shape.head_dim, 0.5F, 2.0F)),
        rope(make_rope_table(std::min<int64_t>(shape.head_dim / 8, 32), 1e7F,
                             {static_cast<int32_t>(std::min<int64_t>(shape.head_dim / 8, 32)), 0, 0}, 1.0F,
                             0)),
        n_blocks((n + 63) / 64 + 3),
        cache_k(n_blocks * shape.n_kv_heads * kv_head_bytes(c.type_k, shape.head_dim)),
        cache_v(n_blocks * shape.n_kv_heads * kv_head_bytes(c.type_v, shape.head_dim)),
        d_q(q),
        d_raw_q(q),
        d_k(k),
        d_v(v),
        d_q_norm(q_norm),
        d_k_norm(k_norm),
        d_blocks(std::vector<int32_t>(static_cast<size_t>(n_blocks))),
        angles(n * 2 * rope.pairs()) {
    cache = {cache_k.data(), cache_v.data(), c.type_k, c.type_v};
    blocks.resize(static_cast<size_t>(n_blocks));
    std::iota(blocks.begin(), blocks.end(), 0);
    std::shuffle(blocks.begin(), blocks.end(), random);
    d_blocks.upload(blocks);
    prepare(n_tokens);
    stored_k = cache_k.download();
    stored_v = cache_v.download();
    reference();
  }

  // The first n tokens; the others are padding.
  void prepare(int32_t n) {
    std::vector<int32_t> positions;
    std::vector<AttentionToken> tokens;
    for (int32_t i = 0; i < n_tokens; ++i) {
      positions.insert(positions.end(), 3, i);
      tokens.push_back({i < n ? blocks[static_cast<size_t>(i / 64)] * 64 + i % 64 : -1});
    }
    DeviceArray<int32_t> d_positions(positions);
    DeviceArray<AttentionToken> d_tokens(tokens);
    DeviceArray<float> frequency(rope.frequency);
    DeviceArray<uint8_t> axis(rope.axis);
    cuda::rope_angles({}, frequency.data(), axis.data(), rope.magnitude, static_cast<int>(rope.pairs()),
                      d_positions.data(), n_tokens, angles.data());
    cuda::PrepareAttention in = projections();
    in.queries = {d_q.data(), q_width};
    in.tokens = d_tokens.data();
    in.n_tokens = n_tokens;
    cuda::prepare_attention({}, shape, cache, in);
    cuda::check(cudaDeviceSynchronize(), "prepare_attention");
    EXPECT_TRUE(cache_k.intact() && cache_v.intact() && d_q.intact() && angles.intact());
  }

  // As the products leave them: what attention_decode takes.
  cuda::PrepareAttention projections() const {
    cuda::PrepareAttention in;
    in.queries = {d_raw_q.data(), q_width};
    in.k = d_k.data();
    in.v = d_v.data();
    in.kv_stride = kv_width;
    in.q_norm = d_q_norm.data();
    in.k_norm = d_k_norm.data();
    in.eps = kEps;
    in.cos_sin = angles.data();
    in.pairs = static_cast<int>(rope.pairs());
    return in;
  }

  // The cache as it is before a step whose new token is the last one.
  void forget_last() {
    cache_k.poison();
    cache_v.poison();
    d_q.upload(q);
    prepare(n_tokens - 1);
  }
  bool stored_as_prepared() const { return cache_k.download() == stored_k && cache_v.download() == stored_v; }

  std::vector<double> turned(const std::vector<float>& x, int64_t at, const std::vector<float>& w,
                             int32_t position) const {
    const int64_t hd = shape.head_dim;
    const auto in = test::to_double(std::vector<float>(x.begin() + at, x.begin() + at + hd), hd);
    std::vector<double> out(static_cast<size_t>(hd));
    ref::rms_norm(in.data(), test::to_double(w, hd).data(), kEps, hd, out.data());
    ref::rope(rope, {position, position, position}, out.data());
    return out;
  }

  void reference() {
    const int64_t hd = shape.head_dim;
    std::vector<double> qs, gates, ks, vs, exact_k;
    for (int32_t t = 0; t < n_tokens; ++t) {
      for (int64_t h = 0; h < shape.n_heads; ++h) {
        const int64_t at = t * q_width + h * 2 * hd;
        const auto head = turned(q, at, q_norm, t);
        qs.insert(qs.end(), head.begin(), head.end());
        gates.insert(gates.end(), q.begin() + at + hd, q.begin() + at + 2 * hd);
      }
      for (int64_t g = 0; g < shape.n_kv_heads; ++g) {
        const auto head = turned(k, t * kv_width + g * hd, k_norm, t);
        exact_k.insert(exact_k.end(), head.begin(), head.end());
        const int64_t block_head = blocks[static_cast<size_t>(t / 64)] * shape.n_kv_heads + g;
        const auto key =
            cached(stored_k, cache.type_k, hd, block_head * kv_head_bytes(cache.type_k, hd), t % 64, true);
        const auto value =
            cached(stored_v, cache.type_v, hd, block_head * kv_head_bytes(cache.type_v, hd), t % 64, false);
        ks.insert(ks.end(), key.begin(), key.end());
        vs.insert(vs.end(), value.begin(), value.end());
      }
    }
    EXPECT_LT(test::relative_error(ks, exact_k, n_tokens * kv_width), cache_tolerance(cache.type_k));
    EXPECT_LT(test::relative_error(vs, v, n_tokens * kv_width), cache_tolerance(cache.type_v));
    // The last few tokens only: the reference is slow.
    n_checked = std::min(n_tokens, 70);
    const int64_t first = n_tokens - n_checked;
    want.resize(static_cast<size_t>(n_checked * shape.n_heads * hd));
    const int64_t from = first * shape.n_heads * hd;
    ref::attention(shape, qs.data() + from, gates.data() + from, ks.data(), vs.data(), n_checked, n_tokens,
                   want.data());
  }

  int64_t width() const { return shape.n_heads * shape.head_dim; }

  AttentionShape shape;
  int32_t n_tokens;
  std::mt19937 random;
  int64_t q_width, kv_width;
  std::vector<float> q, k, v, q_norm, k_norm;
  RopeTable rope;
  int32_t n_blocks;
  DeviceArray<std::byte> cache_k, cache_v;
  DeviceArray<float> d_q, d_raw_q, d_k, d_v, d_q_norm, d_k_norm;
  DeviceArray<int32_t> d_blocks;
  DeviceArray<float> angles;
  std::vector<int32_t> blocks;
  std::vector<std::byte> stored_k, stored_v;  ///< the cache with all tokens
  KvCache cache;
  int32_t n_checked = 0;
  std::vector<double> want;
};

class CudaAttention : public test::DeviceTest {};

AttentionShape shape_of(int64_t heads, int64_t kv_heads, int64_t head_dim) {
  return {heads, kv_heads, head_dim, 1.0F / std::sqrt(static_cast<float>(head_dim))};
}

const std::vector<Case> kCases{
    {shape_of(6, 1, 256), DType::f16, DType::f16},   {shape_of(12, 2, 256), DType::q8_0, DType::q8_0},
    {shape_of(3, 1, 256), DType::q8_0, DType::q8_0}, {shape_of(2, 1, 256), DType::q8_0, DType::f16},
    {shape_of(8, 1, 256), DType::f16, DType::q8_0},  {shape_of(4, 4, 256), DType::f16, DType::f16},
    {shape_of(6, 2, 256), DType::f32, DType::f32},   {shape_of(4, 2, 32), DType::f16, DType::q8_0},
    {shape_of(4, 1, 64), DType::q8_0, DType::f32},   {shape_of(4, 2, 48), DType::bf16, DType::bf16},
    {shape_of(24, 4, 256), DType::q8_0, DType::q8_0}};

// All tokens at once, and the last few one by one; each token's rows are compared.
TEST_F(CudaAttention, AgreesWithTheReference) {
  for (const Case& c : kCases) {
    for (const int32_t n : test::cases({1, 7, 63, 64, 65, 129, 400}, {70})) {
      World w(c, n, static_cast<uint32_t>(n));
      const std::string where = describe(c, n);
      const bool fuses = cuda::attention_fuses(c.shape, w.cache);
      std::vector<AttentionTile> tiles;
      for (int32_t at = 0; at < n; at += 64) {
        tiles.push_back({at, std::min(64, n - at), at, 0});
      }
      std::vector<AttentionTile> single;
      const int32_t n_single = std::min(n, 5);
      for (int32_t i = n - n_single; i < n; ++i) {
        single.push_back({i, 1, i, 0});
      }
      single.insert(single.begin(), AttentionTile{});
      DeviceArray<AttentionTile> d_tiles(tiles);
      DeviceArray<AttentionTile> d_single(single);
      const auto n_tiles = static_cast<int>(tiles.size());
      const auto n_singles = static_cast<int>(single.size());
      const cuda::AttentionQueries queries{w.d_q.data(), w.q_width};
      const int64_t from = (n - w.n_checked) * w.width();
      const auto compare = [&](const std::vector<float>& got, int32_t n_rows, const std::string& how) {
        const int64_t skip = (w.n_checked - n_rows) * w.width();
        const std::vector<float> rows(got.begin() + from + skip, got.begin() + n * w.width());
        const std::vector<double> want(w.want.begin() + skip, w.want.end());
        EXPECT_LT(test::relative_error(rows, want, n_rows * w.width()), kTolerance) << where << ", " << how;
      };
      if (fuses) {
        DeviceActivations out(n, static_cast<int32_t>(w.width()));
        cuda::attention_prefill({}, c.shape, w.cache, queries, d_tiles.data(), n_tiles, w.d_blocks.data(),
                                out.value());
        compare(out.download(), w.n_checked, "prefill");
        EXPECT_TRUE(out.intact());

        DeviceArray<float> partial(cuda::attention_partial_floats(c.shape, n_singles));
        DeviceArray<int32_t> arrived(
            std::vector<int32_t>(static_cast<size_t>(n_singles * c.shape.n_kv_heads), 0));
        for (int repeat = 0; repeat < 2; ++repeat) {  // the counters are left as they were found
          // Tiles before the last store again what is there.
          w.forget_last();
          DeviceActivations steps(n, static_cast<int32_t>(w.width()));
          cuda::attention_decode({}, c.shape, w.cache, w.projections(), d_single.data(), n_singles,
                                 w.d_blocks.data(), {partial.data(), arrived.data()}, steps.value());
          compare(steps.download(), n_single, "decode");
          EXPECT_TRUE(steps.intact() && partial.intact() && w.cache_k.intact() && w.cache_v.intact());
          EXPECT_TRUE(w.stored_as_prepared()) << where;
        }
      }
      w.d_q.upload(w.q);
      w.prepare(n);
      DeviceArray<float> general(n * w.width());
      cuda::attention_general({}, c.shape, w.cache, queries, d_tiles.data(), n_tiles, w.d_blocks.data(),
                              general.data());
      compare(general.download(), w.n_checked, "general");
      EXPECT_TRUE(general.intact());
    }
  }
}

TEST_F(CudaAttention, LongContextsAreCutAndJoined) {
  // More blocks than three for each of the 32 runs: a team takes a second one. The last run is short.
  const Case c{shape_of(6, 1, 256), DType::q8_0, DType::q8_0};
  World w(c, 6500, 9);
  std::vector<AttentionTile> single{{6499, 1, 6499, 0}, {6447, 1, 6447, 0}};
  DeviceArray<AttentionTile> tiles(single);
  DeviceArray<float> partial(cuda::attention_partial_floats(c.shape, 2));
  DeviceArray<int32_t> arrived(std::vector<int32_t>(2, 0));
  DeviceActivations out(6500, static_cast<int32_t>(w.width()));
  const auto step = [&](int n) {
    cuda::attention_decode({}, c.shape, w.cache, w.projections(), tiles.data(), n, w.d_blocks.data(),
                           {partial.data(), arrived.data()}, out.value());
    return out.download();
  };
  const std::vector<float> both = step(2);
  for (const int32_t token : {6499, 6447}) {
    const std::vector<float> got(both.begin() + token * w.width(), both.begin() + (token + 1) * w.width());
    const int64_t at = (token - (6500 - w.n_checked)) * w.width();
    const std::vector<double> want(w.want.begin() + at, w.want.begin() + at + w.width());
    EXPECT_LT(test::relative_error(got, want, w.width()), kTolerance) << token;
  }
  const std::vector<float> alone = step(1);
  EXPECT_TRUE(std::equal(alone.begin() + 6499 * w.width(), alone.end(), both.begin() + 6499 * w.width()))
      << "a sequence's bits depend on its neighbour";
}

TEST_F(CudaAttention, MoreSequencesThanTheGridHasBlocks) {
  // 80 short ones and a long one, of 4 KV heads: every block takes several items, some of padding between.
  const Case c{shape_of(24, 4, 256), DType::q8_0, DType::q8_0};
  World w(c, 900, 5);
  std::vector<AttentionTile> single;
  for (int32_t i = 0; i < 80; ++i) {
    single.push_back({11 * i + 3, 1, 11 * i + 3, 0});
    if (i % 7 == 0) {
      single.push_back({});
    }
  }
  single.push_back({899, 1, 899, 0});
  const auto n = static_cast<int>(single.size());
  DeviceArray<AttentionTile> tiles(single);
  DeviceArray<float> partial(cuda::attention_partial_floats(c.shape, n));
  DeviceArray<int32_t> arrived(std::vector<int32_t>(static_cast<size_t>(n * c.shape.n_kv_heads), 0));
  const auto step = [&](const AttentionTile* first, int count) {
    DeviceActivations out(900, static_cast<int32_t>(w.width()));
    cuda::attention_decode({}, c.shape, w.cache, w.projections(), first, count, w.d_blocks.data(),
                           {partial.data(), arrived.data()}, out.value());
    EXPECT_TRUE(out.intact() && partial.intact());
    return out.download();
  };
  w.forget_last();
  const std::vector<float> together = step(tiles.data(), n);
  EXPECT_TRUE(w.stored_as_prepared());
  for (int i = 0; i < n; ++i) {
    if (single[static_cast<size_t>(i)].n_tokens > 0) {
      const int64_t at = single[static_cast<size_t>(i)].first * w.width();
      const std::vector<float> alone = step(tiles.data() + i, 1);
      EXPECT_TRUE(std::equal(alone.begin() + at, alone.begin() + at + w.width(), together.begin() + at)) << i;
    }
  }
  EXPECT_EQ(arrived.download(), std::vector<int32_t>(arrived.size(), 0));
  const std::vector<float> last(together.begin() + 899 * w.width(), together.begin() + 900 * w.width());
  const std::vector<double> want(w.want.end() - w.width(), w.want.end());
  EXPECT_LT(test::relative_error(last, want, w.width()), kTolerance);
}

TEST_F(CudaAttention, AQueryDoesNotDependOnItsTile) {
  for (const DType type : {DType::f16, DType::q8_0}) {
    const Case c{shape_of(6, 1, 256), type, type};
    World w(c, 300, 4);
    const auto run = [&](const std::vector<AttentionTile>& tiles) {
      DeviceArray<AttentionTile> d_tiles(tiles);
      DeviceActivations out(300, static_cast<int32_t>(w.width()));
      cuda::attention_prefill({}, c.shape, w.cache, {w.d_q.data(), w.q_width}, d_tiles.data(),
                              static_cast<int>(tiles.size()), w.d_blocks.data(), out.value());
      return out.download();
    };
    const auto whole =
        run({{0, 64, 0, 0}, {64, 64, 64, 0}, {128, 64, 128, 0}, {192, 64, 192, 0}, {256, 44, 256, 0}});
    const auto cut = run({{0, 30, 0, 0},
                          {30, 64, 30, 0},
                          {94, 64, 94, 0},
                          {158, 64, 158, 0},
                          {222, 64, 222, 0},
                          {286, 14, 286, 0}});
    EXPECT_EQ(whole, cut);
  }
}

}  // namespace
}  // namespace fl
