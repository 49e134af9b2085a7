// The device's tile layout, checked on the host: a permutation of the file's bytes, in both directions.
#include "kernels/cuda/tile_layout.h"

#include <array>
#include <functional>
#include <random>
#include <set>
#include <vector>

#include <gtest/gtest.h>

namespace fl::cuda::tile {
namespace {

struct Case {
  const char* name;
  int tile_bytes;
  int row_bytes;
};

class TileLayout : public ::testing::TestWithParam<Case> {
 protected:
  using Rows = std::vector<std::vector<uint8_t>>;

  Rows random_rows() {
    std::mt19937 rng(7);
    Rows rows(16, std::vector<uint8_t>(static_cast<size_t>(GetParam().row_bytes)));
    for (auto& row : rows) {
      for (uint8_t& byte : row) {
        byte = static_cast<uint8_t>(rng());
      }
    }
    return rows;
  }

  std::vector<uint8_t> pack(const Rows& rows) {
    const std::string name = GetParam().name;
    const auto byte = [&](int row, int at) {
      return rows.at(static_cast<size_t>(row)).at(static_cast<size_t>(at));
    };
    const auto q8 = [&](int row, int column) {
      return static_cast<int8_t>(byte(row, column / 32 * 34 + 2 + column % 32));
    };
    const auto d = [&](int row, int block) {
      return static_cast<uint32_t>(byte(row, 34 * block) | byte(row, 34 * block + 1) << 8);
    };
    std::vector<uint8_t> tile(static_cast<size_t>(GetParam().tile_bytes));
    for (int off = 0; off < GetParam().tile_bytes; off += 4) {
      const uint32_t word = name == "q4_k"   ? q4_word(off, byte)
                            : name == "q5_k" ? q5_word(off, byte)
                            : name == "q6_k" ? q6_word(off, byte)
                                             : q8_word(off, q8, d);
      for (int b = 0; b < 4; ++b) {
        tile[static_cast<size_t>(off + b)] = static_cast<uint8_t>(word >> (8 * b));
      }
    }
    return tile;
  }

  uint8_t unpack(const std::vector<uint8_t>& bytes, int row, int at) {
    const std::string name = GetParam().name;
    const auto tile = [&](int off) { return bytes.at(static_cast<size_t>(off)); };
    return name == "q4_k"   ? q4_byte(row, at, tile)
           : name == "q5_k" ? q5_byte(row, at, tile)
           : name == "q6_k" ? q6_byte(row, at, tile)
                            : q8_byte(row, at, tile);
  }
};

TEST_P(TileLayout, HasExactlyTheBytesOfItsRows) {
  EXPECT_EQ(GetParam().tile_bytes, 16 * GetParam().row_bytes);
}

TEST_P(TileLayout, ComesBackByteForByte) {
  const Rows rows = random_rows();
  const std::vector<uint8_t> tile = pack(rows);
  for (int row = 0; row < 16; ++row) {
    for (int at = 0; at < GetParam().row_bytes; ++at) {
      ASSERT_EQ(unpack(tile, row, at), rows[static_cast<size_t>(row)][static_cast<size_t>(at)])
          << "row " << row << " byte " << at;
    }
  }
}

// One source bit moves one tile bit: no bit is dropped, doubled or mixed.
TEST_P(TileLayout, MovesEveryBitToAPlaceOfItsOwn) {
  Rows rows(16, std::vector<uint8_t>(static_cast<size_t>(GetParam().row_bytes), 0));
  const std::vector<uint8_t> zero = pack(rows);
  std::set<int> seen;
  for (int row = 0; row < 16; row += 5) {
    for (int at = 0; at < GetParam().row_bytes; at += 7) {
      for (int bit = 0; bit < 8; ++bit) {
        rows[static_cast<size_t>(row)][static_cast<size_t>(at)] = static_cast<uint8_t>(1 << bit);
        const std::vector<uint8_t> tile = pack(rows);
        rows[static_cast<size_t>(row)][static_cast<size_t>(at)] = 0;
        int place = -1;
        for (size_t i = 0; i < tile.size(); ++i) {
          for (int b = 0; b < 8; ++b) {
            if (((tile[i] ^ zero[i]) >> b & 1) != 0) {
              ASSERT_EQ(place, -1) << "two bits changed";
              place = static_cast<int>(i) * 8 + b;
            }
          }
        }
        ASSERT_NE(place, -1);
        ASSERT_TRUE(seen.insert(place).second);
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Types, TileLayout,
                         ::testing::Values(Case{"q4_k", kQ4Bytes, 144}, Case{"q5_k", kQ5Bytes, 176},
                                           Case{"q6_k", kQ6Bytes, 210}, Case{"q8_0", kQ8Bytes, 272}),
                         [](const auto& param) { return std::string(param.param.name); });

TEST(TileLayout, F16TakesEachWeightOnce) {
  std::set<int> seen;
  const auto weight = [&](int row, int column) {
    EXPECT_TRUE(seen.insert(row * 256 + column).second);
    return 0;
  };
  for (int off = 0; off < kF16Bytes; off += 4) {
    f16_word(off, weight);
  }
  EXPECT_EQ(seen.size(), 16U * 256U);
}

}  // namespace
}  // namespace fl::cuda::tile
