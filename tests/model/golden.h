// Logits of tiny random models by the official implementation; data and weights by
// tools/export_golden/export.py.
#pragma once

#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <vector>

#include <nlohmann/json.hpp>

#include "tests/model/harness.h"
#include "tests/support/cases.h"
#include "tests/support/tolerances.h"

namespace fl::test {

inline TinyModel describe_golden(const nlohmann::json& j) {
  TinyModel m;
  m.name = j.at("name");
  m.seed = j.at("seed");
  m.hidden = j.at("hidden");
  m.ff = j.at("ff");
  m.layers = j.at("layers");
  m.heads = j.at("heads");
  m.kv_heads = j.at("kv_heads");
  m.head_dim = j.at("head_dim");
  m.key_heads = j.at("key_heads");
  m.value_heads = j.at("value_heads");
  m.key_dim = j.at("key_dim");
  m.value_dim = j.at("value_dim");
  m.vocab = j.at("vocab");
  m.tied = j.at("tied");
  m.sections = j.at("sections").get<std::vector<int32_t>>();
  m.recurrent.clear();
  for (const nlohmann::json& kind : j.at("kinds")) {
    m.recurrent.push_back(kind == "linear_attention");
  }
  if (j.contains("yarn")) {
    m.yarn_factor = j["yarn"].at("factor");
    m.yarn_original = j["yarn"].at("original");
  }
  return m;
}

using MakeRunner = std::function<Result<std::unique_ptr<model::Runner>>(const TinyModel&)>;

/// Expects the stored logits of every model, case and row from the runners that `make` builds.
/// FREELUNCH_GOLDEN names another folder for a program that runs where its sources are not.
inline void expect_official_logits(const MakeRunner& make, double tolerance = kOfficialLogits) {
  using nlohmann::json;
  const char* other = std::getenv("FREELUNCH_GOLDEN");
  const std::filesystem::path directory = other != nullptr
                                              ? std::filesystem::path(other)
                                              : std::filesystem::path(FL_SOURCE_DIR) / "tests" / "golden";
  std::ifstream text(directory / "tiny.json");
  ASSERT_TRUE(text) << "tests/golden/tiny.json is part of the repository";
  const json golden = json::parse(text);
  std::ifstream binary(directory / "tiny.f32", std::ios::binary);
  std::vector<float> stored(std::filesystem::file_size(directory / "tiny.f32") / sizeof(float));
  binary.read(reinterpret_cast<char*>(stored.data()),
              static_cast<std::streamsize>(stored.size() * sizeof(float)));
  ASSERT_TRUE(binary);

  ASSERT_GE(golden.at("models").size(), 4U);
  for (const json& described : golden["models"]) {
    const TinyModel m = describe_golden(described);
    SCOPED_TRACE(m.name);
    auto runner = make(m);
    ASSERT_TRUE(runner) << runner.error().message;
    for (const json& one : described.at("cases")) {
      const int64_t n = one.at("n_tokens");
      if (few_cases() && n != 65) {
        continue;
      }
      Sequence s = sequence(0);
      Feed feed{&s, tiny_prompt(m, n), {}};
      if (one.contains("positions")) {
        for (const json& p : one["positions"]) {
          feed.positions.push_back({p[0], p[1], p[2]});
        }
      }
      const Logits got = step(**runner, {feed})[0];
      size_t at = one.at("offset");
      for (const json& row : one.at("rows")) {
        const std::vector<float>& logits = got[row.get<size_t>()];
        double largest = 0;
        double difference = 0;
        for (int64_t i = 0; i < m.vocab; ++i) {
          const double want = stored.at(at++);
          largest = std::max(largest, std::abs(want));
          difference =
              std::max(difference, std::abs(want - static_cast<double>(logits[static_cast<size_t>(i)])));
        }
        // Negated so that NaN fails.
        EXPECT_TRUE(difference <= tolerance * largest)
            << "prompt of " << n << (one.contains("positions") ? " with an image" : "") << ", row " << row
            << ": off by " << difference << " of " << largest;
      }
    }
  }
}

}  // namespace fl::test
