#include "kernels/attention.h"

#include <gtest/gtest.h>

#include "tests/kernels/isas.h"
#include "tests/support/guarded.h"
#include "tests/support/tolerances.h"

namespace fl {
namespace {

using test::Guarded;

/// One sequence in a shuffled cache; q and gate interleaved per head as the model has them.
struct Problem {
  Problem(const AttentionShape& s, int64_t keys, int64_t tokens, unsigned seed)
      : shape(s),
        n_keys(keys),
        n_tokens(tokens),
        qg(tokens * s.n_heads * 2 * s.head_dim),
        k(keys * s.n_kv_heads * s.head_dim),
        v(keys * s.n_kv_heads * s.head_dim) {
    std::mt19937 random(seed);
    qg.fill(random, -2, 2);
    k.fill(random, -2, 2);
    v.fill(random, -2, 2);
    const auto n_blocks = static_cast<int32_t>((keys + kKvBlock - 1) / kKvBlock);
    for (int32_t i = 0; i < n_blocks; ++i) {
      blocks.push_back(n_blocks - i);  // block 0 stays poisoned
    }
  }

  std::vector<double> reference() const {
    const int64_t hd = shape.head_dim;
    std::vector<double> q(static_cast<size_t>(n_tokens * shape.n_heads * hd));
    std::vector<double> gate(q.size());
    for (int64_t i = 0; i < n_tokens * shape.n_heads; ++i) {
      for (int64_t d = 0; d < hd; ++d) {
        q[static_cast<size_t>(i * hd + d)] = qg[i * 2 * hd + d];
        gate[static_cast<size_t>(i * hd + d)] = qg[i * 2 * hd + hd + d];
      }
    }
    std::vector<double> out(q.size());
    ref::attention(shape, q.data(), gate.data(), test::to_double(k, k.size()).data(),
                   test::to_double(v, v.size()).data(), n_tokens, n_keys, out.data());
    return out;
  }

  AttentionInput input() const {
    AttentionInput in;
    in.q = qg.data();
    in.gate = qg.data() + shape.head_dim;
    in.stride = shape.n_heads * 2 * shape.head_dim;
    in.head_stride = 2 * shape.head_dim;
    in.n_tokens = n_tokens;
    in.first_index = n_keys - n_tokens;
    in.blocks = blocks;
    return in;
  }

  /// Stores all keys, then runs tiles of `tile` queries.
  std::vector<float> run(cpu::Isa isa, DType type_k, DType type_v, int64_t tile) const {
    const int64_t block_heads = static_cast<int64_t>(blocks.size() + 1) * shape.n_kv_heads;
    Guarded<std::byte> cache_k(block_heads * kv_head_bytes(type_k, shape.head_dim));
    Guarded<std::byte> cache_v(block_heads * kv_head_bytes(type_v, shape.head_dim));
    const KvCache cache{cache_k.data(), cache_v.data(), type_k, type_v};
    const int64_t width = shape.n_kv_heads * shape.head_dim;
    for (int64_t j = 0; j < n_keys; ++j) {
      for (int64_t g = 0; g < shape.n_kv_heads; ++g) {
        const int64_t at = j * width + g * shape.head_dim;
        cpu::kv_store(isa, shape, cache, blocks, j, g, k.data() + at, v.data() + at);
      }
    }
    const int64_t out_width = shape.n_heads * shape.head_dim;
    Guarded<float> out(n_tokens * out_width);
    Guarded<float> scratch(cpu::attention_scratch(shape));
    for (int64_t first = 0; first < n_tokens; first += tile) {
      for (int64_t g = 0; g < shape.n_kv_heads; ++g) {
        scratch.poison();
        cpu::attention(isa, shape, cache, input(), g, first, std::min(tile, n_tokens - first), out.data(),
                       out_width, scratch.data());
      }
    }
    EXPECT_TRUE(out.intact() && scratch.intact() && cache_k.intact() && cache_v.intact());
    return {out.data(), out.data() + out.size()};
  }

