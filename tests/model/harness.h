// Loads a drafted model into a runner and feeds it, so that a test reads as what it claims.
#pragma once

#include <unistd.h>

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "gguf/gguf.h"
#include "model/runners.h"
#include "tests/support/tiny_model.h"

namespace fl::test {

/// A file that goes away with the test.
class TempFile {
 public:
  TempFile() {
    static int next = 0;
    path_ = std::filesystem::temp_directory_path() /
            ("freelunch_model_" + std::to_string(getpid()) + "_" + std::to_string(next++) + ".gguf");
  }
  ~TempFile() {
    std::error_code ignored;
    std::filesystem::remove(path_, ignored);
  }
  TempFile(const TempFile&) = delete;
  TempFile& operator=(const TempFile&) = delete;
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

inline Result<std::unique_ptr<model::Runner>> load(const std::filesystem::path& path,
                                                   const model::RunnerOptions& options) {
  FL_ASSIGN(const gguf::File file, gguf::File::open(path));
  FL_ASSIGN(const model::Weights weights, model::Weights::bind(file));
  return model::make_cpu_runner(weights, options);
}

inline Result<std::unique_ptr<model::Runner>> load(const Draft& draft, const model::RunnerOptions& options) {
  const TempFile file;
  FL_TRY(draft.write(file.path()));
  return load(file.path(), options);
}

inline model::RunnerOptions tiny_options() {
  model::RunnerOptions o;
  o.n_threads = 2;
  o.n_blocks = 40;
  o.n_state_rows = 6;
  o.n_spare_rows = 2;
  o.max_tokens = 1024;
  o.max_slices = 8;
  o.max_rows = 1024;
  o.kv_type_k = DType::f32;
  o.kv_type_v = DType::f32;
  return o;
}

/// One conversation: its tokens so far and where it lives.
struct Sequence {
  int32_t state_row = 0;
  std::vector<int32_t> blocks;
  int32_t n_cached = 0;
};

/// Sequence number i with room for `n_blocks` blocks of its own, scattered over the cache.
inline Sequence sequence(int32_t i, int32_t n_blocks = 12, int32_t n_sequences = 3) {
  Sequence s;
  s.state_row = i;
  for (int32_t b = 0; b < n_blocks; ++b) {
    s.blocks.push_back((n_blocks - 1 - b) * n_sequences + i);
  }
  return s;
}

struct Feed {
  Sequence* sequence = nullptr;
  std::vector<int32_t> tokens;
  std::vector<model::Position> positions;  ///< empty: text positions from n_cached
  bool prompt = false;                     ///< one token alone is a prompt's; several always are
};

using Logits = std::vector<std::vector<float>>;

/// One step of several sequences; the logits of every token, feed by feed.
inline std::vector<Logits> step(model::Runner& runner, const std::vector<Feed>& feeds) {
  std::vector<int32_t> tokens;
  std::vector<model::Position> positions;
  std::vector<model::Slice> slices;
  std::vector<model::Row> rows;
  for (const Feed& feed : feeds) {
    model::Slice slice;
    slice.first = static_cast<int32_t>(tokens.size());
    slice.n_tokens = static_cast<int32_t>(feed.tokens.size());
    slice.n_cached = feed.sequence->n_cached;
    slice.state_row = feed.sequence->state_row;
    slice.blocks = feed.sequence->blocks;
    slice.prompt = feed.prompt || feed.tokens.size() > 1;
    slices.push_back(slice);
    for (size_t i = 0; i < feed.tokens.size(); ++i) {
      const int32_t p = slice.n_cached + static_cast<int32_t>(i);
      positions.push_back(feed.positions.empty() ? model::Position{p, p, p} : feed.positions[i]);
      rows.push_back({static_cast<int32_t>(tokens.size()), true, {}});
      tokens.push_back(feed.tokens[i]);
    }
    feed.sequence->n_cached += slice.n_tokens;
  }
  model::Batch batch;
  batch.tokens = tokens;
  batch.positions = positions;
  batch.slices = slices;
  batch.rows = rows;
  runner.submit(batch);
  const auto results = runner.collect();
  std::vector<Logits> out(feeds.size());
  size_t row = 0;
  for (size_t f = 0; f < feeds.size(); ++f) {
    for (size_t i = 0; i < feeds[f].tokens.size(); ++i) {
      out[f].emplace_back(results[row].logits.begin(), results[row].logits.end());
      ++row;
    }
  }
  return out;
}

inline Logits run(model::Runner& runner, Sequence& s, const std::vector<int32_t>& tokens) {
  return step(runner, {{&s, tokens, {}}})[0];
}

inline std::vector<int32_t> part(const std::vector<int32_t>& tokens, int64_t first, int64_t n) {
  return {tokens.begin() + first, tokens.begin() + first + n};
}

}  // namespace fl::test
