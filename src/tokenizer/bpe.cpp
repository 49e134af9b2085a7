#include "tokenizer/bpe.h"

#include <algorithm>
#include <bit>

namespace fl::tokenizer {

MergeTable::MergeTable(size_t n) : entries_(std::bit_ceil(std::max<size_t>(n * 2, 16))) {}

size_t MergeTable::slot_of(uint64_t key) const {
  uint64_t h = key * 0x9E3779B97F4A7C15U;  // Fibonacci hashing spreads consecutive ids
  h ^= h >> 32;
  const size_t mask = entries_.size() - 1;
  size_t slot = h & mask;
  while (entries_[slot].key != kEmpty && entries_[slot].key != key) {
    slot = (slot + 1) & mask;
  }
  return slot;
}

void MergeTable::add(int32_t left, int32_t right, int32_t rank, int32_t merged) {
  const uint64_t key = uint64_t{static_cast<uint32_t>(left)} << 32 | static_cast<uint32_t>(right);
  Entry& entry = entries_[slot_of(key)];
  if (entry.key == kEmpty) {
    entry = {key, {rank, merged}};
  }
}

MergeTable::Merge MergeTable::find(int32_t left, int32_t right) const {
  return entries_[slot_of(uint64_t{static_cast<uint32_t>(left)} << 32 | static_cast<uint32_t>(right))].merge;
}

void Merger::push(int32_t left) {
  const Symbol& a = symbols_[static_cast<size_t>(left)];
  if (a.next < 0) {
    return;
  }
  const int32_t right_id = symbols_[static_cast<size_t>(a.next)].id;
  const MergeTable::Merge merge = table_.find(a.id, right_id);
  if (merge.rank >= 0) {
    heap_.push_back({merge.rank, left, a.id, right_id, merge.merged});
    std::push_heap(heap_.begin(), heap_.end(), [](const Candidate& x, const Candidate& y) {
      return x.rank != y.rank ? x.rank > y.rank : x.left > y.left;
    });
  }
}

void Merger::merge(std::vector<int32_t>& ids) {
  if (ids.size() < 2) {
    return;
  }
  const auto later = [](const Candidate& x, const Candidate& y) {
    return x.rank != y.rank ? x.rank > y.rank : x.left > y.left;
  };
  symbols_.clear();
  heap_.clear();
  const auto n = static_cast<int32_t>(ids.size());
  for (int32_t i = 0; i < n; ++i) {
    symbols_.push_back({ids[static_cast<size_t>(i)], i - 1, i + 1 < n ? i + 1 : -1});
  }
  for (int32_t i = 0; i + 1 < n; ++i) {
    push(i);
  }
  while (!heap_.empty()) {
    std::pop_heap(heap_.begin(), heap_.end(), later);
    const Candidate best = heap_.back();
    heap_.pop_back();
    Symbol& left = symbols_[static_cast<size_t>(best.left)];
    // A candidate is stale when one of its two symbols has been merged since.
    if (left.id != best.left_id || left.next < 0 ||
        symbols_[static_cast<size_t>(left.next)].id != best.right_id) {
      continue;
    }
    Symbol& right = symbols_[static_cast<size_t>(left.next)];
    left.id = best.merged;
    right.id = -1;
    left.next = right.next;
    if (left.next >= 0) {
      symbols_[static_cast<size_t>(left.next)].previous = best.left;
    }
    push(best.left);
    if (left.previous >= 0) {
      push(left.previous);
    }
  }
  ids.clear();
  for (int32_t i = 0; i >= 0; i = symbols_[static_cast<size_t>(i)].next) {
    ids.push_back(symbols_[static_cast<size_t>(i)].id);
  }
}

}  // namespace fl::tokenizer
