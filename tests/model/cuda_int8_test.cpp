// Prompts in int8 products (RunnerOptions::prompt_products), through a whole model.
#include <algorithm>
#include <cmath>
#include <fstream>

#include <nlohmann/json.hpp>

#include "tests/model/harness.h"
#include "tests/support/cases.h"
#include "tests/support/device.h"
#include "tests/support/tolerances.h"

namespace fl {
namespace {

using test::Logits;
using test::Sequence;

constexpr const char* kDemo = FL_SOURCE_DIR "/models/demo/freelunch-demo-q8_0.gguf";

Result<std::unique_ptr<model::Runner>> load_cuda(const std::filesystem::path& path,
                                                 model::PromptProducts products) {
  FL_ASSIGN(const gguf::File file, gguf::File::open(path));
  FL_ASSIGN(const model::Weights weights, model::Weights::bind(file));
  model::RunnerOptions options = test::tiny_options();
  options.prompt_products = products;
  return model::make_cuda_runner(weights, options);
}

std::vector<double> log_probabilities(const std::vector<float>& logits) {
  double most = -INFINITY;
  for (const float v : logits) {
    most = std::max(most, static_cast<double>(v));
  }
  double sum = 0;
  for (const float v : logits) {
    sum += std::exp(static_cast<double>(v) - most);
  }
  std::vector<double> out;
  out.reserve(logits.size());
  for (const float v : logits) {
    out.push_back(static_cast<double>(v) - most - std::log(sum));
  }
  return out;
}

class CudaInt8Model : public test::DeviceTest {};

// The trained demo model on its golden prompts: what int8 changes in the probabilities of the next token.
TEST_F(CudaInt8Model, ProbabilitiesAreThoseOfF16) {
  std::ifstream text(FL_SOURCE_DIR "/tests/golden/demo.json");
  ASSERT_TRUE(text) << "tests/golden/demo.json is part of the repository";
  const nlohmann::json golden = nlohmann::json::parse(text);
  std::vector<int32_t> tokens;
  for (const nlohmann::json& one : golden.at("cases")) {
    const auto part = one.at("tokens").get<std::vector<int32_t>>();
    tokens.insert(tokens.end(), part.begin(), part.end());
  }
  ASSERT_GT(tokens.size(), 256U);
  std::vector<Logits> logits;
  for (const auto products : {model::PromptProducts::f16, model::PromptProducts::int8}) {
    auto runner = load_cuda(kDemo, products);
    ASSERT_TRUE(runner) << runner.error().message;
    Sequence s = test::sequence(0);
    logits.push_back(test::step(**runner, {test::Feed{&s, tokens, {}}})[0]);
  }
  double divergence = 0;
  size_t same_choice = 0;
  for (size_t i = 0; i < tokens.size(); ++i) {
    const std::vector<double> p = log_probabilities(logits[0].at(i));
    const std::vector<double> q = log_probabilities(logits[1].at(i));
    for (size_t t = 0; t < p.size(); ++t) {
      divergence += std::exp(p[t]) * (p[t] - q[t]) / static_cast<double>(tokens.size());
    }
    same_choice +=
        std::max_element(p.begin(), p.end()) - p.begin() == std::max_element(q.begin(), q.end()) - q.begin()
            ? 1
            : 0;
  }
  std::printf("mean divergence %.2e; same most likely token %zu of %zu\n", divergence, same_choice,
              tokens.size());
  EXPECT_NE(logits[0], logits[1]) << "int8 products did not run";
  EXPECT_LT(divergence, 2e-3);  // seen: 5.7e-4
}

TEST_F(CudaInt8Model, WholeIsInChunksBitForBit) {
  auto runner = load_cuda(kDemo, model::PromptProducts::int8);
  ASSERT_TRUE(runner) << runner.error().message;
  test::TinyModel m;
  m.vocab = 3072;
  const auto tokens = test::tiny_prompt(m, 449);
  Sequence whole = test::sequence(0);
  const Logits want = test::run(**runner, whole, tokens);
  for (const int32_t chunk : test::cases({64, 128, 192, 448}, {192})) {
    Sequence cut = test::sequence(1);
    for (int32_t first = 0; first < 449; first += chunk) {
      const int32_t n = std::min(chunk, 449 - first);
      const Logits got = test::step(**runner, {{&cut, test::part(tokens, first, n), {}, true}})[0];
      for (int32_t i = 0; i < n; ++i) {
        ASSERT_EQ(got[static_cast<size_t>(i)], want[static_cast<size_t>(first + i)])
            << "chunks of " << chunk << ", token " << first + i;
      }
    }
  }
}

}  // namespace
}  // namespace fl
