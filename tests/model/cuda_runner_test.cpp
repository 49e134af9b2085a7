// The model on the device: against the official implementation and the CPU, and the equalities of batch.h.
#include <cmath>
#include <cstdlib>

#include "kernels/cuda/rms_norm.h"
#include "tests/model/golden.h"
#include "tests/model/harness.h"
#include "tests/support/cases.h"
#include "tests/support/device.h"
#include "tests/support/tolerances.h"

namespace fl {
namespace {

using test::Logits;
using test::Sequence;
using test::step;

Result<std::unique_ptr<model::Runner>> load_cuda(const test::Draft& draft,
                                                 const model::RunnerOptions& options) {
  const test::TempFile file;
  FL_TRY(draft.write(file.path()));
  FL_ASSIGN(const gguf::File opened, gguf::File::open(file.path()));
  FL_ASSIGN(const model::Weights weights, model::Weights::bind(opened));
  return model::make_cuda_runner(weights, options);
}

/// Largest difference, relative to the largest of `want`; infinite when there is a NaN.
double difference(const std::vector<float>& got, const std::vector<float>& want) {
  double largest = 0;
  double most = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    largest = std::max(largest, std::abs(static_cast<double>(want[i])));
    const double d = std::abs(static_cast<double>(got[i]) - static_cast<double>(want[i]));
    if (!(d >= 0)) {
      return std::numeric_limits<double>::infinity();
    }
    most = std::max(most, d);
  }
  return most / largest;
}

/// Whether prompts go to a library, whose order of sums depends on the number of tokens: also beside int8
/// products for matrices that are kept as f16, here those whose rows are no multiple of the type's blocks.
bool takes_library(const model::Runner& r, const test::TinyModel& m, DType weights) {
  const std::string how = r.describe();
  const int64_t block = dtype_info(weights).block_elems;
  bool int8 = how.find("int8") != std::string::npos && weights != DType::f16;
  for (const int64_t cols : {m.hidden, m.ff, m.heads * m.head_dim, m.value_heads * m.value_dim}) {
    int8 = int8 && cols % block == 0;
  }
  return !int8 && how.find("cuBLASLt") != std::string::npos;
}

class CudaModel : public test::DeviceTest {
 protected:
  std::unique_ptr<model::Runner> runner(const test::TinyModel& m, DType weights,
                                        model::RunnerOptions options) {
    test::Draft draft = test::draft_model(m);
    if (weights != DType::f32) {
      draft.quantise(weights);
    }
    auto made = load_cuda(draft, options);
    if (!made) {
      ADD_FAILURE() << made.error().message;
      return nullptr;
    }
    return std::move(*made);
  }
  static test::TinyModel wide() {
    // The shapes of the large models' kernels: heads of 256 and 128, three value heads a key head, six
    // queries a KV head.
    test::TinyModel m;
    m.seed = 31;
    m.hidden = 256;
    m.ff = 512;
    m.layers = 4;
    m.heads = 6;
    m.kv_heads = 1;
    m.head_dim = 256;
    m.key_heads = 2;
    m.value_heads = 6;
    m.key_dim = m.value_dim = 128;
    m.sections = {11, 11, 10};
    return m;
  }
};

TEST_F(CudaModel, LogitsOfTheOfficialImplementation) {
  test::expect_official_logits(
      [](const test::TinyModel& m) { return load_cuda(test::draft_model(m), test::tiny_options()); },
      test::kOfficialLogitsHalf);
}

TEST_F(CudaModel, AgreesWithTheCpu) {
  const int64_t n_prompt = test::few_cases() ? 70 : 140;
  const int64_t n_tokens = n_prompt + (test::few_cases() ? 2 : 10);
  for (const DType weights :
       test::cases({DType::q4_k, DType::q6_k, DType::q8_0, DType::f16}, {DType::q4_k})) {
    for (const DType kv : {DType::f16, DType::q8_0}) {
      test::TinyModel m = wide();
      test::Draft draft = test::draft_model(m);
      draft.quantise(weights);
      model::RunnerOptions options = test::tiny_options();
      options.kv_type_k = options.kv_type_v = kv;
      auto cpu = test::load(draft, options);
      ASSERT_TRUE(cpu) << cpu.error().message;
      auto cuda = load_cuda(draft, options);
      ASSERT_TRUE(cuda) << cuda.error().message;
      const auto tokens = test::tiny_prompt(m, n_tokens);
      Sequence on_cpu = test::sequence(0);
      Sequence on_cuda = test::sequence(0);
      Logits want = test::run(**cpu, on_cpu, test::part(tokens, 0, n_prompt));
      Logits got = test::run(**cuda, on_cuda, test::part(tokens, 0, n_prompt));
      for (int64_t i = n_prompt; i < n_tokens; ++i) {
        want.push_back(test::run(**cpu, on_cpu, test::part(tokens, i, 1))[0]);
        got.push_back(test::run(**cuda, on_cuda, test::part(tokens, i, 1))[0]);
      }
      for (size_t i = 0; i < want.size(); ++i) {
        EXPECT_LT(difference(got[i], want[i]), test::kCudaAgainstCpu)
            << dtype_info(weights).name << ", cache " << dtype_info(kv).name << ", token " << i;
      }
    }
  }
}

TEST_F(CudaModel, APromptIsItsChunksBitForBit) {
  // The last chunk is a single token, and one that other chats decode beside (docs/decisions/0082).
  for (const test::TinyModel& m : test::cases<test::TinyModel>({wide(), {}}, {wide()})) {
    for (const DType weights :
         test::cases({DType::q4_k, DType::q6_k, DType::q8_0, DType::f16}, {DType::q4_k})) {
      for (const DType kv : test::cases({DType::q8_0, DType::f32}, {DType::q8_0})) {
        model::RunnerOptions options = test::tiny_options();
        options.kv_type_k = options.kv_type_v = kv;
        const auto r = runner(m, weights, options);
        ASSERT_NE(r, nullptr);
        const bool exact = !takes_library(*r, m, weights);
        if (!exact && kv != DType::f32) {
          continue;  // a quantised cache rounds apart what differs in the last digits
        }
        const int32_t n_tokens = test::few_cases() ? 65 : 321;
        const auto tokens = test::tiny_prompt(m, n_tokens);
        Sequence whole = test::sequence(0);
        const Logits want = test::run(*r, whole, tokens);
        Sequence other = test::sequence(2);
        test::run(*r, other, test::part(tokens, 0, 30));
        for (const int32_t chunk : test::cases({64, 128, 192, 320}, {64})) {
          Sequence cut = test::sequence(1);
          for (int32_t first = 0; first < n_tokens; first += chunk) {
            const int32_t n = std::min(chunk, n_tokens - first);
            std::vector<test::Feed> feeds{{&cut, test::part(tokens, first, n), {}, true}};
            if (first % 128 != 0) {
              feeds.push_back({&other, {7}, {}});
            }
            const Logits got = test::step(*r, feeds)[0];
            for (int32_t i = 0; i < n; ++i) {
              const auto& expected = want[static_cast<size_t>(first + i)];
              const auto& is = got[static_cast<size_t>(i)];
              if (exact) {
                ASSERT_EQ(is, expected) << dtype_info(weights).name << ", cache " << dtype_info(kv).name
                                        << ", chunks of " << chunk << ", token " << first + i;
              } else {
                ASSERT_LT(difference(is, expected), test::kOfficialLogitsHalf)
                    << "chunks of " << chunk << ", token " << first + i;
              }
            }
          }
        }
      }
    }
  }
}

TEST_F(CudaModel, AChatsBitsDoNotDependOnItsNeighbours) {
  const int32_t n_steps = test::few_cases() ? 2 : 20;
  for (const test::TinyModel& m : test::cases<test::TinyModel>({wide(), {}}, {wide()})) {
    model::RunnerOptions options = test::tiny_options();
    options.kv_type_k = options.kv_type_v = DType::q8_0;
    const auto r = runner(m, DType::q4_k, options);
    ASSERT_NE(r, nullptr);
    std::vector<std::vector<int32_t>> tokens;
    std::vector<Logits> want;
    for (int32_t i = 0; i < 3; ++i) {
      tokens.push_back(test::tiny_prompt(m, 20 + n_steps + 30 * i));
      Sequence s = test::sequence(i);
      test::run(*r, s, test::part(tokens.back(), 0, 20 + 30 * i));
      want.emplace_back();
      for (int32_t t = 20 + 30 * i; t < 20 + n_steps + 30 * i; ++t) {
        want.back().push_back(test::run(*r, s, {tokens.back()[static_cast<size_t>(t)]})[0]);
      }
    }
    // Other rows and blocks, decode steps of two and three, one of them beside a prompt.
    std::vector<Sequence> s{test::sequence(2), test::sequence(0), test::sequence(1)};
    std::vector<Logits> got(3);
    for (int32_t i = 0; i < 3; ++i) {
      test::run(*r, s[static_cast<size_t>(i)], test::part(tokens[static_cast<size_t>(i)], 0, 20 + 30 * i));
    }
    for (int32_t t = 0; t < n_steps; ++t) {
      std::vector<test::Feed> feeds;
      std::vector<size_t> who;
      for (size_t i = 0; i < 3; ++i) {
        if (t % 2 == 0 || i != 1) {
          const size_t at = 20 + 30 * i + got[i].size();
          feeds.push_back({&s[i], {tokens[i][at]}, {}});
          who.push_back(i);
        }
      }
      const auto rows = step(*r, feeds);
      for (size_t i = 0; i < who.size(); ++i) {
        got[who[i]].push_back(rows[i][0]);
      }
    }
    for (size_t i = 0; i < 3; ++i) {
      ASSERT_LE(got[i].size(), want[i].size());
      EXPECT_EQ(got[i], Logits(want[i].begin(), want[i].begin() + static_cast<int64_t>(got[i].size())))
          << "chat " << i;
    }
  }
}

TEST_F(CudaModel, ResumedIsCold) {
  // The checkpoint in a row of the steps, and in a spare one: in host memory, written while steps go on in
  // the row that it comes from, a chunked prompt and then recorded graphs, and read while others compute.
  const test::TinyModel m = wide();
  const auto r = runner(m, DType::q4_k, test::tiny_options());
  ASSERT_NE(r, nullptr);
  const auto tokens = test::tiny_prompt(m, 300);
  for (const int32_t kept : test::cases({5, 6, 7}, {6})) {
    Sequence cold = test::sequence(0);
    test::run(*r, cold, test::part(tokens, 0, 128));
    r->copy_state(0, kept);
    const Sequence checkpoint = cold;
    Logits want = test::run(*r, cold, test::part(tokens, 128, 170));
    r->copy_state(0, kept == 6 ? 7 : 6);
    want.push_back(test::run(*r, cold, {tokens[298]})[0]);
    Sequence resumed = checkpoint;
    resumed.state_row = 3;
    r->copy_state(kept, 3);
    Logits got = test::run(*r, resumed, test::part(tokens, 128, 170));
    got.push_back(test::run(*r, resumed, {tokens[298]})[0]);
    EXPECT_EQ(got, want) << "row " << kept;
    if (kept != 5) {
      r->copy_state(kept, kept == 6 ? 7 : 6);  // host to host
      r->copy_state(kept == 6 ? 7 : 6, 1);
      resumed = checkpoint;
      resumed.state_row = 1;
      r->copy_state(1, 2);  // waits for the copy that fills the row
      resumed.state_row = 2;
      got = test::run(*r, resumed, {tokens[128]});
      EXPECT_EQ(got[0].size(), want[0].size());
      resumed = checkpoint;
      resumed.state_row = 1;
      EXPECT_EQ(test::run(*r, resumed, {tokens[128]}), got);
    }
  }
}

TEST_F(CudaModel, TokensStayOnTheDevice) {
  // Greedy, two steps in flight: each step takes the token of the one before from the device. The token that
  // would come first is forbidden.
  const test::TinyModel m = wide();
  const auto r = runner(m, DType::q4_k, test::tiny_options());
  ASSERT_NE(r, nullptr);
  ASSERT_EQ(r->capacity().max_in_flight, 2);
  const auto prompts = std::vector{test::tiny_prompt(m, 70), test::tiny_prompt(m, 9)};
  const int32_t n_steps = test::few_cases() ? 3 : 12;
  std::vector<std::vector<int32_t>> want(2);
  std::vector<std::pair<int32_t, float>> forbidden;
  for (int32_t i = 0; i < 2; ++i) {
    Sequence s = test::sequence(i);
    std::vector<float> logits = test::run(*r, s, prompts[static_cast<size_t>(i)]).back();
    if (forbidden.empty()) {
      const auto first = std::max_element(logits.begin(), logits.end()) - logits.begin();
      forbidden.emplace_back(static_cast<int32_t>(first), -std::numeric_limits<float>::infinity());
    }
    for (int32_t t = 0; t < n_steps; ++t) {
      logits[static_cast<size_t>(forbidden[0].first)] = forbidden[0].second;
      const auto best = std::max_element(logits.begin(), logits.end()) - logits.begin();
      want[static_cast<size_t>(i)].push_back(static_cast<int32_t>(best));
      logits = test::run(*r, s, {static_cast<int32_t>(best)})[0];
    }
  }

  std::vector<Sequence> s{test::sequence(1), test::sequence(2)};
  std::vector<std::vector<int32_t>> got(2);
  const auto submit = [&](bool first) {
    std::vector<int32_t> tokens, feedback;
    std::vector<model::Position> positions;
    std::vector<model::Slice> slices;
    std::vector<model::Row> rows;
    for (size_t i = 0; i < 2; ++i) {
      const auto n = static_cast<int32_t>(first ? prompts[i].size() : 1);
      const model::Slice slice{
          static_cast<int32_t>(tokens.size()), n, s[i].n_cached, s[i].state_row, s[i].blocks, first};
      for (int32_t t = 0; t < n; ++t) {
        tokens.push_back(first ? prompts[i][static_cast<size_t>(t)] : model::kTokenFromDevice);
        feedback.push_back(first ? -1 : static_cast<int32_t>(i));
        const int32_t p = s[i].n_cached + t;
        positions.push_back({p, p, p});
      }
      s[i].n_cached += n;
      model::Row row{static_cast<int32_t>(tokens.size()) - 1, false, {}};
      row.sampling.mode = i == 0 ? model::DeviceSampling::Mode::greedy : model::DeviceSampling::Mode::random;
      row.sampling.top_k = 1;
      row.sampling.bias = forbidden;
      rows.push_back(row);
      slices.push_back(slice);
    }
    r->submit({tokens, first ? std::span<const int32_t>() : feedback, positions, slices, rows});
  };
  const auto collect = [&] {
    const auto results = r->collect();
    for (size_t i = 0; i < 2; ++i) {
      got[i].push_back(results[i].token);
    }
  };
  submit(true);
  for (int32_t t = 1; t < n_steps; ++t) {
    submit(false);
    collect();
  }
  collect();
  EXPECT_EQ(got, want);
}

TEST_F(CudaModel, MemoryIsAccountedAndLimited) {
  const test::TinyModel m = wide();
  const test::Draft draft = test::draft_model(m);
  // A cache far larger than what other programs on the device may take or give back meanwhile.
  model::RunnerOptions options = test::tiny_options();
  options.n_blocks *= 400;
  auto made = load_cuda(draft, options);
  ASSERT_TRUE(made) << made.error().message;
  uint64_t on_device = 0;
  uint64_t driver = 0;
  uint64_t cache = 0;
  for (const model::MemoryItem& item : (*made)->memory()) {
    on_device += item.on_device ? item.bytes : 0;
    driver = item.name == "driver and code" ? item.bytes : driver;
    cache = item.name == "kv cache" ? item.bytes : cache;
  }
  EXPECT_GT(on_device - driver, 0U);
  made->reset();
  options.memory_limit = on_device - cache / 2;
  const auto refused = load_cuda(draft, options);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::does_not_fit);
  EXPECT_NE(refused.error().message.find("the largest KV cache that fits"), std::string::npos)
      << refused.error().message;
  options.memory_limit = on_device + cache / 2;  // room is kept for what launches take
  EXPECT_TRUE(load_cuda(draft, options));
}

