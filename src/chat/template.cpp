#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "chat/chat.h"
#include "chat/jinja/interpreter.h"
#include "chat/jinja/json.h"
#include "chat/jinja/parser.h"
#include "tokenizer/tokenizer.h"
#include "tokenizer/utf8.h"

namespace fl::chat {
namespace {

using jinja::TemplateError;
using jinja::Value;

// What a rendering may cost: a fixed part, which covers the template's own text, and a part for what it is
// given.
constexpr uint64_t kBaseSteps = 2'000'000;
constexpr uint64_t kStepsPerValue = 1000;
constexpr uint64_t kBaseBytes = uint64_t{64} << 20;
constexpr uint64_t kWorkPerByte = 256;
constexpr uint64_t kBaseOutput = uint64_t{1} << 20;
constexpr uint64_t kOutputPerByte = 8;
constexpr size_t kMaxKwargs = 256;

constexpr std::string_view kChatml = R"({%- macro text(content) -%}
{%- if content is string -%}{{- content -}}
{%- elif content is not none and content is iterable and content is not mapping -%}
{%- for part in content -%}
{%- if part.type == 'text' -%}{{- part.text -}}
{%- else -%}{{- raise_exception('this model has no chat template, and ChatML takes text parts only') -}}{%- endif -%}
{%- endfor -%}
{%- endif -%}
{%- endmacro -%}
{%- for message in messages -%}
{{- '<|im_start|>' + message.role + '\n' + text(message.content) + '<|im_end|>\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}{%- endif -%}
)";

}  // namespace

struct Template::Impl {
  std::string source;
  jinja::Body body;
};

Template::Template(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Template::Template(Template&&) noexcept = default;
Template& Template::operator=(Template&&) noexcept = default;
Template::~Template() = default;

const std::string& Template::source() const {
  return impl_->source;
}

Result<Template> Template::compile(std::string_view source) {
  auto impl = std::make_unique<Impl>();
  impl->source = tokenizer::replace_invalid_utf8(source);
  try {
    impl->body = jinja::parse(impl->source);
  } catch (const TemplateError& error) {
    return fail(ErrorCode::invalid_argument, fmt::format("chat template: {}", error.what()));
  }
  return Template(std::move(impl));
}

const Template& Template::chatml() {
  static const Template built_in = [] {
    auto compiled = compile(kChatml);
    FL_CHECK(compiled.has_value(), "the built-in template is valid");
    return std::move(*compiled);
  }();
  return built_in;
}

Result<std::vector<Segment>> Template::render(const RenderInput& input) const {
  int line = 0;
  try {
    uint64_t n_values = 0;
    uint64_t n_bytes = 0;
    jinja::Scope globals(nullptr);
    if (input.messages != nullptr) {
      globals.set("messages", jinja::from_json(*input.messages, n_values, n_bytes));
    }
    if (input.tools != nullptr && !input.tools->is_null()) {
      globals.set("tools", jinja::from_json(*input.tools, n_values, n_bytes));
    }
    globals.set("add_generation_prompt", input.add_generation_prompt);
    globals.set("bos_token", Value::trusted(std::string(input.bos_token)));
    globals.set("eos_token", Value::trusted(std::string(input.eos_token)));
    if (input.kwargs != nullptr && input.kwargs->is_object()) {
      if (input.kwargs->size() > kMaxKwargs) {
        throw TemplateError(fmt::format("expected at most {} template arguments, found {}", kMaxKwargs,
                                        input.kwargs->size()));
      }
      for (const auto& [name, value] : input.kwargs->items()) {
        globals.set(name, jinja::from_json(value, n_values, n_bytes));
      }
    }
    jinja::Context context(
        jinja::Budget(kBaseSteps + kStepsPerValue * n_values, kBaseBytes + kWorkPerByte * n_bytes));
    jinja::Interpreter interpreter(context, globals);
    jinja::Text out;
    try {
      out = interpreter.run(impl_->body);
    } catch (const TemplateError&) {
      line = interpreter.line();
      throw;
    }
    if (out.size() > kBaseOutput + kOutputPerByte * n_bytes) {
      throw TemplateError(fmt::format("the prompt has {} bytes, at most {} were expected from this input",
                                      out.size(), kBaseOutput + kOutputPerByte * n_bytes));
    }
    std::vector<Segment> segments;
    size_t begin = 0;
    for (const jinja::Text::Run& run : out.runs()) {
      segments.push_back({out.str().substr(begin, run.end - begin), run.trusted});
      begin = run.end;
    }
    return segments;
  } catch (const TemplateError& error) {
    if (error.raised_by_template) {
      return fail(ErrorCode::invalid_argument, error.what());
    }
    const std::string where = line > 0 ? fmt::format(" line {}", line) : "";
    return fail(ErrorCode::invalid_argument, fmt::format("chat template{}: {}", where, error.what()));
  }
}

std::string join(const std::vector<Segment>& segments) {
  std::string out;
  for (const Segment& segment : segments) {
    out += segment.text;
  }
  return out;
}

std::vector<int32_t> encode(const tokenizer::Tokenizer& tokenizer, const std::vector<Segment>& segments) {
  std::vector<tokenizer::Tokenizer::ByteRange> trusted;
  size_t begin = 0;
  for (const Segment& segment : segments) {
    const size_t end = begin + segment.text.size();
    if (segment.trusted && !trusted.empty() && trusted.back().end == begin) {
      trusted.back().end = end;
    } else if (segment.trusted && end > begin) {
      trusted.push_back({begin, end});
    }
    begin = end;
  }
  return tokenizer.encode(join(segments), trusted);
}

}  // namespace fl::chat
