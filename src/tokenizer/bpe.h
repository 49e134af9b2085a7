// Byte-pair merging over token ids. Algorithm: openai/gpt-2, encoder.py (`bpe`): again and again the adjacent
// pair whose merge comes first in the list, the leftmost of equals; here with a heap, so that a piece of n
// bytes costs O(n log n) and not O(n^2).
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

namespace fl::tokenizer {

struct Merge {
  int32_t left = 0;
  int32_t right = 0;
  int32_t result = 0;
};

class Bpe {
 public:
  /// All ids are in [0, n_vocab); merges in order of priority, of a repeated pair the first counts.
  Bpe(int32_t n_vocab, const std::array<int32_t, 256>& byte_tokens, std::span<const Merge> merges);

  /// Working memory of encode(), kept between pieces.
  struct Scratch {
    struct Symbol {
      int32_t id;
      uint32_t previous, next;
      uint32_t rank;  // of the merge with the next symbol
    };
    std::vector<Symbol> symbols;
    std::vector<uint64_t> heap;
  };

  /// Appends the ids of one piece of at most kMaxPieceBytes.
  void encode(std::string_view piece, Scratch& scratch, std::vector<int32_t>& ids) const;

  static constexpr size_t kMaxPieceBytes = size_t{1} << 30;

 private:
  struct Entry {
    int32_t right;
    uint32_t rank;
    int32_t result;
  };
  static constexpr uint32_t kNoRank = UINT32_MAX;

  const Entry* find(int32_t left, int32_t right) const;
  uint32_t rank_of(int32_t left, int32_t right) const;
  void encode_short(std::string_view piece, std::vector<int32_t>& ids) const;

  std::array<int32_t, 256> byte_tokens_;
  std::vector<uint32_t> first_;   // n_vocab + 1: where the entries of a left token begin
  std::vector<Entry> entries_;    // by left token, then by right token
  std::vector<int32_t> results_;  // by rank
};

}  // namespace fl::tokenizer
