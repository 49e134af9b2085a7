// What must be equal to the last bit, whatever the weights: the ways a prompt can be cut, batched, saved and
// threaded.
#include <algorithm>

#include "tests/model/harness.h"

namespace fl {
namespace {

using test::Logits;
using test::Sequence;
using test::step;

struct Variant {
  const char* name;
  DType weights;
  DType kv_k;
  DType kv_v;
  bool tied;
};

std::ostream& operator<<(std::ostream& out, const Variant& v) {
  return out << v.name;
}

class Equalities : public testing::TestWithParam<Variant> {
 protected:
  static test::TinyModel tiny(bool tied) {
    test::TinyModel m;
    m.seed = 21;
    m.hidden = 64;
    m.ff = 96;
    m.head_dim = 64;
    m.sections = {3, 3, 2};
    m.tied = tied;
    m.mtp = true;
    return m;
  }

  std::unique_ptr<model::Runner> runner(int32_t threads = 2) {
    model_ = tiny(GetParam().tied);
    test::Draft draft = test::draft_model(model_);
    if (GetParam().weights != DType::f32) {
      draft.quantise(GetParam().weights);
    }
    model::RunnerOptions options = test::tiny_options();
    options.n_threads = threads;
    options.kv_type_k = GetParam().kv_k;
    options.kv_type_v = GetParam().kv_v;
    auto made = test::load(draft, options);
    if (!made) {
      ADD_FAILURE() << made.error().message;
      return nullptr;
    }
    return std::move(*made);
  }

  /// A prompt of n tokens in one step, then `decode` more tokens one by one.
  static Logits straight(model::Runner& r, Sequence& s, const std::vector<int32_t>& tokens, size_t prompt) {
    Logits all = test::run(r, s, test::part(tokens, 0, static_cast<int64_t>(prompt)));
    for (size_t i = prompt; i < tokens.size(); ++i) {
      all.push_back(test::run(r, s, {tokens[i]})[0]);
    }
    return all;
  }

