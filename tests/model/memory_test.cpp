// Memory: reserved once, itemised exactly, refused before it is taken; a step allocates nothing.
#include <atomic>
#include <cstdlib>
#include <new>
#include <numeric>

#include "model/weights.h"
#include "tests/model/harness.h"

namespace {

std::atomic<int64_t> allocations{0};

void* counted(std::size_t bytes) {
  allocations.fetch_add(1);
  void* memory = std::malloc(bytes > 0 ? bytes : 1);
  if (memory == nullptr) {
    throw std::bad_alloc();
  }
  return memory;
}

}  // namespace

// The whole program counts, so that allocations of the pool's threads are seen too.
void* operator new(std::size_t bytes) {
  return counted(bytes);
}
void* operator new[](std::size_t bytes) {
  return counted(bytes);
}
void operator delete(void* memory) noexcept {
  std::free(memory);
}
void operator delete[](void* memory) noexcept {
  std::free(memory);
}
void operator delete(void* memory, std::size_t) noexcept {
  std::free(memory);
}
void operator delete[](void* memory, std::size_t) noexcept {
  std::free(memory);
}

namespace fl {
namespace {

uint64_t total(const model::Runner& runner) {
  uint64_t sum = 0;
  for (const model::MemoryItem& item : runner.memory()) {
    sum += item.bytes;
  }
  return sum;
}

test::TinyModel tiny() {
  test::TinyModel m;
  m.head_dim = 64;
  m.sections = {3, 3, 2};
  m.mtp = true;
  return m;
}

TEST(Memory, ThePredictionIsWhatIsReserved) {
  for (const bool tied : {false, true}) {
    for (const DType type : {DType::f32, DType::q8_0, DType::q4_0}) {
      test::TinyModel m = tiny();
      m.tied = tied;
      test::Draft draft = test::draft_model(m);
      draft.quantise(type);
      model::RunnerOptions options = test::tiny_options();
      options.kv_type_v = DType::q8_0;
      const auto runner = test::load(draft, options);
      ASSERT_TRUE(runner) << runner.error().message;
      const uint64_t bytes = total(**runner);
      options.memory_limit = bytes;
      EXPECT_TRUE(test::load(draft, options)) << "the limit is what memory() says";
      options.memory_limit = bytes - 1;
      const auto refused = test::load(draft, options);
      ASSERT_FALSE(refused);
      EXPECT_EQ(refused.error().code, ErrorCode::does_not_fit);
    }
  }
}

TEST(Memory, ItemsFollowTheConfiguration) {
  const test::TinyModel m = tiny();
  const test::Draft draft = test::draft_model(m);
  const auto item = [](const model::Runner& runner, const std::string& name) -> uint64_t {
    for (const model::MemoryItem& i : runner.memory()) {
      if (i.name == name) {
        return i.bytes;
      }
    }
    return 0;
  };
  model::RunnerOptions options = test::tiny_options();
  options.kv_type_k = DType::f16;
  options.kv_type_v = DType::q8_0;
  const auto runner = test::load(draft, options);
  ASSERT_TRUE(runner);
  // One full-attention layer, 40 blocks of 64 tokens, 2 heads of 64: two bytes, and 34 bytes for 32 values.
  EXPECT_EQ(item(**runner, "kv cache"), 40U * 64 * 128 * 2 + 40U * 64 * 128 / 32 * 34);
  // Three DeltaNet layers, 6 rows: 6 heads of 32 x 32 and 3 inputs of 2 * 64 + 192 channels, each a multiple
  // of 16.
  EXPECT_EQ(item(**runner, "recurrent state"), 3U * 6 * (6 * 32 * 32 + 3 * 320) * sizeof(float));
  EXPECT_EQ(item(**runner, "state checkpoints"), 3U * 2 * (6 * 32 * 32 + 3 * 320) * sizeof(float));
  // With the largest of each 16.
  EXPECT_EQ(item(**runner, "logits"), 1024U * (200 + 13) * sizeof(float));
  EXPECT_GT(item(**runner, "weights of the draft block"), 0U);

  test::TinyModel without = m;
  without.mtp = false;
  const auto plain = test::load(test::draft_model(without), options);
  ASSERT_TRUE(plain);
  EXPECT_EQ(item(**plain, "weights of the draft block"), 0U);
  EXPECT_EQ(item(**plain, "weights"), item(**runner, "weights"));
}

TEST(Memory, AStepAllocatesNothing) {
  const auto runner = test::load(test::draft_model(tiny()), test::tiny_options());
  ASSERT_TRUE(runner);
  model::Runner& r = **runner;
  std::vector<int32_t> tokens(130);
  std::iota(tokens.begin(), tokens.end(), 0);
  std::vector<model::Position> positions(130);
  const std::vector<int32_t> blocks_a{0, 1, 2};
  const std::vector<int32_t> blocks_b{5};
  const std::vector<model::Slice> slices{{0, 129, 0, 0, blocks_a, true}, {129, 1, 3, 1, blocks_b}};
  const std::vector<model::Row> rows{{128, true, {}}, {129, true, {}}};
  model::Batch batch;
  batch.tokens = tokens;
  batch.positions = positions;
  batch.slices = slices;
  batch.rows = rows;
  r.submit(batch);
  r.collect();
  const int64_t before = allocations.load();
  for (int i = 0; i < 3; ++i) {
    r.submit(batch);
    r.collect();
    r.copy_state(0, 2);
  }
  EXPECT_EQ(allocations.load() - before, 0);
}

}  // namespace
}  // namespace fl
