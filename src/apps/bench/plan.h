// What `freelunch bench` measures: the cross product of its comma lists, in llama-bench's order.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "core/dtype.h"

namespace fl::apps::bench {

/// One line of the result.
struct Test {
  int32_t n_prompt = 0;
  int32_t n_gen = 0;
  int32_t n_depth = 0;     ///< tokens in the context before the clock starts
  int32_t n_parallel = 1;  ///< sequences that run at once; each has n_prompt, n_gen and n_depth
  int32_t n_batch = 2048;  ///< tokens of one step at most
  int32_t n_threads = 0;
  DType type_k = DType::f16;
  DType type_v = DType::f16;

  std::string name() const;  ///< "pp512", "tg128 @ d4096", "tg128 x4"
  /// Tokens of one sequence.
  int64_t context() const { return int64_t{n_prompt} + n_gen + n_depth; }
};

/// The lists as given on the command line.
struct Lists {
  std::vector<int64_t> prompt{512};
  std::vector<int64_t> gen{128};
  std::vector<std::pair<int64_t, int64_t>> prompt_gen;
  std::vector<int64_t> depth{0};
  std::vector<int64_t> parallel{1};
  std::vector<int64_t> batch{2048};
  std::vector<int64_t> threads{0};
  std::vector<DType> type_k{DType::f16};
  std::vector<DType> type_v{DType::f16};
};

/// "512", "1,2,4", "128-512+128", "64-1024*2". Errors name the piece that is wrong.
Result<std::vector<int64_t>> parse_numbers(std::string_view text);
/// "f16,q8_0": the types a KV cache may have.
Result<std::vector<DType>> parse_kv_types(std::string_view text);

std::vector<Test> make_tests(const Lists& lists);

}  // namespace fl::apps::bench
