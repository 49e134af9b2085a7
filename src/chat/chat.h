// Messages and tools to a prompt, and generated text back to content, reasoning and tool calls.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include "base/result.h"

namespace fl::tokenizer {
class Tokenizer;
}

namespace fl::chat {

/// A piece of a rendered prompt. What came from a message, a tool result or any other value of the request is
/// not trusted: it is tokenized with special tokens off, so it can never become a control token.
struct Segment {
  std::string text;
  bool trusted = false;
};

struct RenderInput {
  const nlohmann::ordered_json* messages =
      nullptr;  ///< OpenAI messages, checked by the caller to be objects in an array
  const nlohmann::ordered_json* tools = nullptr;   ///< OpenAI tools, or null
  const nlohmann::ordered_json* kwargs = nullptr;  ///< chat_template_kwargs, e.g. {"enable_thinking": true}
  bool add_generation_prompt = true;
  std::string_view bos_token, eos_token;  ///< the model's own texts, trusted
};

/// A compiled chat template. Rendering is bounded in steps, depth and output; a template that loops is an
/// error.
class Template {
 public:
  static Result<Template> compile(std::string_view source);
  /// The family's ChatML frame, for files without a template.
  static const Template& chatml();

  Template(Template&&) noexcept;
  Template& operator=(Template&&) noexcept;
  ~Template();

  /// invalid_argument carries the template's own raise_exception text.
  Result<std::vector<Segment>> render(const RenderInput& input) const;
  const std::string& source() const;

 private:
  struct Impl;
  explicit Template(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

/// The segments as one string (for /apply-template).
std::string join(const std::vector<Segment>& segments);

/// The ids of a rendered prompt: special tokens only where the template wrote them, all other text merged
/// across the borders of segments, so that an honest conversation gets the ids of the whole text. Use this,
/// not one encode per segment.
std::vector<int32_t> encode(const tokenizer::Tokenizer& tokenizer, const std::vector<Segment>& segments);

enum class ReasoningFormat : uint8_t { none, deepseek, automatic };

struct ToolCall {
  std::string id;  ///< empty: the server makes one
  std::string name;
  std::string arguments;  ///< JSON text of an object
};

/// What new text means for a streaming client: any of the fields may be empty.
struct Delta {
  std::string content;
  std::string reasoning;
  /// New or grown tool calls: `index` counts calls of this answer; name comes once, arguments in pieces.
  struct Call {
    int index = 0;
    std::string id, name, arguments;
  };
  std::vector<Call> calls;
};

struct ParseOptions {
  ReasoningFormat reasoning = ReasoningFormat::automatic;
  bool starts_in_reasoning = false;                      ///< the prompt ended inside <think>
  bool tools = false;                                    ///< tools were given: look for <tool_call>
  const nlohmann::ordered_json* tool_schemas = nullptr;  ///< to give arguments their declared JSON types
};

/// Incremental parser of the family's output: <think>...</think>, then text and
/// <tool_call><function=name><parameter=key>value</parameter></function></tool_call>. Whatever is malformed
/// comes out as content: nothing the model said is lost.
class OutputParser {
 public:
  explicit OutputParser(ParseOptions options);
  OutputParser(OutputParser&&) noexcept;
  ~OutputParser();

  Delta push(std::string_view text);
  Delta finish();
  bool in_reasoning() const;
  int n_calls() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace fl::chat
