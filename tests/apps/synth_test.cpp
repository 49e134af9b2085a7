// Sizes to the byte, and a tiny model that runs.
#include <cmath>
#include <map>

#include <gmock/gmock.h>
#include <nlohmann/json.hpp>

#include "apps/models/published.h"
#include "apps/models/random_blocks.h"
#include "apps/models/synth.h"
#include "core/quants.h"
#include "gguf/gguf.h"
#include "model/weights.h"
#include "tests/apps/command.h"
#include "tests/model/harness.h"
#include "tests/support/fixtures.h"
#include "tokenizer/tokenizer.h"

namespace fl {
namespace {

using apps::find_recipe;
using apps::plan_tensors;
using apps::PlannedTensor;
using apps::published_config;
using apps::run_synth;
using test::Outcome;
using test::run_command;
using test::TempDir;
using testing::HasSubstr;

struct Published {
  const char* size;
  uint64_t n_params, n_mtp_params;
  size_t n_tensors;  ///< without MTP; with it 15 more
  double gigabytes;  ///< Q4_K_M without MTP, to three digits
};

// The model's reference; the byte counts of the published files agree.
const Published kPublished[] = {{"0.8B", 752'393'024, 20'452'864, 320, 0.518},
                                {"2B", 1'881'825'088, 60'828'160, 320, 1.263},
                                {"4B", 4'205'751'296, 120'599'552, 426, 2.698},
                                {"9B", 8'953'803'264, 243'290'624, 427, 5.618},
                                {"27B", 26'895'998'464, 424'699'392, 851, 16.536}};

uint64_t elements_of(const std::vector<PlannedTensor>& tensors) {
  uint64_t n = 0;
  for (const PlannedTensor& tensor : tensors) {
    n += tensor.elements();
  }
  return n;
}

uint64_t bytes_of(const std::vector<PlannedTensor>& tensors) {
  uint64_t n = 0;
  for (const PlannedTensor& tensor : tensors) {
    n += tensor.bytes;
  }
  return n;
}

TEST(Synth, PublishedSizes) {
  const apps::Recipe recipe = find_recipe("Q4_K_M").value();
  for (const Published& p : kPublished) {
    SCOPED_TRACE(p.size);
    const auto plain = plan_tensors(published_config(p.size, false), recipe);
    const auto mtp = plan_tensors(published_config(p.size, true), recipe);
    EXPECT_EQ(plain.size(), p.n_tensors);
    EXPECT_EQ(mtp.size(), p.n_tensors + 15);
    EXPECT_EQ(elements_of(plain), p.n_params);
    EXPECT_EQ(elements_of(mtp), p.n_params + p.n_mtp_params);
    EXPECT_EQ(std::round(static_cast<double>(bytes_of(plain)) / 1e6), std::round(p.gigabytes * 1e3));
  }
}

TEST(Synth, TheLargestByRole) {
  const auto tensors = plan_tensors(published_config("27B", false), find_recipe("Q4_K_M").value());
  EXPECT_EQ(bytes_of(tensors), 16'536'406'016U);
  EXPECT_EQ(bytes_of(plan_tensors(published_config("27B", true), find_recipe("Q4_K_M").value())),
            16'799'719'424U);
  std::map<std::string, uint64_t> roles;
  for (const PlannedTensor& tensor : tensors) {
    const std::string& name = tensor.mapping.gguf;
    const size_t layer = name.find('.', 4);
    const std::string role = name.starts_with("blk.") ? name.substr(layer + 1) : name;
    roles[role + " " + std::string(dtype_info(tensor.type).name)] += tensor.bytes;
  }
  const std::map<std::string, uint64_t> wanted{
      {"token_embd.weight Q4_K", 715'161'600},  {"output.weight Q6_K", 1'042'944'000},
      {"attn_qkv.weight Q6_K", 1'032'192'000},  {"attn_qkv.weight Q4_K", 707'788'800},
      {"attn_gate.weight Q4_K", 849'346'560},   {"ssm_out.weight Q4_K", 849'346'560},
      {"ssm_alpha.weight Q4_K", 6'635'520},     {"ssm_beta.weight Q4_K", 6'635'520},
      {"attn_q.weight Q4_K", 566'231'040},      {"attn_k.weight Q4_K", 47'185'920},
      {"attn_v.weight Q6_K", 34'406'400},       {"attn_v.weight Q4_K", 23'592'960},
      {"attn_output.weight Q4_K", 283'115'520}, {"ffn_gate.weight Q4_K", 3'208'642'560},
      {"ffn_up.weight Q4_K", 3'208'642'560},    {"ffn_down.weight Q6_K", 2'339'635'200},
      {"ffn_down.weight Q4_K", 1'604'321'280},  {"ssm_conv1d.weight F32", 7'864'320}};
  for (const auto& [role, bytes] : wanted) {
    EXPECT_EQ(roles[role], bytes) << role;
  }
}

TEST(Synth, ADryRunWritesNothing) {
  const TempDir dir;
  const Outcome table = run_command(run_synth, {dir / "x.gguf", "--size", "27B", "--dry-run"});
  EXPECT_EQ(table.code, apps::kOk);
  EXPECT_THAT(table.out, HasSubstr("16536406016"));
  const Outcome json = run_command(run_synth, {"--size", "9B", "--mtp", "--dry-run", "--json"});
  EXPECT_EQ(nlohmann::json::parse(json.out).at("n_tensors"), 442);
  EXPECT_EQ(nlohmann::json::parse(json.out).at("types").at("F32").at("n_params"),
            nlohmann::json::parse(json.out).at("types").at("F32").at("tensor_bytes").get<uint64_t>() / 4);
  EXPECT_EQ(dir.n_files(), 0U);
}

// A file for planning: the directory of the real one, and no room on the disk.
TEST(Synth, HollowModels) {
  for (const Published& p : kPublished) {
    const auto file = apps::hollow_model(p.size, "Q4_K_M");
    ASSERT_TRUE(file) << file.error().message;
    EXPECT_EQ(file->tensors().size(), p.n_tensors);
    const auto weights = model::Weights::bind(*file);
    ASSERT_TRUE(weights) << weights.error().message;
    EXPECT_GE(file->file_bytes(),
              bytes_of(plan_tensors(published_config(p.size, false), find_recipe("Q4_K_M").value())));
  }
  EXPECT_EQ(apps::hollow_model("3B", "Q4_K_M").error().code, ErrorCode::invalid_argument);
  EXPECT_EQ(apps::hollow_model("2B", "Q9").error().code, ErrorCode::invalid_argument);
}

// Loads, reads a prompt in two steps and says finite things that depend on it.
void expect_runs(const std::string& path) {
  auto runner = test::load(path, test::tiny_options());
  ASSERT_TRUE(runner) << runner.error().message;
  test::Sequence s = test::sequence(0);
  const test::Logits first = test::run(**runner, s, {1, 2, 3, 4, 5});
  const test::Logits second = test::run(**runner, s, {6});
  double norm = 0;
  double change = 0;
  for (size_t i = 0; i < second[0].size(); ++i) {
    ASSERT_TRUE(std::isfinite(second[0][i]));
    norm += static_cast<double>(second[0][i]) * static_cast<double>(second[0][i]);
    change += std::abs(static_cast<double>(second[0][i] - first[4][i]));
  }
  EXPECT_GT(norm, 0);
  EXPECT_GT(change, 0);
}

TEST(Synth, TheTinyModelRuns) {
  const TempDir dir;
  for (const char* type : {"Q4_K_M", "F32"}) {
    const std::string path = dir / (std::string(type) + ".gguf");
    const Outcome outcome =
        run_command(run_synth, {path, "--size", "tiny", "--type", type, "--mtp", "--quiet"});
    ASSERT_EQ(outcome.code, apps::kOk) << outcome.err;
    EXPECT_EQ(outcome.out + outcome.err, "");
    const gguf::File file = gguf::File::open(path).value();
    EXPECT_NE(file.find("blk.8.nextn.eh_proj.weight"), nullptr);
    EXPECT_EQ(file.get_int("qwen35.nextn_predict_layers").value(), 1);
    const auto tokenizer = tokenizer::Tokenizer::from_gguf(file);
    ASSERT_TRUE(tokenizer) << tokenizer.error().message;
    const std::string text = "def f(x):\n\treturn \"日本\" + x";
    EXPECT_EQ(tokenizer->decode(tokenizer->encode(text, tokenizer::Special::plain), false), text);
    EXPECT_EQ(tokenizer->eos(), tokenizer->special_id("<|im_end|>"));
    expect_runs(path);
  }
}

TEST(Synth, TheSeedDecides) {
  const TempDir dir;
  const auto bytes = [&](const char* name, const char* seed) {
    EXPECT_EQ(run_command(run_synth, {dir / name, "--seed", seed}).code, apps::kOk);
    return test::bytes_of(dir / name);
  };
  const std::string one = bytes("a", "1");
  EXPECT_TRUE(one == bytes("b", "1"));
  EXPECT_FALSE(one == bytes("c", "2"));
}

TEST(Synth, AVocabularyOfAnotherFile) {
  FL_FIXTURE(path, "tokenizer/ggml-vocab-qwen35.gguf");
  const TempDir dir;
  const Outcome outcome = run_command(run_synth, {dir / "x.gguf", "--vocab", path.string()});
  ASSERT_EQ(outcome.code, apps::kOk) << outcome.err;
  const gguf::File file = gguf::File::open(dir / "x.gguf").value();
  const gguf::File vocabulary = gguf::File::open(path).value();
  const auto ours = tokenizer::Tokenizer::from_gguf(file).value();
  const auto theirs = tokenizer::Tokenizer::from_gguf(vocabulary).value();
  EXPECT_EQ(ours.n_vocab(), theirs.n_vocab());
  const std::string text = "Hello, world! 3.14 \U0001F680";
  EXPECT_EQ(ours.encode(text, tokenizer::Special::plain), theirs.encode(text, tokenizer::Special::plain));
  EXPECT_EQ(file.find("token_embd.weight")->view.ne[1], ours.n_vocab());
  expect_runs(dir / "x.gguf");
}

TEST(Synth, Refusals) {
  const TempDir dir;
  EXPECT_EQ(run_command(run_synth, {dir / "x", "--size", "3B"}).code, apps::kUsage);
  EXPECT_EQ(run_command(run_synth, {"--size", "tiny"}).code, apps::kUsage);
  const Outcome type = run_command(run_synth, {dir / "x", "--type", "Q9"});
  EXPECT_EQ(type.code, apps::kUsage);
  EXPECT_THAT(type.err, HasSubstr("found 'Q9'"));
  EXPECT_EQ(run_command(run_synth, {dir / "x", "--vocab", dir / "none"}).code, apps::kModelUnusable);
  EXPECT_EQ(run_command(run_synth, {dir.path().string()}).code, apps::kUsage);
  EXPECT_EQ(dir.n_files(), 0U);
  const Outcome help = run_command(run_synth, {"--help"});
  EXPECT_EQ(help.code, apps::kOk);
  EXPECT_THAT(help.out, testing::AllOf(HasSubstr("Examples:"), HasSubstr("16.5 GB"), HasSubstr("--mtp")));
}

// Valid blocks of the wanted spread, whatever the type.
TEST(Synth, RandomBlocksHaveTheirSpread) {
  for (const std::string& name : apps::recipe_names()) {
    const std::optional<DType> type = dtype_from_name(name);
    if (!type) {
      continue;  // a mix
    }
    constexpr size_t kElements = size_t{256} * 400;
    constexpr float kSpread = 0.03F;
    std::vector<std::byte> blocks(row_bytes(*type, kElements));
    apps::random_blocks(*type, kSpread, 5, blocks);
    std::vector<float> values(kElements);
    dequantize_row(*type, blocks.data(), values);
    double sum = 0;
    double squares = 0;
    for (const float value : values) {
      sum += value;
      squares += static_cast<double>(value) * static_cast<double>(value);
    }
    EXPECT_NEAR(std::sqrt(squares / kElements) / kSpread, 1, 0.06) << name;
    EXPECT_NEAR(sum / kElements / kSpread, 0, 0.03) << name;
  }
}

}  // namespace
}  // namespace fl
