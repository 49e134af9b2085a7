// Damaged, foreign and absurd checkpoints: a message that says what was expected, what was found and where,
// and nothing left of the output.
#include <csignal>
#include <functional>

#include <sys/resource.h>

#include <gmock/gmock.h>

#include "apps/convert/safetensors.h"
#include "tests/apps/checkpoint.h"
#include "tests/apps/command.h"

namespace fl {
namespace {

using apps::run_convert;
using test::HfCheckpoint;
using test::Outcome;
using test::run_command;
using test::TempDir;
using test::TinyModel;
using testing::HasSubstr;
using Json = nlohmann::ordered_json;
namespace fs = std::filesystem;

TinyModel model() {
  TinyModel m;
  m.vocab = 300;
  return m;
}

struct Case {
  const char* name;
  std::function<void(HfCheckpoint&)> edit;      ///< before it is written
  std::function<void(const fs::path&)> damage;  ///< after
  std::vector<std::string> words;               ///< of the message
  int code = apps::kModelUnusable;
  int n_shards = 1;
};

std::string deep(int n) {
  return "{\"a\":" + std::string(static_cast<size_t>(n), '[') + std::string(static_cast<size_t>(n), ']') +
         "}";
}

void put(const fs::path& path, const std::string& text) {
  HfCheckpoint::write_text(path, text);
}

const char* const kQkv = "model.layers.0.linear_attn.in_proj_qkv.weight";

const std::vector<Case>& cases() {
  using C = HfCheckpoint;
  static const std::vector<Case> kCases{
      {"NoConfig",
       {},
       [](const fs::path& d) { fs::remove(d / "config.json"); },
       {"config.json", "No such file"}},
      {"ConfigIsText",
       {},
       [](const fs::path& d) { put(d / "config.json", "hello"); },
       {"config.json", "no JSON"}},
      {"ConfigIsAList",
       {},
       [](const fs::path& d) { put(d / "config.json", "[1]"); },
       {"expected a JSON object", "a list of 1"}},
      {"ConfigIsDeep",
       {},
       [](const fs::path& d) { put(d / "config.json", deep(10000)); },
       {"config.json", "levels"}},
      {"ConfigIsEmpty", {}, [](const fs::path& d) { put(d / "config.json", ""); }, {"config.json", "empty"}},
      {"OtherArchitecture",
       [](C& c) { c.config["model_type"] = "llama"; },
       {},
       {"model_type", "qwen3_5_text", "'llama'"},
       apps::kUsage},
      {"ModelTypeIsANumber", [](C& c) { c.config["model_type"] = 7; }, {}, {"model_type", "a text", "7"}},
      {"SizeMissing",
       [](C& c) { c.config.erase("hidden_size"); },
       {},
       {"hidden_size", "whole number", "no such key"}},
      {"SizeIsText", [](C& c) { c.config["hidden_size"] = "64"; }, {}, {"hidden_size", "\"64\""}},
      {"SizeIsNegative", [](C& c) { c.config["num_hidden_layers"] = -4; }, {}, {"num_hidden_layers", "-4"}},
      {"SizeIsAbsurd",
       [](C& c) { c.config["num_hidden_layers"] = uint64_t{1} << 63; },
       {},
       {"num_hidden_layers", "9223372036854775808"}},
      {"VocabularyIsAbsurd",
       [](C& c) { c.config["vocab_size"] = 1 << 30; },
       {},
       {"vocab_size", "1073741824"}},
      {"MtpIsAbsurd",
       [](C& c) { c.config["mtp_num_hidden_layers"] = 1000000; },
       {},
       {"mtp_num_hidden_layers", "1000000"}},
      {"HeadsDoNotFit",
       [](C& c) { c.config["linear_num_value_heads"] = 5; },
       {},
       {"linear_num_value_heads", "2 key heads", "5"}},
      {"EpsIsHuge", [](C& c) { c.config["rms_norm_eps"] = 1e308; }, {}, {"rms_norm_eps", "finite"}},
      {"UnknownScaling",
       [](C& c) { c.config["rope_parameters"]["rope_type"] = "longrope"; },
       {},
       {"rope_type", "yarn", "longrope"},
       apps::kUsage},
      {"SectionsDoNotFit",
       [](C& c) {
         c.config["rope_parameters"]["mrope_section"] = {2, 1, 2};
       },
       {},
       {"mrope_section", "add up to 4", "[2,1,2]"}},
      {"RotaryFactor",
       [](C& c) { c.config["rope_parameters"]["partial_rotary_factor"] = -1e300; },
       {},
       {"partial_rotary_factor"}},
      {"LayerKind", [](C& c) { c.config["layer_types"][1] = "mamba"; }, {}, {"layer_types", "\"mamba\""}},
      {"TooFewLayerKinds",
       [](C& c) { c.config["layer_types"].erase(0); },
       {},
       {"layer_types", "4", "a list of 3"}},
      {"TextConfigIsText", [](C& c) { c.config["text_config"] = "x"; }, {}, {"text_config", "an object"}},

      {"NoWeights",
       {},
       [](const fs::path& d) { fs::remove(d / "model.safetensors"); },
       {"model.safetensors", "No such file"}},
      {"WeightsOfSevenBytes",
       {},
       [](const fs::path& d) { put(d / "model.safetensors", "1234567"); },
       {"safetensors", "7 bytes"}},
      {"HeaderBeyondTheFile",
       {},
       [](const fs::path& d) { put(d / "model.safetensors", std::string("\xFF\xFF\0\0\0\0\0\0{}", 10)); },
       {"header of 1 to 2 bytes", "65535"}},
      {"HeaderIsAbsurd",
       {},
       [](const fs::path& d) { put(d / "model.safetensors", std::string(8, '\xFF') + "{}"); },
       {"18446744073709551615"}},
      {"HeaderIsDeep",
       {},
       [](const fs::path& d) { put(d / "model.safetensors", C::with_header(deep(10000), "")); },
       {"header", "levels"}},
      {"HeaderIsText",
       {},
       [](const fs::path& d) { put(d / "model.safetensors", C::with_header("hello", "")); },
       {"header", "no JSON"}},
      {"Truncated",
       {},
       [](const fs::path& d) {
         fs::resize_file(d / "model.safetensors", fs::file_size(d / "model.safetensors") - 1);
       },
       {"data_offsets", "truncated"}},
      {"WrongType",
       [](C& c) { c.tensors[kQkv].dtype = "BF16"; },
       [](const fs::path& d) {
         std::string bytes = test::bytes_of(d / "model.safetensors");
         bytes.replace(bytes.find("\"BF16\""), 6, "\"I16\" ");
         put(d / "model.safetensors", bytes);
       },
       {kQkv, "F32, F16 or BF16", "I16"}},
      {"WrongShape",
       [](C& c) { std::swap(c.tensors[kQkv].shape[0], c.tensors[kQkv].shape[1]); },
       {},
       {kQkv, "expected shape [320, 64]", "found [64, 320]"}},
      {"SizeIsNotItsShape",
       [](C& c) { c.tensors[kQkv].values.pop_back(); },
       {},
       {kQkv, "bytes of its shape"}},
      {"MissingTensor", [](C& c) { c.tensors.erase(kQkv); }, {}, {kQkv, "missing"}},
      {"MissingHead", [](C& c) { c.tensors.erase("lm_head.weight"); }, {}, {"lm_head.weight", "missing"}},
      {"MissingShard",
       {},
       [](const fs::path& d) { fs::remove(d / "model-00002-of-00003.safetensors"); },
       {"index.json", "model-00002-of-00003.safetensors", "not there"},
       apps::kModelUnusable,
       3},
      {"ShardTwice",
       {},
       [](const fs::path& d) {
         fs::copy_file(d / "model-00001-of-00003.safetensors", d / "model-00002-of-00003.safetensors",
                       fs::copy_options::overwrite_existing);
       },
       {"is also in", "model-00001-of-00003.safetensors"},
       apps::kModelUnusable,
       3},
      {"IndexEscapes",
       {},
       [](const fs::path& d) {
         put(d / "model.safetensors.index.json", R"({"weight_map": {"a": "../../x"}})");
       },
       {"beside it", "../../x"}},
      {"ShardNameOfThousandLetters",
       {},
       [](const fs::path& d) {
         put(d / "model.safetensors.index.json",
             R"({"weight_map": {"a": ")" + std::string(1000, 'x') + R"("}})");
       },
       {"not there"}},
      {"IndexIsDeep",
       {},
       [](const fs::path& d) { put(d / "model.safetensors.index.json", deep(10000)); },
       {"index.json", "levels"}},
      {"IndexWithoutMap",
       {},
       [](const fs::path& d) { put(d / "model.safetensors.index.json", "{}"); },
       {"weight_map"}},

      {"NoTokenizer",
       {},
       [](const fs::path& d) { fs::remove(d / "tokenizer.json"); },
       {"tokenizer.json", "No such file"}},
      {"TokenizerIsDeep",
       {},
       [](const fs::path& d) { put(d / "tokenizer.json", deep(10000)); },
       {"tokenizer.json", "levels"}},
      {"UnknownTokenizer",
       [](C& c) { c.tokenizer["model"]["type"] = "Unigram"; },
       {},
       {"tokenizer.json", "expected BPE", "Unigram"},
       apps::kUsage},
      {"OtherSplitter",
       [](C& c) { c.tokenizer["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = "\\w+"; },
       {},
       {"pre_tokenizer", "Qwen3.5", "w+"},
       apps::kUsage},
      {"NoSplitter",
       [](C& c) { c.tokenizer["pre_tokenizer"] = nullptr; },
       {},
       {"pre_tokenizer", "null"},
       apps::kUsage},
      {"OtherNormalizer",
       [](C& c) { c.tokenizer["normalizer"]["type"] = "NFKC"; },
       {},
       {"normalizer", "NFC", "NFKC"},
       apps::kUsage},
      {"ByteFallback",
       [](C& c) { c.tokenizer["model"]["byte_fallback"] = true; },
       {},
       {"byte_fallback"},
       apps::kUsage},
      {"NoMerges", [](C& c) { c.tokenizer["model"].erase("merges"); }, {}, {"merges"}},
      {"MergeOfThree",
       [](C& c) {
         c.tokenizer["model"]["merges"][1] = {"a", "b", "c"};
       },
       {},
       {"merge 1", "pair"}},
      {"MergeOfStrangers",
       [](C& c) {
         c.tokenizer["model"]["merges"][1] = {"he", "xyz"};
       },
       {},
       {"merge 1", "'xyz'"}},
      {"IdBeyondTheModel",
       [](C& c) { c.tokenizer["model"]["vocab"]["zz"] = 300; },
       {},
       {"'zz'", "below 300"}},
      {"IdIsNegative", [](C& c) { c.tokenizer["added_tokens"][0]["id"] = -1; }, {}, {"<|endoftext|>", "-1"}},
      {"TwoTokensOneId", [](C& c) { c.tokenizer["added_tokens"][0]["id"] = 5; }, {}, {"same id 5"}},
      {"AddedTokenIsANumber", [](C& c) { c.tokenizer["added_tokens"][0] = 3; }, {}, {"added token", "3"}},
      {"EosIsNoToken", [](C& c) { c.tokenizer_config["eos_token"] = "</s>"; }, {}, {"eos_token", "</s>"}},
      {"TemperatureIsText",
       [](C& c) { c.generation_config["temperature"] = "hot"; },
       {},
       {"temperature", "hot"}},
  };
  return kCases;
}

class HostileCheckpoint : public testing::TestWithParam<size_t> {};

TEST_P(HostileCheckpoint, GetsAClearMessageAndLeavesNothing) {
  const Case& c = cases()[GetParam()];
  const TempDir in;
  const TempDir out;
  HfCheckpoint checkpoint(model());
  if (c.edit) {
    c.edit(checkpoint);
  }
  checkpoint.write(in.path(), c.n_shards);
  if (c.damage) {
    c.damage(in.path());
  }
  const Outcome outcome = run_command(run_convert, {in.path().string(), out / "o.gguf"});
  EXPECT_EQ(outcome.code, c.code);
  for (const std::string& word : c.words) {
    EXPECT_THAT(outcome.err, HasSubstr(word));
  }
  EXPECT_EQ(outcome.out, "");
  EXPECT_EQ(std::count(outcome.err.begin(), outcome.err.end(), '\n'), 1) << outcome.err;
  EXPECT_EQ(out.n_files(), 0U);
}

INSTANTIATE_TEST_SUITE_P(All, HostileCheckpoint, testing::Range(size_t{0}, cases().size()),
                         [](const auto& one) { return cases()[one.param].name; });

TEST(HostileOutput, FoldersDevicesAndMissingFolders) {
  const TempDir dir;
  std::filesystem::create_directories(dir / "c");
  HfCheckpoint(model()).write(dir / "c");
  const Outcome folder = run_command(run_convert, {dir / "c", dir.path().string()});
  EXPECT_EQ(folder.code, apps::kUsage);
  EXPECT_THAT(folder.err, HasSubstr("found a folder"));
  EXPECT_EQ(run_command(run_convert, {dir / "c", "/dev/null"}).code, apps::kUsage);
  const Outcome missing = run_command(run_convert, {dir / "c", dir / "no/o.gguf"});
  EXPECT_EQ(missing.code, apps::kFailure);
  EXPECT_THAT(missing.err, HasSubstr("No such file"));
  EXPECT_EQ(dir.n_files(), 1U);
}

// A limit on the size of files stands for a full disk: the system refuses the same calls.
TEST(HostileOutput, ADiskThatIsFull) {
  const TempDir dir;
  std::filesystem::create_directories(dir / "c");
  HfCheckpoint(model()).write(dir / "c");
  const TempDir out;
  rlimit before{};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  rlimit small = before;
  small.rlim_cur = 100000;
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
  const Outcome outcome = run_command(run_convert, {dir / "c", out / "o.gguf"});
  setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, handler);
  EXPECT_EQ(outcome.code, apps::kFailure);
  EXPECT_THAT(outcome.err, testing::AllOf(HasSubstr("o.gguf"), HasSubstr("bytes are needed")));
  EXPECT_EQ(out.n_files(), 0U);
}

// Every length of the header's part, and every byte of it changed: an error, or a checkpoint that can be
// read.
TEST(HostileSafetensors, TruncationsAndFlippedBits) {
  const TempDir dir;
  TinyModel m = model();
  m.hidden = 4;
  m.layers = 1;
  m.recurrent = {true};
  m.vocab = 20;
  m.key_heads = m.value_heads = 1;
  m.key_dim = m.value_dim = 4;
  m.ff = 4;
  const std::string bytes = HfCheckpoint::safetensors(HfCheckpoint(m).tensors);
  uint64_t header = 0;
  std::memcpy(&header, bytes.data(), sizeof header);
  const size_t end = header + sizeof header;
  const auto open = [&](const std::string& text) {
    put(dir.path() / "model.safetensors", text);
    return apps::convert::Checkpoint::open(dir.path());
  };
  ASSERT_TRUE(open(bytes));
  for (size_t n = 0; n <= end; n += n < 16 ? 1 : 7) {
    const auto checkpoint = open(bytes.substr(0, n));
    ASSERT_FALSE(checkpoint) << n;
    EXPECT_THAT(checkpoint.error().message, HasSubstr("model.safetensors"));
  }
  int read = 0;
  for (size_t i = 0; i < end; ++i) {
    std::string flipped = bytes;
    flipped[i] = static_cast<char>(flipped[i] ^ (1 << (i % 8)));
    const auto checkpoint = open(flipped);
    if (!checkpoint) {
      EXPECT_FALSE(checkpoint.error().message.empty());
      continue;
    }
    if (const auto tensor = checkpoint->find("model.embed_tokens.weight", {20, 4})) {
      std::vector<float> values(80);
      (*tensor)->read(0, values);
      ++read;
    }
  }
  EXPECT_GT(read, 0);
}

}  // namespace
}  // namespace fl