TEST_F(CudaModel, ALostDeviceIsSaid) {
  // A kernel with a wild pointer takes the context down: in a process of its own.
  testing::FLAGS_gtest_death_test_style = "threadsafe";
  constexpr int kLost = 7;
  EXPECT_EXIT(
      {
        const auto r = runner(wide(), DType::q4_k, test::tiny_options());
        cuda::gather_rows({nullptr, false}, reinterpret_cast<const float*>(256),
                          reinterpret_cast<const int32_t*>(256), 1, 256, reinterpret_cast<float*>(256));
        int code = 0;
        try {
          Sequence s = test::sequence(0);
          test::run(*r, s, {1, 2, 3});
          test::run(*r, s, {4});
        } catch (const model::DeviceError& error) {
          code = error.lost ? kLost : 1;
        }
        std::_Exit(code);
      },
      testing::ExitedWithCode(kLost), "");
}

TEST_F(CudaModel, ALongRunStaysFinite) {
  const test::TinyModel m = wide();
  model::RunnerOptions options = test::tiny_options();
  options.n_blocks = 600;
  options.kv_type_k = options.kv_type_v = DType::q8_0;
  const auto r = runner(m, DType::q4_k, options);
  ASSERT_NE(r, nullptr);
  Sequence s = test::sequence(0, 580, 1);
  const auto prompt = test::tiny_prompt(m, 32768);
  for (int64_t at = 0; at < 32768; at += 1024) {
    // Rows of a prompt are not needed here but one.
    const auto tokens = test::part(prompt, at, 1024);
    std::vector<model::Position> positions;
    for (int32_t i = 0; i < 1024; ++i) {
      const int32_t p = s.n_cached + i;
      positions.push_back({p, p, p});
    }
    const model::Slice slice{0, 1024, s.n_cached, s.state_row, s.blocks, true};
    const model::Row row{1023, true, {}};
    r->submit({tokens, {}, positions, {&slice, 1}, {&row, 1}});
    s.n_cached += 1024;
    for (const float l : r->collect()[0].logits) {
      ASSERT_TRUE(std::isfinite(l)) << "after " << s.n_cached << " tokens";
    }
  }
  int32_t token = 1;
  for (int32_t i = 0; i < 512; ++i) {
    const Logits logits = test::run(*r, s, {token});
    for (const float l : logits[0]) {
      ASSERT_TRUE(std::isfinite(l)) << "after " << s.n_cached << " tokens";
    }
    token = static_cast<int32_t>(std::max_element(logits[0].begin(), logits[0].end()) - logits[0].begin());
  }
}

}  // namespace
}  // namespace fl
