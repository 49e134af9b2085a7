#include "client/sse.h"

#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace fl::client {
namespace {

using testing::ElementsAre;

std::vector<std::string> events_of(std::string_view text, size_t piece) {
  SseSplitter splitter;
  std::vector<std::string> events;
  for (size_t at = 0; at < text.size(); at += piece) {
    EXPECT_TRUE(
        splitter.feed(text.substr(at, piece), [&](std::string_view data) { events.emplace_back(data); }));
  }
  return events;
}

TEST(Sse, EveryPieceSizeGivesTheSameEvents) {
  const std::string text =
      "data: one\n\n: a comment\n\ndata:two\r\ndata: lines\r\n\r\nevent: x\ndata\n\ndata:  kept "
      "space\r\rdata: unfinished";
  for (size_t piece = 1; piece <= text.size(); ++piece) {
    EXPECT_THAT(events_of(text, piece), ElementsAre("one", "two\nlines", "", " kept space")) << piece;
  }
}

TEST(Sse, AnEventWithoutEndIsRefused) {
  SseSplitter splitter;
  const std::string megabyte(size_t{1} << 20, 'x');
  bool accepted = true;
  for (size_t sent = 0; sent <= SseSplitter::kMaxEventBytes && accepted; sent += megabyte.size()) {
    accepted = splitter.feed(megabyte, [](std::string_view) { FAIL(); });
  }
  EXPECT_FALSE(accepted);
  EXPECT_FALSE(splitter.feed("\n\n", [](std::string_view) { FAIL(); }));
}

}  // namespace
}  // namespace fl::client
