// Any output of a model, cut anywhere: the same result as in one piece, and without calls nothing is lost.
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

#include "chat/chat.h"

namespace {

struct Answer {
  std::string content, reasoning, calls;

  void add(const fl::chat::Delta& delta) {
    content += delta.content;
    reasoning += delta.reasoning;
    for (const auto& call : delta.calls) {
      calls += call.name.empty() ? "" : "\n" + call.name + " ";
      calls += call.arguments;
    }
  }
  bool operator==(const Answer&) const = default;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 2) {
    return 0;
  }
  static const auto kTools = nlohmann::ordered_json::parse(
      R"([{"function": {"name": "f", "parameters": {"properties": {"s": {"type": "string"}, "n": {"type": "integer"}}}}}])");
  fl::chat::ParseOptions options;
  options.reasoning =
      (data[0] & 1) != 0 ? fl::chat::ReasoningFormat::none : fl::chat::ReasoningFormat::deepseek;
  options.prefilled = (data[0] & 2) != 0 ? "<think>\n" : "";
  options.tools = (data[0] & 4) != 0;
  options.tool_schemas = &kTools;
  const size_t step = 1 + data[1] % 17;
  const std::string_view text(reinterpret_cast<const char*>(data) + 2, size - 2);

  Answer whole;
  {
    fl::chat::OutputParser parser(options);
    whole.add(parser.push(text));
    whole.add(parser.finish());
  }
  Answer pieces;
  fl::chat::OutputParser parser(options);
  for (size_t at = 0; at < text.size(); at += step) {
    pieces.add(parser.push(text.substr(at, step)));
  }
  pieces.add(parser.finish());
  const bool lost = options.reasoning == fl::chat::ReasoningFormat::none && parser.n_calls() == 0 &&
                    whole.content != options.prefilled + std::string(text);
  if (!(whole == pieces) || lost) {
    std::abort();
  }
  return 0;
}
