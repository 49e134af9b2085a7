// Parts that need no server: stop strings, JSON within limits, keys.
#include <chrono>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "server/auth.h"
#include "server/json.h"
#include "server/stop_strings.h"

namespace fl::server {
namespace {

using testing::HasSubstr;

std::string run(std::vector<std::string> stops, const std::string& text, const std::vector<size_t>& cuts,
                std::string* word = nullptr) {
  StopStrings finder(std::move(stops));
  std::string out;
  size_t begin = 0;
  for (const size_t cut : cuts) {
    out += finder.push(text.substr(begin, cut - begin));
    begin = cut;
  }
  out += finder.push(text.substr(begin));
  out += finder.finish();
  if (word != nullptr) {
    *word = finder.word();
  }
  return out;
}

// All ways to cut a text of up to ten bytes: the result is the same.
TEST(StopStrings, DoNotDependOnTheCuts) {
  struct Case {
    std::vector<std::string> stops;
    std::string text, shown, word;
  };
  const Case cases[] = {
      {{"bcd", "c"}, "abcde", "ab", "c"},
      {{"aab"}, "aaaab", "aa", "aab"},
      {{"ab", "abc"}, "xabcx", "x", "ab"},
      {{"bc", "abc"}, "xabcx", "x", "abc"},
      {{"xyz"}, "abxyaxy", "abxyaxy", ""},
      {{"aXa"}, "aaXbaXa", "aaXb", "aXa"},
      {{""}, "abc", "abc", ""},
      {{"ü"}, "aüb", "a", "ü"},
  };
  for (const Case& c : cases) {
    for (uint32_t mask = 0; mask < (1U << (c.text.size() - 1)); ++mask) {
      std::vector<size_t> cuts;
      for (size_t i = 0; i + 1 < c.text.size(); ++i) {
        if ((mask >> i & 1U) != 0) {
          cuts.push_back(i + 1);
        }
      }
      std::string word;
      EXPECT_EQ(run(c.stops, c.text, cuts, &word), c.shown) << c.text << mask;
      EXPECT_EQ(word, c.word);
    }
  }
}

TEST(StopStrings, HoldBackOnlyWhatMayBeABeginning) {
  StopStrings finder({"STOP"});
  EXPECT_EQ(finder.push("a ST"), "a ");
  EXPECT_EQ(finder.push("A"), "STA");
  EXPECT_EQ(finder.push("STO"), "");
  EXPECT_EQ(finder.push("P more"), "");
  EXPECT_TRUE(finder.found());
  EXPECT_EQ(finder.push("never"), "");
  EXPECT_EQ(finder.finish(), "");
}

std::string json_error(std::string_view text) {
  Json out;
  const Status parsed = parse_json(text, out);
  return parsed ? "" : parsed.error().message;
}

TEST(BoundedJson, Limits) {
  EXPECT_EQ(json_error(R"({"a":[1,2.5,-3,true,null,"x"],"b":{}})"), "");
  EXPECT_EQ(json_error(std::string(64, '[') + std::string(64, ']')), "");
  EXPECT_THAT(json_error(std::string(65, '[') + std::string(65, ']')), HasSubstr("64 levels"));
  EXPECT_THAT(json_error(std::string(1'000'000, '[')), HasSubstr("64 levels"));
  EXPECT_THAT(json_error(R"({"a":1,"b":2,"a":3})"), HasSubstr("'a' is given twice"));
  std::string many = "{";
  for (int i = 0; i < 5000; ++i) {
    many += "\"k" + std::to_string(i) + "\":0,";
  }
  EXPECT_THAT(json_error(many), HasSubstr("4096 keys"));
  std::string twice = "{";
  for (int i = 0; i < 100; ++i) {
    twice += "\"k" + std::to_string(i) + "\":0,";
  }
  EXPECT_THAT(json_error(twice + "\"k7\":1}"), HasSubstr("'k7' is given twice"));
  std::string values = "[0";
  for (int i = 0; i < 4'000'000; ++i) {
    values += ",0";
  }
  EXPECT_THAT(json_error(values + "]"), HasSubstr("values"));
}

TEST(BoundedJson, WhatIsNoJson) {
  for (const char* text :
       {"", "{", "[1,]", "{\"a\":NaN}", "{\"a\":Infinity}", "{\"a\":1e999}", "nul", "{a:1}", "'a'", "1 2",
        "{\"a\":\"\\ud800\"}", "\"\xff\"", "\"\xc3\"", "{\"a\":+1}", "{\"a\":01}", "\"\x01\""}) {
    EXPECT_THAT(json_error(text), HasSubstr("byte")) << text;
  }
  EXPECT_THAT(json_error(std::string(R"({"prompt":")") + std::string(100000, 'x')).size(), testing::Lt(400U));
}

TEST(BoundedJson, DumpNeverFails) {
  EXPECT_EQ(dump(Json("a\xff")), "\"a\xEF\xBF\xBD\"");
  EXPECT_EQ(excerpt(Json(std::string(500, 'x'))), "a string of 500 bytes");
  EXPECT_EQ(excerpt(Json::array({1, 2})), "an array of 2");
}

TEST(Keys, SaltsDifferAndAreOurs) {
  const ApiKeys keys({"a", "b"});
  const auto a = keys.admit("Bearer a", std::nullopt);
  const auto b = keys.admit(std::nullopt, "b");
  ASSERT_TRUE(a && b);
  EXPECT_NE(*a, *b);
  EXPECT_NE(*a, 0U);
  EXPECT_FALSE(keys.admit("Bearer c", std::nullopt));
  EXPECT_FALSE(keys.admit(std::nullopt, std::nullopt));
  EXPECT_EQ(ApiKeys({}).admit(std::nullopt, std::nullopt), 0U);
  EXPECT_NE(ApiKeys({"a"}).admit("a", std::nullopt), a);  // of each process its own
}

}  // namespace
}  // namespace fl::server
