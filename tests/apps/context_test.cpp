// Context arithmetic, and plans against what runners reserve.
#include <gtest/gtest.h>

#include "apps/load/context.h"
#include "apps/load/load.h"
#include "apps/load/plan.h"
#include "gguf/gguf.h"
#include "model/runners.h"
#include "model/weights.h"
#include "tests/support/tiny_model.h"

namespace fl::apps {
namespace {

Options with(int64_t parallel, std::optional<int64_t> ctx) {
  Options options;
  options.parallel = parallel;
  options.ctx_size = ctx;
  return options;
}

TEST(Context, SlotsShareTheTotal) {
  const ContextPlan one = divide_context(with(1, 32768), 32768, 262144);
  EXPECT_EQ(one.n_ctx_slot, 32768);
  EXPECT_FALSE(one.unified);
  const ContextPlan four = divide_context(with(4, 131072), 131072, 262144);
  EXPECT_EQ(four.n_slots, 4);
  EXPECT_EQ(four.n_ctx_slot, 32768);
  EXPECT_EQ(four.n_ctx, 131072);
  const ContextPlan three = divide_context(with(3, 1000), 1000, 262144);
  EXPECT_EQ(three.n_ctx_slot, 512) << "1024 in three parts, rounded up to 256";
  EXPECT_EQ(three.n_ctx, 1536);
}

TEST(Context, WithoutParallelFourSlotsShareOnePool) {
  const ContextPlan plan = divide_context(with(-1, 10000), 10000, 262144);
  EXPECT_TRUE(plan.unified);
  EXPECT_EQ(plan.n_slots, 4);
  EXPECT_EQ(plan.n_ctx_slot, 10240);
  EXPECT_EQ(plan.n_ctx, 10240);
  Options capped = with(-1, std::nullopt);
  capped.kv_unified_per_slot = 2048;
  bool may_shrink = false;
  EXPECT_EQ(wanted_context(capped, 262144, may_shrink), 8192);
  EXPECT_EQ(divide_context(capped, 8192, 262144).n_ctx_slot, 2048);
}

TEST(Context, NoSlotIsLargerThanTheTrainingLength) {
  const ContextPlan plan = divide_context(with(2, 1 << 20), 1 << 20, 8192);
  EXPECT_EQ(plan.n_ctx_slot, 8192);
  EXPECT_EQ(plan.n_ctx, 16384) << "what no slot can use is not reserved";
  EXPECT_TRUE(plan.capped);
  EXPECT_FALSE(divide_context(with(2, 16384), 16384, 8192).capped);
  EXPECT_FALSE(divide_context(with(2, std::nullopt), 8192, 8192).capped);
  EXPECT_FALSE(divide_context(with(-1, 32768), 32768, 8192).capped) << "four slots share it";
  EXPECT_TRUE(divide_context(with(-1, 40000), 40000, 8192).capped);
  bool may_shrink = true;
  EXPECT_EQ(wanted_context(with(1, 0), 8192, may_shrink), 8192);
  EXPECT_FALSE(may_shrink) << "--ctx-size 0 asks for the training length";
  EXPECT_EQ(wanted_context(with(1, std::nullopt), 8192, may_shrink), 8192);
  EXPECT_TRUE(may_shrink);
}

struct Bound {
  gguf::File file;
  model::Weights weights;
};

Bound tiny(const std::string& name) {
  test::TinyModel m;
  m.head_dim = 64;
  m.sections = {3, 3, 2};
  const auto path = std::filesystem::temp_directory_path() / (name + std::to_string(::getpid()) + ".gguf");
  EXPECT_TRUE(test::draft_model(m).write(path));
  gguf::File file = std::move(*gguf::File::open(path));
  std::filesystem::remove(path);
  model::Weights weights = std::move(*model::Weights::bind(file));
  return {std::move(file), std::move(weights)};
}

TEST(Plan, IsWhatARunnerReserves) {
  const Bound bound = tiny("plan");
  for (const int64_t parallel : {-1, 1, 3}) {
    Options options = with(parallel, 2048);
    options.cache_type_v = DType::q8_0;
    options.threads = 2;
    const ContextPlan context = divide_context(options, 2048, bound.weights.config.n_ctx_train);
    const auto runner = model::make_cpu_runner(bound.weights, runner_options(options, context, false));
    ASSERT_TRUE(runner) << runner.error().message;
    const MemoryPlan plan = make_plan(options, bound.file, bound.weights, context, false);
    ASSERT_FALSE(plan.error);
    const std::vector<model::MemoryItem> reserved = (*runner)->memory();
    ASSERT_EQ(plan.items.size(), reserved.size() + 1) << "and the program itself";
    for (size_t i = 0; i < reserved.size(); ++i) {
      EXPECT_EQ(plan.items[i].name, reserved[i].name);
      EXPECT_EQ(plan.items[i].bytes, reserved[i].bytes) << reserved[i].name;
    }
  }
}

TEST(Plan, FitTakesTheLargestContextThatHasRoom) {
  const Bound bound = tiny("fit");
  Options options = with(1, std::nullopt);
  options.fit_target_mib = 0;
  options.fit_ctx = 256;
  options.threads = 2;
  const int64_t trained = bound.weights.config.n_ctx_train;
  const auto bytes = [&](int64_t total) {
    return total_bytes(*plan_memory(
        bound.weights, runner_options(options, divide_context(options, total, trained), false), false));
  };
  const auto whole = choose_context(options, bound.weights, false, bytes(trained));
  ASSERT_TRUE(whole);
  EXPECT_FALSE(whole->shrunk);
  const uint64_t room = bytes(1024);
  const auto cut = choose_context(options, bound.weights, false, room);
  ASSERT_TRUE(cut);
  EXPECT_TRUE(cut->shrunk);
  EXPECT_EQ(cut->n_ctx, 1024);
  const auto none = choose_context(options, bound.weights, false, bytes(256) - 1);
  ASSERT_FALSE(none);
  EXPECT_EQ(none.error().code, ErrorCode::does_not_fit);
  options.ctx_size = trained;
  EXPECT_FALSE(choose_context(options, bound.weights, false, room)->shrunk)
      << "what was asked for is not cut";
}

TEST(Plan, TheLargestContextFitsAndTheNextDoesNot) {
  const Bound bound = tiny("largest");
  Options options = with(1, std::nullopt);
  options.threads = 2;
  const auto total = [&](int32_t chats, int64_t each) {
    options.parallel = chats;
    return make_plan(options, bound.file, bound.weights,
                     divide_context(options, each * chats, bound.weights.config.n_ctx_train), false)
        .total;
  };
  for (const int32_t chats : {1, 2, 4}) {
    const uint64_t room = total(chats, 768);
    EXPECT_EQ(largest_context(options, bound.file, bound.weights, chats, false, room), 768);
    EXPECT_EQ(largest_context(options, bound.file, bound.weights, chats, false, room - 1), 512);
  }
}

TEST(Projector, ForeignFilesAreRefusedWithWhatIsWrong) {
  const auto path =
      std::filesystem::temp_directory_path() / ("mmproj" + std::to_string(::getpid()) + ".gguf");
  const auto write = [&](const std::string& architecture, uint32_t width, bool deepstack, bool tensors) {
    auto writer = std::move(*gguf::Writer::create(path));
    writer.set("general.architecture", std::string(architecture));
    writer.set("clip.has_vision_encoder", true);
    writer.set("clip.projector_type", std::string("qwen3vl_merger"));
    writer.set("clip.vision.projection_dim", width);
    writer.set("clip.vision.is_deepstack_layers", std::vector<bool>{false, deepstack});
    if (tensors) {
      writer.declare("v.patch_embd.weight", DType::f32, {4, 4, 3, 8});
      writer.declare("v.position_embd.weight", DType::f32, {8, 4});
      writer.declare("mm.0.weight", DType::f32, {32, 32});
      writer.declare("mm.2.weight", DType::f32, {32, width});
    }
    EXPECT_TRUE(writer.finish_hollow());
    return check_projector(path.string(), 64);
  };
  EXPECT_TRUE(write("clip", 64, false, true));
  const auto message = [](const Status& status) { return status ? std::string() : status.error().message; };
  EXPECT_NE(message(write("qwen35", 64, false, true)).find("expected general.architecture 'clip'"),
            std::string::npos);
  EXPECT_NE(message(write("clip", 128, false, true)).find("128 wide"), std::string::npos);
  EXPECT_NE(message(write("clip", 64, true, true)).find("deepstack"), std::string::npos);
  EXPECT_NE(message(write("clip", 64, false, false)).find("is missing"), std::string::npos);
  std::filesystem::remove(path);
  const Status absent = check_projector(path.string(), 64);
  ASSERT_FALSE(absent);
  EXPECT_EQ(absent.error().code, ErrorCode::not_found);
}

}  // namespace
}  // namespace fl::apps
