// Byte-pair merging of one piece. Pairs are merged in the order of their rank, leftmost first, until none is
// left (Sennrich et al. 2016; openai/gpt-2, encoder.py).
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace fl::tokenizer {

class MergeTable {
 public:
  /// `n` merges will be added.
  explicit MergeTable(size_t n);
  /// The first of equal pairs wins.
  void add(int32_t left, int32_t right, int32_t rank, int32_t merged);

  struct Merge {
    int32_t rank = -1;  ///< -1: these two do not merge
    int32_t merged = -1;
  };
  Merge find(int32_t left, int32_t right) const;

 private:
  struct Entry {
    uint64_t key = kEmpty;
    Merge merge;
  };
  static constexpr uint64_t kEmpty = ~uint64_t{0};
  size_t slot_of(uint64_t key) const;
  std::vector<Entry> entries_;
};

/// Merges in place. O(n log n) in the number of symbols; `scratch` keeps its memory between calls.
class Merger {
 public:
  explicit Merger(const MergeTable& table) : table_(table) {}
  void merge(std::vector<int32_t>& ids);

 private:
  struct Symbol {
    int32_t id;
    int32_t previous;
    int32_t next;
  };
  struct Candidate {
    int32_t rank;
    int32_t left;  ///< index of the left symbol
    int32_t left_id;
    int32_t right_id;
    int32_t merged;
  };
  void push(int32_t left);

  const MergeTable& table_;
  std::vector<Symbol> symbols_;
  std::vector<Candidate> heap_;
};

}  // namespace fl::tokenizer
