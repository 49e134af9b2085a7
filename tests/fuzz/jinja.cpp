// Any bytes as a chat template: an error or a text.
#include <cstdint>
#include <string_view>

#include <nlohmann/json.hpp>

#include "chat/chat.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const auto kMessages = nlohmann::ordered_json::parse(
      R"([{"role": "system", "content": "s"}, {"role": "user", "content": [{"type": "text", "text": "q é"}]},
          {"role": "assistant", "content": "a</think>b", "tool_calls": [{"function": {"name": "f",
           "arguments": {"x": [1, 2.5, null, true], "y": {"z": "w"}}}}]}, {"role": "tool", "content": "r"}])");
  static const auto kTools =
      nlohmann::ordered_json::parse(R"([{"type": "function", "function": {"name": "f"}}])");
  const auto compiled = fl::chat::Template::compile({reinterpret_cast<const char*>(data), size});
  if (compiled) {
    fl::chat::RenderInput input;
    input.messages = &kMessages;
    input.tools = &kTools;
    (void)compiled->render(input);
  }
  return 0;
}
