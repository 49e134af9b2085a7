#include "model/contract.h"

#include <fmt/format.h>

#include "kernels/attention.h"

namespace fl::model {
namespace {

constexpr int32_t kMaxThreads = 1024;
constexpr int32_t kMaxStepTokens = 1 << 20;
constexpr int32_t kMaxBlocks = 1 << 26;

Status check_option(std::string_view name, int64_t value, int64_t least, int64_t most) {
  if (value < least || value > most) {
    return fail(ErrorCode::invalid_argument,
                fmt::format("{}: expected {} to {}, found {}", name, least, most, value));
  }
  return {};
}

}  // namespace

Status check_options(const Config& config, const RunnerOptions& o) {
  FL_TRY(check_option("threads", o.n_threads, 0, kMaxThreads));
  FL_TRY(check_option("KV blocks", o.n_blocks, 1, kMaxBlocks));
  FL_TRY(check_option("state rows", o.n_state_rows, 1, kMaxStepTokens));
  FL_TRY(check_option("spare state rows", o.n_spare_rows, 0, kMaxStepTokens));
  FL_TRY(check_option("tokens of a step", o.max_tokens, 1, kMaxStepTokens));
  FL_TRY(check_option("sequences of a step", o.max_slices, 1, o.max_tokens));
  FL_TRY(check_option("rows of a step", o.max_rows, 1, o.max_tokens));
  for (const DType type : {o.kv_type_k, o.kv_type_v}) {
    if (!kv_type_supported(type, config.head_dim)) {
      return fail(ErrorCode::invalid_argument,
                  fmt::format("KV cache type: expected f32, f16, bf16 or (head_dim a multiple of {}) q8_0, "
                              "found {} with head_dim {}",
                              kKvQuantGroup, dtype_info(type).name, config.head_dim));
    }
  }
  return {};
}

Capacity capacity_of(const RunnerOptions& options, const Config& config) {
  Capacity capacity;
  capacity.n_blocks = options.n_blocks;
  capacity.n_state_rows = options.n_state_rows;
  capacity.n_spare_rows = options.n_spare_rows;
  capacity.max_tokens = options.max_tokens;
  capacity.max_slices = options.max_slices;
  capacity.max_rows = options.max_rows;
  capacity.n_vocab = config.n_vocab;
  return capacity;
}

BatchCheck::BatchCheck(const Capacity& capacity)
    : capacity_(capacity), row_used_(static_cast<size_t>(capacity.n_state_rows), 0) {
  sampled_.reserve(static_cast<size_t>(capacity.max_rows));
}

void BatchCheck::operator()(const Batch& batch) {
  const int32_t n = batch.n_tokens();
  FL_CHECK(n >= 1 && n <= capacity_.max_tokens, "tokens of the step out of range");
  FL_CHECK(batch.positions.size() == batch.tokens.size(), "a position for each token");
  FL_CHECK(batch.slices.size() <= static_cast<size_t>(capacity_.max_slices), "too many slices");
  FL_CHECK(batch.rows.size() <= static_cast<size_t>(capacity_.max_rows), "too many rows");
  check_tokens(batch);
  check_slices(batch);
  check_rows(batch);
  sampled_.clear();
  for (const Row& row : batch.rows) {
    sampled_.push_back(row.sampling.mode != DeviceSampling::Mode::none);
  }
}

void check_copy(const Capacity& capacity, int32_t from_row, int32_t to_row) {
  const int32_t n_rows = capacity.n_state_rows + capacity.n_spare_rows;
  FL_CHECK(from_row >= 0 && from_row < n_rows && to_row >= 0 && to_row < n_rows, "state row out of range");
}

void BatchCheck::check_tokens(const Batch& batch) const {
  FL_CHECK(batch.feedback.empty() || batch.feedback.size() == batch.tokens.size(),
           "feedback for each token or none");
  for (size_t i = 0; i < batch.tokens.size(); ++i) {
    const int32_t token = batch.tokens[i];
    if (token == kTokenFromDevice) {
      FL_CHECK(!batch.feedback.empty(), "a token from the device without feedback");
      const int32_t row = batch.feedback[i];
      FL_CHECK(row >= 0 && static_cast<size_t>(row) < sampled_.size() && sampled_[static_cast<size_t>(row)],
               "feedback names no row that the step before samples");
    } else {
      FL_CHECK(token >= 0 && token < capacity_.n_vocab, "token id out of range");
    }
  }
}

void BatchCheck::check_slices(const Batch& batch) {
  ++step_;
  int32_t next = 0;
  for (const Slice& slice : batch.slices) {
    FL_CHECK(slice.first == next && slice.n_tokens >= 1, "slices cover the tokens in order");
    FL_CHECK(slice.n_tokens == 1 || slice.prompt, "several tokens of a sequence are a prompt's");
    next += slice.n_tokens;
    FL_CHECK(slice.n_cached >= 0, "n_cached out of range");
    FL_CHECK(slice.state_row >= 0 && slice.state_row < capacity_.n_state_rows, "state row out of range");
    FL_CHECK(row_used_[static_cast<size_t>(slice.state_row)] != step_, "a state row in two slices");
    row_used_[static_cast<size_t>(slice.state_row)] = step_;
    const int64_t keys = int64_t{slice.n_cached} + slice.n_tokens;
    FL_CHECK(static_cast<int64_t>(slice.blocks.size()) * kBlockTokens >= keys, "too few KV blocks");
    for (const int32_t block : slice.blocks) {
      FL_CHECK(block >= 0 && block < capacity_.n_blocks, "KV block out of range");
    }
  }
  FL_CHECK(next == batch.n_tokens(), "slices cover all tokens");
}

void BatchCheck::check_rows(const Batch& batch) const {
  for (const Row& row : batch.rows) {
    FL_CHECK(row.token >= 0 && row.token < batch.n_tokens(), "row outside the tokens");
    if (row.sampling.mode == DeviceSampling::Mode::none) {
      continue;
    }
    FL_CHECK(capacity_.max_device_top_k > 0, "this runner does not sample");
    FL_CHECK(row.sampling.bias.size() <= static_cast<size_t>(capacity_.max_device_bias), "too many biases");
    for (const auto& [token, bias] : row.sampling.bias) {
      FL_CHECK(token >= 0 && token < capacity_.n_vocab, "bias of a token out of range");
    }
    if (row.sampling.mode == DeviceSampling::Mode::random) {
      FL_CHECK(row.sampling.top_k >= 1 && row.sampling.top_k <= capacity_.max_device_top_k,
               "top_k out of range");
      FL_CHECK(row.sampling.temperature > 0, "temperature out of range");
    }
  }
}

}  // namespace fl::model
