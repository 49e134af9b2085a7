// Types by tensor, errors by type, metadata that survives, and refusals.
#include <limits>

#include <gmock/gmock.h>

#include "apps/models/recipe.h"
#include "gguf/gguf.h"
#include "tests/apps/command.h"
#include "tests/model/harness.h"
#include "tests/support/fixtures.h"
#include "tests/support/guarded.h"
#include "tests/support/qualities.h"
#include "tests/support/tiny_model.h"

namespace fl {
namespace {

using apps::run_bench;
using apps::run_quantize;
using test::Draft;
using test::Outcome;
using test::run_command;
using test::TempDir;
using test::TinyModel;
using testing::HasSubstr;

// Eight layers and the MTP block; every row holds whole blocks of 256.
TinyModel eight_layers() {
  TinyModel m;
  m.seed = 31;
  m.hidden = 256;
  m.ff = 512;
  m.layers = 8;
  m.heads = 4;
  m.head_dim = 64;
  m.value_heads = 4;
  m.key_dim = m.value_dim = 64;
  m.vocab = 64;
  m.sections = {3, 3, 2};
  m.recurrent = {true, true, true, false, true, true, true, false};
  m.mtp = true;
  return m;
}

// The same with one layer of each kind, for what does not depend on the number of layers.
TinyModel two_layers() {
  TinyModel m = eight_layers();
  m.layers = 2;
  m.recurrent = {true, false};
  m.mtp = false;
  return m;
}

struct Model {
  TempDir dir;
  std::string path = dir / "f32.gguf";

  explicit Model(const TinyModel& m = two_layers(), const std::function<void(Draft&)>& edit = {}) {
    Draft draft = test::draft_model(m);
    if (edit) {
      edit(draft);
    }
    EXPECT_TRUE(draft.write(path));
  }

