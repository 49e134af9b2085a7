// From what a model wrote to a program that can be run.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "eval/tasks.h"

namespace fl::eval {

/// From a chat answer: the last fenced code block that defines the entry point, else the last one that is
/// indented as a function body, else the last one with a function of another name (it then fails as "no
/// function", which is the answer's fault and not the extraction's), else the bare text if it defines the
/// entry point. Imports and helpers of the stub are put in front. Text inside <think>...</think> is not
/// looked at. Nothing: the answer has no code; that is a failure of its own kind.
std::optional<std::string> program_from_chat(const Task& task, std::string_view answer);

/// From a completion of the stub: cut at the first line that leaves the function.
std::string program_from_completion(const Task& task, std::string_view completion);

/// The question asked in chat mode.
std::string chat_question(const Task& task);

}  // namespace fl::eval
