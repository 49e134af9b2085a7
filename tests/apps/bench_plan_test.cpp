#include "apps/bench/plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace fl::apps::bench {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

TEST(BenchPlan, ListsAndRanges) {
  EXPECT_THAT(parse_numbers("512").value(), ElementsAre(512));
  EXPECT_THAT(parse_numbers("0,1,2").value(), ElementsAre(0, 1, 2));
  EXPECT_THAT(parse_numbers("1-3").value(), ElementsAre(1, 2, 3));
  EXPECT_THAT(parse_numbers("128-512+128").value(), ElementsAre(128, 256, 384, 512));
  EXPECT_THAT(parse_numbers("64-1024*4,7").value(), ElementsAre(64, 256, 1024, 7));
}

TEST(BenchPlan, BadListsNameThePiece) {
  for (const char* text :
       {"", "a", "1,,2", "-1", "1-", "99999999999999999999", "1 ", "0-8*2", "1-8*1", "1-8+0", "0-16777216"}) {
    EXPECT_FALSE(parse_numbers(text)) << text;
  }
  EXPECT_THAT(parse_numbers("1,x2").error().message, HasSubstr("'x2'"));
}

TEST(BenchPlan, KvTypes) {
  EXPECT_THAT(parse_kv_types("f16,q8_0").value(), ElementsAre(DType::f16, DType::q8_0));
  EXPECT_THAT(parse_kv_types("q4_k").error().message, HasSubstr("q4_k"));
}

TEST(BenchPlan, CrossProductInOrder) {
  Lists lists;
  lists.prompt = {512, 0};
  lists.gen = {128};
  lists.prompt_gen = {{16, 8}};
  lists.depth = {0, 4096};
  lists.parallel = {1, 4};
  std::vector<std::string> names;
  for (const bench::Test& test : make_tests(lists)) {
    names.push_back(test.name());
  }
  EXPECT_THAT(names, ElementsAre("pp512", "tg128", "pp16+tg8", "pp512 @ d4096", "tg128 @ d4096",
                                 "pp16+tg8 @ d4096", "pp512 x4", "tg128 x4", "pp16+tg8 x4",
                                 "pp512 x4 @ d4096", "tg128 x4 @ d4096", "pp16+tg8 x4 @ d4096"));
}

}  // namespace
}  // namespace fl::apps::bench
