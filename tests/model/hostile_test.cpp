// Files that parse but lie: every wrong key, shape, type or missing tensor is an error that names it; what
// loads, runs.
#include <cmath>
#include <limits>

#include "model/weights.h"
#include "tests/model/harness.h"

namespace fl {
namespace {

using gguf::Value;
using test::Draft;

test::TinyModel tiny(int64_t head_dim = 16) {
  test::TinyModel m;
  m.hidden = 32;
  m.ff = 32;
  m.layers = 2;
  m.recurrent = {true, false};
  m.head_dim = head_dim;
  m.sections = {static_cast<int32_t>(head_dim / 8) - 1, 1, 0};
  m.key_dim = 16;
  m.value_dim = 16;
  m.value_heads = 4;
  m.vocab = 40;
  m.mtp = true;
  return m;
}

/// Loads and, if that works, runs a prompt and one more token; returns the error's text or "".
std::string load_and_run(const Draft& draft, DType kv_type = DType::f32) {
  model::RunnerOptions options = test::tiny_options();
  options.kv_type_k = kv_type;
  options.kv_type_v = kv_type;
  options.max_tokens = 8;
  options.max_slices = 1;
  options.max_rows = 8;
  options.n_blocks = 2;
  options.n_state_rows = 1;
  options.memory_limit = uint64_t{1} << 30;
  auto runner = test::load(draft, options);
  if (!runner) {
    EXPECT_FALSE(runner.error().message.empty());
    return runner.error().message;
  }
  test::Sequence s;
  s.blocks = {1, 0};
  const int32_t last = (*runner)->capacity().n_vocab - 1;
  test::run(**runner, s, {0, last, 0});
  test::run(**runner, s, {last});
  return "";
}

void expect_names(const Draft& draft, const std::string& what) {
  const std::string error = load_and_run(draft);
  EXPECT_NE(error.find(what), std::string::npos)
      << "expected an error about " << what << ", got: \"" << error << "\"";
}

TEST(Hostile, TheUnchangedModelLoads) {
  EXPECT_EQ(load_and_run(test::draft_model(tiny())), "");
}

TEST(Hostile, WrongKeysAreNamed) {
  const Draft good = test::draft_model(tiny());
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
  const std::vector<std::pair<std::string, Value::Storage>> wrong{
      {"general.architecture", std::string("llama")},
      {"general.architecture", uint32_t{3}},
      {"qwen35.block_count", uint32_t{0}},
      {"qwen35.block_count", uint32_t{1}},  // the draft block alone
      {"qwen35.block_count", uint32_t{0xFFFFFFFF}},
      {"qwen35.block_count", std::string("two")},
      {"qwen35.context_length", uint32_t{0}},
      {"qwen35.embedding_length", uint32_t{0}},
      {"qwen35.embedding_length", int32_t{-32}},
      {"qwen35.embedding_length", uint64_t{1} << 40},
      {"qwen35.feed_forward_length", uint32_t{0}},
      {"qwen35.feed_forward_length", std::vector<int32_t>{32, 16}},
      {"qwen35.attention.head_count", uint32_t{0}},
      {"qwen35.attention.head_count", uint32_t{3}},
      {"qwen35.attention.head_count_kv", uint32_t{0}},
      {"qwen35.attention.head_count_kv", std::vector<int32_t>{0, 0}},
      {"qwen35.attention.key_length", uint32_t{0}},
      {"qwen35.attention.value_length", uint32_t{8}},
      {"qwen35.attention.layer_norm_rms_epsilon", kNan},
      {"qwen35.attention.layer_norm_rms_epsilon", -1e-6F},
      {"qwen35.attention.layer_norm_rms_epsilon", std::numeric_limits<float>::infinity()},
      {"qwen35.attention.scale", kNan},
      {"qwen35.rope.dimension_count", uint32_t{0}},
      {"qwen35.rope.dimension_count", uint32_t{3}},
      {"qwen35.rope.dimension_count", uint32_t{1000}},
      {"qwen35.rope.dimension_sections", std::vector<int32_t>{1, 1}},
      {"qwen35.rope.dimension_sections", std::vector<int32_t>{1, 1, 1}},
      {"qwen35.rope.dimension_sections", std::vector<int32_t>{3, -1, 0}},
      {"qwen35.rope.freq_base", kNan},
      {"qwen35.rope.freq_base", 0.0F},
      {"qwen35.rope.scaling.type", std::string("longrope")},
      {"qwen35.rope.scaling.type", std::string("yarn")},  // without its factor
      {"qwen35.ssm.conv_kernel", uint32_t{0}},
      {"qwen35.ssm.conv_kernel", uint32_t{100}},
      {"qwen35.ssm.state_size", uint32_t{0}},
      {"qwen35.ssm.group_count", uint32_t{0}},
      {"qwen35.ssm.group_count", uint32_t{3}},
      {"qwen35.ssm.time_step_rank", uint32_t{0}},
      {"qwen35.ssm.inner_size", uint32_t{0}},
      {"qwen35.ssm.inner_size", uint32_t{65}},
      {"qwen35.nextn_predict_layers", uint32_t{7}},
      {"qwen35.attention.recurrent_layers", std::vector<bool>{true}},
      {"qwen35.attention.recurrent_layers", std::string("all")},
      {"qwen35.ssm.v_head_reordered", false},
  };
  for (const auto& [key, value] : wrong) {
    Draft draft = good;
    draft.keys.insert_or_assign(key, value);
    SCOPED_TRACE(key);
    // YaRN without its numbers is reported under the missing key.
    expect_names(draft, key == "qwen35.rope.scaling.type" ? "qwen35.rope.scaling" : key);
  }
}

TEST(Hostile, MissingKeysAreNamed) {
  const Draft good = test::draft_model(tiny());
  const std::vector<std::string> optional{"general.name", "qwen35.attention.key_length",
                                          "qwen35.attention.value_length", "qwen35.nextn_predict_layers",
                                          "qwen35.attention.recurrent_layers"};
  for (const auto& [key, value] : good.keys) {
    Draft draft = good;
    draft.keys.erase(key);
    if (std::find(optional.begin(), optional.end(), key) == optional.end()) {
      SCOPED_TRACE(key);
      expect_names(draft, key);
    } else {
      load_and_run(draft);  // loads under a default, or fails on a shape: either is clean
    }
  }
}

TEST(Hostile, EveryTensorIsRequiredAndShapeChecked) {
  const Draft good = test::draft_model(tiny());
  for (const auto& [name, data] : good.tensors) {
    SCOPED_TRACE(name);
    Draft missing = good;
    missing.tensors.erase(name);
    if (name == "output.weight" || name.ends_with("nextn.shared_head_norm.weight")) {
      EXPECT_EQ(load_and_run(missing), "");  // both have a stand-in: the embedding, the output norm
    } else {
      expect_names(missing, name);
    }

    Draft wider = good;
    auto& wide = wider.tensors[name];
    wide.ne[0] += 1;
    wide.values.resize(wide.values.size() / static_cast<size_t>(data.ne[0]) * static_cast<size_t>(wide.ne[0]),
                       0.5F);
    expect_names(wider, name);

    if (name !=
        "token_embd.weight") {  // its rows are the vocabulary's size; the output matrix then disagrees
      Draft longer = good;
      auto& more = longer.tensors[name];
      more.ne.resize(2, 1);
      more.ne[1] += 1;
      more.values.resize(static_cast<size_t>(more.ne[0] * more.ne[1]), 0.5F);
      expect_names(longer, name);
    }
  }
}

TEST(Hostile, VectorsOfAnotherTypeAreRefused) {
  const Draft good = test::draft_model(tiny());
  for (const char* name :
       {"output_norm.weight", "blk.0.ssm_a", "blk.0.ssm_conv1d.weight", "blk.1.attn_q_norm.weight"}) {
    Draft draft = good;
    draft.tensors[name].type = DType::f16;
    expect_names(draft, name);
  }
}

// Numbers in tensors are not judged at load; they must not break the process.
TEST(Hostile, AbsurdNumbersInTensorsRun) {
  const Draft good = test::draft_model(tiny(32));
  for (const float value : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
                            3e38F, -3e38F, 0.0F}) {
    for (const auto& [name, data] : good.tensors) {
      for (const DType kv_type : {DType::f32, DType::f16, DType::bf16, DType::q8_0}) {
        Draft draft = good;
        std::fill(draft.tensors[name].values.begin(), draft.tensors[name].values.end(), value);
        EXPECT_EQ(load_and_run(draft, kv_type), "") << name;
        if (kv_type == DType::f16) {
          draft.quantise(DType::q8_0);
          EXPECT_EQ(load_and_run(draft, kv_type), "") << name << " as q8_0";
        }
      }
    }
  }
}

TEST(Hostile, OtherPackagersSpellings) {
  const Draft good = test::draft_model(tiny());
  Draft draft = good;
  draft.tensors["blk.0.ssm_dt"] = draft.tensors["blk.0.ssm_dt.bias"];
  draft.tensors.erase("blk.0.ssm_dt.bias");
  draft.keys["qwen35.attention.head_count_kv"] = std::vector<int32_t>{0, 2, 2};
  draft.keys["qwen35.rope.dimension_sections"] = std::vector<int32_t>{1, 1, 0};
  EXPECT_EQ(load_and_run(draft), "");

  // Fused q, k, v of a full-attention layer give the same logits.
  Draft fused = good;
  auto qkv = fused.tensors["blk.1.attn_q.weight"];
  for (const char* part : {"blk.1.attn_k.weight", "blk.1.attn_v.weight"}) {
    const auto& more = fused.tensors[part];
    qkv.values.insert(qkv.values.end(), more.values.begin(), more.values.end());
    qkv.ne[1] += more.ne[1];
    fused.tensors.erase(part);
  }
  fused.tensors.erase("blk.1.attn_q.weight");
  fused.tensors["blk.1.attn_qkv.weight"] = qkv;
  auto plain_runner = test::load(good, test::tiny_options());
  auto fused_runner = test::load(fused, test::tiny_options());
  ASSERT_TRUE(plain_runner && fused_runner);
  test::Sequence a = test::sequence(0), b = test::sequence(0);
  EXPECT_EQ(test::run(**plain_runner, a, {1, 2, 3}), test::run(**fused_runner, b, {1, 2, 3}));
}

TEST(Options, AreCheckedAndWhatDoesNotFitIsSaid) {
  const Draft draft = test::draft_model(tiny());
  const auto error = [&](auto change) {
    model::RunnerOptions options = test::tiny_options();
    change(options);
    auto runner = test::load(draft, options);
    return runner ? Error{ErrorCode::internal, "it loaded"} : runner.error();
  };
  EXPECT_EQ(error([](auto& o) { o.n_blocks = 0; }).code, ErrorCode::invalid_argument);
  EXPECT_EQ(error([](auto& o) { o.max_tokens = 0; }).code, ErrorCode::invalid_argument);
  EXPECT_EQ(error([](auto& o) { o.max_rows = 2000; }).code, ErrorCode::invalid_argument);
  EXPECT_EQ(error([](auto& o) { o.n_threads = -1; }).code, ErrorCode::invalid_argument);
  EXPECT_EQ(error([](auto& o) { o.kv_type_k = DType::q4_k; }).code, ErrorCode::invalid_argument);
  EXPECT_EQ(error([](auto& o) { o.kv_type_v = DType::q8_0; }).code,
            ErrorCode::invalid_argument);  // head_dim 16
  const Error full = error([](auto& o) { o.memory_limit = 1000; });
  EXPECT_EQ(full.code, ErrorCode::does_not_fit);
  EXPECT_NE(full.message.find("kv cache"), std::string::npos) << full.message;
}

TEST(Contract, ABrokenBatchThrows) {
  auto runner = test::load(test::draft_model(tiny()), test::tiny_options());
  ASSERT_TRUE(runner);
  const auto broken = [&](auto change) {
    const std::vector<int32_t> tokens{1, 2};
    const std::vector<model::Position> positions(2);
    const std::vector<int32_t> blocks{0};
    std::vector<model::Slice> slices{{0, 2, 0, 0, blocks, true}};
    std::vector<model::Row> rows{{1, true, {}}};
    model::Batch batch{tokens, {}, positions, {}, {}};
    change(batch, slices, rows);
    batch.slices = slices;
    batch.rows = rows;
    EXPECT_THROW((*runner)->submit(batch), std::logic_error);
  };
  const std::vector<int32_t> foreign{1, 40};
  broken([&](auto& b, auto&, auto&) { b.tokens = foreign; });
  broken([](auto& b, auto&, auto&) { b.tokens = {}; });
  broken([](auto& b, auto&, auto&) { b.positions = {}; });
  broken([](auto&, auto& s, auto&) { s[0].n_tokens = 1; });
  broken([](auto&, auto& s, auto&) { s[0].first = 1; });
  broken([](auto&, auto& s, auto&) { s[0].state_row = 6; });
  broken([](auto&, auto& s, auto&) { s[0].n_cached = 63; });
  broken([](auto&, auto& s, auto&) { s[0].n_cached = -1; });
  broken([](auto&, auto& s, auto&) { s[0].state_row = 6; });  // a spare one
  const std::vector<int32_t> outside{40};
  broken([&](auto&, auto& s, auto&) { s[0].blocks = outside; });
  broken([](auto&, auto& s, auto&) {
    s[0].n_tokens = 1;
    s.push_back(s[0]);
    s[1].first = 1;
  });
  broken([](auto&, auto&, auto& r) { r[0].token = 2; });
  broken([](auto&, auto&, auto& r) { r[0].sampling.mode = model::DeviceSampling::Mode::greedy; });
  EXPECT_THROW((*runner)->collect(), std::logic_error);
  EXPECT_THROW((*runner)->copy_state(0, 8), std::logic_error);
}

}  // namespace
}  // namespace fl
