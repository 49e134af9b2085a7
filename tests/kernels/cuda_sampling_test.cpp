// Sampling on the device against the steps of model/batch.h in plain doubles.
#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "kernels/cuda/sampling.h"
#include "tests/support/cases.h"
#include "tests/support/guarded_activations.h"

namespace fl {
namespace {

using cuda::SamplingRow;
using test::DeviceArray;

// The token, or -1; `margin` gets how far the draw was from a neighbouring token, as a share of the total
// weight.
int32_t oracle(std::vector<float> logits, const SamplingRow& row, double& margin) {
  margin = 1;
  for (int32_t i = 0; i < row.n_bias; ++i) {
    float& l = logits[static_cast<size_t>(row.bias[i].token)];
    l = std::min(l + row.bias[i].add, std::max(l, cuda::kLargestLogit));
  }
  std::vector<int32_t> ids(logits.size());
  std::iota(ids.begin(), ids.end(), 0);
  for (const float l : logits) {
    if (std::isnan(l)) {
      return -1;
    }
  }
  std::stable_sort(ids.begin(), ids.end(), [&](int32_t a, int32_t b) {
    return logits[static_cast<size_t>(a)] > logits[static_cast<size_t>(b)];
  });
  const auto l = [&](size_t i) { return static_cast<double>(logits[static_cast<size_t>(ids[i])]); };
  if (!std::isfinite(l(0))) {
    return -1;
  }
  size_t n = std::min(static_cast<size_t>(row.top_k), ids.size());
  if (row.top_p < 1) {
    double total = 0;
    for (size_t i = 0; i < n; ++i) {
      total += std::exp(l(i) - l(0));
    }
    double sum = 0;
    size_t kept = 0;
    while (kept < n) {
      sum += std::exp(l(kept++) - l(0));
      margin = std::min(margin, std::abs(sum / total - static_cast<double>(row.top_p)));
      if (sum >= static_cast<double>(row.top_p) * total) {
        break;
      }
    }
    n = kept;
  }
  if (row.min_p > 0) {
    while (n > 1 && l(n - 1) < l(0) + std::log(static_cast<double>(row.min_p))) {
      --n;
    }
  }
  std::vector<double> w;
  for (size_t i = 0; i < n; ++i) {
    w.push_back(std::exp((l(i) - l(0)) / static_cast<double>(row.temperature)));
  }
  const double total = std::accumulate(w.begin(), w.end(), 0.0);
  double sum = 0;
  for (size_t i = 0; i < n; ++i) {
    sum += w[i];
    margin = std::min(margin, std::abs(sum / total - static_cast<double>(row.uniform)));
    if (sum > static_cast<double>(row.uniform) * total) {
      return ids[i];
    }
  }
  return ids[n - 1];
}

class CudaSampling : public test::DeviceTest {
 protected:
  static std::vector<int32_t> sample(const std::vector<float>& logits, int32_t n_vocab,
                                     const std::vector<SamplingRow>& rows) {
    DeviceArray<float> d_logits(logits);
    DeviceArray<SamplingRow> d_rows(rows);
    const auto n = static_cast<int>(rows.size());
    DeviceArray<cuda::SamplingCandidate> scratch(cuda::sampling_scratch(n));
    DeviceArray<int32_t> sampled(n);
    cuda::sample({}, d_logits.data(), n_vocab, d_rows.data(), n, scratch.data(), sampled.data());
    const std::vector<int32_t> got = sampled.download();
    EXPECT_TRUE(sampled.intact() && scratch.intact());
    return got;
  }
};

TEST_F(CudaSampling, AgreesWithTheOracle) {
  std::mt19937 random(11);
  std::uniform_real_distribution<float> unit(0.0F, 1.0F);
  for (const int32_t n_vocab : test::cases({3, 200, 2048, 248320}, {3, 5000})) {
    const int32_t n_rows = 24;
    std::vector<float> logits;
    std::vector<SamplingRow> rows;
    for (int32_t r = 0; r < n_rows; ++r) {
      // Coarse logits have many ties.
      std::normal_distribution<float> draw(0.0F, r % 3 == 0 ? 8.0F : 3.0F);
      for (int32_t i = 0; i < n_vocab; ++i) {
        logits.push_back(r % 4 == 1 ? std::round(draw(random)) : draw(random));
      }
      const int32_t ks[] = {1, 2, 20, 40, 64, 100, 127, 128};
      rows.push_back({r, ks[r % 8], r % 5 < 3 ? 0.3F + 0.65F * unit(random) : 1.0F, r % 7 < 3 ? 0.05F : 0.0F,
                      0.2F + unit(random), unit(random)});
    }
    rows[3].logits_row = 7;
    // Every third row: its best is forbidden, then some are changed, one twice.
    for (int32_t r = 1; r < n_rows; r += 3) {
      SamplingRow& row = rows[static_cast<size_t>(r)];
      const auto begin = logits.begin() + int64_t{row.logits_row} * n_vocab;
      const auto best = static_cast<int32_t>(std::max_element(begin, begin + n_vocab) - begin);
      row.bias[row.n_bias++] = {best, -std::numeric_limits<float>::infinity()};
      std::uniform_int_distribution<int32_t> any(0, n_vocab - 1);
      for (const int32_t most = 2 + r % 2 * (cuda::kMaxSamplingBias - 2); row.n_bias < most;) {
        row.bias[row.n_bias++] = {any(random), 12.0F * unit(random) - 4.0F};
      }
      row.bias[row.n_bias - 1].token = row.bias[1].token;
    }
    const std::vector<int32_t> got = sample(logits, n_vocab, rows);
    for (int32_t r = 0; r < n_rows; ++r) {
      const auto begin = logits.begin() + int64_t{rows[static_cast<size_t>(r)].logits_row} * n_vocab;
      double margin = 0;
      const int32_t want = oracle({begin, begin + n_vocab}, rows[static_cast<size_t>(r)], margin);
      if (margin > 1e-9) {
        EXPECT_EQ(got[static_cast<size_t>(r)], want) << "vocabulary " << n_vocab << ", row " << r;
      }
    }
  }
}

TEST_F(CudaSampling, RowsThatAreNoNumbersGiveNoToken) {
  constexpr int32_t kVocab = 5000;
  const float inf = std::numeric_limits<float>::infinity();
  const float nan = std::numeric_limits<float>::quiet_NaN();
  std::vector<float> logits(6 * kVocab, 0.5F);
  logits[0 * kVocab + 4321] = nan;
  logits[1 * kVocab + 17] = inf;
  std::fill_n(logits.begin() + 2 * kVocab, kVocab, -inf);
  std::fill_n(logits.begin() + 3 * kVocab, kVocab, -inf);
  logits[3 * kVocab + 99] = 2.0F;
  logits[5 * kVocab + 4999] = 3.0F;
  for (const int32_t k : {1, 40}) {
    std::vector<SamplingRow> rows;
    for (int32_t r = 0; r < 6; ++r) {
      rows.push_back({r, r == 4 ? 0 : k, 0.9F, 0.0F, 0.7F, 0.999F});
    }
    const std::vector<int32_t> got = sample(logits, kVocab, rows);
    EXPECT_EQ(got[0], -1) << "a NaN";
    EXPECT_EQ(got[1], -1) << "infinity";
    EXPECT_EQ(got[2], -1) << "nothing possible";
    EXPECT_EQ(got[3], 99) << "one possible";
    EXPECT_EQ(got[4], -1) << "not asked for";
    rows.assign(4, {1, k, 0.9F, 0.0F, 0.7F, 0.999F, 1, {{17, 0.0F}}});
    rows[0].logits_row = 0;
    rows[0].bias[0] = {4321, -inf};
    rows[1].bias[0] = {17, -inf};
    rows[2] = {3, k, 0.9F, 0.0F, 0.7F, 0.999F, 1, {{99, -inf}}};
    rows[3] = {2, k, 0.9F, 0.0F, 0.7F, 0.999F, 1, {{5, 1e30F}}};
    const std::vector<int32_t> biased = sample(logits, kVocab, rows);
    EXPECT_EQ(biased[0], -1) << "a NaN is none the less when it is forbidden";
    EXPECT_EQ(biased[1], -1) << "infinity forbidden";
    EXPECT_EQ(biased[2], -1) << "the only one forbidden";
    EXPECT_EQ(biased[3], -1) << "what is impossible stays so";
    if (k == 1) {
      EXPECT_EQ(got[5], 4999);
    }
  }
}

TEST_F(CudaSampling, TheLowestIdWinsAmongEquals) {
  std::vector<float> logits(100000, 1.0F);
  EXPECT_EQ(sample(logits, 100000, {{0, 1, 1.0F, 0.0F, 1.0F, 0.0F}})[0], 0);
  const float inf = std::numeric_limits<float>::infinity();
  EXPECT_EQ(
      sample(logits, 100000, {{0, 1, 1.0F, 0.0F, 1.0F, 0.0F, 3, {{0, -inf}, {1, -1.0F}, {2, 1e38F}}}})[0], 2);
  logits[70000] = logits[90000] = 2.0F;
  EXPECT_EQ(sample(logits, 100000, {{0, 1, 1.0F, 0.0F, 1.0F, 0.0F}})[0], 70000);
  // Four candidates of one weight: 70000, 90000 and the two lowest of the rest.
  logits.assign(100000, 1.0F);
  for (const auto& [u, id] : {std::pair{0.1F, 0}, {0.3F, 1}, {0.6F, 2}, {0.9F, 3}}) {
    EXPECT_EQ(sample(logits, 100000, {{0, 4, 1.0F, 0.0F, 1.0F, u}})[0], id);
  }
}

}  // namespace
}  // namespace fl