  gguf::File quantized(const std::string& type) const {
    const std::string out = dir / (type + ".gguf");
    const Outcome outcome = run_command(run_quantize, {path, out, type, "--threads", "3", "--quiet"});
    EXPECT_EQ(outcome.code, apps::kOk) << outcome.err;
    EXPECT_EQ(outcome.out + outcome.err, "");
    return gguf::File::open(out).value();
  }
};

bool stays_f32(const gguf::Tensor& tensor) {
  return tensor.view.ne[1] == 1 || tensor.name.find("ssm_conv1d") != std::string::npos;
}

// The layers whose sensitive matrices get more bits, of nine blocks: the first 9/8, from 7*9/8 on, and every
// third between.
bool is_sensitive(const std::string& name) {
  const bool kind = name.ends_with("attn_v.weight") || name.ends_with("attn_qkv.weight") ||
                    name.ends_with("ffn_down.weight");
  bool more = false;
  for (const int block : {0, 3, 6, 7, 8}) {
    more = more || name.starts_with("blk." + std::to_string(block) + ".");
  }
  return kind && more;
}

TEST(Quantize, MixesGiveEachTensorItsType) {
  const Model model(eight_layers());
  struct Case {
    const char* name;
    DType base, more, output;
    uint32_t file_type;
  };
  for (const Case& c : {Case{"Q4_K_M", DType::q4_k, DType::q6_k, DType::q6_k, 15},
                        Case{"Q5_K_M", DType::q5_k, DType::q6_k, DType::q6_k, 17},
                        Case{"Q6_K", DType::q6_k, DType::q6_k, DType::q6_k, 18},
                        Case{"Q8_0", DType::q8_0, DType::q8_0, DType::q8_0, 7}}) {
    SCOPED_TRACE(c.name);
    const gguf::File file = model.quantized(c.name);
    EXPECT_EQ(file.get_int("general.file_type").value(), c.file_type);
    EXPECT_EQ(file.get_int("general.quantization_version").value(), 2);
    int n_more = 0;
    for (const gguf::Tensor& tensor : file.tensors()) {
      const bool more = is_sensitive(tensor.name);
      n_more += more ? 1 : 0;
      const DType wanted = stays_f32(tensor)                    ? DType::f32
                           : tensor.name == "output.weight"     ? c.output
                           : tensor.name == "token_embd.weight" ? c.base
                           : more                               ? c.more
                                                                : c.base;
      EXPECT_EQ(tensor.view.type, wanted) << tensor.name;
    }
    // attn_v or attn_qkv, and ffn_down, of five blocks.
    EXPECT_EQ(n_more, 10);
  }
}

TEST(Quantize, TiedEmbeddingsAreTheOutput) {
  TinyModel m = two_layers();
  m.tied = true;
  EXPECT_EQ(Model(m).quantized("q4_k_m").find("token_embd.weight")->view.type, DType::q6_k);
}

TEST(Quantize, EveryTypeWithinItsError) {
  const Model model;
  const gguf::File exact = gguf::File::open(model.path).value();
  for (const test::Quality& quality : test::kQualities) {
    const std::string name(dtype_info(quality.type).name);
    SCOPED_TRACE(name);
    const gguf::File file = model.quantized(name);
    ASSERT_EQ(file.tensors().size(), exact.tensors().size());
    for (size_t i = 0; i < file.tensors().size(); ++i) {
      const gguf::Tensor& got = file.tensors()[i];
      const gguf::Tensor& want = exact.tensors()[i];
      ASSERT_EQ(got.name, want.name);
      EXPECT_EQ(got.view.ne, want.view.ne);
      EXPECT_EQ(got.view.type, stays_f32(got) ? DType::f32 : quality.type) << got.name;
      const auto n = static_cast<size_t>(got.view.cols() * got.view.rows());
      std::vector<float> a(n);
      std::vector<float> b(n);
      dequantize_row(got.view.type, got.view.data, a);
      dequantize_row(want.view.type, want.view.data, b);
      EXPECT_LE(test::relative_error(a, b, static_cast<int64_t>(n)), stays_f32(got) ? 0 : quality.rms)
          << got.name;
    }
  }
}

// What a model says, not only what it weighs.
TEST(Quantize, LogitsStayClose) {
  const Model model;
  const std::vector<int32_t> prompt = test::tiny_prompt(test::TinyModel{.vocab = 64}, 70);
  const auto last_logits = [&](const std::filesystem::path& path) {
    auto runner = test::load(path, test::tiny_options());
    EXPECT_TRUE(runner) << runner.error().message;
    test::Sequence s = test::sequence(0);
    return test::run(**runner, s, prompt).back();
  };
  const std::vector<float> want = last_logits(model.path);
  EXPECT_LE(test::relative_error(last_logits(model.quantized("F16").path()), want, 64), 0.01);
  EXPECT_LE(test::relative_error(last_logits(model.quantized("Q8_0").path()), want, 64), 0.05);
  EXPECT_LE(test::relative_error(last_logits(model.quantized("Q4_K_M").path()), want, 64), 0.5);
}

TEST(Quantize, RowsWithoutWholeBlocksGetTheNextType) {
  TinyModel m = two_layers();
  m.ff = 288;  // 9 blocks of 32, none of 256
  const Model model(m);
  const auto down = [&](const char* type, int block) {
    return model.quantized(type).find("blk." + std::to_string(block) + ".ffn_down.weight")->view.type;
  };
  // The last layer is one of those with more bits.
  EXPECT_EQ(down("Q4_K_M", 0), DType::q5_0);
  EXPECT_EQ(down("Q4_K_M", 1), DType::q8_0);
  EXPECT_EQ(down("Q5_K_M", 0), DType::q5_1);
  EXPECT_EQ(down("Q2_K", 1), DType::q4_0);
  EXPECT_EQ(down("Q3_K", 1), DType::q4_0);
  EXPECT_EQ(down("IQ4_XS", 1), DType::iq4_nl);
  m.ff = 72;
  EXPECT_EQ(Model(m).quantized("Q8_0").find("blk.0.ffn_down.weight")->view.type, DType::f16);
}

TEST(Quantize, MetadataSurvives) {
  const Model model(two_layers(), [](Draft& draft) {
    draft.keys["x.u8"] = uint8_t{200};
    draft.keys["x.i8"] = int8_t{-3};
    draft.keys["x.u16"] = uint16_t{60000};
    draft.keys["x.i16"] = int16_t{-300};
    draft.keys["x.i64"] = int64_t{-1} << 40;
    draft.keys["x.u64"] = std::numeric_limits<uint64_t>::max();
    draft.keys["x.f64"] = 1e300;
    draft.keys["x.flag"] = true;
    draft.keys["x.text"] = std::string("a\0b\n日本", 10);
    draft.keys["x.texts"] = std::vector<std::string>{"", "x"};
    draft.keys["x.flags"] = std::vector<bool>{true, false, true};
    draft.keys["x.floats"] = std::vector<float>{1, -0.5F};
    draft.keys["x.empty"] = std::vector<int32_t>{};
    draft.keys["general.file_type"] = uint32_t{0};
  });
  const gguf::File before = gguf::File::open(model.path).value();
  const gguf::File after = model.quantized("Q4_K");
  for (const gguf::File::Entry& entry : before.entries()) {
    if (entry.key != "general.file_type") {
      ASSERT_TRUE(after.has(entry.key)) << entry.key;
      EXPECT_TRUE(after.value(entry.key).value().storage() == before.value(entry.key).value().storage())
          << entry.key;
    }
  }
  EXPECT_EQ(after.get_int("general.file_type").value(), 14);
}

// A model in parts reads as one: its quantised form is that of the whole file.
TEST(Quantize, SplitModels) {
  const Draft draft = test::draft_model(two_layers());
  const Model whole;
  const TempDir dir;
  constexpr int kParts = 3;
  const auto name = [&](int i) { return dir / ("m-0000" + std::to_string(i + 1) + "-of-00003.gguf"); };
  size_t at = 0;
  auto tensor = draft.tensors.begin();
  for (int i = 0; i < kParts; ++i) {
    Draft part;
    if (i == 0) {
      part.keys = draft.keys;
    }
    part.keys["split.no"] = static_cast<uint16_t>(i);
    part.keys["split.count"] = static_cast<uint16_t>(kParts);
    part.keys["split.tensors.count"] = static_cast<int32_t>(draft.tensors.size());
    for (; at < draft.tensors.size() * static_cast<size_t>(i + 1) / kParts; ++at, ++tensor) {
      part.tensors.insert(*tensor);
    }
    ASSERT_TRUE(part.write(name(i)));
  }
  const Outcome outcome = run_command(run_quantize, {name(0), dir / "o.gguf", "Q4_K_M"});
  ASSERT_EQ(outcome.code, apps::kOk) << outcome.err;
  whole.quantized("Q4_K_M");
  EXPECT_TRUE(test::bytes_of(dir / "o.gguf") == test::bytes_of(whole.dir / "Q4_K_M.gguf"));

  const Outcome bench =
      run_command(run_bench, {"-m", name(0), "-p", "8", "-n", "2", "-r", "1", "-t", "1", "-o", "json"});
  EXPECT_EQ(bench.code, apps::kOk) << bench.err;
  EXPECT_THAT(bench.out, HasSubstr("\"n_gen\": 2"));

  const Outcome inspect = run_command(apps::run_inspect, {name(0), "--json"});
  EXPECT_EQ(inspect.code, apps::kOk) << inspect.err;
  EXPECT_THAT(inspect.out, HasSubstr("\"shards\": 3"));

  const Outcome second = run_command(run_quantize, {name(1), dir / "p.gguf", "Q8_0"});
  EXPECT_EQ(second.code, apps::kUsage);
  EXPECT_THAT(second.err, HasSubstr("name the first part"));
  std::filesystem::remove(name(2));
  const Outcome missing = run_command(run_quantize, {name(0), dir / "p.gguf", "Q8_0"});
  EXPECT_EQ(missing.code, apps::kModelUnusable);
  EXPECT_THAT(missing.err, HasSubstr("m-00003-of-00003.gguf"));
  EXPECT_FALSE(std::filesystem::exists(dir / "p.gguf"));
}

struct Refusal {
  const char* name;
  std::vector<std::string> words;  ///< after the command; "IN", "OUT" and "DIR" stand for paths
  int code;
  const char* message;
  std::function<void(Draft&)> edit;
};

TEST(Quantize, Refusals) {
  const std::vector<Refusal> refusals{
      {"an unknown type", {"IN", "OUT", "Q9_Z"}, apps::kUsage, "found 'Q9_Z'", {}},
      {"a type that cannot be written", {"IN", "OUT", "IQ2_XXS"}, apps::kUsage, "expected one of Q4_K_M", {}},
      {"no type", {"IN", "OUT"}, apps::kUsage, "TYPE is required", {}},
      {"onto itself", {"IN", "IN", "Q8_0"}, apps::kUsage, "is the file to read", {}},
      {"onto a folder", {"IN", "DIR", "Q8_0"}, apps::kUsage, "found a folder", {}},
      {"no such file", {"DIR/none.gguf", "OUT", "Q8_0"}, apps::kModelUnusable, "none.gguf", {}},
      {"no model", {"DIR", "OUT", "Q8_0"}, apps::kModelUnusable, "not a regular file", {}},
      {"negative threads", {"IN", "OUT", "Q8_0", "-t", "-1"}, apps::kUsage, "--threads", {}},
      {"another architecture",
       {"IN", "OUT", "Q8_0"},
       apps::kModelUnusable,
       "expected the architecture qwen35, found 'llama'",
       [](Draft& d) { d.keys["general.architecture"] = std::string("llama"); }},
      {"absurd blocks",
       {"IN", "OUT", "Q4_K_M"},
       apps::kModelUnusable,
       "expected 1 to 4096, found 9223372036854775807",
       [](Draft& d) { d.keys["qwen35.block_count"] = std::numeric_limits<int64_t>::max(); }},
      {"no blocks",
       {"IN", "OUT", "Q4_K_M"},
       apps::kModelUnusable,
       "'qwen35.block_count' is missing",
       [](Draft& d) { d.keys.erase("qwen35.block_count"); }},
      {"twice",
       {"IN", "OUT", "Q4_K"},
       apps::kUsage,
       "--allow-requantize",
       [](Draft& d) { d.quantise(DType::q8_0); }},
  };
  for (const Refusal& refusal : refusals) {
    SCOPED_TRACE(refusal.name);
    const Model model(two_layers(), refusal.edit);
    std::vector<std::string> words = refusal.words;
    for (std::string& word : words) {
      word = word == "IN" ? model.path : word == "OUT" ? model.dir / "o.gguf" : word;
      if (word.starts_with("DIR")) {
        word.replace(0, 3, model.dir.path().string());
      }
    }
    const Outcome outcome = run_command(run_quantize, words);
    EXPECT_EQ(outcome.code, refusal.code);
    EXPECT_THAT(outcome.err, HasSubstr(refusal.message));
    EXPECT_EQ(outcome.out, "");
    EXPECT_EQ(model.dir.n_files(), 1U);
  }
}

TEST(Quantize, TwiceWhenAsked) {
  const Model model(two_layers(), [](Draft& d) { d.quantise(DType::q8_0); });
  const std::string out = model.dir / "o.gguf";
  ASSERT_EQ(run_command(run_quantize, {model.path, out, "Q4_K", "--allow-requantize"}).code, apps::kOk);
  EXPECT_EQ(gguf::File::open(out).value().find("output.weight")->view.type, DType::q4_k);
  // The same type again is a copy, not a loss.
  ASSERT_EQ(run_command(run_quantize, {model.path, out, "Q8_0"}).code, apps::kOk);
}

TEST(Quantize, AVocabularyIsNoModel) {
  FL_FIXTURE(path, "tokenizer/ggml-vocab-qwen35.gguf");
  const TempDir dir;
  const Outcome outcome = run_command(run_quantize, {path.string(), dir / "o.gguf", "Q8_0"});
  EXPECT_EQ(outcome.code, apps::kModelUnusable);
  EXPECT_THAT(outcome.err, HasSubstr("found 'qwen2'"));
  EXPECT_EQ(dir.n_files(), 0U);
}

TEST(Quantize, HelpHasExamplesAndTypes) {
  const Outcome outcome = run_command(run_quantize, {"--help"});
  EXPECT_EQ(outcome.code, apps::kOk);
  EXPECT_THAT(outcome.out, testing::AllOf(HasSubstr("Examples:"), HasSubstr("Q5_K_M"), HasSubstr("IQ4_XS")));
}

}  // namespace
}  // namespace fl
