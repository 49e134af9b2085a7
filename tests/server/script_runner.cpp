#include "tests/server/script_runner.h"

#include <chrono>
#include <thread>

namespace fl::test {

ScriptRunner::ScriptRunner(Scripts scripts, const model::RunnerOptions& options,
                           std::shared_ptr<Controls> controls)
    : scripts_(std::move(scripts)), controls_(std::move(controls)) {
  config_.name = "script";
  config_.n_vocab = scripts_.n_vocab;
  config_.n_ctx_train = 4096;
  config_.n_embd = 64;
  capacity_.n_blocks = options.n_blocks;
  capacity_.n_state_rows = options.n_state_rows;
  capacity_.n_spare_rows = options.n_spare_rows;
  capacity_.max_tokens = options.max_tokens;
  capacity_.max_slices = options.max_slices;
  capacity_.max_rows = options.max_rows;
  capacity_.n_vocab = scripts_.n_vocab;
  rows_.resize(static_cast<size_t>(options.n_state_rows + options.n_spare_rows));
}

int32_t ScriptRunner::next(State& state) const {
  if (state.script >= 0 && state.script < static_cast<int32_t>(scripts_.answers.size())) {
    const auto& answer = scripts_.answers[static_cast<size_t>(state.script)];
    const auto at = static_cast<size_t>(state.offset++);
    return at < answer.size() ? answer[at] : scripts_.eos;
  }
  return scripts_.first_letter + static_cast<int32_t>(state.hash >> 33U) % 26;
}

void ScriptRunner::submit(const model::Batch& batch) {
  while (controls_->held) {
    std::this_thread::sleep_for(std::chrono::microseconds(200));
  }
  if (controls_->lost) {
    throw model::DeviceError("the script is lost at /secret/path", true);
  }
  if (controls_->broken) {
    throw model::DeviceError("the script broke at /secret/path", false);
  }
  std::this_thread::sleep_for(std::chrono::microseconds(controls_->step_us));
  ++controls_->n_steps;
  logits_.clear();
  for (const model::Slice& slice : batch.slices) {
    State& state = rows_[static_cast<size_t>(slice.state_row)];
    if (slice.n_cached == 0) {
      state = {};
    }
    for (int32_t i = 0; i < slice.n_tokens; ++i) {
      const int32_t index = slice.first + i;
      const int32_t token = batch.tokens[static_cast<size_t>(index)];
      const int32_t digit = token - scripts_.digit0;
      if (state.last == scripts_.hash && digit >= 0 && digit < 10) {
        state.script = digit;
        state.offset = 0;
      }
      state.last = token;
      state.hash = (state.hash ^ static_cast<uint64_t>(token)) * 0x9E3779B97F4A7C15ULL;
      for (const model::Row& row : batch.rows) {
        if (row.token == index) {
          std::vector<float> logits(static_cast<size_t>(scripts_.n_vocab));
          for (size_t v = 0; v < logits.size(); ++v) {
            logits[v] = -static_cast<float>(v % 50) * 0.01F;
          }
          logits[static_cast<size_t>(next(state))] = 30.0F;
          logits_.push_back(std::move(logits));
        }
      }
    }
  }
}

std::span<const model::RowResult> ScriptRunner::collect() {
  results_.clear();
  for (const auto& logits : logits_) {
    results_.push_back({-1, logits});
  }
  return results_;
}

void ScriptRunner::copy_state(int32_t from_row, int32_t to_row) {
  rows_[static_cast<size_t>(to_row)] = rows_[static_cast<size_t>(from_row)];
}

}  // namespace fl::test
