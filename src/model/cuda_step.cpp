#include "model/cuda_step.h"

#include <algorithm>
#include <type_traits>

namespace fl::model {
namespace {

constexpr uint64_t kAlign = 16;
constexpr int32_t kTile = cuda::kAttentionTile;

/// Pieces of a slice by the form of the delta rule: [0, head), chunks on the grid, [tail, n_tokens).
struct Cut {
  int32_t head = 0;
  int32_t tail = 0;
  int32_t n_chunks = 0;
};

Cut cut_slice(const Slice& slice, bool chunked) {
  if (!chunked) {
    return {slice.n_tokens, slice.n_tokens, 0};
  }
  const int32_t to_border = kBlockTokens - slice.n_cached % kBlockTokens;
  const int32_t first = std::min(to_border, slice.n_tokens);
  Cut cut;
  cut.head = first < kDeltaMinChunk ? first : 0;
  const int32_t last = first == slice.n_tokens ? 0 : (slice.n_tokens - first) % kBlockTokens;
  cut.tail = slice.n_tokens - (last < kDeltaMinChunk ? last : 0);
  for (int32_t at = cut.head; at < cut.tail; ++cut.n_chunks) {
    at += std::min(kBlockTokens - (slice.n_cached + at) % kBlockTokens, cut.tail - at);
  }
  return cut;
}

int32_t key_blocks(const Slice& slice) {
  return (slice.n_cached + slice.n_tokens + kBlockTokens - 1) / kBlockTokens;
}

bool all_have_logits(const StepCounts& counts) {
  return counts.n_gathered == 0 && counts.n_rows > 0;
}

}  // namespace

StepTable StepTable::at(std::byte* base, const StepCounts& c, uint64_t* bytes) {
  StepTable t;
  uint64_t at = 0;
  const auto place = [&](auto*& pointer, int64_t n) {
    using T = std::remove_reference_t<decltype(*pointer)>;
    pointer = reinterpret_cast<T*>(base + at);
    at += (static_cast<uint64_t>(n) * sizeof(T) + kAlign - 1) / kAlign * kAlign;
  };
  place(t.ids, c.n_tokens);
  place(t.feedback, c.n_tokens);
  place(t.positions, int64_t{3} * c.n_tokens);
  place(t.tokens, c.n_tokens);
  place(t.decode_tiles, c.n_decode);
  place(t.decode_runs, c.n_decode);
  place(t.tiles, c.n_tiles);
  place(t.runs, c.n_runs);
  place(t.heads, c.n_runs);
  place(t.tails, c.n_runs);
  place(t.chunks, c.n_chunks);
  place(t.sequence_begin, c.n_runs + 1);
  place(t.gathered, c.n_gathered);
  place(t.rows, c.n_rows);
  place(t.blocks, c.n_blocks);  // the end, so that a graph's table may be copied as far as it is used
  if (bytes != nullptr) {
    *bytes = at;
  }
  return t;
}

uint64_t max_table_bytes(int32_t max_tokens, int32_t max_slices, int32_t max_rows, int32_t n_blocks) {
  StepCounts c;
  c.n_tokens = std::max(max_tokens, max_slices);
  c.n_decode = max_slices;
  c.n_runs = max_slices;
  c.n_tiles = max_tokens / kTile + max_slices;
  c.n_chunks = max_tokens / kBlockTokens + 2 * max_slices;
  c.n_rows = max_rows;
  c.n_gathered = max_rows;
  c.n_blocks = int64_t{max_slices} * n_blocks;
  uint64_t bytes = 0;
  StepTable::at(nullptr, c, &bytes);
  return bytes;
}

StepCounts count_step(const Batch& batch, bool chunked, int32_t bucket) {
  StepCounts c;
  c.n_tokens = batch.n_tokens();
  c.n_rows = static_cast<int32_t>(batch.rows.size());
  for (const Slice& slice : batch.slices) {
    c.n_blocks += key_blocks(slice);
    if (!slice.prompt) {
      ++c.n_decode;
      continue;
    }
    ++c.n_runs;
    c.n_tiles += (slice.n_tokens + kTile - 1) / kTile;
    c.n_chunks += cut_slice(slice, chunked).n_chunks;
    c.max_run = std::max(c.max_run, slice.n_tokens);
  }
  if (bucket > 0) {
    c.n_tokens = bucket;
    c.n_decode = bucket;
    c.n_rows = bucket;
  } else {
    c.n_gathered = c.n_rows;
  }
  return c;
}

void fill_step(const Batch& batch, bool chunked, bool decode_stores, int32_t bucket, const StepCounts& counts,
               const StepTable& table) {
  const int32_t n = batch.n_tokens();
  for (int32_t i = 0; i < n; ++i) {
    const auto at = static_cast<size_t>(i);
    table.ids[i] = batch.tokens[at];
    table.feedback[i] = batch.feedback.empty() ? -1 : batch.feedback[at];
    table.positions[3 * i] = batch.positions[at].t;
    table.positions[3 * i + 1] = batch.positions[at].y;
    table.positions[3 * i + 2] = batch.positions[at].x;
  }
  for (int32_t i = n; i < bucket; ++i) {
    table.ids[i] = 0;
    table.feedback[i] = -1;
    std::fill_n(table.positions + 3 * i, 3, 0);
    table.tokens[i] = {};
    table.decode_tiles[i] = {};
    table.decode_runs[i] = {};
  }
  int32_t decode = 0;
  int32_t run = 0;
  int32_t tile = 0;
  int32_t chunk = 0;
  int32_t block = 0;
  table.sequence_begin[0] = 0;
  for (const Slice& slice : batch.slices) {
    const int32_t n_blocks = key_blocks(slice);
    std::copy_n(slice.blocks.begin(), n_blocks, table.blocks + block);
    for (int32_t i = 0; i < slice.n_tokens; ++i) {
      const int32_t index = slice.n_cached + i;
      const int32_t slot =
          slice.blocks[static_cast<size_t>(index / kBlockTokens)] * kBlockTokens + index % kBlockTokens;
      table.tokens[slice.first + i] =
          decode_stores && !slice.prompt ? cuda::AttentionToken{} : cuda::AttentionToken{slot};
    }
    const auto piece = [&](int32_t begin, int32_t end) {
      return cuda::DeltaRun{slice.first + begin, end - begin, slice.n_cached + begin, slice.state_row};
    };
    if (!slice.prompt) {
      table.decode_tiles[decode] = {slice.first, 1, slice.n_cached, block};
      table.decode_runs[decode] = piece(0, 1);
      ++decode;
    } else {
      for (int32_t begin = 0; begin < slice.n_tokens; begin += kTile) {
        table.tiles[tile++] = {slice.first + begin, std::min(kTile, slice.n_tokens - begin),
                               slice.n_cached + begin, block};
      }
      const Cut cut = cut_slice(slice, chunked);
      table.runs[run] = piece(0, slice.n_tokens);
      table.heads[run] = piece(0, cut.head);
      table.tails[run] = piece(cut.tail, slice.n_tokens);
      for (int32_t at = cut.head; at < cut.tail;) {
        const int32_t end = std::min(at + kBlockTokens - (slice.n_cached + at) % kBlockTokens, cut.tail);
        table.chunks[chunk++] = piece(at, end);
        at = end;
      }
      table.sequence_begin[++run] = chunk;
    }
    block += n_blocks;
  }
  // Late tiles see the most keys: they go first.
  std::sort(table.tiles, table.tiles + tile, [](const cuda::AttentionTile& a, const cuda::AttentionTile& b) {
    return a.first_index > b.first_index;
  });
  const bool all = all_have_logits(counts);
  for (int32_t i = 0; i < counts.n_rows; ++i) {
    cuda::SamplingRow to;
    if (static_cast<size_t>(i) < batch.rows.size()) {
      const Row& row = batch.rows[static_cast<size_t>(i)];
      const DeviceSampling& s = row.sampling;
      to.logits_row = all ? row.token : i;
      if (s.mode == DeviceSampling::Mode::random) {
        to = {to.logits_row, s.top_k, s.top_p, s.min_p, s.temperature, s.uniform};
      } else {
        to.top_k = s.mode == DeviceSampling::Mode::greedy ? 1 : 0;
      }
      for (const auto& [token, bias] : s.bias) {
        to.bias[to.n_bias++] = {token, bias};
      }
      if (!all) {
        table.gathered[i] = row.token;
      }
    }
    table.rows[i] = to;
  }
}

}  // namespace fl::model
