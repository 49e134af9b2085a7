#include "apps/bench/plan.h"

#include <charconv>

#include <fmt/format.h>

namespace fl::apps::bench {
namespace {

constexpr int64_t kMaxNumber = 1 << 24;  // tokens, threads, sequences: beyond any use
constexpr size_t kMaxListLength = 10000;

std::vector<std::string_view> split(std::string_view text, char separator) {
  std::vector<std::string_view> parts;
  while (true) {
    const size_t end = text.find(separator);
    parts.push_back(text.substr(0, end));
    if (end == std::string_view::npos) {
      return parts;
    }
    text.remove_prefix(end + 1);
  }
}

Result<int64_t> parse_number(std::string_view text) {
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end != text.data() + text.size() || value < 0 || value > kMaxNumber) {
    return fail(ErrorCode::invalid_argument,
                fmt::format("expected a number in [0, {}], found '{}'", kMaxNumber, text));
  }
  return value;
}

// "first-last", "first-last+step", "first-last*factor"
Status append_range(std::string_view text, std::vector<int64_t>& out) {
  const size_t dash = text.find('-');
  const size_t op = text.find_first_of("+*", dash);
  FL_ASSIGN(const int64_t first, parse_number(text.substr(0, dash)));
  FL_ASSIGN(const int64_t last,
            parse_number(text.substr(dash + 1, op == std::string_view::npos ? op : op - dash - 1)));
  int64_t step = 1;
  if (op != std::string_view::npos) {
    FL_ASSIGN(step, parse_number(text.substr(op + 1)));
  }
  const bool multiply = op != std::string_view::npos && text[op] == '*';
  if (step < (multiply ? 2 : 1) || (multiply && first == 0)) {
    return fail(ErrorCode::invalid_argument, fmt::format("the range '{}' never ends", text));
  }
  for (int64_t value = first; value <= last; value = multiply ? value * step : value + step) {
    if (out.size() == kMaxListLength) {
      return fail(ErrorCode::invalid_argument,
                  fmt::format("more than {} numbers in '{}'", kMaxListLength, text));
    }
    out.push_back(value);
  }
  return {};
}

}  // namespace

Result<std::vector<int64_t>> parse_numbers(std::string_view text) {
  std::vector<int64_t> numbers;
  for (std::string_view piece : split(text, ',')) {
    if (piece.find('-') != std::string_view::npos) {
      FL_TRY(append_range(piece, numbers));
    } else {
      FL_ASSIGN(const int64_t value, parse_number(piece));
      numbers.push_back(value);
    }
  }
  return numbers;
}

Result<std::vector<DType>> parse_kv_types(std::string_view text) {
  std::vector<DType> types;
  for (std::string_view piece : split(text, ',')) {
    const std::optional<DType> type = dtype_from_name(piece);
    if (!type ||
        (*type != DType::f32 && *type != DType::f16 && *type != DType::bf16 && *type != DType::q8_0)) {
      return fail(ErrorCode::invalid_argument,
                  fmt::format("KV cache type: expected f32, f16, bf16 or q8_0, found '{}'", piece));
    }
    types.push_back(*type);
  }
  return types;
}

std::string Test::name() const {
  std::string text;
  if (n_prompt > 0) {
    text = fmt::format("pp{}", n_prompt);
  }
  if (n_gen > 0) {
    text += fmt::format("{}tg{}", text.empty() ? "" : "+", n_gen);
  }
  if (n_parallel > 1) {
    text += fmt::format(" x{}", n_parallel);
  }
  if (n_depth > 0) {
    text += fmt::format(" @ d{}", n_depth);
  }
  return text;
}

std::vector<Test> make_tests(const Lists& lists) {
  std::vector<Test> tests;
  const auto add = [&](Test base, int64_t n_prompt, int64_t n_gen) {
    base.n_prompt = static_cast<int32_t>(n_prompt);
    base.n_gen = static_cast<int32_t>(n_gen);
    if (n_prompt > 0 || n_gen > 0) {
      tests.push_back(base);
    }
  };
  for (DType type_k : lists.type_k) {
    for (DType type_v : lists.type_v) {
      for (int64_t n_threads : lists.threads) {
        for (int64_t n_batch : lists.batch) {
          for (int64_t n_parallel : lists.parallel) {
            for (int64_t n_depth : lists.depth) {
              Test base;
              base.type_k = type_k;
              base.type_v = type_v;
              base.n_threads = static_cast<int32_t>(n_threads);
              base.n_batch = static_cast<int32_t>(n_batch);
              base.n_parallel = static_cast<int32_t>(n_parallel);
              base.n_depth = static_cast<int32_t>(n_depth);
              for (int64_t n : lists.prompt) {
                add(base, n, 0);
              }
              for (int64_t n : lists.gen) {
                add(base, 0, n);
              }
              for (auto [n_prompt, n_gen] : lists.prompt_gen) {
                add(base, n_prompt, n_gen);
              }
            }
          }
        }
      }
    }
  }
  return tests;
}

}  // namespace fl::apps::bench