  test::TinyModel model_;
};

TEST_P(Equalities, OneChunkIsManyChunks) {
  const auto r = runner();
  ASSERT_NE(r, nullptr);
  const auto tokens = test::tiny_prompt(model_, 257);
  Sequence whole = test::sequence(0);
  const Logits want = test::run(*r, whole, tokens);
  for (const int32_t chunk : {64, 128, 192}) {
    Sequence cut = test::sequence(1);
    Logits got;
    for (int32_t first = 0; first < 257; first += chunk) {
      for (auto& row : test::run(*r, cut, test::part(tokens, first, std::min(chunk, 257 - first)))) {
        got.push_back(std::move(row));
      }
    }
    EXPECT_EQ(got, want) << "chunks of " << chunk;
  }
}

TEST_P(Equalities, AloneIsInABatch) {
  const auto r = runner();
  ASSERT_NE(r, nullptr);
  const auto a = test::tiny_prompt(model_, 150);
  const auto b = test::tiny_prompt(model_, 77);
  const auto c = test::tiny_prompt(model_, 40);
  Sequence alone_a = test::sequence(0), alone_b = test::sequence(1), alone_c = test::sequence(2);
  const Logits want_a = straight(*r, alone_a, a, 130);
  const Logits want_b = straight(*r, alone_b, b, 64);
  const Logits want_c = straight(*r, alone_c, c, 30);

  // The same conversations through shared steps: prompts together, then decode rows beside another prompt.
  Sequence sa = test::sequence(2), sb = test::sequence(0), sc = test::sequence(1);
  Logits got_a, got_b, got_c;
  const auto keep = [](Logits& to, Logits&& rows) {
    for (auto& row : rows) {
      to.push_back(std::move(row));
    }
  };
  auto first = step(*r, {{&sb, test::part(b, 0, 64), {}}, {&sc, test::part(c, 0, 30), {}}});
  keep(got_b, std::move(first[0]));
  keep(got_c, std::move(first[1]));
  auto second = step(*r, {{&sc, {c[30]}, {}}, {&sa, test::part(a, 0, 130), {}}, {&sb, {b[64]}, {}}});
  keep(got_c, std::move(second[0]));
  keep(got_a, std::move(second[1]));
  keep(got_b, std::move(second[2]));
  for (size_t i = 0; i < 9; ++i) {
    auto next = step(*r, {{&sa, {a[130 + i]}, {}}, {&sb, {b[65 + i]}, {}}, {&sc, {c[31 + i]}, {}}});
    keep(got_a, std::move(next[0]));
    keep(got_b, std::move(next[1]));
    keep(got_c, std::move(next[2]));
  }
  EXPECT_EQ(got_a, Logits(want_a.begin(), want_a.begin() + 139));
  EXPECT_EQ(got_b, Logits(want_b.begin(), want_b.begin() + 74));
  EXPECT_EQ(got_c, Logits(want_c.begin(), want_c.begin() + 40));
}

TEST_P(Equalities, StraightIsCheckpointedAndRestored) {
  const auto r = runner();
  ASSERT_NE(r, nullptr);
  const auto tokens = test::tiny_prompt(model_, 200);
  Sequence s = test::sequence(0);
  const Logits want = straight(*r, s, tokens, 190);

  Sequence live = test::sequence(1);
  const Logits head = test::run(*r, live, test::part(tokens, 0, 128));
  r->copy_state(live.state_row, 6);  // the checkpoint
  const Sequence at_checkpoint = live;
  test::run(*r, live,
            test::part(tokens, 0, 64));  // the conversation takes another turn, over the same row and blocks
  test::run(*r, live, {3});

  Sequence resumed = at_checkpoint;
  resumed.state_row = 2;
  r->copy_state(6, resumed.state_row);
  Logits got = head;
  for (auto& row : test::run(*r, resumed, test::part(tokens, 128, 62))) {
    got.push_back(std::move(row));
  }
  for (size_t i = 190; i < 200; ++i) {
    got.push_back(test::run(*r, resumed, {tokens[i]})[0]);
  }
  EXPECT_EQ(got, want);
}

TEST_P(Equalities, ReusedRowsStartClean) {
  const auto r = runner();
  ASSERT_NE(r, nullptr);
  const auto tokens = test::tiny_prompt(model_, 70);
  Sequence fresh = test::sequence(0);
  const Logits want = test::run(*r, fresh, tokens);
  Sequence used = test::sequence(0);  // the same row and blocks, full of the first conversation
  EXPECT_EQ(test::run(*r, used, tokens), want);
}

TEST_P(Equalities, ThreadsDoNotMatter) {
  const auto two = runner(2);
  const auto one = runner(1);
  const auto three = runner(3);
  ASSERT_TRUE(one && two && three);
  const auto tokens = test::tiny_prompt(model_, 140);
  Sequence a = test::sequence(0), b = test::sequence(0), c = test::sequence(0);
  const Logits want = straight(*one, a, tokens, 130);
  EXPECT_EQ(straight(*two, b, tokens, 130), want);
  EXPECT_EQ(straight(*three, c, tokens, 130), want);
}

// Which rows are asked for, in which order and how often, changes no logits and no state.
TEST_P(Equalities, RowsAskedForDoNotMatter) {
  const auto r = runner();
  ASSERT_NE(r, nullptr);
  const auto tokens = test::tiny_prompt(model_, 70);
  Sequence all = test::sequence(0);
  const Logits want = test::run(*r, all, tokens);
  const Logits next = test::run(*r, all, {7});

  const Sequence s = test::sequence(1);
  std::vector<model::Position> positions;
  for (int32_t i = 0; i < 70; ++i) {
    positions.push_back({i, i, i});
  }
  const std::vector<model::Slice> slices{{0, 70, 0, s.state_row, s.blocks, true}};
  const std::vector<int32_t> asked{69, 3, 3, 64, 0};
  std::vector<model::Row> rows;
  for (const int32_t row : asked) {
    rows.push_back({row, true, {}});
  }
  rows.insert(rows.begin() + 1, {5, false, {}});  // known to the engine, not wanted on the host
  model::Batch batch;
  batch.tokens = tokens;
  batch.positions = positions;
  batch.slices = slices;
  batch.rows = rows;
  r->submit(batch);
  const auto results = r->collect();
  ASSERT_EQ(results.size(), rows.size());
  EXPECT_TRUE(results[1].logits.empty());
  for (size_t i = 0; i < rows.size(); ++i) {
    if (i != 1) {
      const auto& expected = want[static_cast<size_t>(rows[i].token)];
      EXPECT_TRUE(std::equal(expected.begin(), expected.end(), results[i].logits.begin())) << "row " << i;
    }
  }
  batch.rows = {};  // a prompt whose logits nobody wants
  r->submit(batch);
  EXPECT_TRUE(r->collect().empty());
  Sequence after = s;
  after.n_cached = 70;
  EXPECT_EQ(test::run(*r, after, {7}), next);
}

INSTANTIATE_TEST_SUITE_P(
    Types, Equalities,
    testing::Values(Variant{"f32", DType::f32, DType::f32, DType::f32, false},
                    Variant{"f16_kv_f16", DType::f16, DType::f16, DType::f16, true},
                    Variant{"bf16_kv_bf16", DType::bf16, DType::bf16, DType::bf16, false},
                    Variant{"q8_0_kv_q8_0", DType::q8_0, DType::q8_0, DType::q8_0, true},
                    Variant{"q4_0_kv_mixed", DType::q4_0, DType::q8_0, DType::f16, false}),
    [](const auto& variant) { return std::string(variant.param.name); });

}  // namespace
}  // namespace fl
