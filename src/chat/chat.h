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
  /// What the prompt already wrote of the answer, from generation_prefix(). With format `none` it is the
  /// beginning of the content; with the others it says whether the output begins inside a thought.
  std::string prefilled;
  bool tools = false;                                    ///< tools were given: look for <tool_call>
  const nlohmann::ordered_json* tool_schemas = nullptr;  ///< OpenAI tools; only read by the constructor
};

/// The text after the last assistant header of a prompt: "<think>\n", "<think>\n\n</think>\n\n", or nothing.
std::string generation_prefix(const std::vector<Segment>& segments);
/// Whether a text ends inside a thought: its last <think> is not closed.
bool ends_in_reasoning(std::string_view text);

/// Incremental parser of the family's output: <think>...</think>, then text and
/// <tool_call><function=name><parameter=key>value</parameter></function></tool_call>. Whatever is malformed
/// comes out as text: nothing the model said is lost. Linear in the text; the result does not depend on how
/// it is cut.
///
/// `none`: everything but tool calls is content. `deepseek` and `automatic`: the thought is reasoning; the
/// tags, the white space at the thought's start and that between the thought and the answer are dropped. A
/// thought ends at
/// </think>, or at a tool call. Arguments get the JSON type that the tool's schema declares; a value that
/// does not have it stays a string. A call that ends in the middle of a value keeps its arguments
/// unterminated, so that no client takes them for complete.
class OutputParser {
 public:
  explicit OutputParser(const ParseOptions& options);
  OutputParser(OutputParser&&) noexcept;
  OutputParser& operator=(OutputParser&&) noexcept;
  ~OutputParser();

  /// `text` is whole UTF-8 characters.
  Delta push(std::string_view text);
  /// The end of the output: what was held back.
  Delta finish();
  bool in_reasoning() const;
  int n_calls() const;  ///< calls that have begun

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace fl::chat
