#include "tests/engine/fake_runner.h"

#include <algorithm>
#include <cmath>
#include <set>

namespace fl::test {

using model::kBlockTokens;

uint64_t FakeModel::mix(uint64_t a, uint64_t b) {
  uint64_t x = a * 0x9E3779B97F4A7C15U + b + 0x2545F4914F6CDD1DU;
  x = (x ^ (x >> 30U)) * 0xBF58476D1CE4E5B9U;
  x = (x ^ (x >> 27U)) * 0x94D049BB133111EBU;
  return x ^ (x >> 31U);
}

uint64_t FakeModel::next_state(uint64_t state, int32_t token, int32_t index, int32_t start) const {
  const bool off_grid = lineage_ && start % kBlockTokens != 0;
  return mix(mix(state, static_cast<uint64_t>(token)),
             static_cast<uint64_t>(index) + (off_grid ? 1ULL << 40U : 0));
}

void FakeModel::logits(uint64_t state, uint64_t attention, std::span<float> out) const {
  const uint64_t key = mix(mix(state, attention), seed_);
  for (size_t i = 0; i < out.size(); ++i) {
    out[i] = static_cast<float>(mix(key, i) >> 40U) * 0x1p-24F * 8.0F - 4.0F;
  }
}

std::vector<float> FakeModel::logits_after(std::span<const int32_t> tokens) const {
  uint64_t state = 0;
  uint64_t attention = 0;
  for (size_t i = 0; i < tokens.size(); ++i) {
    const auto index = static_cast<int32_t>(i);
    state = next_state(state, tokens[i], index, 0);
    attention = attend(attention, kv_entry(state), index);
  }
  std::vector<float> out(n_vocab_);
  logits(state, attention, out);
  return out;
}

FakeRunner::FakeRunner(const FakeModel& model, const model::RunnerOptions& options, int32_t in_flight,
                       int32_t device_top_k)
    : model_(model) {
  capacity_.n_blocks = options.n_blocks;
  capacity_.n_state_rows = options.n_state_rows;
  capacity_.n_spare_rows = options.n_spare_rows;
  capacity_.max_tokens = options.max_tokens;
  capacity_.max_slices = options.max_slices;
  capacity_.max_rows = options.max_rows;
  capacity_.n_vocab = model.n_vocab();
  capacity_.max_in_flight = in_flight;
  capacity_.max_device_top_k = device_top_k;
  capacity_.max_device_bias = device_top_k > 0 ? kDeviceBias : 0;
  rows_.resize(int64_t{options.n_state_rows} + options.n_spare_rows);
  blocks_.resize(options.n_blocks);
}

void FakeRunner::submit(const model::Batch& batch) {
  if (fault) {
    fault('s');
  }
  FL_CHECK(static_cast<int32_t>(flying_.size()) < capacity_.max_in_flight, "too many steps in flight");
  FL_CHECK(batch.n_tokens() >= 1 && batch.n_tokens() <= capacity_.max_tokens, "tokens of a step");
  FL_CHECK(!batch.slices.empty() && static_cast<int32_t>(batch.slices.size()) <= capacity_.max_slices,
           "slices");
  FL_CHECK(static_cast<int32_t>(batch.rows.size()) <= capacity_.max_rows, "rows");
  FL_CHECK(batch.positions.size() == batch.tokens.size(), "positions");
  FL_CHECK(batch.feedback.empty() || batch.feedback.size() == batch.tokens.size(), "feedback");

  std::set<int32_t> state_rows;
  std::set<int32_t> written;
  std::multiset<int32_t> read;
  std::vector<int> covered(batch.tokens.size(), 0);
  Seen seen;
  for (const model::Slice& slice : batch.slices) {
    FL_CHECK(slice.n_tokens >= 1 && slice.first >= 0 && slice.first + slice.n_tokens <= batch.n_tokens(),
             "slice range");
    FL_CHECK(slice.state_row >= 0 && slice.state_row < capacity_.n_state_rows, "a step's state row");
    FL_CHECK(state_rows.insert(slice.state_row).second, "two slices with one state row");
    const int32_t end = slice.n_cached + slice.n_tokens;
    FL_CHECK(static_cast<int32_t>(slice.blocks.size()) * kBlockTokens >= end, "too few blocks");
    for (int32_t i = 0; i < slice.n_tokens; ++i) {
      ++covered[slice.first + i];
      const model::Position p = batch.positions[slice.first + i];
      FL_CHECK(p.t == slice.n_cached + i && p.y == p.t && p.x == p.t, "position of a token");
    }
    const int32_t first_written = slice.n_cached / kBlockTokens;
    for (int32_t b = 0; b * kBlockTokens < end; ++b) {
      FL_CHECK(slice.blocks[b] >= 0 && slice.blocks[b] < capacity_.n_blocks, "block id");
      if (b >= first_written) {
        FL_CHECK(written.insert(slice.blocks[b]).second, "a block written twice in a step");
      }
      read.insert(slice.blocks[b]);
    }
    seen.slices.push_back({slice.n_cached, slice.n_tokens});
  }
  for (const int32_t block : written) {
    FL_CHECK(read.count(block) == 1, "a block written while another sequence reads it");
  }
  FL_CHECK(std::ranges::all_of(covered, [](int n) { return n == 1; }), "each token is in one slice");

  Step step;
  step.sampled.assign(batch.rows.size(), -1);
  step.logits.resize(batch.rows.size());
  for (const model::Slice& slice : batch.slices) {
    State& state = rows_.at(slice.state_row);
    if (slice.n_cached == 0) {
      state = {};
    }
    FL_CHECK(state.n_tokens == slice.n_cached, "the state row is at another position");
    for (int32_t i = 0; i < slice.n_tokens; ++i) {
      const int32_t at = slice.first + i;
      const int32_t index = slice.n_cached + i;
      int32_t token = batch.tokens[at];
      if (token == model::kTokenFromDevice) {
        FL_CHECK(capacity_.max_device_top_k > 0 && !batch.feedback.empty(),
                 "feedback of a runner that cannot sample");
        token = previous_.at(batch.feedback[at]);
        token = std::max(token,
                         0);  // logits that were no numbers: the sequence is over, its results do not count
      }
      FL_CHECK(token >= 0 && token < capacity_.n_vocab, "token id");
      state.hash = model_.next_state(state.hash, token, index, slice.n_cached);
      state.attention = FakeModel::attend(state.attention, FakeModel::kv_entry(state.hash), index);
      ++state.n_tokens;
      blocks_[slice.blocks[index / kBlockTokens]][index % kBlockTokens] = FakeModel::kv_entry(state.hash);
      ++n_computed;
      for (size_t r = 0; r < batch.rows.size(); ++r) {
        if (batch.rows[r].token != at) {
          continue;
        }
        uint64_t attention = 0;
        for (int32_t j = 0; j <= index; ++j) {
          attention =
              FakeModel::attend(attention, blocks_[slice.blocks[j / kBlockTokens]][j % kBlockTokens], j);
        }
        FL_CHECK(attention == state.attention, "blocks and state of different making");
        std::vector<float> logits(capacity_.n_vocab);
        model_.logits(state.hash, attention, logits);
        if (spoil) {
          spoil(logits);
        }
        const model::DeviceSampling& how = batch.rows[r].sampling;
        FL_CHECK(how.mode == model::DeviceSampling::Mode::none || capacity_.max_device_top_k > 0,
                 "device sampling");
        FL_CHECK(how.mode != model::DeviceSampling::Mode::none || batch.rows[r].logits_to_host,
                 "a row without answer");
        FL_CHECK(how.bias.size() <= static_cast<size_t>(capacity_.max_device_bias), "device bias");
        step.sampled[r] = sample(logits, how);
        if (how.mode == model::DeviceSampling::Mode::random) {
          FL_CHECK(how.top_k >= 1 && how.top_k <= capacity_.max_device_top_k, "device top_k");
        }
        if (batch.rows[r].logits_to_host) {
          step.logits[r] = std::move(logits);
        }
      }
    }
  }
  previous_ = step.sampled;
  flying_.push_back(std::move(step));
  max_flying = std::max(max_flying, flying_.size());
  ++n_submitted;
  if (on_step) {
    seen.n_tokens = batch.n_tokens();
    on_step(seen);
  }
}

std::span<const model::RowResult> FakeRunner::collect() {
  FL_CHECK(!flying_.empty(), "collect of nothing");
  for (std::vector<float>& old : collected_.logits) {
    std::ranges::fill(old, std::nanf(""));  // results live until the next collect: a later look must show
  }
  Step step = std::move(flying_.front());
  flying_.pop_front();
  if (fault) {
    fault('c');
  }
  collected_ = std::move(step);
  results_.clear();
  for (size_t r = 0; r < collected_.sampled.size(); ++r) {
    results_.push_back({collected_.sampled[r], collected_.logits[r]});
  }
  return results_;
}

void FakeRunner::copy_state(int32_t from_row, int32_t to_row) {
  if (fault) {
    fault('k');
  }
  FL_CHECK(from_row != to_row, "copy of a row to itself");
  rows_.at(to_row) = rows_.at(from_row);
  ++n_copies;
}

int32_t FakeRunner::sample(std::vector<float> logits, const model::DeviceSampling& how) {
  using Mode = model::DeviceSampling::Mode;
  for (const auto& [token, bias] : how.bias) {
    logits[token] += bias;
  }
  if (how.mode == Mode::none || std::ranges::any_of(logits, [](float v) { return std::isnan(v); })) {
    return -1;
  }
  std::vector<int32_t> ids(logits.size());
  for (size_t i = 0; i < ids.size(); ++i) {
    ids[i] = static_cast<int32_t>(i);
  }
  std::ranges::stable_sort(ids, [&](int32_t a, int32_t b) { return logits[a] > logits[b]; });
  if (how.mode == Mode::greedy) {
    return ids[0];
  }
  ids.resize(std::min<size_t>(ids.size(), how.top_k));
  const double top = logits[ids[0]];
  double sum = 0;
  for (const int32_t id : ids) {
    sum += std::exp(logits[id] - top);
  }
  if (how.top_p < 1.0F) {
    double mass = 0;
    for (size_t i = 0; i < ids.size(); ++i) {
      mass += std::exp(logits[ids[i]] - top) / sum;
      if (mass >= how.top_p) {
        ids.resize(i + 1);
      }
    }
  }
  if (how.min_p > 0.0F) {
    std::erase_if(ids, [&](int32_t id) { return logits[id] < top + std::log(how.min_p); });
  }
  std::vector<double> w;
  double total = 0;
  for (const int32_t id : ids) {
    w.push_back(std::exp((logits[id] - top) / how.temperature));
    total += w.back();
  }
  double run = 0;
  for (size_t i = 0; i < ids.size(); ++i) {
    run += w[i];
    if (run > how.uniform * total) {
      return ids[i];
    }
  }
  return ids.back();
}

}  // namespace fl::test
