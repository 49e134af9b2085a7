// Checkpoints written here, converted by the command: against the official logits, against the independent
// conversion of tests/support/tiny_model.h, and in every layout.
#include <gmock/gmock.h>

#include "gguf/gguf.h"
#include "tests/apps/checkpoint.h"
#include "tests/apps/command.h"
#include "tests/model/golden.h"
#include "tests/support/guarded.h"
#include "tokenizer/tokenizer.h"

namespace fl {
namespace {

using apps::run_convert;
using test::HfCheckpoint;
using test::Outcome;
using test::run_command;
using test::TempDir;
using test::TinyModel;
using testing::ElementsAre;
using testing::HasSubstr;

// Room for all bytes, rows of whole blocks of every type.
TinyModel wide_model() {
  TinyModel m;
  m.name = "wide";
  m.seed = 21;
  m.vocab = 300;
  m.hidden = 64;
  m.ff = 96;
  return m;
}

gguf::File convert(const HfCheckpoint& checkpoint, const TempDir& dir, const std::string& type,
                   int n_shards = 1) {
  const std::string from = dir / ("checkpoint_" + type);
  std::filesystem::create_directories(from);
  checkpoint.write(from, n_shards);
  const std::string to = dir / (type + std::to_string(n_shards) + ".gguf");
  const Outcome outcome = run_command(run_convert, {from, to, "--type", type});
  EXPECT_EQ(outcome.code, apps::kOk) << outcome.err;
  EXPECT_EQ(outcome.out, "");
  std::filesystem::remove_all(from);
  return gguf::File::open(to).value();
}

std::vector<float> values_of(const TensorView& view) {
  std::vector<float> values(static_cast<size_t>(view.cols() * view.rows()));
  dequantize_row(view.type, view.data, values);
  return values;
}

TEST(Convert, GivesTheOfficialLogits) {
  const TempDir dir;
  test::expect_official_logits([&](const TinyModel& m) -> Result<std::unique_ptr<model::Runner>> {
    const gguf::File file = convert(HfCheckpoint(m), dir, "f32");
    return test::load(file.path(), test::tiny_options());
  });
}

// The other conversion, of the models' tests, was written against the same definition by another hand.
TEST(Convert, EveryTensorOfEveryLayout) {
  for (const bool tied : {false, true}) {
    for (const int64_t r : {1, 2, 3}) {
      for (const bool mtp : {false, true}) {
        for (const int n_shards : {1, 3}) {
          TinyModel m = wide_model();
          m.tied = tied;
          m.value_heads = m.key_heads * r;
          m.mtp = mtp;
          SCOPED_TRACE(testing::Message() << "tied " << tied << ", " << r << " value heads per key head, mtp "
                                          << mtp << ", " << n_shards << " files");
          const TempDir dir;
          const gguf::File file = convert(HfCheckpoint(m, n_shards == 3), dir, "f32", n_shards);
          const test::Draft wanted = test::draft_model(m);
          EXPECT_EQ(file.tensors().size(), wanted.tensors.size());
          for (const auto& [name, tensor] : wanted.tensors) {
            const gguf::Tensor* found = file.find(name);
            ASSERT_NE(found, nullptr) << name;
            for (size_t i = 0; i < tensor.ne.size(); ++i) {
              EXPECT_EQ(found->view.ne[i], tensor.ne[i]) << name;
            }
            EXPECT_TRUE(values_of(found->view) == tensor.values) << name;
          }
          for (const auto& [key, value] : wanted.keys) {
            if (key != "general.name") {
              ASSERT_TRUE(file.has(key)) << key;
              EXPECT_TRUE(file.value(key).value().storage() == value) << key;
            }
          }
        }
      }
    }
  }
}

TEST(Convert, HalfPrecisionCheckpointsLoseNothingMore) {
  for (const char* dtype : {"F16", "BF16"}) {
    const TempDir dir;
    HfCheckpoint halves(wide_model());
    halves.store_as(dtype);
    HfCheckpoint floats = halves;
    for (auto& [name, tensor] : floats.tensors) {
      tensor.dtype = "F32";
    }
    const gguf::File from_halves = convert(halves, dir, "f32", 1);
    const gguf::File from_floats = convert(floats, dir, "f32", 2);
    for (const gguf::Tensor& tensor : from_floats.tensors()) {
      EXPECT_TRUE(values_of(from_halves.find(tensor.name)->view) == values_of(tensor.view)) << tensor.name;
    }
  }
}

TEST(Convert, TypesOfTheMatrices) {
  const TempDir dir;
  TinyModel m = wide_model();
  m.ff = 80;  // no whole blocks of 32
  const HfCheckpoint checkpoint(m);
  const gguf::File exact = convert(checkpoint, dir, "f32");
  struct Case {
    const char* name;
    DType type;
    uint32_t file_type;
    double error;  ///< relative, of the largest value of a block at most
  };
  for (const Case& c : {Case{"f16", DType::f16, 1, 5e-4}, Case{"bf16", DType::bf16, 32, 4e-3},
                        Case{"q8_0", DType::q8_0, 7, 6e-3}}) {
    SCOPED_TRACE(c.name);
    const gguf::File file = convert(checkpoint, dir, c.name);
    EXPECT_EQ(file.get_int("general.file_type").value(), c.file_type);
    for (const gguf::Tensor& tensor : file.tensors()) {
      const bool matrix = tensor.view.ne[1] > 1 && tensor.name.find("ssm_conv1d") == std::string::npos;
      const bool odd = tensor.view.ne[0] == 80 && c.type == DType::q8_0;
      EXPECT_EQ(tensor.view.type, !matrix ? DType::f32 : odd ? DType::f16 : c.type) << tensor.name;
      const std::vector<float> want = values_of(exact.find(tensor.name)->view);
      EXPECT_LE(test::relative_error(values_of(tensor.view), want, static_cast<int64_t>(want.size())),
                c.error)
          << tensor.name;
    }
  }
}

TEST(Convert, TheTokenizerOfTheCheckpoint) {
  const TempDir dir;
  const gguf::File file = convert(HfCheckpoint(wide_model()), dir, "bf16");
  const auto tokenizer = tokenizer::Tokenizer::from_gguf(file);
  ASSERT_TRUE(tokenizer) << tokenizer.error().message;
  // "he", "hel" are 256 and 257; single letters count from 'a'.
  EXPECT_THAT(tokenizer->encode("hello", tokenizer::Special::plain), ElementsAre(257, 'l' - 'a', 'o' - 'a'));
  EXPECT_EQ(tokenizer->decode(tokenizer->encode("any 日本 text\n", tokenizer::Special::plain), false),
            "any 日本 text\n");
  EXPECT_THAT(tokenizer->encode("<|im_start|>", tokenizer::Special::parse), ElementsAre(259));
  EXPECT_EQ(tokenizer->eos(), 260);
  EXPECT_EQ(tokenizer->bos(), -1);
  EXPECT_FALSE(tokenizer->add_bos());
  // Every <|...|> is a control token, whatever the file says of it.
  EXPECT_EQ(tokenizer->type(261), tokenizer::TokenType::control);
  EXPECT_EQ(tokenizer->type(262), tokenizer::TokenType::user_defined);
  EXPECT_EQ(tokenizer->type(263), tokenizer::TokenType::unused);
  EXPECT_EQ(tokenizer->n_vocab(), 300);
  EXPECT_EQ(file.get_strings("tokenizer.ggml.tokens").value()[299], "[PAD299]");
  EXPECT_EQ(tokenizer->chat_template().value_or(""), "{{ messages[0].content }}");
  EXPECT_EQ(file.get_int("tokenizer.ggml.padding_token_id").value(), 258);
  EXPECT_FLOAT_EQ(static_cast<float>(file.get_float("general.sampling.temp").value()), 0.6F);
  EXPECT_EQ(file.get_int("general.sampling.top_k").value(), 20);
  EXPECT_EQ(file.get_string("general.name").value(), "checkpoint_bf16");
}

TEST(Convert, OlderSpellingsOfTheTokenizer) {
  const TempDir dir;
  HfCheckpoint checkpoint(wide_model());
  checkpoint.chat_template = "";
  checkpoint.tokenizer["model"]["merges"] = {"h e", "he l"};
  // An added token that is in the vocabulary too.
  checkpoint.tokenizer["model"]["vocab"]["<|im_end|>"] = 260;
  checkpoint.tokenizer_config["chat_template"] = {{{"name", "tool_use"}, {"template", "other"}},
                                                  {{"name", "default"}, {"template", "this"}}};
  const std::string from = dir / "c";
  std::filesystem::create_directories(from);
  checkpoint.write(from);
  std::filesystem::remove(from + "/chat_template.jinja");
  ASSERT_EQ(run_command(run_convert, {from, dir / "o.gguf", "--name", "mine"}).code, apps::kOk);
  const gguf::File file = gguf::File::open(dir / "o.gguf").value();
  const auto tokenizer = tokenizer::Tokenizer::from_gguf(file).value();
  EXPECT_THAT(tokenizer.encode("hello", tokenizer::Special::plain), ElementsAre(257, 'l' - 'a', 'o' - 'a'));
  EXPECT_EQ(tokenizer.type(260), tokenizer::TokenType::control);
  EXPECT_EQ(tokenizer.chat_template().value_or(""), "this");
  EXPECT_EQ(file.get_string("general.name").value(), "mine");
}

TEST(Convert, ACheckpointThatLostItsMtpBlock) {
  const TempDir dir;
  HfCheckpoint checkpoint(wide_model());
  checkpoint.config["mtp_num_hidden_layers"] = 1;
  std::filesystem::create_directories(dir / "c");
  checkpoint.write(dir / "c");
  const Outcome outcome = run_command(run_convert, {dir / "c", dir / "o.gguf"});
  ASSERT_EQ(outcome.code, apps::kOk);
  EXPECT_THAT(outcome.err, HasSubstr("no 'mtp.' tensors"));
  const gguf::File file = gguf::File::open(dir / "o.gguf").value();
  EXPECT_EQ(file.get_int("qwen35.block_count").value(), 4);
  EXPECT_TRUE(test::load(file.path(), test::tiny_options()));
}

TEST(Convert, ReplacesAnOlderFileAtOnce) {
  const TempDir dir;
  std::filesystem::create_directories(dir / "c");
  HfCheckpoint(wide_model()).write(dir / "c");
  HfCheckpoint::write_text(dir / "o.gguf", "old");
  ASSERT_EQ(run_command(run_convert, {dir / "c", dir / "o.gguf"}).code, apps::kOk);
  EXPECT_TRUE(gguf::File::open(dir / "o.gguf"));
  EXPECT_EQ(dir.n_files(), 2U);
}

TEST(Convert, HelpHasExamples) {
  const Outcome outcome = run_command(run_convert, {"--help"});
  EXPECT_EQ(outcome.code, apps::kOk);
  EXPECT_THAT(outcome.out, HasSubstr("Examples:"));
  EXPECT_EQ(run_command(run_convert, {"only-one"}).code, apps::kUsage);
  EXPECT_EQ(run_command(run_convert, {"a", "b", "--type", "q9"}).code, apps::kUsage);
}

}  // namespace
}  // namespace fl
