// Every field of a request body, once: what it is called, where it is known, what it may hold and what it
// means. The table checks requests and the command line's defaults; docs/api.md and the tests are made from
// it.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string_view>
#include <variant>

#include "server/errors.h"
#include "server/request.h"

namespace fl::server {

enum Routes : uint8_t {
  kCompletion = 1,     ///< /completion, /completions
  kOaiCompletion = 2,  ///< /v1/completions
  kChat = 4,           ///< /v1/chat/completions
  kRaw = kCompletion | kOaiCompletion,
  kGenerate = kRaw | kChat,
  kTokenize = 8,
  kDetokenize = 16,
};

enum class FieldType : uint8_t { boolean, integer, number, string, array, object, any };

enum class FieldState : uint8_t {
  built,
  ignored,  ///< accepted, has no effect and none is missed
  refused,  ///< known, and not built: 400 that names it, unless its value asks for nothing
};

/// One field as a request gave it.
struct Given {
  std::string_view name;  ///< as the client wrote it
  const Json& value;
  const Context& context;
};

using Setter = std::variant<std::monostate, bool GenerationRequest::*, int32_t GenerationRequest::*,
                            std::string GenerationRequest::*, float engine::SamplingParams::*,
                            int32_t engine::SamplingParams::*,
                            ApiResult<void> (*)(const Given& given, GenerationRequest& request)>;

struct Field {
  std::string_view name;
  std::array<std::string_view, 2> aliases{};  ///< the first that is present counts, the name before them
  uint8_t routes = kGenerate;
  FieldType type = FieldType::any;
  double min = 0, max = 0;        ///< of numbers
  std::string_view default_text;  ///< "flag": the server's flag of that name
  std::string_view doc;
  Setter set{};
  FieldState state = FieldState::built;
  std::string_view expected{};  ///< of type any: what it may hold
};

std::span<const Field> fields();

/// Checks each field that the route knows and sets it. Fields that the table does not know are ignored, as
/// llama-server does; null means the default.
ApiResult<void> apply_fields(const Json& body, uint8_t route, const Context& context,
                             GenerationRequest& request);

/// The type and range of one value. `name` as the client wrote it.
ApiResult<void> check_value(const Field& field, std::string_view name, const Json& value);

/// What `set` is for fields that need code: see field_setters.cpp.
namespace setters {
ApiResult<void> seed(const Given& given, GenerationRequest& request);
ApiResult<void> n_choices(const Given& given, GenerationRequest& request);
ApiResult<void> stop(const Given& given, GenerationRequest& request);
ApiResult<void> stream_options(const Given& given, GenerationRequest& request);
ApiResult<void> samplers(const Given& given, GenerationRequest& request);
ApiResult<void> logit_bias(const Given& given, GenerationRequest& request);
ApiResult<void> dry_breakers(const Given& given, GenerationRequest& request);
ApiResult<void> mirostat(const Given& given, GenerationRequest& request);
ApiResult<void> response_fields(const Given& given, GenerationRequest& request);
ApiResult<void> reasoning_format(const Given& given, GenerationRequest& request);
ApiResult<void> reasoning_budget(const Given& given, GenerationRequest& request);
ApiResult<void> parallel_tool_calls(const Given& given, GenerationRequest& request);
ApiResult<void> tool_choice(const Given& given, GenerationRequest& request);
ApiResult<void> response_format(const Given& given, GenerationRequest& request);
ApiResult<void> n_predict(const Given& given, GenerationRequest& request);
}  // namespace setters

}  // namespace fl::server
