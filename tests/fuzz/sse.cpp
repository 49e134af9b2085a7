// Any stream of server-sent events, cut anywhere: the same events as in one piece.
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

#include "client/sse.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) {
    return 0;
  }
  const std::string_view text(reinterpret_cast<const char*>(data) + 1, size - 1);
  const size_t step = 1 + data[0] % 13;
  const auto events_of = [&](size_t piece) {
    std::vector<std::string> events;
    fl::client::SseSplitter splitter;
    for (size_t at = 0; at < text.size(); at += piece) {
      if (!splitter.feed(text.substr(at, piece),
                         [&](std::string_view event) { events.emplace_back(event); })) {
        std::abort();  // libFuzzer's inputs are far below the limit of an event
      }
    }
    return events;
  };
  if (events_of(step) != events_of(text.size() + 1)) {
    std::abort();
  }
  return 0;
}
