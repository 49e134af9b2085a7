#include "tokenizer/bpe.h"

#include <algorithm>
#include <functional>

#include "base/result.h"

namespace fl::tokenizer {
namespace {

constexpr uint32_t kNone = UINT32_MAX;

// Below this length a plain search for the best pair beats the heap.
constexpr size_t kShortPiece = 24;

// Heap order: lowest rank first, then leftmost.
constexpr uint64_t heap_entry(uint32_t rank, uint32_t pos) {
  return (uint64_t{rank} << 32) | pos;
}

}  // namespace

Bpe::Bpe(int32_t n_vocab, const std::array<int32_t, 256>& byte_tokens, std::span<const Merge> merges)
    : byte_tokens_(byte_tokens) {
  FL_CHECK(n_vocab >= 0 && merges.size() < kNoRank, "vocabulary size checked by the reader");
  struct Row {
    int32_t left;
    Entry entry;
  };
  std::vector<Row> rows;
  rows.reserve(merges.size());
  results_.reserve(merges.size());
  for (const Merge& merge : merges) {
    for (const int32_t id : {merge.left, merge.right, merge.result}) {
      FL_CHECK(id >= 0 && id < n_vocab, "merge ids checked by the reader");
    }
    rows.push_back({merge.left, {merge.right, static_cast<uint32_t>(results_.size()), merge.result}});
    results_.push_back(merge.result);
  }
  std::sort(rows.begin(), rows.end(), [](const Row& a, const Row& b) {
    return std::tie(a.left, a.entry.right, a.entry.rank) < std::tie(b.left, b.entry.right, b.entry.rank);
  });
  const auto same_pair = [](const Row& a, const Row& b) {
    return a.left == b.left && a.entry.right == b.entry.right;
  };
  rows.erase(std::unique(rows.begin(), rows.end(), same_pair), rows.end());
  first_.assign(static_cast<size_t>(n_vocab) + 1, 0);
  entries_.reserve(rows.size());
  for (const Row& row : rows) {
    ++first_[static_cast<size_t>(row.left) + 1];
    entries_.push_back(row.entry);
  }
  for (size_t i = 1; i < first_.size(); ++i) {
    first_[i] += first_[i - 1];
  }
}

const Bpe::Entry* Bpe::find(int32_t left, int32_t right) const {
  const auto begin = entries_.begin() + first_[static_cast<size_t>(left)];
  const auto end = entries_.begin() + first_[static_cast<size_t>(left) + 1];
  const auto it = std::lower_bound(begin, end, right, [](const Entry& e, int32_t r) { return e.right < r; });
  return it != end && it->right == right ? &*it : nullptr;
}

uint32_t Bpe::rank_of(int32_t left, int32_t right) const {
  const Entry* entry = find(left, right);
  return entry == nullptr ? kNoRank : entry->rank;
}

void Bpe::encode_short(std::string_view piece, std::vector<int32_t>& ids) const {
  std::array<int32_t, kShortPiece> id;
  std::array<uint32_t, kShortPiece> rank;  // of the merge of id[i] and id[i + 1]
  size_t n = piece.size();
  for (size_t i = 0; i < n; ++i) {
    id[i] = byte_tokens_[static_cast<uint8_t>(piece[i])];
  }
  for (size_t i = 0; i + 1 < n; ++i) {
    rank[i] = rank_of(id[i], id[i + 1]);
  }
  while (n > 1) {
    const auto best = std::min_element(rank.begin(), rank.begin() + static_cast<ptrdiff_t>(n - 1));
    if (*best == kNoRank) {
      break;
    }
    const auto i = static_cast<size_t>(best - rank.begin());
    id[i] = results_[*best];
    std::move(id.begin() + i + 2, id.begin() + n, id.begin() + i + 1);
    std::move(rank.begin() + i + 1, rank.begin() + (n - 1), rank.begin() + i);
    --n;
    if (i > 0) {
      rank[i - 1] = rank_of(id[i - 1], id[i]);
    }
    if (i + 1 < n) {
      rank[i] = rank_of(id[i], id[i + 1]);
    }
  }
  ids.insert(ids.end(), id.begin(), id.begin() + static_cast<ptrdiff_t>(n));
}

void Bpe::encode(std::string_view piece, Scratch& scratch, std::vector<int32_t>& ids) const {
  FL_CHECK(piece.size() <= kMaxPieceBytes, "the caller cuts longer pieces");
  if (piece.empty()) {
    return;
  }
  if (piece.size() <= kShortPiece) {
    encode_short(piece, ids);
    return;
  }
  const auto n = static_cast<uint32_t>(piece.size());
  auto& symbols = scratch.symbols;
  auto& heap = scratch.heap;
  symbols.resize(n);
  heap.clear();
  for (uint32_t i = 0; i < n; ++i) {
    symbols[i] = {byte_tokens_[static_cast<uint8_t>(piece[i])], i == 0 ? kNone : i - 1,
                  i + 1 == n ? kNone : i + 1, kNoRank};
  }
  // An entry of the heap is current if the rank in it is still the rank of the symbol.
  for (uint32_t i = 0; i + 1 < n; ++i) {
    symbols[i].rank = rank_of(symbols[i].id, symbols[i + 1].id);
    if (symbols[i].rank != kNoRank) {
      heap.push_back(heap_entry(symbols[i].rank, i));
    }
  }
  std::make_heap(heap.begin(), heap.end(), std::greater<>());
  const auto update = [&](uint32_t pos) {
    auto& symbol = symbols[pos];
    symbol.rank = symbol.next == kNone ? kNoRank : rank_of(symbol.id, symbols[symbol.next].id);
    if (symbol.rank != kNoRank) {
      heap.push_back(heap_entry(symbol.rank, pos));
      std::push_heap(heap.begin(), heap.end(), std::greater<>());
    }
  };
  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end(), std::greater<>());
    const uint64_t entry = heap.back();
    heap.pop_back();
    const auto pos = static_cast<uint32_t>(entry);
    const auto rank = static_cast<uint32_t>(entry >> 32);
    auto& symbol = symbols[pos];
    if (symbol.rank != rank) {
      continue;
    }
    auto& absorbed = symbols[symbol.next];
    symbol.id = results_[rank];
    symbol.next = absorbed.next;
    absorbed.rank = kNoRank;
    if (symbol.next != kNone) {
      symbols[symbol.next].previous = pos;
    }
    update(pos);
    if (symbol.previous != kNone) {
      update(symbol.previous);
    }
  }
  for (uint32_t i = 0; i != kNone; i = symbols[i].next) {
    ids.push_back(symbols[i].id);
  }
}

}  // namespace fl::tokenizer