  AttentionShape shape;
  int64_t n_keys;
  int64_t n_tokens;
  Guarded<float> qg, k, v;
  std::vector<int32_t> blocks;
};

struct TypeCase {
  DType type;
  double tolerance;
};

TEST(Attention, MatchesReferenceForEveryCacheType) {
  const std::vector<TypeCase> types{{DType::f32, test::kFloatReorder},
                                    {DType::f16, test::kHalfKv},
                                    {DType::bf16, 8 * test::kHalfKv},
                                    {DType::q8_0, test::kQ8Kv}};
  for (const cpu::Isa isa : test::runnable_isas()) {
    for (const TypeCase& type : types) {
      for (const auto& [keys, tokens] :
           {std::pair{1, 1}, {5, 5}, {64, 1}, {65, 2}, {130, 130}, {200, 17}, {300, 1}}) {
        for (const AttentionShape& shape :
             {AttentionShape{6, 2, 32, 0.18F}, AttentionShape{4, 1, 256, 1.0F / 16}}) {
          const Problem p(shape, keys, tokens, 40);
          const std::vector<double> want = p.reference();
          const std::vector<float> got = p.run(isa, type.type, type.type, cpu::kQueryTile);
          EXPECT_LT(test::relative_error(got, want, static_cast<int64_t>(want.size())), type.tolerance)
              << cpu::isa_name(isa) << " " << dtype_info(type.type).name << " keys " << keys << " tokens "
              << tokens << " head_dim " << shape.head_dim;
        }
      }
    }
  }
}

TEST(Attention, OddHeadDims) {
  for (const cpu::Isa isa : test::runnable_isas()) {
    for (const int64_t head_dim : {2, 10, 40, 72}) {
      for (const DType type : {DType::f32, DType::f16, DType::bf16}) {
        const Problem p({3, 3, head_dim, 0.2F}, 70, 9, 41);
        const auto want = p.reference();
        EXPECT_LT(test::relative_error(p.run(isa, type, DType::f16, cpu::kQueryTile), want,
                                       static_cast<int64_t>(want.size())),
                  8 * test::kHalfKv);
      }
    }
  }
}

// A query's result has the same bits whatever tile it is in.
TEST(Attention, TilesDoNotMatter) {
  for (const cpu::Isa isa : test::runnable_isas()) {
    for (const DType type : {DType::f32, DType::f16, DType::bf16, DType::q8_0}) {
      const Problem p({4, 2, 64, 0.125F}, 150, 100, 42);
      const auto whole = p.run(isa, type, type, cpu::kQueryTile);
      EXPECT_EQ(whole, p.run(isa, type, type, 1));
      EXPECT_EQ(whole, p.run(isa, type, type, 7));
    }
  }
}

TEST(Attention, LargeScoresDoNotOverflow) {
  for (const cpu::Isa isa : test::runnable_isas()) {
    Problem p({2, 1, 32, 100.0F}, 130, 3, 43);
    for (const float value : p.run(isa, DType::f32, DType::f32, cpu::kQueryTile)) {
      ASSERT_TRUE(std::isfinite(value));
    }
    p.k[0] = 1e30F;
    p.v[0] = 1e30F;
    for (const float value : p.run(isa, DType::f16, DType::f16, cpu::kQueryTile)) {
      ASSERT_TRUE(std::isfinite(value));
    }
  }
}

TEST(Attention, CacheTypes) {
  EXPECT_TRUE(kv_type_supported(DType::q8_0, 64));
  EXPECT_FALSE(kv_type_supported(DType::q8_0, 40));
  EXPECT_FALSE(kv_type_supported(DType::q4_k, 256));
  EXPECT_EQ(kv_head_bytes(DType::q8_0, 256), 64 * 272);
}

}  // namespace
}  // namespace fl
